"""What the switches of ``tools/train.py`` do to a config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

from mmdms.errors import CheckpointError, ConfigError
from mmdms.openmmlab.checkpoints import is_remote, read_checkpoint
from mmdms.openmmlab.distributed import is_first_process
from mmdms.openmmlab.recorded_configs import search_differences

AMP_DEVICES = ('cuda', 'npu', 'mlu', 'musa')


def enable_amp(config: Config) -> None:
    """Train in mixed precision (``--amp``): on a GPU as mmengine does, on a CPU in bfloat16."""
    device, wrapper = get_device(), config.optim_wrapper
    if device != 'cpu' and device not in AMP_DEVICES:
        raise ConfigError(f'--amp needs a GPU or a CPU, and the device here is {device!r}: leave --amp out')
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f'--amp replaces OptimWrapper by AmpOptimWrapper, but the config sets optim_wrapper.type={kind!r}: '
            'leave --amp out, and ask that wrapper for mixed precision in the config'
        )
    if device == 'cpu':
        _say('No GPU found: --amp trains in bfloat16 on the CPU, without a loss scale.')
        wrapper.type = 'mmdms.CPUAmpOptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
    else:
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')


def enable_auto_scale_lr(config: Config) -> None:
    """Scale the learning rate to the real total batch size (``--auto-scale-lr``)."""
    if 'base_batch_size' not in (config.get('auto_scale_lr') or {}):
        raise ConfigError(
            f'--auto-scale-lr needs the batch size that the learning rate of {config.filename!r} is meant for: '
            'set auto_scale_lr=dict(base_batch_size=...) in the config'
        )
    config.auto_scale_lr.enable = True


def set_resume(config: Config, resume: str | None) -> None:
    """Apply ``--resume`` (None, ``'auto'`` or a checkpoint) and check the checkpoint that training will start from.

    Without a name the newest checkpoint of the work dir that is whole is taken; what a kill left half written is
    named and passed over. A search must be the one that the checkpoint is from.
    """
    if resume is not None:
        config.resume = True
        config.load_from = None if resume == 'auto' else resume
    start = config.get('load_from')
    if not config.get('resume'):
        if start is not None:
            read_checkpoint(start)
        return
    if start is None:
        start, checkpoint = _newest_whole(config.work_dir)
        if start is None:
            _say(f'no checkpoint in {config.work_dir!r} yet: the training starts from its beginning')
            return
        config.load_from = start
    else:
        checkpoint = _read_or_name_another(start)
    if checkpoint is None or not _can_resume(checkpoint):
        raise CheckpointError(
            f'checkpoint {start!r} holds weights only, so training cannot go on from it: '
            'start a new training from these weights with --cfg-options load_from=...'
        )
    _check_same_run(config, start, checkpoint['meta'])


def add_resume_hooks(config: Config) -> None:
    """Have a search keep what an exact resume needs, unless its config says so itself."""
    if 'mutator' not in config.model:
        return
    hooks = list(config.get('custom_hooks') or [])
    if not any(hook.get('type') in ('ResumeHook', 'mmdms.ResumeHook') for hook in hooks if isinstance(hook, dict)):
        config.custom_hooks = [*hooks, dict(type='mmdms.ResumeHook')]
    checkpoint = (config.get('default_hooks') or {}).get('checkpoint')
    if isinstance(checkpoint, dict) and checkpoint.get('type') == 'CheckpointHook':
        checkpoint['type'] = 'mmdms.SafeCheckpointHook'


def _can_resume(checkpoint: dict[str, Any]) -> bool:
    return {'meta', 'optimizer'} <= checkpoint.keys() and isinstance(checkpoint['meta'], dict)


def _whole(folder: str | Path) -> Iterator[tuple[str, dict[str, Any] | CheckpointError]]:
    """Checkpoints of a folder, the newest first, each with its content, or why it cannot be read."""
    files = [path for path in Path(folder).glob('*.pth') if path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            yield str(path), read_checkpoint(path)
        except CheckpointError as error:
            yield str(path), error


def _newest_whole(folder: str) -> tuple[str | None, dict[str, Any] | None]:
    broken: list[str] = []
    for path, content in _whole(folder):
        if isinstance(content, CheckpointError):
            broken.append(str(content))
        elif _can_resume(content):
            for problem in broken:
                _say(f'passed over: {problem}')
            if broken:
                _say(f'going on from {path!r}, the newest checkpoint that is whole')
            return path, content
    if broken:
        raise CheckpointError(f'no checkpoint of {folder!r} can be resumed: {broken[0]}; start again without --resume')
    return None, None


def _read_or_name_another(start: str) -> dict[str, Any]:
    try:
        return read_checkpoint(start)
    except CheckpointError as error:
        if is_remote(start) or not Path(start).is_file():
            raise
        others = (path for path, content in _whole(Path(start).parent) if not isinstance(content, CheckpointError))
        another = next(others, None)
        if another is None:
            raise
        raise CheckpointError(f'{error}; the newest one beside it that is whole: --resume {another}') from error


def _check_same_run(config: Config, start: str, meta: dict[str, Any]) -> None:
    """Take over the seed; raise CheckpointError unless a search is the one that the checkpoint is from."""
    if 'config' in meta:
        raise CheckpointError(
            f'checkpoint {start!r} holds a config as code (meta.config), which resuming would run: refused; '
            'start a new training from its weights with --cfg-options load_from=...'
        )
    randomness = config.setdefault('randomness', {})
    if randomness.get('seed') is None and isinstance(meta.get('seed'), int):
        randomness['seed'] = meta['seed']  # samplers are built before mmengine takes the seed of the checkpoint
    if 'mutator' not in config.model or not isinstance(meta.get('cfg'), str):
        return
    try:
        found = search_differences(meta['cfg'], config.pretty_text)
    except (SyntaxError, ValueError) as error:
        raise CheckpointError(f'checkpoint {start!r} records a config that cannot be read: {error}') from error
    if found:
        shown = '; '.join(f'{key} was {before!r} and is now {after!r}' for key, before, after in found[:4])
        more = f'; and {len(found) - 4} more' if len(found) > 4 else ''
        raise CheckpointError(
            f'checkpoint {start!r} is of another search than the config: {shown}{more}; resume with the config that '
            'it was searched with, or start a new search from its weights with --cfg-options load_from=...'
        )


def _say(message: str) -> None:
    if is_first_process():
        print(message, flush=True)
