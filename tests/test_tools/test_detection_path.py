"""Search, export, retrain, test of detectors: the public commands on real digits, a few iterations each."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mmdms.openmmlab.architecture import build_architecture
from mmdms.openmmlab.commands.search_config import build_algorithm
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.datasets.digits_coco import DigitsCocoSettings, make_digits_coco

from .conftest import ROOT

pytestmark = [
    pytest.mark.skipif(not find_spec('mmyolo') or not find_spec('mmdet'), reason='mmyolo and mmdet'),
    pytest.mark.timeout(600),  # up to four commands in a test
]

CONFIGS = ROOT / 'configs' / 'digits_detection'
YOLO = CONFIGS / 'dms-34_yolov8_s-narrow_b16-20e_digits-coco.py'
RTMDET = CONFIGS / 'dms-50_rtmdet_tiny_b16-20e_digits-coco.py'
EPOCHS, ITERATIONS = 3, 4


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'digits'
    make_digits_coco(folder, DigitsCocoSettings(size=128, train=16, val=4))
    return folder


@pytest.fixture(scope='module')
def options(data):
    """``--cfg-options`` of a short run; more may follow."""
    return [
        '--cfg-options',
        *(f'{name}_dataloader.dataset.data_root={data}' for name in ('train', 'val', 'test')),
        *(f'{name}_evaluator.ann_file={data}/annotations/instances_val.json' for name in ('val', 'test')),
        f'train_dataloader.batch_size={16 // ITERATIONS}',
        f'train_cfg.max_epochs={EPOCHS}',
        'train_cfg.val_interval=1',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=3',
    ]


def narrow(prefix):
    """A fraction of the width: the same path in less time."""
    parts = ('backbone', 'neck', 'bbox_head.head_module')
    return [f'{prefix}.{part}.widen_factor=0.125' for part in parts]


def switched(position):
    return f'custom_hooks.{position}.switch_epoch=2'


@pytest.fixture(scope='module')
def searched(tmp_path_factory, run_tool, options):
    folder = tmp_path_factory.mktemp('searched')
    arguments = [YOLO, '--work-dir', folder, *options, *narrow('model.architecture'), switched(2)]
    return folder, run_tool('train.py', *arguments, cwd=folder)


@pytest.fixture(scope='module')
def pruned(searched, run_tool, options):
    folder = searched[0] / 'pruned'
    arguments = [YOLO, searched[0] / f'epoch_{EPOCHS}.pth', '--out-dir', folder, *options]
    run_tool('prune.py', *arguments, *narrow('model.architecture'), switched(2), cwd=searched[0])
    return folder


def test_search_runs_with_the_hooks_of_the_zoo(searched):
    folder, log = searched
    targets = [float(value) for value in re.findall(r' target: ([\d.]+)', log)]
    assert len(targets) == EPOCHS * ITERATIONS
    assert targets[0] == 1.0 and targets == sorted(targets, reverse=True)
    assert targets[-1] == pytest.approx(0.3438, abs=1e-4)
    for loss in ('loss_cls', 'loss_bbox', 'loss_dfl', 'budget_loss'):
        assert re.search(rf' {loss}: [\d.]+', log), loss
    assert log.count('Switch pipeline now!') == 1
    assert log.index('Switch pipeline now!') > log.index('Epoch(val) [2]')
    assert len(re.findall(r'coco/bbox_mAP: ', log)) == EPOCHS
    # YOLOv5OptimizerConstructor tells weights from biases and norms: 57 convolutions with a norm, and 6 with a bias.
    groups = re.search(r'Optimizer groups: (\d+) .bias, (\d+) conv.weight, (\d+) other', log)
    assert [int(n) for n in groups.groups()] == [63, 63, 57]


def test_saved_are_averaged_weights_and_the_structure(searched):
    saved = torch.load(searched[0] / f'epoch_{EPOCHS}.pth', weights_only=False)
    state, source = saved['state_dict'], saved['ema_state_dict']
    assert bool(state['mutator.settled']) and not bool(state['mutator.final_mask'].all())
    differing = {key for key in state if not torch.equal(state[key], source[f'module.{key}'])}
    assert differing and all(key.startswith('architecture.') for key in differing)


def test_export_is_the_masked_network(searched, pruned, options):
    given = dict(item.split('=', 1) for item in narrow('model.architecture'))
    config = load_config(str(YOLO), {key: float(value) for key, value in given.items()})
    torch.manual_seed(0)
    inputs = torch.rand(1, 3, 128, 128)
    algorithm = build_algorithm(config)
    algorithm.load_state_dict(torch.load(searched[0] / f'epoch_{EPOCHS}.pth', weights_only=False)['state_dict'])
    subnet = build_architecture(load_config(str(pruned / 'config.py')).model).eval()
    state = torch.load(pruned / 'checkpoint.pth', weights_only=True)['state_dict']
    subnet.load_state_dict(state, strict=True)
    assert type(subnet).__name__ == 'YOLODetector'
    with torch.no_grad():
        expected, found = (model.eval()(inputs, mode='tensor') for model in (algorithm, subnet))
    for one, other in zip(sum(map(list, expected), []), sum(map(list, found), []), strict=True):
        assert one.shape == other.shape and torch.allclose(one, other, atol=1e-4)


def test_report(pruned):
    report = json.loads((pruned / 'report.json').read_text())
    assert 0.3 <= report['budget']['achieved'] <= 0.3438
    assert report['parity']['max_abs_diff'] <= 1e-8 * report['parity']['max_abs_output']
    config = load_config(str(pruned / 'config.py'))
    assert config.optim_wrapper.constructor == 'YOLOv5OptimizerConstructor'
    assert [hook.type for hook in config.custom_hooks] == ['EMAHook', 'mmdet.PipelineSwitchHook']


def test_retrains_and_tests(pruned, run_tool, options, tmp_path):
    log = run_tool('train.py', pruned / 'config.py', '--work-dir', tmp_path, *options, switched(1), cwd=tmp_path)
    assert 'Load checkpoint from' in log and 'budget_loss' not in log and 'Switch pipeline now!' in log
    results = tmp_path / 'metrics.json'
    arguments = [pruned / 'config.py', tmp_path / f'epoch_{EPOCHS}.pth', '--work-dir', tmp_path, '--out', results]
    run_tool('test.py', *arguments, '--out-item', 'metrics', *options, cwd=tmp_path)
    assert 0 <= json.loads(results.read_text())['coco/bbox_mAP'] <= 1


def test_search_resumes(searched, run_tool, options, tmp_path):
    start = searched[0] / 'epoch_2.pth'
    arguments = [YOLO, '--work-dir', tmp_path, '--resume', start, *options, *narrow('model.architecture')]
    log = run_tool('train.py', *arguments, switched(2), cwd=tmp_path)
    assert 'resumed epoch: 2' in log and 'structure fixed: flops at 0.3' in log
    targets = [float(value) for value in re.findall(r' target: ([\d.]+)', log)]
    assert len(targets) == ITERATIONS and targets[-1] == pytest.approx(0.3438, abs=1e-4)
    assert bool(torch.load(tmp_path / 'epoch_3.pth', weights_only=False)['state_dict']['mutator.settled'])


# mmyolo's script reads the config, which imports mmdms, after it imported mmyolo: on a current mmcv too late.
RUN = "import mmdms, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


def own_script(package):
    return Path(find_spec(package).origin).parent / '.mim' / 'tools' / 'train.py'


def call(*command, cwd):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def test_trains_with_mmyolos_own_script(pruned, options, tmp_path):
    script = own_script('mmyolo')
    call('-c', RUN, script, pruned / 'config.py', '--work-dir', tmp_path, *options, switched(1), cwd=tmp_path)
    assert (tmp_path / f'epoch_{EPOCHS}.pth').is_file()


INFER = """
import json, sys
from mmdet.apis import DetInferencer
inferencer = DetInferencer(model=sys.argv[1], weights=sys.argv[2], device='cpu', show_progress=False)
found = inferencer(sys.argv[3], no_save_vis=True)['predictions'][0]
print(json.dumps([type(inferencer.model).__name__, inferencer.model.dataset_meta['classes'], found]))
"""


def test_rtmdet_by_mmdets_own_tools(run_tool, options, data, tmp_path):
    work = tmp_path / 'search'
    architecture = 'model.architecture'
    small = [
        f'{architecture}.backbone.widen_factor=0.125',
        f'{architecture}.neck.in_channels=[32,64,128]',
        f'{architecture}.neck.out_channels=32',
        f'{architecture}.bbox_head.in_channels=32',
        f'{architecture}.bbox_head.feat_channels=32',
        switched(2),
    ]
    log = run_tool('train.py', RTMDET, '--work-dir', work, *options, *small, cwd=tmp_path)
    assert 'Switch pipeline now!' in log and 'structure fixed: flops at 0.' in log
    exported = tmp_path / 'exported'
    checkpoint = work / f'epoch_{EPOCHS}.pth'
    run_tool('prune.py', RTMDET, checkpoint, '--out-dir', exported, *options, *small, cwd=tmp_path)

    trained = tmp_path / 'trained'
    arguments = [exported / 'config.py', '--work-dir', trained, *options, switched(1)]
    call(own_script('mmdet'), *arguments, cwd=tmp_path)
    image = data / 'val' / '000001.png'
    said = call('-c', INFER, exported / 'config.py', trained / f'epoch_{EPOCHS}.pth', image, cwd=tmp_path)
    kind, classes, found = json.loads(said.strip().splitlines()[-1])
    assert kind == 'RTMDet' and classes == list('0123456789')
    assert len(found['bboxes']) > 0 and len(found['bboxes'][0]) == 4
