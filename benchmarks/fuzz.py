"""Compose random networks out of torch.nn's own layers, and take each through all that mmdms does.

Every network has a number, its seed, and is the same in every run. Each is traced and verified, searched for three
steps, sliced, compared with its masks in evaluation with and without gradients and in training, copied, saved and
loaded; the slice must have the FLOPs and the parameters that its structure was said to cost. The outcome of each is a
line of a file:

  ok           the slice computes what the masked network computes
  refused      nothing in the network can be searched; the reasons say why
  crash        an exception, a hang, or a process that died
  wrong slice  a slice, a copy or a reloaded network computes something else

The first hundred networks, some minutes on one core; what the file holds already is skipped, so a run that was
interrupted goes on by the same command::

    python benchmarks/fuzz.py --out work_dirs/fuzz.jsonl --seeds 0 100

What was found, faults first, with the seeds that show them::

    python benchmarks/fuzz.py --out work_dirs/fuzz.jsonl --report

One network in this process, with its layers and the traceback of a crash; after a fault was mended, all that were not
ok once more::

    python benchmarks/fuzz.py --show 17
    python benchmarks/fuzz.py --out work_dirs/fuzz.jsonl --seeds 0 100 --again
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fuzz.report import summary  # noqa: E402
from fuzz.runner import read, run  # noqa: E402


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', help='file of results, one JSON line per network; what it holds is skipped')
    parser.add_argument(
        '--seeds', nargs=2, type=int, default=[0, 100], metavar=('FIRST', 'END'), help='END not included'
    )
    parser.add_argument('--limit', type=float, default=120, help='seconds after which a network counts as hanging')
    parser.add_argument('--again', action='store_true', help='run those once more that were not ok')
    parser.add_argument('--report', action='store_true', help='run nothing; print what the file holds')
    parser.add_argument('--show', type=int, metavar='SEED', help='run one network here and print its record')
    args = parser.parse_args(argv)
    if args.show is None and not args.out:
        parser.error('--out is needed: the file that results go to (or --show SEED for one network)')
    if args.seeds[0] < 0 or args.seeds[1] <= args.seeds[0]:
        parser.error(f'--seeds takes the first number and the one after the last, but got {args.seeds}')
    if args.limit <= 0:
        parser.error(f'--limit must be positive, but got {args.limit}')
    if args.report and not os.path.exists(args.out):
        parser.error(f'--out {args.out} does not exist: run without --report first')
    return args


def main(argv=None):
    """Run networks, or report on them."""
    args = parse_args(argv)
    if args.show is not None:
        from fuzz.network import random_network
        from fuzz.trial import Trial

        print(random_network(args.show))
        record = Trial(args.show).run()
        print(record.pop('traceback', ''))
        print(json.dumps(record, indent=2))
        return
    if args.report:
        print(summary(read(args.out)))
        return
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    run(list(range(*args.seeds)), args.out, args.limit, args.again)
    print(summary(read(args.out)))


if __name__ == '__main__':
    main()
