"""Kinds of units in configs: listed by the survey, left out by a Runner, whole in the export."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmdms import Structure
from mmdms.errors import ConfigError
from mmdms.openmmlab.commands.prune import prune
from mmdms.openmmlab.commands.survey import survey
from mmdms.openmmlab.configs import load_config

SEARCH = Path(__file__).parents[2] / 'configs' / 'digits' / 'dms-10_resnet18_b64_digits.py'
NARROW = {
    'model.architecture.backbone.stem_channels': 4,
    'model.architecture.backbone.base_channels': 4,
    'model.architecture.head.in_channels': 32,
    'model.mutator.budget.target': 0.4,
    'model.mutator.divisor': 1,
}
REASON = 'is left out by mutables=dict(depth=False)'


def search_config(**changes):
    return load_config(str(SEARCH), {**NARROW, **changes})


def test_the_survey_lists_what_is_left_out(tmp_path, capsys):
    out = tmp_path / 'space.json'
    survey(search_config(**{'model.mutator.mutables.depth': False}), ratio=0.5, json_file=str(out))
    result = json.loads(out.read_text())
    left = [(row['module'], row['elements']) for row in result['frozen'] if row['reason'] == REASON]
    # A ResNet-18: of two blocks per stage, the first of stages 2 to 4 changes the width, and stays anyway.
    assert left == [(f'backbone.layer{stage}', blocks) for stage, blocks in zip((1, 2, 3, 4), (2, 1, 1, 1))]
    assert {unit['kind'] for unit in result['units']} == {'channels'} and result['depth_units'] == 0
    assert REASON in capsys.readouterr().out
    with pytest.raises(ConfigError, match='model.mutator.mutables.width is no kind'):
        survey(search_config(**{'model.mutator.mutables.width': False}))


def test_a_runner_leaves_a_kind_out(tmp_path):
    """Search, export and the exported model: all blocks stay, and channels have the option of their kind."""
    changes = {'model.mutator.mutables': dict(depth=False, channels=dict(minimum=2))}
    config = search_config(**changes)
    config.merge_from_dict({
        'train_cfg.max_epochs': 4, 'train_dataloader.batch_size': 16, 'train_dataloader.dataset.indices': 32,
        'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False,
        'val_dataloader.num_workers': 0, 'val_dataloader.persistent_workers': False,
        'val_dataloader.dataset.indices': 16,
    })  # fmt: skip
    config.work_dir = str(tmp_path / 'run')
    runner = Runner.from_cfg(config)
    runner.train()
    report = prune(search_config(**changes), str(tmp_path / 'run' / 'epoch_4.pth'), str(tmp_path / 'out'))
    blocks = {unit['name']: (unit['total'], unit['kept']) for unit in report['units'] if unit['kind'] == 'depth'}
    assert blocks == {f'backbone.layer{stage}': (n, n) for stage, n in zip((1, 2, 3, 4), (2, 1, 1, 1))}
    widths = [unit['kept'] for unit in report['units'] if unit['kind'] == 'channels']
    assert min(widths) >= 2 and report['flops']['ratio'] <= 0.4
    assert report['parity']['max_abs_diff'] <= 1e-8 * report['parity']['max_abs_output']

    structure = Structure.load(tmp_path / 'out' / 'subnet.json')
    assert structure.report() == report['units']
    exported = MODELS.build(Config.fromfile(tmp_path / 'out' / 'config.py').model)
    state = torch.load(tmp_path / 'out' / 'checkpoint.pth', weights_only=True)['state_dict']
    assert {name: tuple(value.shape) for name, value in exported.state_dict().items()} == {
        name: tuple(value.shape) for name, value in state.items()
    }
