"""Make a COCO data set of real handwritten digits, for detectors: no download, no GPU, a few seconds.

Scikit-learn's digits are placed at many scales on canvases with lines, noise and pieces of other digits' strokes.
Those of the train split and of the val split were written in different images, so nothing is seen twice.

Examples:
    python tools/make_digits_coco.py                # data/digits_coco, where configs/digits_detection look for it
    python tools/make_digits_coco.py --out data/large --size 320 --train 2000 --val 500

Writes train/, val/, annotations/instances_train.json and annotations/instances_val.json. The same settings give the
same bytes; a second call finds them ready.
"""

import argparse

from mmdms.openmmlab.cli import run_cli
from mmdms.openmmlab.datasets.digits_coco import DigitsCocoSettings, make_digits_coco


def parse_args() -> argparse.Namespace:
    """Command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = DigitsCocoSettings()
    parser.add_argument('--out', default='data/digits_coco', metavar='FOLDER', help='where to (default: %(default)s)')
    parser.add_argument(
        '--size', type=int, default=default.size, help='height and width in pixels (default: %(default)s)'
    )
    parser.add_argument('--train', type=int, default=default.train, help='images to train on (default: %(default)s)')
    parser.add_argument('--val', type=int, default=default.val, help='images to validate on (default: %(default)s)')
    parser.add_argument(
        '--max-digits', type=int, default=default.max_digits, help='most digits of an image (default: %(default)s)'
    )
    parser.add_argument(
        '--scales',
        type=float,
        nargs=2,
        default=default.scales,
        metavar=('SMALL', 'LARGE'),
        help="heights of digits, as shares of the image's (default: %(default)s)",
    )
    parser.add_argument('--seed', type=int, default=default.seed, help='of everything random (default: %(default)s)')
    parser.add_argument('--overwrite', action='store_true', help='replace a data set of other settings')
    return parser.parse_args()


def main() -> None:
    """Make the data set."""
    args = parse_args()
    settings = DigitsCocoSettings(
        args.size, args.train, args.val, args.max_digits, (args.scales[0], args.scales[1]), args.seed
    )
    made = make_digits_coco(args.out, settings, args.overwrite)
    said = 'wrote' if made else 'already there:'
    print(f'{said} {args.out}: {settings.train} images to train, {settings.val} to validate, {settings.size} pixels')


if __name__ == '__main__':
    run_cli(main)
