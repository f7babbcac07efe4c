"""Registries: tables of classes by name, filled by a decorator.

``MUTATORS``, ``MUTABLES`` and ``ADAPTERS`` need torch alone. The registries of models, hooks, data sets and optimizer
wrappers are children of mmengine's; they lie in ``mmdms.openmmlab.registries`` and can be imported from here where
mmengine is installed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import ConfigError

SCOPE = 'mmdms.'
WING = 'mmdms.openmmlab.registries'


class Registry:
    """Classes by name.

    Args:
        name: what is registered, for messages.
        modules: modules that register classes here; they are imported when the registry is first read.
    """

    def __init__(self, name: str, modules: Sequence[str] = ()) -> None:
        self.name = name
        self._modules = tuple(modules)
        self._module_dict: dict[str, Any] = {}

    def register_module(
        self, name: str | None = None, force: bool = False, module: Any = None
    ) -> Callable[[Any], Any] | Any:
        """Register a class: ``@MUTATORS.register_module()``, or ``MUTATORS.register_module(module=Class)``.

        Args:
            name: the name in configs; the name of the class if None.
            force: replace a class of the same name.

        Raises:
            KeyError: if another class has the name.
        """

        def register(registered: Any) -> Any:
            key = name or registered.__name__
            if not force and self._module_dict.get(key, registered) is not registered:
                raise KeyError(f'{key} is already registered as a {self.name}: give another name, or force=True')
            self._module_dict[key] = registered
            return registered

        return register if module is None else register(module)

    @property
    def module_dict(self) -> Mapping[str, Any]:
        """Every registered class by its name."""
        self.import_from_location()
        return self._module_dict

    def import_from_location(self) -> None:
        """Import the modules that register classes here, once."""
        modules, self._modules = self._modules, ()
        for module in modules:
            importlib.import_module(module)

    def get(self, key: str) -> Any:
        """The class of a name, with or without the scope ``mmdms.``; None if there is none."""
        return self.module_dict.get(key.removeprefix(SCOPE))

    def build(self, config: Mapping[str, Any]) -> Any:
        """Make an object of a config: its ``type`` (a name or a class) is called with the other keys.

        Raises:
            ConfigError: for a type that is not registered.
        """
        arguments = {key: value for key, value in config.items() if key not in ('type', '_scope_')}
        kind = config.get('type')
        found = self.get(kind) if isinstance(kind, str) else kind
        if found is None:
            raise ConfigError(f'type={kind!r} is not a registered {self.name}: there are {sorted(self.module_dict)}')
        return found(**arguments)


MUTATORS = Registry('mutator', ['mmdms.mutators'])
MUTABLES = Registry('kind of mutable unit', ['mmdms.mutables'])
ADAPTERS = Registry('adapter', ['mmdms.adapters'])


def __getattr__(name: str) -> Any:
    """Registries of the wing, which ``import mmdms`` loads where mmengine is installed."""
    wing = sys.modules.get(WING)
    if wing is not None and name in wing.__all__:
        return getattr(wing, name)
    raise AttributeError(f'module {__name__!r} has no registry {name!r} (those of models and hooks need mmengine)')
