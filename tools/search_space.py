"""Show what of a network could be searched, before spending a GPU hour.

Examples:
    python tools/search_space.py mmpretrain::resnet/resnet50_8xb32_in1k.py
    python tools/search_space.py configs/dms/dms-50_resnet50_8xb32_in1k.py --random-prune 0.5 --json out.json
"""

import argparse

from mmdms.openmmlab.cli import add_cfg_options, run_cli
from mmdms.openmmlab.commands.survey import survey
from mmdms.openmmlab.configs import load_config


def parse_args() -> argparse.Namespace:
    """Command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config', help="path, or name such as 'mmpretrain::resnet/resnet50_8xb32_in1k.py'; also of a search"
    )
    parser.add_argument(
        '--input-shape', nargs=3, type=int, metavar=('C', 'H', 'W'), help='default: what the test pipeline says'
    )
    parser.add_argument(
        '--random-prune', type=float, metavar='RATIO', help='keep this share of every unit and slice for real'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the random structure (default: 0)')
    parser.add_argument('--json', metavar='FILE', help='also write the result as JSON')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the survey."""
    args = parse_args()
    survey(load_config(args.config, args.cfg_options), args.input_shape, args.random_prune, args.seed, args.json)


if __name__ == '__main__':
    run_cli(main)
