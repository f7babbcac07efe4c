"""Arguments that ``train.py`` and ``test.py`` share, and the way from a config to a Runner."""

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmdms.errors import ConfigError
from mmdms.openmmlab.cli import add_cfg_options
from mmdms.openmmlab.configs import check_model_types
from mmdms.openmmlab.distributed import init_cpu_launch


def add_runner_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what mm users expect of any tool that runs a Runner."""
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints; default: ./work_dirs/<name of the config>'
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher; default: none'
    )
    # torch.distributed.launch passes this; torchrun sets LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def apply_runner_arguments(config: Config, args: argparse.Namespace) -> None:
    """Write the arguments of ``add_runner_arguments`` into the config."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    config.launcher = args.launcher
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        config.work_dir = str(Path('work_dirs') / Path(args.config.rpartition('::')[2]).stem)
    if Path(config.work_dir).exists() and not Path(config.work_dir).is_dir():
        raise ConfigError(f'--work-dir {config.work_dir!r} is a file: give a folder')


def build_runner(config: Config) -> Runner:
    """Build the Runner of a config, or raise ``ConfigError`` before anything is written."""
    check_model_types(config)
    if config.get('default_scope') == 'mmpretrain':
        _set_mmpretrain_dataloader_defaults(config)
    if config.launcher != 'none':
        init_cpu_launch(config)
    # RUNNERS builds runners other than the default one, such as FlexibleRunner.
    return RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)


def _set_mmpretrain_dataloader_defaults(config: Config) -> None:
    """Set the dataloader options that mmpretrain's own scripts set: its configs leave them out."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        if loader is None:
            continue
        loader.setdefault('collate_fn', dict(type='default_collate'))
        loader.setdefault('pin_memory', torch.cuda.is_available())
        # torch refuses persistent workers where there are no workers.
        loader.setdefault('persistent_workers', name != 'test_dataloader' and loader.get('num_workers', 0) > 0)
