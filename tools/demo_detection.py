"""The whole path for a detector: real digits as a COCO data set, search, export, retrain, test, and compare.

Runs only the public commands, prints each before it runs, and ends with a table
of a narrow YOLOv8-s, the subnet that a search made of it, and its hand-made
sibling of the same FLOPs: the narrow YOLOv8-s with the widths of a YOLOv8-n.
Subnet and sibling train for as many epochs. Takes under half an hour on two CPU cores.
"""

import argparse
import json
import time

from demo_common import ROOT, fresh_folder, latency, print_table, run, search_and_prune, train_and_test

SEARCH = 'configs/digits_detection/dms-34_yolov8_s-narrow_b16-20e_digits-coco.py'
SUPERNET = 'configs/digits_detection/yolov8_s-narrow_b16-20e_digits-coco.py'
SIBLING = 'configs/digits_detection/yolov8_n-narrow_b16-20e_digits-coco.py'
METRIC = 'coco/bbox_mAP'
SIZE, BATCH = 128, 8


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--work-dir', default='work_dirs/demo_detection', help='where everything goes (default: %(default)s)'
    )
    work = fresh_folder(parser.parse_args().work_dir)
    begin = time.perf_counter()

    run('tools/make_digits_coco.py')
    pruned = search_and_prune(SEARCH, work)
    exported = str(pruned / 'config.py')
    subnet = train_and_test(exported, work / 'retrain', METRIC)
    print('\n# For comparison: the supernet, and its hand-made sibling of the same FLOPs', flush=True)
    supernet = train_and_test(SUPERNET, work / 'supernet', METRIC)
    sibling = train_and_test(SIBLING, work / 'sibling', METRIC)

    survey = work / 'sibling.json'
    run('tools/search_space.py', SIBLING, '--input-shape', '3', str(SIZE), str(SIZE), '--json', str(survey))
    by_hand = json.loads(survey.read_text())
    report = json.loads((pruned / 'report.json').read_text())
    flops, params = report['flops'], report['params']
    rows = [
        ('supernet', flops['supernet'], params['supernet'], supernet, str(ROOT / SUPERNET)),
        ('exported subnet', flops['subnet'], params['subnet'], subnet, exported),
        ('hand-made sibling', by_hand['flops'], by_hand['params'], sibling, str(ROOT / SIBLING)),
    ]
    measured = [(n, f, p, f'{a:.3f}', latency(config, SIZE, BATCH)) for n, f, p, a, config in rows]
    print_table(measured, 'bbox mAP', BATCH)
    print(f'\n# all of it in {(time.perf_counter() - begin) / 60:.0f} minutes')


if __name__ == '__main__':
    main()
