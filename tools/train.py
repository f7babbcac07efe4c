"""Train: a search, a retraining, or any config of mmpretrain."""

import argparse

import mmdms  # noqa: F401  (checks the versions of the packages below first)
from mmdms.openmmlab.checkpoints import check_pretrained
from mmdms.openmmlab.cli import run_cli
from mmdms.openmmlab.commands.search_config import check_search
from mmdms.openmmlab.configs import load_config, require_keys
from mmdms.openmmlab.launch import add_runner_arguments, apply_runner_arguments, build_runner
from mmdms.openmmlab.training import add_resume_hooks, enable_amp, enable_auto_scale_lr, set_resume


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of a config, or a name such as mmpretrain::resnet/resnet50_8xb32_in1k.py')
    add_runner_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from CHECKPOINT, or without a value from the latest checkpoint of the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (without a GPU: in bfloat16)')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate while training')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the real total batch size'
    )
    return parser.parse_args()


def main() -> None:
    """Build the Runner and train."""
    args = parse_args()
    config = load_config(args.config, args.cfg_options)
    require_keys(config, ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'), 'train')
    apply_runner_arguments(config, args)
    if args.amp:
        enable_amp(config)
    if args.no_validate:
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if args.auto_scale_lr:
        enable_auto_scale_lr(config)
    set_resume(config, args.resume)
    check_search(config)
    check_pretrained(config)
    add_resume_hooks(config)
    build_runner(config).train()


if __name__ == '__main__':
    run_cli(main)
