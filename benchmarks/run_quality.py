"""Compare mmdms with other ways to narrow a network, on a task in which size matters.

The complete comparison, resumable, then its tables::

    python benchmarks/run_quality.py --out work_dirs/quality.jsonl
    python benchmarks/run_quality.py --out work_dirs/quality.jsonl --report docs/benchmarks_tables.md
"""

import argparse
import logging
import os
import sys

import torch
from mmengine.logging import MMLogger

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from quality.methods import METHODS  # noqa: E402
from quality.networks import NETWORKS  # noqa: E402
from quality.records import read_records  # noqa: E402
from quality.report import make_report  # noqa: E402
from quality.runner import OUTCOMES, Runner  # noqa: E402

DEFAULT_METHODS = ('mmdms_pretrained', 'mmdms_scratch', 'uniform', 'random', 'magnitude', 'taylor', 'taylor_iterative')


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='file of results, one JSON line each; what it holds is skipped')
    parser.add_argument('--networks', nargs='+', default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument('--targets', nargs='+', type=float, default=[0.3, 0.1], help='fractions of the FLOPs')
    parser.add_argument('--methods', nargs='+', default=list(DEFAULT_METHODS), choices=sorted(METHODS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument('--outcomes', nargs='+', default=list(OUTCOMES), choices=OUTCOMES)
    parser.add_argument('--repeats', type=int, default=2, help='retrainings from scratch of each structure')
    parser.add_argument('--total-steps', type=int, default=1200, help='steps after pretraining, search included')
    parser.add_argument('--search-steps', type=int, default=500, help='steps of a search')
    parser.add_argument('--pretrain-steps', type=int, default=700)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--report', metavar='FILE', help='run nothing; write tables of the results (- for stdout)')
    args = parser.parse_args(argv)
    for target in args.targets:
        if not 0 < target < 1:
            parser.error(f'--targets must lie between 0 and 1, but got {target}')
    if not 0 <= args.search_steps < args.total_steps:
        parser.error(f'--search-steps {args.search_steps} must be below --total-steps {args.total_steps}')
    if min(args.repeats, args.pretrain_steps, args.threads) < 1:
        parser.error('--repeats, --pretrain-steps and --threads must be at least 1')
    if args.report and not os.path.exists(args.out):
        parser.error(f'--out {args.out} does not exist: run without --report first')
    return args


def main(argv=None):
    """Run the benchmark or report on it."""
    args = parse_args(argv)
    if args.report:
        report = make_report(read_records(args.out))
        if args.report == '-':
            print(report)
        else:
            with open(args.report, 'w', encoding='utf-8') as file:
                file.write(report)
        return
    torch.set_num_threads(args.threads)
    MMLogger.get_instance('mmengine').setLevel(logging.ERROR)  # it warns of every operator that costs nothing
    runner = Runner(args.out, args.total_steps, args.search_steps, args.pretrain_steps, args.repeats)
    runner.run(args.networks, args.targets, args.methods, args.seeds, args.outcomes)


if __name__ == '__main__':
    main()
