"""Distributed training on a machine without a GPU.

mmengine cannot do this alone: its ``init_dist`` selects a CUDA device whatever
the backend, and its default wrapper hands DDP a device id, which DDP refuses
for a model on the CPU. So the process group is made here, before the Runner
(which then keeps it), and the wrapper is told that there are no device ids.
"""

from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device

from mmdms.errors import ConfigError


def init_cpu_launch(config: Config) -> None:
    """On a machine without an accelerator, join a gloo process group and fit the config to it; else do nothing."""
    if get_device() != 'cpu':
        return
    if config.launcher != 'pytorch':
        raise ConfigError(
            f'--launcher {config.launcher} needs a GPU on every node, and this one has none: '
            'use tools/dist_train.sh (--launcher pytorch), which also runs on CPUs'
        )
    config.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    if config.get('model_wrapper_cfg') is None:
        # What the Runner would choose, were there a GPU.
        config.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=config.get('find_unused_parameters', False),
        )
    config.model_wrapper_cfg.device_ids = None
    replaced = replace_sync_bn(config.model)
    torch.distributed.init_process_group('gloo')
    if torch.distributed.get_rank() == 0:
        world_size = torch.distributed.get_world_size()
        print(f'No GPU found: running {world_size} processes on the CPU, with the gloo backend.', flush=True)
        if replaced:
            print(
                f'SyncBN needs GPUs: the {replaced} norm_cfg that name it are BN here, with statistics per process.',
                flush=True,
            )


def replace_sync_bn(config: Any) -> int:
    """Make every ``norm_cfg`` of type ``'SyncBN'`` in a model's config one of type ``'BN'``; return how many.

    Both have the same parameters and buffers, so checkpoints fit either.
    """
    if isinstance(config, (list, tuple)):
        return sum(map(replace_sync_bn, config))
    if not isinstance(config, dict):
        return 0
    found = int(config.get('type') == 'SyncBN')
    if found:
        config['type'] = 'BN'
    return found + sum(map(replace_sync_bn, config.values()))
