"""Take every family of classifiers and detectors of the zoos through mmdms, and say what passes.

Each network of the list is built without pretrained weights and traced. For three seeds it is then pruned at random to
half of every unit, depth and heads included, sliced for real, compared with its masks in float64, and trained for one
step; the first is also exported, and loaded again by a fresh process. Each runs in a process of its own: one that
crashes or hangs is a row with its reason.

The complete sweep, resumable (an hour on one core), then its table::

    python benchmarks/sweep_zoo.py --out work_dirs/sweep.jsonl
    python benchmarks/sweep_zoo.py --out work_dirs/sweep.jsonl --report docs/coverage.md

Some networks, measured again::

    python benchmarks/sweep_zoo.py --out work_dirs/sweep.jsonl --only '*/deit*' '*/swin*' --fresh

The exit status of a sweep is 1 if a network misses a gate, and 2 for bad arguments.
"""

import argparse
import fnmatch
import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

from quality.records import read_records  # noqa: E402
from sweep.report import make_report  # noqa: E402
from sweep.runner import KEY, sweep  # noqa: E402
from sweep.zoo import DETECTORS, ZOO, read_zoo  # noqa: E402


def parse_args(argv=None):
    """Parse the command line; ``entries`` are those of the list that ``--only`` selects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='file of results, one JSON line each; what it holds is skipped')
    parser.add_argument(
        '--zoo', nargs='+', default=[str(ZOO), str(DETECTORS)], metavar='FILE', help='lists of configs (default: all)'
    )
    parser.add_argument('--only', nargs='+', metavar='PATTERN', help='shell patterns over the configs of the list')
    parser.add_argument('--fresh', action='store_true', help='measure again what --out holds for this mmdms')
    parser.add_argument('--time-limit', type=float, default=600, metavar='SECONDS', help='per network (default: 600)')
    parser.add_argument('--threads', type=int, default=1, help='of torch (default: 1)')
    parser.add_argument('--report', metavar='FILE', help='run nothing; write the table of the results (- for stdout)')
    args = parser.parse_args(argv)
    try:
        args.entries = [entry for path in args.zoo for entry in read_zoo(path)]
    except (OSError, ValueError) as error:
        parser.error(f'--zoo: {error}')
    for pattern in args.only or ():
        if not any(fnmatch.fnmatchcase(entry.config, pattern) for entry in args.entries):
            parser.error(f'--only {pattern!r} matches no config of {", ".join(args.zoo)}')
    if args.only:
        args.entries = [e for e in args.entries if any(fnmatch.fnmatchcase(e.config, p) for p in args.only)]
    if args.time_limit <= 0 or args.threads < 1:
        parser.error(f'--time-limit {args.time_limit:g} and --threads {args.threads} must be positive')
    if args.report and not os.path.exists(args.out):
        parser.error(f'--out {args.out} does not exist: run without --report first')
    return args


def main(argv=None):
    """Sweep, or report on a sweep; returns the exit status."""
    args = parse_args(argv)
    if not args.report:
        return 0 if sweep(args.entries, args.out, args.time_limit, args.threads, args.fresh) else 1
    report = make_report(args.entries, read_records(args.out, KEY))
    if args.report == '-':
        print(report)
    else:
        with open(args.report, 'w', encoding='utf-8') as file:
            file.write(report)
    return 0


if __name__ == '__main__':
    sys.exit(main())
