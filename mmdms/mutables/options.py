"""The argument ``mutables`` of a mutator: options per kind of units, and kinds that are left out."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ConfigError
from .base import MutableUnit, kinds

EXAMPLE = 'dict(heads=dict(sharpness=2.0), depth=False)'


def build_mutables(options: Mapping[str, Any] | None, path: str = 'mutator.mutables') -> dict[str, MutableUnit]:
    """Every registered kind with its options, by its name.

    Args:
        options: name of a kind to a dict of its options; True: the defaults; False: the kind is left out of the search
            (see :func:`left_out`). Kinds that are not named have the defaults.
        path: of this argument, for messages.

    Raises:
        ConfigError: for an unknown kind or option, or a value out of range; the message begins with its path.
    """
    _checked(options, path)
    options = options or {}
    built = {}
    for name, kind in kinds().items():
        given = options.get(name, True)
        if not isinstance(given, (bool, Mapping)):
            raise ConfigError(f'{path}.{name} must be a dict of options, True or False, but it is {given!r}')
        settings = given if isinstance(given, Mapping) else {}
        known = option_names(kind)
        for key in settings:
            if key not in known:
                raise ConfigError(_unknown(f'{path}.{name}.{key}', key, known, f'setting of {name}'))
        try:
            built[name] = kind(**settings)
        except ConfigError as error:
            raise ConfigError(f'{path}.{name}.{error}') from error
    return built


def left_out(options: Mapping[str, Any] | None) -> list[str]:
    """Names of the kinds that ``options``, as of :func:`build_mutables`, leave out of a search."""
    return [name for name, given in (options or {}).items() if given is False]


def option_names(kind: type[MutableUnit]) -> list[str]:
    """Options of a kind: the arguments of its class."""
    return list(inspect.signature(kind).parameters)


def _checked(options: Any, path: str) -> None:
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f'{path} must be a dict such as {EXAMPLE}, but it is {options!r}')
    for name in options or {}:
        if name not in kinds():
            raise ConfigError(_unknown(f'{path}.{name}', name, kinds(), 'kind of mutable unit'))


def _unknown(path: str, key: Any, known: Iterable[str], what: str) -> str:
    listed = list(known)
    close = difflib.get_close_matches(str(key), listed, n=1)
    hint = f' (did you mean {close[0]!r}?)' if close else ''
    return f'{path} is no {what}{hint}: there are {", ".join(listed)}'
