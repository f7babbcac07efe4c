"""Compare ways to prune single weights in one training run, at equal cost.

The complete comparison, resumable, then its tables::

    python benchmarks/run_sparsity.py --out work_dirs/sparsity.jsonl
    python benchmarks/run_sparsity.py --out work_dirs/sparsity.jsonl --report -

A run here is some hundred steps long, where those of the paper have some ten thousand: masks are found anew more often
than every 16 steps, and sparsity rises for longer than half of the run.
"""

import argparse
import logging
import os
import sys

import torch
from mmengine.logging import MMLogger

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from quality.records import read_records  # noqa: E402
from sparsity.networks import NETWORKS  # noqa: E402
from sparsity.report import make_report  # noqa: E402
from sparsity.runner import KEY, METHODS, Runner  # noqa: E402


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='file of results, one JSON line each; what it holds is skipped')
    parser.add_argument('--networks', nargs='+', default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument('--sparsities', nargs='+', type=float, default=[0.5, 0.8, 0.9, 0.95, 0.99])
    parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=METHODS)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument('--steps', type=int, default=400, help='optimizer steps of every method, all told')
    parser.add_argument('--end', type=float, default=0.75, help='when gradual pruning has reached its sparsity')
    parser.add_argument('--settle', type=float, default=1.0, help='from when on its masks stay')
    parser.add_argument('--interval', type=int, default=4, help='steps between two of its masks')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--report', metavar='FILE', help='run nothing; write tables of the results (- for stdout)')
    args = parser.parse_args(argv)
    for sparsity in args.sparsities:
        if not 0 < sparsity < 1:
            parser.error(f'--sparsities must lie between 0 and 1, but got {sparsity}')
    if args.steps < 2 or args.steps % 2:
        parser.error(f'--steps must be even, for some methods use half of them, but got {args.steps}')
    if args.threads < 1:
        parser.error(f'--threads must be at least 1, but got {args.threads}')
    if args.report and not os.path.exists(args.out):
        parser.error(f'--out {args.out} does not exist: run without --report first')
    return args


def main(argv=None):
    """Run the benchmark or report on it."""
    args = parse_args(argv)
    if args.report:
        report = make_report(read_records(args.out, KEY))
        if args.report == '-':
            print(report)
        else:
            with open(args.report, 'w', encoding='utf-8') as file:
                file.write(report)
        return
    torch.set_num_threads(args.threads)
    MMLogger.get_instance('mmengine').setLevel(logging.ERROR)  # it logs every weight that is initialised
    runner = Runner(args.out, args.steps, args.end, args.settle, args.interval)
    runner.run(args.networks, args.sparsities, args.methods, args.seeds)


if __name__ == '__main__':
    main()
