"""What the switches of ``tools/train.py`` do to a config."""

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner.checkpoint import find_latest_checkpoint

from mmdms.errors import CheckpointError, ConfigError
from mmdms.utils.checkpoint import is_remote, read_checkpoint

AMP_DEVICES = ('cuda', 'npu', 'mlu', 'musa')


def enable_amp(config: Config) -> None:
    """Train in mixed precision (``--amp``)."""
    if get_device() not in AMP_DEVICES:
        raise ConfigError(f'--amp needs a GPU, and the device here is {get_device()!r}: leave --amp out')
    wrapper = config.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f'--amp replaces OptimWrapper by AmpOptimWrapper, but the config sets optim_wrapper.type={kind!r}: '
            'leave --amp out, and ask that wrapper for mixed precision in the config'
        )
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
    """Apply ``--resume`` (None, ``'auto'`` or a checkpoint) and check the checkpoint that training will start from."""
    if resume is not None:
        config.resume = True
        config.load_from = None if resume == 'auto' else resume
    start = config.get('load_from')
    if config.get('resume') and start is None:
        start = find_latest_checkpoint(config.work_dir)
    if start is None or is_remote(start):
        return
    checkpoint = read_checkpoint(start)
    if config.get('resume') and not {'meta', 'optimizer'} <= checkpoint.keys():
        raise CheckpointError(
            f'checkpoint {start!r} holds weights only, so training cannot go on from it: '
            'start a new training from these weights with --cfg-options load_from=...'
        )
