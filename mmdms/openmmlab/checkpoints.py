"""Read checkpoints, with errors that say what is wrong with them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from mmdms.errors import CheckpointError
from mmdms.mutators.mutator import SEARCH_VERSION
from mmdms.openmmlab.export.sparse_storage import expand
from mmdms.openmmlab.safe_load import force_plain_loads, load_plain


def is_remote(checkpoint: str) -> bool:
    """Whether mmengine would download the checkpoint: ``https://...``, ``torchvision://...``."""
    return '://' in checkpoint


def read_checkpoint(checkpoint: str | Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU, as plain data: no code that the file may hold is run.

    Returns:
        dict: The checkpoint; its weights are under ``'state_dict'``, also
        where the file is a bare state dict, and dense, also where it stores them as sparse.

    Raises:
        CheckpointError: There is no such file, it cannot be read, is no plain
            data, holds no weights, or was written by a newer mmdms.
    """
    checkpoint = str(checkpoint)
    content = _read(checkpoint)
    if isinstance(content, Mapping) and isinstance(content.get('state_dict'), Mapping):
        content = dict(content)
    elif isinstance(content, Mapping) and content and all(isinstance(v, torch.Tensor) for v in content.values()):
        content = {'state_dict': content}
    else:
        raise CheckpointError(f'checkpoint {checkpoint!r} holds no state dict: give a .pth file that training saved')
    _check_version(content, checkpoint)
    try:
        expand(content)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f'the sparse weights of checkpoint {checkpoint!r} cannot be read: {error}') from error
    return content


def _read(checkpoint: str) -> Any:
    """Content of a checkpoint of any form, as plain data."""
    if not is_remote(checkpoint) and not Path(checkpoint).expanduser().is_file():
        raise CheckpointError(f'no checkpoint at {checkpoint!r}: give the path of a .pth file that training saved')
    try:
        return _load(checkpoint)
    except Exception as error:  # bytes that are no checkpoint can raise anything
        raise CheckpointError(_explain(checkpoint, error)) from error


def _load(checkpoint: str) -> Any:
    if not is_remote(checkpoint):
        return load_plain(Path(checkpoint).expanduser())
    force_plain_loads()  # mmengine knows the schemes of URLs; this keeps it from loading what is no plain data
    return CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')


def _explain(checkpoint: str, error: Exception) -> str:
    text = str(error)
    found = re.search(r'GLOBAL (\S+) |is no plain data', text)
    if found is not None:
        what = repr(found.group(1)) if found.group(1) else 'something'
        return (
            f'checkpoint {checkpoint!r} holds {what}, which is no plain data: loading it could run any code, so it is '
            'refused; ask whoever made it for a file of tensors alone'
        )
    # PyTorch's advice comes first, and is to load it unsafely.
    lines = text.rpartition('WeightsUnpickler error:')[2].strip().splitlines() or ['no more is known']
    return (
        f'checkpoint {checkpoint!r} cannot be read, it may be truncated or no checkpoint at all: '
        f'{type(error).__name__}: {lines[0]}'
    )


def _check_version(content: Mapping[str, Any], checkpoint: str) -> None:
    """Raise ``CheckpointError`` for a search that a newer mmdms saved; what holds no search passes."""
    metadata = getattr(content['state_dict'], '_metadata', None)
    own = [part for name, part in (metadata or {}).items() if name in ('mutator', 'module.mutator')]
    for part in own:
        version = part.get('version') if isinstance(part, Mapping) else None
        if version is not None and (not isinstance(version, int) or version > SEARCH_VERSION):
            raise CheckpointError(
                f'checkpoint {checkpoint!r} has search format {version!r}; this mmdms reads up to {SEARCH_VERSION}: '
                'update mmdms'
            )


def check_pretrained(config: Config) -> None:
    """Raise ``CheckpointError`` unless every checkpoint that an ``init_cfg`` of the model names is to be had.

    A Runner loads them too, but only after its work dir is written. What is remote is downloaded here, and lies in
    PyTorch's cache then.
    """
    for position, checkpoint in _pretrained('model', config.get('model')):
        try:
            _read(checkpoint)  # of whatever form: some backbones load the weights of other projects
        except CheckpointError as error:
            raise CheckpointError(
                f'{position}.init_cfg starts from pretrained weights that are not to be had: {error}; '
                f'name a checkpoint that is there, or go without: --cfg-options {position}.init_cfg=None'
            ) from error


def _pretrained(position: str, component: Any) -> Iterator[tuple[str, str]]:
    """``(position, checkpoint)`` of every ``init_cfg`` that names a checkpoint."""
    if isinstance(component, Mapping):
        found = component.get('init_cfg')
        for item in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(item, Mapping) and item.get('checkpoint'):  # some backbones take one without a type
                yield position, item['checkpoint']
        for key, value in component.items():
            yield from _pretrained(f'{position}.{key}', value)
    elif isinstance(component, (list, tuple)):
        for index, item in enumerate(component):
            yield from _pretrained(f'{position}.{index}', item)


def check_state_dict(model: torch.nn.Module, state_dict: Mapping[str, Any], checkpoint: str | Path) -> None:
    """Raise ``CheckpointError`` unless ``state_dict`` gives every parameter and buffer of ``model`` its value.

    mmengine loads what fits and warns about the rest, which leaves the rest
    random. Entries that the model does not have are left to its warning.
    """
    # Checkpoints of models wrapped for distributed training carry this prefix; mmengine strips it too.
    shapes = {key.removeprefix('module.'): shape for key, shape in _shapes(state_dict).items()}
    own = _shapes(model.state_dict())
    missing = [key for key in own if key not in shapes]
    differing = [key for key in own if key in shapes and own[key] != shapes[key]]
    if not missing and not differing:
        return
    if missing:
        example = f'it lacks {missing[0]!r}'
    else:
        key = differing[0]
        example = f'its {key!r} has shape {shapes[key]}, the model wants {own[key]}'
    raise CheckpointError(
        f'checkpoint {str(checkpoint)!r} is of another architecture than the config: '
        f'{len(missing) + len(differing)} of {len(own)} tensors do not fit ({example}); '
        'give the config that it was trained with'
    )


def check_finite(model: torch.nn.Module, checkpoint: str | Path) -> None:
    """Raise ``CheckpointError`` if a parameter of ``model``, which has loaded the checkpoint, is not finite."""
    broken = [name for name, parameter in model.named_parameters() if not bool(parameter.isfinite().all())]
    if broken:
        raise CheckpointError(
            f'checkpoint {str(checkpoint)!r} holds weights that are nan or infinite, in {len(broken)} parameters '
            f'({broken[0]!r} is the first): its training diverged; take an earlier checkpoint'
        )


def _shapes(state_dict: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor; what else a module may keep in its state has none."""
    return {key: tuple(value.shape) for key, value in state_dict.items() if isinstance(value, torch.Tensor)}
