"""Every config loads, is short, builds its model, and is listed with its true figures."""

import re
from pathlib import Path

import pytest
import yaml
from helpers.tiny import OF_EVERY_NETWORK
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmdms.openmmlab.architecture import build_architecture
from mmdms.openmmlab.commands.search_config import build_algorithm
from mmdms.openmmlab.export.export import retrain_config
from mmdms.openmmlab.export.subnet import without_pretrained
from mmdms.openmmlab.hooks import BudgetHook
from mmdms.openmmlab.optim import DMSOptimWrapperConstructor
from mmdms.registry import HOOKS, OPTIM_WRAPPER_CONSTRUCTORS

ROOT = Path(__file__).parents[1]
MAX_LINES = 40
YOLOV8_N = 4400998400  # multiply-accumulates at 640x640
FILES = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)
SEARCHES = [path for path in FILES if path.name.startswith('dms-')]
FILTERS = [path for path in FILES if path.name.startswith('dpf-filters-')]
WEIGHTS = [path for path in FILES if path.name.startswith('dpf-') and path not in FILTERS]
MASKED = SEARCHES + FILTERS + WEIGHTS  # a mutator prunes the model while it trains
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))['Import']
METAFILES = [yaml.safe_load((ROOT / name).read_text(encoding='utf-8')) for name in INDEX]
LISTED = {model['Config']: model for metafile in METAFILES for model in metafile['Models']}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def has_windows(config):
    return config.model.architecture.backbone.type == 'SwinTransformer'


def is_detector(config):
    return 'bbox_head' in config.model.get('architecture', config.model)


def load(path):
    config = Config.fromfile(path)
    large = 'input_shape' in config.model and config.model.input_shape[1] > 64
    if large and not is_detector(config) and not has_windows(config):  # detectors are traced on small images anyway
        config.model.input_shape = (3, 64, 64)  # the same units, traced in a fraction of the time
    return config


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').rglob('*.py')), ids=relative)
def test_is_short(path):
    assert len(path.read_text(encoding='utf-8').splitlines()) <= MAX_LINES


@pytest.mark.parametrize('path', [path for path in FILES if path not in MASKED], ids=relative)
def test_builds(path):
    config = load(path)
    init_default_scope(config.default_scope)
    model = build_architecture(without_pretrained(config.model), config.get('data_preprocessor'))
    assert parameters(model) == LISTED[relative(path)]['Metadata']['Parameters']


@pytest.mark.parametrize('path', SEARCHES + FILTERS, ids=relative)
def test_search_builds(path):
    config = load(path)
    algorithm = build_algorithm(config)
    listed = LISTED[relative(path)]['Metadata']
    assert parameters(algorithm.architecture) == listed['Parameters']
    heads = {'heads'} if any(name in path.name for name in ('deit', 'swin')) else set()
    assert {unit.kind for unit in algorithm.mutator.space.units} == {'channels', 'depth'} | heads
    reasons = [frozen.reason for frozen in algorithm.mutator.space.frozen]
    if not is_detector(config):
        assert {why for why in reasons if 'no channel' not in why} == set(OF_EVERY_NETWORK)
    else:  # YOLOv8's output is an expectation over what its head gives
        assert set(reasons) <= {*OF_EVERY_NETWORK, 'is normalised by aten._softmax.default'}

    share = config.model.mutator.budget.target
    assert path.name.startswith(f'{"dms" if path in SEARCHES else "dpf-filters"}-{round(100 * share)}_')
    assert listed['Target FLOPs'] == int(share * listed['FLOPs'])
    if config.model.input_shape == Config.fromfile(path).model.input_shape:
        assert algorithm.mutator._full_cost == listed['FLOPs']


@pytest.mark.parametrize('path', WEIGHTS, ids=relative)
def test_pruning_builds(path):
    config = load(path)
    algorithm = build_algorithm(config)
    listed = LISTED[relative(path)]['Metadata']
    assert parameters(algorithm.architecture) == listed['Parameters']
    layers = [module for module in algorithm.architecture.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    kept = algorithm.mutator.kept_weights()
    assert len(kept) == len(layers)
    assert sum(mask.numel() for mask in kept.values()) == sum(layer.weight.numel() for layer in layers)
    assert path.name.startswith(f'dpf-{round(100 * config.model.mutator.sparsity)}_')
    assert listed['Target Sparsity'] == config.model.mutator.sparsity


@pytest.mark.parametrize(
    'path', [path for path in FILES if path.parent.name == 'dpf' and path.name.startswith('dpf-')], ids=relative
)
def test_pruning_and_its_dense_sibling_differ_in_the_mutator_alone(path):
    config = load(path)
    dense = Config.fromfile(path.with_name(re.sub(r'^dpf-(filters-)?\d+_', '', path.name)))
    assert config.model.architecture.to_dict() == dense.model.to_dict()
    del config.optim_wrapper['constructor']
    for key in ('optim_wrapper', 'train_dataloader', 'train_cfg'):
        assert config[key].to_dict() == dense[key].to_dict()
    assert config.param_scheduler == dense.param_scheduler


@pytest.mark.parametrize(
    'name,batch,falls,factor',
    [
        ('resnet20_b128_cifar10', 128, [0.5, 0.75], 0.1),
        ('resnet56_b128_cifar10', 128, [0.5, 0.75], 0.1),
        ('wrn28-2_b128_cifar10', 128, [0.3, 0.6, 0.8], 0.2),
        ('resnet50_8xb128_in1k', 1024, [30 / 90, 60 / 90, 80 / 90], 0.1),
    ],
)
def test_schedules_are_those_of_the_paper(name, batch, falls, factor):
    config = Config.fromfile(ROOT / 'configs' / 'dpf' / f'{name}.py')
    found = config.param_scheduler[-1] if isinstance(config.param_scheduler, list) else config.param_scheduler
    assert found.type == 'MultiStepLR' and found.by_epoch and found.gamma == factor
    assert [epoch / config.train_cfg.max_epochs for epoch in found.milestones] == falls
    assert config.auto_scale_lr.base_batch_size == batch
    optimizer = config.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum, optimizer.nesterov) == ('SGD', 0.9, True)


@pytest.mark.parametrize('path', MASKED, ids=relative)
def test_search_moves_its_structure(path):
    config = load(path)
    assert OPTIM_WRAPPER_CONSTRUCTORS.get(config.optim_wrapper.constructor) is DMSOptimWrapperConstructor
    inherited = ['EMAHook'] if any(name in path.name for name in ('yolo', 'rtmdet')) else []
    inherited += ['PipelineSwitchHook'] if any(name in path.name for name in ('yolov8', 'rtmdet')) else []
    hooks = [hook.type.rpartition('.')[2] for hook in config.custom_hooks]
    assert HOOKS.get(config.custom_hooks[0].type) is BudgetHook and hooks[1:] == inherited
    assert 'mmdms' in config.custom_imports.imports


@pytest.mark.parametrize('path', SEARCHES + FILTERS, ids=relative)
def test_retraining_has_nothing_of_the_search(path):
    config = load(path)
    found = Config(retrain_config(config, dict(type='mmdms.Subnet'), 'scratch'))
    assert found.optim_wrapper.get('constructor') == config.optim_wrapper.get('base_constructor')
    assert 'BudgetHook' not in str(found.custom_hooks) and len(found.custom_hooks) == len(config.custom_hooks) - 1
    wanted = config.get('retrain', config).train_cfg.max_epochs
    assert found.train_cfg.max_epochs == wanted


@pytest.mark.parametrize(
    'path', [path for path in SEARCHES if 'yolo' in path.name or 'rtmdet' in path.name], ids=relative
)
def test_retraining_switches_mosaic_off_before_its_own_end(path):
    found = Config(retrain_config(load(path), dict(type='mmdms.Subnet'), 'scratch'))
    epochs = found.train_cfg.max_epochs
    for schedule in (load(path), found):
        for hook in schedule.custom_hooks:
            if 'switch_epoch' in hook:
                assert 0.7 * schedule.train_cfg.max_epochs < hook.switch_epoch < schedule.train_cfg.max_epochs
    if 'yolo' in path.name:
        assert found.default_hooks.param_scheduler.max_epochs == epochs
        assert load(path).default_hooks.param_scheduler.max_epochs == load(path).train_cfg.max_epochs


def test_yolov8_is_searched_down_to_its_sibling():
    folder = 'configs/digits_detection'
    target = LISTED[f'{folder}/dms-34_yolov8_s-narrow_b16-20e_digits-coco.py']['Metadata']['Target FLOPs']
    sibling = LISTED[f'{folder}/yolov8_n-narrow_b16-20e_digits-coco.py']['Metadata']['FLOPs']
    assert 0.999 * sibling < target <= sibling
    target = LISTED['configs/dms/dms-31_yolov8_s_syncbn_fast_8xb16-100e_coco.py']['Metadata']['Target FLOPs']
    assert 0.999 * YOLOV8_N < target <= YOLOV8_N


def test_metafiles_list_every_config():
    assert sorted(LISTED) == [relative(path) for path in FILES]
    for metafile in METAFILES:
        names = {collection['Name'] for collection in metafile['Collections']}
        for collection in metafile['Collections']:
            assert (ROOT / collection['README']).is_file()
        for model in metafile['Models']:
            assert model['In Collection'] in names and model['Name'] == Path(model['Config']).stem


@pytest.mark.parametrize('path', FILES, ids=relative)
def test_metafiles_tell_the_schedule(path):
    config, listed = load(path), LISTED[relative(path)]['Metadata']
    named = re.search(r'_(\d+)xb', path.name)
    gpus = int(named[1]) if named else 1
    assert listed['Batch Size'] == gpus * config.train_dataloader.batch_size
    assert listed['Epochs'] == config.train_cfg.max_epochs


@pytest.mark.parametrize('path', FILES, ids=relative)
def test_readme_lists_the_config(path):
    assert f'[config]({path.name})' in (path.parent / 'README.md').read_text(encoding='utf-8')


def test_every_folder_explains_itself():
    """Each folder has a README, and a metafile in the index if it holds whole configs."""
    folders = {path.parent for path in FILES} | {ROOT / 'configs' / '_base_'}
    assert {path for path in (ROOT / 'configs').iterdir() if path.is_dir()} == folders
    for folder in folders:
        assert (folder / 'README.md').is_file()
        assert f'({folder.name}/README.md)' in (ROOT / 'configs' / 'README.md').read_text(encoding='utf-8')
    assert {relative(path.parent / 'metafile.yml') for path in FILES} == set(INDEX)


def test_readme_of_the_parts_lists_each():
    parts = ROOT / 'configs' / '_base_'
    text = (parts / 'README.md').read_text(encoding='utf-8')
    for path in parts.rglob('*.py'):
        assert f'({path.relative_to(parts).as_posix()})' in text
