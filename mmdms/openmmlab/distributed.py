"""Distributed training on a machine without a GPU.

mmengine cannot do this alone: its ``init_dist`` selects a CUDA device whatever
the backend, and its default wrapper hands DDP a device id, which DDP refuses
for a model on the CPU. So the process group is made here, before the Runner
(which then keeps it), and the wrapper is told that there are no device ids.
"""

import os
import subprocess
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS

from mmdms.errors import ConfigError


def init_cpu_launch(config: Config) -> None:
    """On a machine without an accelerator, join a gloo process group and fit the config to it; else do nothing."""
    if get_device() != 'cpu':
        return
    if config.launcher == 'slurm':
        _set_slurm_environment()
    elif config.launcher != 'pytorch':
        raise ConfigError(
            f'--launcher {config.launcher} needs a GPU on every node, and this one has none: '
            'use tools/dist_train.sh or tools/slurm_train.sh (--launcher pytorch or slurm), which also run on CPUs'
        )
    config.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    if config.get('model_wrapper_cfg') is None:
        # What the Runner would choose, were there a GPU.
        config.model_wrapper_cfg = dict(
            type='CPUDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=config.get('find_unused_parameters', False),
        )
    config.model_wrapper_cfg.device_ids = None
    torch.distributed.init_process_group('gloo')
    if torch.distributed.get_rank() == 0:
        world_size = torch.distributed.get_world_size()
        print(f'No GPU found: running {world_size} processes on the CPU, with the gloo backend.', flush=True)


def is_first_process() -> bool:
    """Whether this is the first process of the launch, also before the process group is made."""
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def _set_slurm_environment() -> None:
    """Say to PyTorch what Slurm says of this process; a ``MASTER_ADDR`` or ``MASTER_PORT`` that is set stays."""
    names = dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID')
    missing = [name for name in (*names.values(), 'SLURM_JOB_NODELIST') if name not in os.environ]
    if missing:
        raise ConfigError(
            f'--launcher slurm runs inside a Slurm job, and {missing[0]} is not set here: use tools/slurm_train.sh'
        )
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_host(os.environ['SLURM_JOB_NODELIST'])
    os.environ.update({name: os.environ[source] for name, source in names.items()})
    os.environ.setdefault('MASTER_PORT', '29500')


def _first_host(nodes: str) -> str:
    command = ['scontrol', 'show', 'hostnames', nodes]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ConfigError(
            f'scontrol does not tell the first of the nodes {nodes!r} ({error}): set MASTER_ADDR to its name'
        ) from error


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's default wrapper for a model on the CPU, where norms cannot be synchronised.

    DDP refuses ``SyncBatchNorm`` there, which configs name, and which some
    detectors make of their norms whenever several processes run. It becomes
    ``BatchNorm`` with the same parameters, as mmengine does for one process.
    """

    def __init__(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        synchronised = sum(isinstance(part, torch.nn.SyncBatchNorm) for part in module.modules())
        if synchronised:
            module = revert_sync_batchnorm(module)
            if torch.distributed.get_rank() == 0:
                print(
                    f'{synchronised} SyncBatchNorm, which need GPUs, are BatchNorm here: '
                    'their statistics are those of the images of one process each.',
                    flush=True,
                )
        super().__init__(module, *args, **kwargs)
