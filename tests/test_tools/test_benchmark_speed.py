"""The speed benchmark: its operator and its baseline against direct formulas, one network through the command."""

import copy
import json
import sys

import pytest
import torch

from .conftest import ROOT

sys.path.append(str(ROOT / 'benchmarks'))  # at the end: tools/test.py must not hide the standard library's package

from speed import measure, ways  # noqa: E402
from speed.networks import batch_of, build, load  # noqa: E402
from speed.reference import Reference, Unit  # noqa: E402


def test_all_pairs_rank_as_a_sort_does():
    importance = torch.tensor([0.3, 0.9, 0.1, 0.5])
    # Shares of elements that are more important: two, none, three and one of four.
    assert measure.all_pairs(importance).tolist() == [0.5, 0.0, 0.75, 0.25]
    unit = Unit(4, 'channels', torch.device('cpu'))
    unit.importance = importance
    with torch.no_grad():
        unit.keep_ratio.fill_(0.5)
    unit.begin()
    assert unit.mask.tolist() == pytest.approx(torch.sigmoid(4 * (0.5 - measure.all_pairs(importance))).tolist())


def test_ratios_are_of_rounds():
    seconds = dict(plain=[1.0, 2.0, 4.0], other=[2.0, 2.0, 12.0])
    assert measure.against(seconds)['other'] == dict(seconds=2.0, ratio=2.0)


@pytest.fixture(scope='module')
def network():
    config = load('mobilenetv2', 32)
    model = build(config)
    return config, model, batch_of(config, model, 32, 2)


def test_the_reference_masks_what_a_search_masks(network):
    """With masks of 0 and 1, activations times masks give what weights times masks give."""
    config, model, (inputs, _) = network
    plain = copy.deepcopy(model).eval()
    reference = Reference(plain, (3, 32, 32), 0.5)
    other = ways.search(config, copy.deepcopy(model), inputs).eval()
    mask = torch.rand(reference.space.num_elements, generator=torch.Generator().manual_seed(0)) < 0.7
    mask |= reference.space.minimum_mask()
    for unit, part in zip(reference.units, mask.float().split([u.total for u in reference.units]), strict=True):
        unit.mask = part
    other.mutator.final_mask.copy_(mask)
    other.mutator.settled.fill_(True)
    with torch.no_grad():
        expected, found = plain(inputs, mode='tensor'), other(inputs, mode='tensor')
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('way', ['plain', 'shrink', 'settle', 'reference'])
def test_every_way_trains(network, way):
    config, model, data = network
    step = ways.step_of(way, config, model, data)
    before = [p.detach().clone() for p in model.parameters()]
    step()
    step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))  # a copy was trained


def test_command(run_tool, tmp_path):
    out = tmp_path / 'speed.jsonl'
    arguments = [
        '../benchmarks/run_speed.py',
        '--out',
        out,
        '--networks',
        'mobilenetv2',
        '--sizes',
        '32:2',
        '--rounds',
        '1',
    ]
    run_tool(*arguments, '--what', 'steps', '--ways', 'shrink', 'settle', cwd=tmp_path)
    (record,) = map(json.loads, out.read_text().splitlines())
    assert set(record['train']) == {'plain', 'shrink', 'settle'} and not record['failed']
    assert record['train']['plain']['ratio'] == 1.0
    run_tool(*arguments, '--what', 'steps', cwd=tmp_path)
    assert len(out.read_text().splitlines()) == 1, 'what the file holds is skipped'
    assert '| mobilenetv2 ' in run_tool(*arguments, '--report', '-', cwd=tmp_path)


def test_bad_sizes(fail_tool):
    assert "'224' is not PIXELS:IMAGES" in fail_tool(
        '../benchmarks/run_speed.py', '--out', 'o.jsonl', '--sizes', '224'
    )


def test_pruning_is_timed_with_its_share_of_new_masks():
    found = measure.steps('mobilenetv2', 32, 2, ['dpf', 'dpf-filters'], 2)
    assert not found['failed']
    plain = found['train']['plain']['seconds']
    for way in ('dpf', 'dpf-filters'):
        timed = found['train'][way]
        assert timed['averaged'] == pytest.approx(timed['ratio'] + timed['reallocation'] / 16 / plain)


def test_an_exported_network_has_the_shapes_of_one_written_by_hand():
    found = measure.hand_written(32, 1, 1)
    assert set(found['evaluate']) == {'plain', 'exported'}
