"""The whole path on real images: search, export, retrain, test, and compare.

Runs only the public commands, prints each before it runs, and ends with a table
of the supernet, the exported subnet and a uniformly narrowed network of equal
FLOPs. Takes a few minutes on two CPU cores.
"""

import argparse
import json

from demo_common import ROOT, fresh_folder, latency, print_table, run, search_and_prune, train_and_test

SEARCH = 'configs/digits/dms-10_resnet18_b64_digits.py'
PLAIN = 'configs/digits/resnet18_b64_digits.py'
UNIFORM = 'configs/digits/resnet18-uniform_b64_digits.py'
METRIC = 'accuracy/top1'


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', default='work_dirs/demo', help='where everything goes (default: %(default)s)')
    work = fresh_folder(parser.parse_args().work_dir)

    pruned = search_and_prune(SEARCH, work)
    exported = str(pruned / 'config.py')
    subnet = train_and_test(exported, work / 'retrain', METRIC)
    print('\n# For comparison: the supernet, and the same network narrowed uniformly', flush=True)
    supernet = train_and_test(PLAIN, work / 'supernet', METRIC)
    uniform = train_and_test(UNIFORM, work / 'uniform', METRIC)

    survey = work / 'uniform.json'
    run('tools/search_space.py', UNIFORM, '--json', str(survey))
    narrowed = json.loads(survey.read_text())
    report = json.loads((pruned / 'report.json').read_text())
    flops, params = report['flops'], report['params']
    rows = [
        ('supernet', flops['supernet'], params['supernet'], supernet, str(ROOT / PLAIN)),
        ('exported subnet', flops['subnet'], params['subnet'], subnet, exported),
        ('uniform width', narrowed['flops'], narrowed['params'], uniform, str(ROOT / UNIFORM)),
    ]
    print_table([(n, f, p, f'{a:.2f}', latency(config, 32, 64)) for n, f, p, a, config in rows], 'accuracy', 64)


if __name__ == '__main__':
    main()
