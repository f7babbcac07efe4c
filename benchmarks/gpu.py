"""What does a step of a search cost beside a plain step on your GPU? For whoever has one for ten minutes.

It needs torch and numpy alone. Three networks of plain torch (ResNet-50 and DeiT-Small at 224 pixels, a decoder of
Llama's shape at 512 tokens) are trained with mixed precision (bfloat16) at batch 64: plainly, in each phase of a
search for half of the FLOPs, and as the subnet that was found. Steps are timed in turn in one process; the table has
the median over rounds of the ratio to the plain step::

    python benchmarks/gpu.py --out work_dirs/gpu.md

On a CPU, with tiny networks, in seconds (does it run at all?)::

    python benchmarks/gpu.py --tiny --device cpu --batch 2 --rounds 2

Memory is the peak of a step with the weights and states of that way alone. Kernels are launches that torch's profiler
sees; waits are copies of numbers from or to the device, for which the program stands still. Operations are counted
without views, on any device.
"""

import argparse
import json
import os
import platform
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, 'benchmarks')]

import torch  # noqa: E402
from speed.plain_networks import cases  # noqa: E402
from speed.plain_steps import measure, table  # noqa: E402


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', default=default, choices=('cuda', 'cpu'), help=f'default: {default} (found here)')
    parser.add_argument('--networks', nargs='+', metavar='NAME', help=f'of {", ".join(cases())}; default: all')
    parser.add_argument('--batch', type=int, default=64, help='images or sequences of a step (default: 64)')
    parser.add_argument('--rounds', type=int, default=15, help='timed steps of every way (default: 15)')
    parser.add_argument('--minutes', type=float, default=8.0, help='no network is begun after so many (default: 8)')
    parser.add_argument('--tiny', action='store_true', help='tiny networks, for a try')
    parser.add_argument('--out', help='file for the table (Markdown); the numbers go beside it as .json')
    args = parser.parse_args(argv)
    if args.batch < 1 or args.rounds < 1:
        parser.error(f'--batch {args.batch} and --rounds {args.rounds} must be positive')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: torch sees no GPU here; take --device cpu')
    known = cases(args.tiny)
    if unknown := set(args.networks or ()) - set(known):
        parser.error(f'--networks: {", ".join(sorted(unknown))} is none of {", ".join(known)}')
    return args


def settings(args):
    """The machine and the versions that the numbers belong to."""
    device = torch.cuda.get_device_name() if args.device == 'cuda' else f'{torch.get_num_threads()} CPU threads'
    return dict(device=device, torch=torch.__version__, python=platform.python_version(), batch=args.batch)


def main(argv=None):
    """Measure all networks, print and write the table."""
    args = parse_args(argv)
    begin, known, records = time.monotonic(), cases(args.tiny), []
    for name in args.networks or known:
        if time.monotonic() - begin > args.minutes * 60:
            print(f'{name} is left out: {args.minutes:g} minutes are over (--minutes)', flush=True)
            continue
        record = dict(network=name, **settings(args), **measure(known[name], args.batch, args.rounds, args.device))
        records.append(record)
        print(json.dumps(record), flush=True)
        write(args.out, records)
    print(table(records))


def write(path, records):
    """Write the table and its numbers, whole or not at all; nothing without a path."""
    if not path:
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    for name, text in ((path, table(records)), (os.path.splitext(path)[0] + '.json', json.dumps(records, indent=1))):
        with open(name + '.part', 'w', encoding='utf-8') as file:
            file.write(text + '\n')
        os.replace(name + '.part', name)


if __name__ == '__main__':
    main()
