"""``tools/search_space.py``: contract of the JSON, and bad input."""

import json

import pytest

from .conftest import ROOT

SEARCH = ROOT / 'configs' / 'digits' / 'dms-10_resnet18_b64_digits.py'
KEYS = {'units', 'elements', 'depth_units', 'trace_seconds', 'frozen', 'prunable_flops_fraction'}


def test_json(run_tool, tmp_path):
    out = tmp_path / 'space.json'
    config = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
    printed = run_tool('search_space.py', config, '--random-prune', 0.5, '--seed', 1, '--json', out, cwd=tmp_path)
    result = json.loads(out.read_text())
    assert result.keys() >= KEYS | {'flops', 'params', 'parity'}
    # By hand: stem and stage 1 share 64 channels; stages 2 to 4 have a stream each; 8 inner widths; 4 runs of blocks.
    assert len(result['units']) == 4 + 8 + 4 and result['depth_units'] == 4
    assert result['elements'] == (64 + 128 + 256 + 512) + 2 * (64 + 128 + 256 + 512) + (2 + 1 + 1 + 1)
    assert result['supernet'] == {'flops': 556_659_712, 'params': 11_173_962}
    assert 0 < result['flops'] < 0.5 * 556_659_712
    assert result['prunable_flops_fraction'] >= 0.95
    assert result['parity']['max_abs_diff'] <= 1e-8 * result['parity']['max_abs_output']
    assert all(set(row) == {'module', 'reason', 'elements'} for row in result['frozen'])
    assert 'backbone.layer1.0.conv1' in printed and '0.557 G multiply-accumulates' in printed


def test_search_config_applies_its_patterns(run_tool, tmp_path):
    out = tmp_path / 'space.json'
    options = ['--cfg-options', 'model.exclude=[backbone.layer1]']
    run_tool('search_space.py', SEARCH, '--json', out, *options, cwd=tmp_path)
    result = json.loads(out.read_text())
    assert not any(unit['name'].startswith('backbone.layer1') for unit in result['units'])
    assert any(row['module'].startswith('backbone.layer1') for row in result['frozen'])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py'], "no config at 'nowhere.py'"),
        (['mmpretrain::resnet/resnet18_8xb16_cifar1.py'], 'did you mean'),
        ([SEARCH, '--random-prune', '1.5'], '--random-prune must be a share in [0, 1]'),
        ([SEARCH, '--input-shape', '3', '0', '32'], 'three positive numbers'),
        ([SEARCH, '--cfg-options', 'model.exclude=[nope]'], "exclude pattern 'nope' matches no"),
        ([SEARCH, '--cfg-options', 'model.architecture.type=ResNe'], 'ResNe'),
    ],
)
def test_bad_input(fail_tool, arguments, message):
    assert message in fail_tool('search_space.py', *arguments)
