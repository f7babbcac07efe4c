"""Load a config by path or by name, and check it before anything is written."""

import difflib
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from mmdms.errors import ConfigError

# Keys under which a model config holds further components of the MODELS
# registry. Others (norm_cfg, train_cfg ...) may belong to other registries.
COMPONENT_KEYS = ('architecture', 'data_preprocessor', 'backbone', 'neck', 'head', 'rpn_head', 'roi_head', 'bbox_head')

# mmdms itself needs none of these: they are imported where a config names them.
INSTALL = {
    'mmpretrain': 'pip install onedl-mmpretrain',
    'mmdet': 'pip install onedl-mmdetection',
    'mmyolo': 'pip install mmyolo onedl-mmdetection',
}


def load_config(name_or_path: str, cfg_options: dict | None = None) -> Config:
    """Load a config file, or a config that an installed package carries.

    Args:
        name_or_path (str): A path, or ``'package::path/in/its/configs.py'``
            such as ``'mmpretrain::resnet/resnet18_8xb16_cifar10.py'``.
        cfg_options (dict, optional): Settings to merge into the config.

    Raises:
        ConfigError: There is no such config, or it does not parse.
    """
    path = _packaged_path(name_or_path) if '::' in name_or_path else Path(name_or_path).expanduser()
    if not path.is_file():
        raise ConfigError(
            f'no config at {name_or_path!r}: give the path of a file, '
            "or a name such as 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'"
        )
    try:
        config = Config.fromfile(str(path))
    except Exception as error:  # a config is Python, so reading it can raise anything
        raise ConfigError(f'config {name_or_path!r} cannot be read: {type(error).__name__}: {error}') from error
    if cfg_options:
        try:
            config.merge_from_dict(cfg_options)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError(
                f'--cfg-options {cfg_options} does not fit config {name_or_path!r}: {type(error).__name__}: {error}'
            ) from error
    _drop_collate_scopes(config)
    return config


def _drop_collate_scopes(config: Config) -> None:
    """Remove ``_scope_`` from the collate functions of a config.

    mmengine writes it into every dict of a config that is inherited from another package, and its Runner then hands it
    to the collate function as an argument, which no such function has (as of mmengine 0.10).
    """
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        collate = (config.get(name) or {}).get('collate_fn')
        if isinstance(collate, dict):
            collate.pop('_scope_', None)


def _packaged_path(name: str) -> Path:
    """Path of the config ``'package::relative/path.py'``.

    mmengine's ``get_config`` would do, but it installs a package that is
    missing, and reads every metafile of the package to find one config.
    """
    package, _, relative = name.partition('::')
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise ConfigError(
            f'config {name!r} names package {package!r}, which is not installed: {_install(package)}, or give a path'
        )
    root = Path(spec.origin).parent
    # A released package carries its configs under .mim; a source checkout has them beside the package.
    folders = [root / '.mim' / 'configs', root.parent / 'configs']
    candidates = [folder / relative for folder in folders]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        known = [str(path.relative_to(folder)) for folder in folders[:1] for path in folder.rglob('*.py')]
        close = difflib.get_close_matches(relative, known, n=1, cutoff=0.7)
        hint = f': did you mean {f"{package}::{close[0]}"!r}?' if close else f': see {folders[0]} for those it has'
        raise ConfigError(f'package {package!r} has no config {relative!r}{hint}')
    return found


def _install(package: str) -> str:
    """How a package that is missing is had."""
    command = INSTALL.get(package)
    return 'install it' if command is None else f'run `{command}`'


def require_keys(config: Config, keys: Sequence[str], purpose: str) -> None:
    """Raise ``ConfigError`` unless the config sets all of ``keys``, which ``purpose`` needs."""
    missing = [key for key in keys if config.get(key) is None]
    if missing:
        raise ConfigError(
            f'config {config.filename!r} does not set {", ".join(missing)}, so there is nothing to {purpose}: '
            'give a complete config, or set the missing parts in one that inherits it'
        )


def check_model_types(config: Config) -> None:
    """Raise ``ConfigError`` if the config names a model component that no registry knows.

    Building would find out too, but only after the work dir and a log are
    written.
    """
    scope = config.get('default_scope') or 'mmengine'
    try:
        importlib.import_module(f'{scope}.registry')
    except (ImportError, AssertionError) as error:  # OpenMMLab packages assert the versions they accept
        raise ConfigError(
            f'config {config.filename!r} sets default_scope={scope!r}, which cannot be imported ({error}): '
            f'{_install(scope)}'
        ) from error
    with MODELS.switch_scope_and_registry(scope) as registry:
        for position, name in _component_types('model', config.model):
            if isinstance(name, str) and registry.get(name) is None:
                known = [key for node in (registry, MODELS) for key in node.module_dict]
                close = difflib.get_close_matches(name, known, n=1)
                hint = f'did you mean {close[0]!r}?' if close else 'is it spelt right, and imported (custom_imports)?'
                raise ConfigError(f'{position}.type={name!r} is not a model known to scope {scope!r}: {hint}')


def _component_types(position: str, component: Any) -> Iterator[tuple[str, Any]]:
    """Yield ``(position, type)`` of a model config and of the components in it."""
    if isinstance(component, (list, tuple)):
        for index, item in enumerate(component):
            yield from _component_types(f'{position}[{index}]', item)
    elif isinstance(component, dict):
        if 'type' in component:
            yield position, component['type']
        for key in COMPONENT_KEYS:
            if key in component:
                yield from _component_types(f'{position}.{key}', component[key])
