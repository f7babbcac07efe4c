"""Export what a search or a pruning found: a config and a checkpoint that standard tools retrain, test and deploy.

Example:
    python tools/prune.py configs/dms/dms-50_resnet50_8xb32_in1k.py work_dirs/dms/epoch_10.pth --out-dir pruned
    python tools/train.py pruned/config.py
"""

import argparse

from mmdms.openmmlab.cli import add_cfg_options, run_cli
from mmdms.openmmlab.commands.prune import prune
from mmdms.openmmlab.configs import load_config


def parse_args() -> argparse.Namespace:
    """Command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the search')
    parser.add_argument('checkpoint', help='checkpoint that the search saved')
    parser.add_argument(
        '--out-dir', required=True, help='folder for config.py, checkpoint.pth, subnet.json, report.json'
    )
    parser.add_argument(
        '--init',
        choices=['inherit', 'scratch'],
        default='inherit',
        help='whether the written config starts from the sliced weights or from new ones (default: inherit)',
    )
    parser.add_argument(
        '--ema',
        action=argparse.BooleanOptionalAction,
        help='take the weights that EMAHook averaged, or those of the last step '
        '(default: averaged ones, as validated, where the checkpoint holds some)',
    )
    parser.add_argument(
        '--sparse',
        action='store_true',
        help='store pruned single weights as values and positions, where that takes less room',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the export that --out-dir holds')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the export."""
    args = parse_args()
    config = load_config(args.config, args.cfg_options)
    prune(config, args.checkpoint, args.out_dir, args.init, args.overwrite, args.ema, args.sparse)


if __name__ == '__main__':
    run_cli(main)
