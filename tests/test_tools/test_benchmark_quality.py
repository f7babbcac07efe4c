"""The benchmark of searches: its task, networks, budgets, records and report."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

TOOLS = str(Path(__file__).parents[2] / 'benchmarks')


@pytest.fixture(scope='module', autouse=True)
def tools_on_path():
    sys.path.insert(0, TOOLS)
    yield
    sys.path.remove(TOOLS)


def test_canvases_have_the_size_range_and_split_of_the_task():
    from quality.data import TrainStream, load_split, test_canvases

    split = load_split()
    assert [len(split[part][1]) for part in ('train', 'test')] == [1200, 597]
    images, labels = test_canvases()
    assert images.shape == (2000, 3, 32, 32) and labels.shape == (2000,)
    assert 0 <= images.min() and 0.9 < images.max() <= 1
    assert set(labels.tolist()) == set(range(10))
    x, y = next(TrainStream(3))
    assert x.shape == (64, 3, 32, 32) and y.shape == (64,)


def test_canvases_follow_their_seed():
    from quality.data import TrainStream

    streams = [TrainStream(seed) for seed in (0, 0, 1)]
    first, same, other = ([next(stream) for _ in range(2)] for stream in streams)
    for (x, y), (x_same, y_same) in zip(first, same):
        assert torch.equal(x, x_same) and torch.equal(y, y_same)
    assert not torch.equal(first[0][0], other[0][0])
    assert not torch.equal(first[0][0], first[1][0])


def test_interpolation_enlarges_a_crop_where_it_should():
    from quality.data import _interpolation

    # Pixels 2 and 3 of a row, doubled, from canvas pixel 10 on: source positions 2 - 0.25 (held at 2), 2.25, 2.75, 3.
    weights = _interpolation(torch.tensor([10.0]), torch.tensor([2.0]), torch.tensor([2.0]), torch.tensor([2]))[0]
    row = torch.tensor([9.0, 9.0, 1.0, 3.0, 9.0, 9.0, 9.0, 9.0])
    drawn = weights @ row
    assert torch.allclose(drawn[10:14], torch.tensor([1.0, 1.5, 2.5, 3.0]))
    assert drawn[:10].abs().max() == 0 and drawn[14:].abs().max() == 0


def test_flops_of_the_networks():
    from quality.layout import get_layout
    from quality.networks import build_network, count_flops

    # Convolutions of the ResNet: stem 110,592, stage 1 2,359,296, others 2,097,152 each; two per normed value; head.
    assert count_flops(build_network('resnet')) == 110592 + 2359296 + 3 * 2097152 + 2 * 38400 + 512 + 1280
    for name in ('resnet', 'mobilenetv2'):
        layout = get_layout(name)
        assert layout.flops(layout.full) == count_flops(build_network(name))


@pytest.mark.parametrize('name', ['resnet', 'mobilenetv2'])
@pytest.mark.parametrize('fraction', [0.3, 0.1])
def test_fitted_widths_meet_the_budget_and_build(name, fraction):
    from quality.layout import get_layout
    from quality.networks import count_flops

    layout = get_layout(name)
    widths = layout.fit({unit: 0.2 + 0.1 * (i % 7) for i, unit in enumerate(layout.full)}, fraction)
    model = layout.narrow(widths)
    assert 0.99 * layout.target(fraction) <= count_flops(model) <= layout.target(fraction)
    assert layout.widths_of(model) == widths
    assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_budget_out_of_reach_is_refused_with_the_lowest():
    from quality.layout import get_layout

    layout = get_layout('resnet')
    with pytest.raises(ValueError, match='0.0001 is below what resnet can reach: 0.00'):
        layout.fit(dict.fromkeys(layout.full, 1.0), 0.0001)


def test_our_global_ranking_is_that_of_torch_pruning():
    pruning = pytest.importorskip('torch_pruning')
    from quality.layout import get_layout
    from quality.networks import build_network, example_input, reinitialise
    from quality.peers import Pruner

    layout = get_layout('resnet')
    theirs, ours = build_network('resnet', 3), build_network('resnet', 3)
    reinitialise(ours, 3)
    pruner = pruning.pruner.BasePruner(
        theirs,
        example_input(),
        pruning.importance.GroupMagnitudeImportance(),
        global_pruning=True,
        pruning_ratio=0.3,
        ignored_layers=[theirs.head],
    )
    pruner.step()
    # Our budget is in FLOPs: give it what theirs came to, and a hair more, so that rounding takes nothing away.
    fraction = (layout.flops(layout.widths_of(theirs)) + 1) / layout.target(1)
    mine = Pruner('resnet', ours)
    scores = mine.scores()
    assert mine.global_widths(scores, fraction) == layout.widths_of(theirs)
    mine.cut(layout.widths_of(theirs), scores)
    for (name, expected), (_, found) in zip(theirs.named_parameters(), ours.named_parameters()):
        assert torch.equal(expected, found), name


def test_new_weights_follow_the_seed_and_leave_the_random_state():
    from quality.networks import build_network, reinitialise

    first, same, other = (build_network('resnet', seed) for seed in (0, 0, 1))
    assert torch.equal(first.backbone.conv1.weight, same.backbone.conv1.weight)
    assert not torch.equal(first.backbone.conv1.weight, other.backbone.conv1.weight)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    reinitialise(other, 0)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.backbone.conv1.weight, other.backbone.conv1.weight)


def _run(out, **changed):
    from quality.runner import Runner

    Runner(out, total_steps=5, search_steps=3, pretrain_steps=2, repeats=2).run(
        **{
            **dict(networks=['resnet'], targets=[0.1], methods=['random'], seeds=[0]),
            **dict(outcomes=['finetune', 'scratch', 'structure']),
            **changed,
        }
    )


def test_a_method_end_to_end_and_again(tmp_path, capsys):
    from quality.records import read_records

    out = str(tmp_path / 'results.jsonl')
    _run(out)
    records = {record['outcome']: record for record in read_records(out)}
    assert set(records) == {'pretrained', 'scratch', 'structure'}  # random widths inherit nothing
    assert records['scratch']['steps'] == 5 and records['structure']['steps'] == 2
    assert len(records['scratch']['accuracies']) == 2
    assert 0.099 <= records['scratch']['flops_ratio'] <= 0.1
    assert sum(records['scratch']['widths'].values()) > 12
    capsys.readouterr()
    # A run that stopped in the middle of a line: only what is missing is done again.
    lines = Path(out).read_text().splitlines(keepends=True)
    Path(out).write_text(''.join(lines[:-1]) + lines[-1][:40])
    _run(out)
    assert capsys.readouterr().out.count('resnet 0.1 seed 0 random') == 1
    repaired = {record['outcome']: record for record in read_records(out)}
    assert repaired['structure']['accuracies'] == records['structure']['accuracies']
    before = Path(out).read_text()
    _run(out)
    assert Path(out).read_text() == before


def test_both_searches_end_to_end(tmp_path):
    from quality.records import read_records

    out = str(tmp_path / 'results.jsonl')
    _run(out, methods=['mmdms_pretrained', 'mmdms_scratch'], outcomes=['finetune'])
    records = {record['method']: record for record in read_records(out) if record['method'] != 'full'}
    steps = {name: (record['pretraining'], record['used_steps'], record['steps']) for name, record in records.items()}
    assert steps == {'mmdms_pretrained': (2, 3, 2), 'mmdms_scratch': (0, 5, 2)}  # as many in all
    for record in records.values():
        assert 0.09 <= record['flops_ratio'] <= 0.1
        assert record['accuracy_before'] == pytest.approx(record['notes']['accuracy_masked'], abs=0.1)


def test_report_has_means_spreads_and_paired_differences():
    from quality.report import make_report

    def record(method, seed, accuracy):
        return dict(
            network='resnet',
            target=0.1,
            seed=seed,
            method=method,
            outcome='finetune',
            total_steps=1200,
            search_steps=500,
            pretraining=700,
            used_steps=500,
            steps=700,
            accuracy=accuracy,
            search_seconds=20.0,
            flops_ratio=0.0995,
            widths={'stage1': 4 + seed},
        )

    records = [
        record('mmdms', 0, 94.0),
        record('mmdms', 1, 96.0),
        record('uniform', 0, 93.0),
        record('uniform', 1, 94.0),
    ]
    report = make_report(records)
    assert '| mmdms | 95.00 ± 1.41 | 2 | 700 + 500 + 700 | 20 | 9.95% |  |' in report
    assert '| uniform | 93.50 ± 0.71 | 2 | 700 + 500 + 700 | 20 | 9.95% | 1.50 ± 0.71 (2) |' in report
    assert '- uniform: stage1 4.5' in report


def test_command_line_refuses_what_makes_no_sense(fail_tool):
    assert '--targets must lie between 0 and 1, but got 3' in fail_tool(
        '../benchmarks/run_quality.py', '--out', 'x.jsonl', '--targets', '3'
    )
    assert 'does not exist' in fail_tool('../benchmarks/run_quality.py', '--out', 'x.jsonl', '--report', '-')


def test_records_are_plain_json_lines(tmp_path):
    from quality.records import KEY, append_record, read_records

    out = tmp_path / 'x.jsonl'
    record = dict(dict.fromkeys(KEY, 1), accuracy=90.0)
    append_record(out, record)
    append_record(out, {**record, 'seed': 2})
    assert [json.loads(line)['seed'] for line in out.read_text().splitlines()] == [1, 2]
    assert read_records(out) == [record, {**record, 'seed': 2}]


def test_depth_that_is_gone_counts_as_no_width():
    from quality.layout import get_layout
    from quality.networks import build_network

    model = build_network('resnet')
    model.backbone.layer1[1] = nn.Identity()
    assert get_layout('resnet').widths_of(model)['inner1.1'] == 0
