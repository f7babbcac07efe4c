"""The benchmark of sparsity: its networks, runs that several methods go on with, records and report."""

import sys
from pathlib import Path

import pytest
import torch

TOOLS = str(Path(__file__).parents[2] / 'benchmarks')


@pytest.fixture(scope='module', autouse=True)
def tools_on_path():
    sys.path.insert(0, TOOLS)
    yield
    sys.path.remove(TOOLS)


def test_networks_keep_the_weights_of_the_papers_at_a_quarter_of_the_resolution():
    from sparsity.networks import build_network

    for name, weights, channels in (('resnet20', 272474, 64), ('wrn10-2', 303706, 128)):
        model = build_network(name, 0).eval()
        assert sum(parameter.numel() for parameter in model.parameters()) == weights
        assert model.backbone(torch.rand(1, 3, 32, 32))[-1].shape == (1, channels, 2, 2)
        same, other = build_network(name, 0), build_network(name, 1)
        assert torch.equal(model.backbone.stem[0].weight, same.backbone.stem[0].weight)
        assert not torch.equal(model.backbone.stem[0].weight, other.backbone.stem[0].weight)


def test_learning_rate_rises_and_falls():
    from sparsity.training import one_cycle

    assert one_cycle(0, 1.0) == pytest.approx(0.04)
    assert one_cycle(0.15, 1.0) == pytest.approx(0.52)  # half way up
    assert one_cycle(0.3, 1.0) == 1.0
    assert one_cycle(0.65, 1.0) == pytest.approx(0.5)  # half way down
    assert one_cycle(1.0, 1.0) == pytest.approx(0.0)


def test_a_fork_goes_on_as_its_original_would_have():
    from sparsity.training import Run

    whole = Run('wrn10-2', 3).train(0, 4, 4)
    half = Run('wrn10-2', 3).train(0, 2, 4)
    forked = half.fork().train(2, 4, 4)
    again = half.fork().train(2, 4, 4)
    for name, expected in whole.model.state_dict().items():
        assert torch.equal(expected, forked.model.state_dict()[name]), name
        assert torch.equal(expected, again.model.state_dict()[name]), name


def test_every_method_runs_and_reaches_its_sparsity(tmp_path):
    from quality.records import read_records
    from run_sparsity import main
    from sparsity.runner import KEY, METHODS

    out = str(tmp_path / 'found.jsonl')
    command = ['--out', out, '--networks', 'wrn10-2', '--sparsities', '0.9', '--seeds', '0', '--steps', '4']
    threads = torch.get_num_threads()
    main([*command, '--interval', '1', '--threads', str(threads)])
    records = {record['method']: record for record in read_records(out, KEY)}
    assert set(records) == {'dense', 'dense-half', *METHODS}
    for method, record in records.items():
        assert record['reached'] == pytest.approx(0.0 if 'dense' in method else 0.9, abs=1e-4)
        assert (record['end'] is None) == (method not in ('dpf', 'dpf-damped', 'incremental'))
    assert records['snip']['layers']['head.weight'] < 0.9 < records['snip']['layers']['backbone.layer3.0.conv2.weight']
    size = Path(out).stat().st_size
    main([*command, '--interval', '1', '--threads', str(threads)])  # everything is there
    assert Path(out).stat().st_size == size
    main(['--out', out, '--report', str(tmp_path / 'report.md')])
    assert '### wrn10-2, 4 steps' in (tmp_path / 'report.md').read_text(encoding='utf-8')


def record(method, seed, accuracy, sparsity=0.9, **kwargs):
    times = dict(end=0.5, settle=1.0, interval=16) if method in ('dpf', 'incremental') else {}
    found = dict(network='resnet20', method=method, sparsity=sparsity, seed=seed, steps=8, end=None, settle=None)
    found.update(interval=None, accuracy=accuracy, reached=sparsity, seconds=2.0)
    return {**found, **times, **kwargs}


def test_report_has_means_spreads_and_paired_differences():
    from sparsity.report import make_report

    records = [
        record('dense', 0, 90.0, 0.0),
        record('dense', 1, 92.0, 0.0),
        record('dpf', 0, 89.0),
        record('dpf', 1, 90.0),
        record('dpf', 0, 50.0, 0.99),
        record('incremental', 0, 88.0),
        record('incremental', 1, 88.0),
        record('snip', 1, 80.0, reached=0.902),
    ]
    report = make_report(records)
    assert 'dense: 91.00 ± 1.41 (2 seeds).' in report
    assert '| method | 90% | 99% |' in report
    assert '| dpf | 89.50 ± 0.71 (2) | 50.00 (1) |' in report
    assert '| incremental | 88.00 ± 0.00 (2) | – |' in report
    minus_dense, minus_others = report.split('| DPF minus it (pairs)')
    assert '| dpf | -1.50 ± 0.71 (2) | -40.00 (1) |' in minus_dense
    assert '| incremental | 1.50 ± 0.71 (2) | – |' in minus_others
    assert '| snip | 10.00 (1) | – |' in minus_others
    assert 'off the target by more than 0.1%: 1 of 8.' in report
    assert 'takes 2 s.' in report


def test_report_tells_schedules_apart():
    from sparsity.report import make_report

    report = make_report([record('dpf', 0, 80.0), record('dpf', 0, 82.0, end=0.75)])
    assert '| dpf (end 0.5, settle 1, every 16) | 80.00 (1) |' in report
    assert '| dpf (end 0.75, settle 1, every 16) | 82.00 (1) |' in report


@pytest.mark.parametrize('option,value', [('--sparsities', '1'), ('--steps', '7'), ('--threads', '0')])
def test_bad_options_are_named(option, value, tmp_path, capsys):
    from run_sparsity import parse_args

    with pytest.raises(SystemExit):
        parse_args(['--out', str(tmp_path / 'x.jsonl'), option, value])
    assert option in capsys.readouterr().err
