"""What does a search cost beside plain training? Paired timings in one process, peak memory, set-up, the operator.

All of it, resumable (what the file holds is skipped), then its tables::

    python benchmarks/run_speed.py --out work_dirs/speed.jsonl
    python benchmarks/run_speed.py --out work_dirs/speed.jsonl --report -

One network at one size (224 pixels, 8 images)::

    python benchmarks/run_speed.py --out work_dirs/speed.jsonl --what steps --networks resnet50 --sizes 224:8

Ways of a step: a search in its three phases (shrink, refine, settle); pruning with feedback of single weights and of
filters (dpf, dpf-filters); ``reference``, the method as its formulas read
(activation masks, all pairs compared, units one by one); ``torch-pruning``, its regularised training step. All are
compared with a plain step, in turn, by the median over rounds of the ratio.
"""

import argparse
import json
import logging
import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

import torch  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from quality.records import append_record, read_records  # noqa: E402
from speed import measure  # noqa: E402
from speed.networks import NETWORKS  # noqa: E402
from speed.report import make_report  # noqa: E402

WHAT = ('operator', 'steps', 'subnet', 'hand', 'setup', 'memory', 'endurance')
ITERATIONS = 5000
WAYS = ('shrink', 'refine', 'settle', 'dpf', 'dpf-filters', 'reference', 'torch-pruning')
KEY = ('what', 'network', 'config', 'size', 'batch', 'elements', 'units', 'threads', 'device')
SETUP = [
    ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 224), ('mmpretrain::resnet/resnet152_8xb32_in1k.py', 224),
    ('mmpretrain::deit/deit-tiny_4xb256_in1k.py', 224), ('mmpretrain::deit/deit-base_16xb64_in1k.py', 224),
    ('mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', 224),
    ('mmpretrain::swin_transformer/swin-base_16xb64_in1k.py', 224),
    ('mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py', 640),
    ('mmyolo::yolov8/yolov8_x_syncbn_fast_8xb16-500e_coco.py', 640),
]  # fmt: skip
TRAINED = ['resnet50', 'mobilenetv2', 'efficientnet-b0', 'deit-tiny', 'yolov8-n']
FASTER = [('resnet50', 224, 8), ('yolov8-s', 320, 8)]
OPERATOR = [(64, 1), (1024, 1), (8192, 1), (65536, 1), (256, 1), (256, 50), (256, 500), (128000, 1)]
ALL_PAIRS_UP_TO = 8192


def size_and_batch(text):
    """``'224:8'`` as ``(224, 8)``."""
    size, _, batch = text.partition(':')
    if not (size.isdecimal() and batch.isdecimal() and int(size) and int(batch)):
        raise argparse.ArgumentTypeError(f'{text!r} is not PIXELS:IMAGES, such as 224:8')
    return int(size), int(batch)


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, help='file of results, one JSON line each; what it holds is skipped')
    parser.add_argument('--what', nargs='+', choices=WHAT, default=list(WHAT), help='default: all')
    parser.add_argument(
        '--networks',
        nargs='+',
        choices=sorted(NETWORKS),
        default=['resnet50', 'mobilenetv2', 'efficientnet-b0', 'deit-tiny', 'yolov8-n'],
    )
    parser.add_argument('--sizes', nargs='+', type=size_and_batch, metavar='PIXELS:IMAGES',
                        help='default: 224:8 and 64:16, and 320:8 for the detector')  # fmt: skip
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=list(WAYS))
    parser.add_argument('--rounds', type=int, default=15, help='timed steps of every way (default: 15)')
    parser.add_argument('--threads', type=int, default=2, help='of torch (default: 2)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--one-way', choices=('plain', *WAYS), help=argparse.SUPPRESS)
    parser.add_argument('--report', metavar='FILE', help='run nothing; write the tables of the results (- for stdout)')
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.threads < 1:
        parser.error(f'--rounds {args.rounds} and --threads {args.threads} must be positive')
    return args


def sizes_of(args, name):
    """Input sizes and batches of a network."""
    if args.sizes:
        return args.sizes
    return [(320, 8)] if name.startswith('yolo') else [(224, 8), (64, 16)]


def jobs(args):
    """What is to be measured: key and function."""
    networks = [(name, *size) for name in args.networks for size in sizes_of(args, name)]
    if 'operator' in args.what:
        for elements, units in OPERATOR:
            pairs = elements <= ALL_PAIRS_UP_TO
            yield (
                dict(what='operator', elements=elements, units=units),
                lambda e=elements, u=units, p=pairs: measure.operator(e, u, args.rounds, p),
            )
    if 'steps' in args.what:
        for name, size, batch in networks:
            yield (
                dict(what='steps', network=name, size=size, batch=batch),
                lambda n=name, s=size, b=batch: measure.steps(n, s, b, args.ways, args.rounds, args.device),
            )
    if 'subnet' in args.what:
        for name, size, batch in FASTER:
            yield (
                dict(what='subnet', network=name, size=size, batch=batch),
                lambda n=name, s=size, b=batch: measure.subnet(n, s, b, args.rounds, args.device),
            )
    if 'hand' in args.what:
        yield (
            dict(what='hand', network='resnet50', size=224, batch=8),
            lambda: measure.hand_written(224, 8, args.rounds, args.device),
        )
    if 'setup' in args.what:
        for config, size in SETUP:
            yield dict(what='setup', config=config, size=size), lambda c=config, s=size: measure.setup(c, s)
    if 'endurance' in args.what:
        yield dict(what='endurance', network='resnet18-cifar'), lambda: measure.endurance(ITERATIONS)
    if 'memory' in args.what:
        for name, size, batch in networks:
            yield (
                dict(what='memory', network=name, size=size, batch=batch),
                lambda n=name, s=size, b=batch: measure.memory(n, s, b, args.ways),
            )


def main(argv=None):
    """Measure, or report."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    MMLogger.get_instance('mmengine').setLevel(logging.ERROR)
    if args.one_way:
        (name,), ((size, batch),) = args.networks, args.sizes
        print(json.dumps(measure.one_way(args.one_way, name, size, batch)))
        return
    if args.report:
        text = make_report(read_records(args.out, KEY))
        if args.report == '-':
            print(text)
        else:
            with open(args.report, 'w', encoding='utf-8') as file:
                file.write(text)
        return
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    common = dict(threads=args.threads, device=args.device)
    done = {tuple(record.get(key) for key in KEY) for record in read_records(args.out, KEY)}
    for key, run in jobs(args):
        key = {**key, **common}
        if tuple(key.get(name) for name in KEY) in done:
            continue
        record = {**dict.fromkeys(KEY), **run(), **common}
        append_record(args.out, record)
        print(json.dumps(record), flush=True)


if __name__ == '__main__':
    main()
