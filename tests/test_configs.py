"""Every config loads, is short, builds its model, and is listed with its true figures."""

import re
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdms.commands.search_config import build_algorithm
from mmdms.engine import BudgetHook, DMSOptimWrapperConstructor
from mmdms.export.export import retrain_config
from mmdms.export.subnet import without_pretrained
from mmdms.registry import HOOKS, OPTIM_WRAPPER_CONSTRUCTORS

ROOT = Path(__file__).parents[1]
MAX_LINES = 40
FILES = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts)
SEARCHES = [path for path in FILES if path.name.startswith('dms-')]
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))['Import']
METAFILES = [yaml.safe_load((ROOT / name).read_text(encoding='utf-8')) for name in INDEX]
LISTED = {model['Config']: model for metafile in METAFILES for model in metafile['Models']}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def has_windows(config):
    return config.model.architecture.backbone.type == 'SwinTransformer'


def load(path):
    config = Config.fromfile(path)
    if 'input_shape' in config.model and config.model.input_shape[1] > 64 and not has_windows(config):
        config.model.input_shape = (3, 64, 64)  # the same units, traced in a fraction of the time
    return config


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').rglob('*.py')), ids=relative)
def test_is_short(path):
    assert len(path.read_text(encoding='utf-8').splitlines()) <= MAX_LINES


@pytest.mark.parametrize('path', [path for path in FILES if path not in SEARCHES], ids=relative)
def test_builds(path):
    config = load(path)
    init_default_scope(config.default_scope)
    model = MODELS.build({'data_preprocessor': config.data_preprocessor, **without_pretrained(config.model)})
    assert parameters(model) == LISTED[relative(path)]['Metadata']['Parameters']


@pytest.mark.parametrize('path', SEARCHES, ids=relative)
def test_search_builds(path):
    config = load(path)
    algorithm = build_algorithm(config)
    listed = LISTED[relative(path)]['Metadata']
    assert parameters(algorithm.architecture) == listed['Parameters']
    heads = {'heads'} if any(name in path.name for name in ('deit', 'swin')) else set()
    assert {unit.kind for unit in algorithm.mutator.space.units} == {'channels', 'depth'} | heads
    assert [frozen.reason for frozen in algorithm.mutator.space.frozen] == ['reaches an output of the network']

    share = config.model.mutator.budget.target
    assert path.name.startswith(f'dms-{round(100 * share)}_')
    assert listed['Target FLOPs'] == int(share * listed['FLOPs'])
    if config.model.input_shape == Config.fromfile(path).model.input_shape:
        assert algorithm.mutator._full_cost == listed['FLOPs']


@pytest.mark.parametrize('path', SEARCHES, ids=relative)
def test_search_moves_its_structure(path):
    config = load(path)
    assert OPTIM_WRAPPER_CONSTRUCTORS.get(config.optim_wrapper.constructor) is DMSOptimWrapperConstructor
    assert [HOOKS.get(hook.type) for hook in config.custom_hooks] == [BudgetHook]
    assert 'mmdms' in config.custom_imports.imports


@pytest.mark.parametrize('path', SEARCHES, ids=relative)
def test_retraining_has_nothing_of_the_search(path):
    config = load(path)
    found = Config(retrain_config(config, dict(type='mmdms.Subnet'), 'scratch'))
    assert 'constructor' not in found.optim_wrapper and found.custom_hooks == []
    wanted = config.get('retrain', config).train_cfg.max_epochs
    assert found.train_cfg.max_epochs == wanted


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
