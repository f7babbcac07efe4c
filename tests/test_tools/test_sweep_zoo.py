"""The sweep of the zoo: its list, gates, report, resuming, and one network through the command."""

import copy
import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdms.api import build_search_space
from mmdms.openmmlab.configs import load_config

from .conftest import ROOT

sys.path.append(str(ROOT / 'benchmarks'))  # at the end: tools/test.py must not hide the standard library's package

from quality.records import read_records  # noqa: E402
from sweep import gates, runner  # noqa: E402
from sweep.counted import compared, reasons  # noqa: E402
from sweep.report import make_report  # noqa: E402
from sweep.zoo import DETECTORS, LEFT_OUT, ZOO, Entry, read_left_out, read_zoo  # noqa: E402

RESULTS = ROOT / 'docs' / 'results' / 'coverage.jsonl'
CONFIGS = Path(importlib.util.find_spec('mmpretrain').origin).parent / '.mim' / 'configs'
LENET = 'mmpretrain::lenet/lenet5_mnist.py'
RECORD = dict(
    config='mmpretrain::resnet/resnet18_8xb32_in1k.py',
    kind='convolutional',
    listed_shape='3 64 64',
    input_shape=[3, 64, 64],
    flops=1_814_073_344,
    params=11_689_512,
    units=[['backbone.conv1', 'channels', 64], ['attn', 'heads', 4], ['backbone.layer1', 'depth', 2]],
    frozen=[
        ['head.fc', 'reaches an output of the network', 1000],
        ['backbone.layer1.0.conv', 'is used as an index', 8],
        ['backbone.layer1.1.conv', 'is used as an index', 8],
        ['backbone.norm', 'a|b', 0],
    ],
    prunable_flops_fraction=0.99,
    trace_seconds=1.25,
    trace_mb=900.0,
    peak_mb=1100.0,
    seeds=[
        dict(
            seed=seed,
            flops_ratio=0.2,
            parity=dict(max_abs_diff=seed * 1e-15, max_abs_output=2.0),
            loss=6.9,
            not_trained='',
            **(dict(reload=dict(max_abs_diff=0.0, max_abs_output=2.0, missing=0)) if seed == 0 else {}),
        )
        for seed in range(3)
    ],
    widths_parity=dict(max_abs_diff=0.0, max_abs_output=2.0),
    search_losses=[6.9, 6.8],
    no_bfloat16='',
    source='abc',
    commit='1234567',
    mmdms_version='0.1.0',
    machine='x86_64, 2 CPU cores, Python 3.11.7',
    threads=1,
    date='2026-01-02',
)
FAILED = dict(config=LENET, kind='convolutional', listed_shape='', stage='trace', error='ValueError: no|way')


@pytest.fixture
def record():
    return copy.deepcopy(RECORD)


# ---- FLOPs ----------------------------------------------------------------------------


def test_flops_beside_those_of_mmengine(record):
    """A network that differs by more than a thousandth is listed, and misses its gate unless the reason is known."""
    assert 'mmengine too' not in make_report([entry_of(record)], [record])
    record.update(mmengine_flops=record['flops'] + 1_000_000, flops_reasons=[])
    record['seeds'][0].update(flops=1_000_000, mmengine_flops=1_000_500)
    assert gates.misses(record) == []
    assert 'at most 0.1%' in make_report([entry_of(record)], [record])
    record['seeds'][0]['mmengine_flops'] = 1_250_000
    assert 'differ from mmengine' in gates.misses(record)[0]
    assert '-0.06% and -20.00%: no known reason' in make_report([entry_of(record)], [record])
    record['flops_reasons'] = ['mmengine leaves out recurrent layers']
    assert gates.misses(record) == []
    assert '-20.00%: mmengine leaves out recurrent layers' in make_report([entry_of(record)], [record])


@pytest.mark.parametrize(
    'layer, reason',
    [(torch.nn.Conv2d(3, 4, 3, padding='same'), "padding='same'"), (torch.nn.Conv2d(3, 4, 3, padding=1), None)],
)
def test_reasons_of_a_difference(layer, reason):
    network = torch.nn.Sequential(layer, torch.nn.Conv2d(4, 5, 1)).eval()
    space = build_search_space(network, torch.rand(1, 3, 8, 8), verify=False)
    counted = compared(network, space, None, (torch.rand(1, 3, 8, 8),))
    # 3 * 4 * 9 and 4 * 5 products at each of 64 positions.
    assert counted['flops'] == 64 * (108 + 20)
    assert counted['mmengine_flops'] == 64 * (20 if reason else 128)
    assert [reason in found for found in reasons(network, space)] == ([True] if reason else [])


# ---- The list -------------------------------------------------------------------------


def test_list_names_image_classifiers_of_the_zoo():
    entries = read_zoo()
    assert len(entries) >= 60
    assert {entry.kind for entry in entries} == set(gates.CLASSIFIERS)
    for entry in entries:
        assert load_config(entry.config).model.type == 'ImageClassifier', entry.config


def test_list_names_detectors_of_both_zoos():
    entries = read_zoo(DETECTORS)
    assert {entry.kind for entry in entries} == set(gates.FRACTION) - set(gates.CLASSIFIERS)
    families = {entry.config.split('/')[0] for entry in entries}
    folders = CONFIGS.parents[2] / 'mmyolo' / '.mim' / 'configs'
    unsearchable = {'_base_', 'deploy', 'razor'}  # parts of configs, and those of other packages
    assert {f'mmyolo::{path.name}' for path in folders.iterdir() if path.is_dir()} - families == {
        f'mmyolo::{name}' for name in unsearchable
    }
    assert sum(family.startswith('mmdet::') for family in families) >= 15
    for entry in entries:
        assert load_config(entry.config).model.backbone, entry.config


def test_every_folder_of_image_classifiers_is_listed_or_left_out():
    listed, left_out = {entry.folder for entry in read_zoo()}, read_left_out()
    assert not listed & left_out.keys()
    missing = set()
    for path in CONFIGS.rglob('*.py'):
        folder = path.parent.relative_to(CONFIGS).as_posix()
        if folder not in listed | missing and not folder.startswith('_base_'):
            try:
                model = Config.fromfile(path).get('model') or {}
            except Exception:  # some configs of the zoo do not parse, and no tool can use those
                continue
            if model.get('type') == 'ImageClassifier':
                missing.add(folder)
    assert missing == set(left_out), f'edit {ZOO.name} or {LEFT_OUT.name}'


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        (LENET, 'is no entry'),
        (f'{LENET} recurrent', 'convolutional, transformer, hybrid'),
        ('lenet/lenet5_mnist.py convolutional', 'package::family/config.py'),
        (f'{LENET} convolutional 32 32', 'is no entry'),
        (f'{LENET} convolutional 1 0 32', 'three positive whole numbers'),
        (f'{LENET} convolutional\n{LENET} hybrid', 'zoo.txt:2.*listed before'),
    ],
)
def test_list_with_a_mistake(tmp_path, line, message):
    (tmp_path / 'zoo.txt').write_text(line)
    with pytest.raises(ValueError, match=message):
        read_zoo(tmp_path / 'zoo.txt')


def test_folder_left_out_without_a_reason(tmp_path):
    (tmp_path / 'left_out.txt').write_text('dinov2\n')
    with pytest.raises(ValueError, match="'dinov2' gives no reason"):
        read_left_out(tmp_path / 'left_out.txt')


# ---- Gates ----------------------------------------------------------------------------


def test_record_that_passes(record):
    assert gates.misses(record) == []
    assert gates.parity_of(record) == 1e-15


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda r: r['seeds'][1]['parity'].update(max_abs_diff=1e-7), 'parity 5.0e-08 > 1e-08'),
        (lambda r: r['seeds'][1]['parity'].update(max_abs_diff=math.nan), 'parity nan > 1e-08'),
        (lambda r: r['seeds'][1]['parity'].update(max_abs_output=0.0), 'parity nan > 1e-08'),
        (lambda r: r['widths_parity'].update(max_abs_diff=1e-7), 'parity 5.0e-08 > 1e-08'),
        (lambda r: r.update(prunable_flops_fraction=0.96999), 'fraction 0.9699 < 0.97'),
        (
            lambda r: r.update(unlisted=['stem.weight, dimension 1', 'a.weight, dimension 0']),
            'unlisted 2 dimensions, the first of stem.weight, dimension 1',
        ),
        (lambda r: r['seeds'][2].update(loss=math.inf), 'loss inf with seed 2'),
        (lambda r: r['seeds'][0]['reload'].update(max_abs_diff=0.5), 'reloaded export differs by 2.5e-01 > 1e-05'),
        (lambda r: r.update(trace_seconds=10.0), 'trace 10.0 s >= 10 s'),
        (lambda r: r.update(trace_mb=2345.6), 'memory 2.35 GB >= 2 GB'),
        (lambda r: r.update(stage='trace', error='killed'), 'trace: killed'),
    ],
)
def test_record_that_misses_a_gate(record, change, message):
    change(record)
    assert gates.misses(record) == [message]


def test_gate_depends_on_the_kind(record):
    record['prunable_flops_fraction'] = 0.92
    assert not gates.misses({**record, 'kind': 'hybrid'})
    assert gates.misses({**record, 'kind': 'transformer'}) == ['fraction 0.9200 < 0.95']


# ---- Report ---------------------------------------------------------------------------


def entry_of(record):
    shape = tuple(map(int, record['listed_shape'].split())) or None
    return Entry(record['config'], record['kind'], shape)


def test_report(record):
    older = {**record, 'prunable_flops_fraction': 0.5, 'source': 'older'}
    entries = [entry_of(record), entry_of(FAILED), Entry('mmpretrain::vgg/vgg11_8xb32_in1k.py', 'convolutional')]
    page = make_report(entries, [older, record, FAILED])
    row = next(line for line in page.splitlines() if line.startswith('| `resnet/resnet18_8xb32_in1k.py`'))
    assert [cell.strip() for cell in row.strip('|').split('|')][1:] == [
        *('convolutional', '3x64x64', '1.81 G', '3', '70', '1', '1'),
        *('0.9900', '1e-15', '1.2 s', '0.90 (1.10) GB', 'pass'),
    ]
    failed = next(line for line in page.splitlines() if line.startswith('| `lenet/lenet5_mnist.py`'))
    assert failed.count('–') == 10 and failed.endswith('| ends at: trace |')
    assert '**1 of 2 networks pass every gate.** The others:\n\n- `lenet/lenet5_mnist.py`: trace: ValueError' in page
    assert 'Not measured: mmpretrain::vgg/vgg11_8xb32_in1k.py.' in page
    assert '- is used as an index: `backbone.layer*.*.conv` (2); 16 elements' in page
    assert '- a|b: `backbone.norm`\n' in page
    assert '1000 elements' not in page
    assert 'mmdms 0.1.0 (commit 1234567)' in page and '2 CPU cores' in page and '2026-01-02' in page


def test_report_says_where_rows_are_of_different_states_of_mmdms(record):
    other = {**record, 'config': LENET, 'source': 'def', 'commit': '7654321'}
    page = make_report([entry_of(record), entry_of(other)], [record, other])
    assert 'commit 1234567, 7654321' in page and 'The rows are of 2 states of mmdms' in page
    assert 'states of mmdms' not in make_report([entry_of(record)], [record, other])


def test_report_says_which_gates_a_row_misses(record):
    record.update(prunable_flops_fraction=0.96996, trace_mb=3000.0)
    page = make_report([entry_of(record)], [record])
    assert '| 0.9699 |' in re.sub(' +', ' ', page) and '| misses fraction, memory |' in page
    assert '- `resnet/resnet18_8xb32_in1k.py`: fraction 0.9699 < 0.97; memory 3.00 GB >= 2 GB\n' in page


def test_report_says_which_rows_are_older_than_the_steps_of_a_search(record):
    assert 'are from before steps of a search' not in make_report([entry_of(record)], [record])
    record['search_losses'] = [6.9, float('nan')]
    assert 'loss of a search [6.9, nan]' in make_report([entry_of(record)], [record])
    del record['search_losses']
    page = make_report([entry_of(record)], [record])
    assert '1 rows are from before steps of a search were part of it.' in page


def test_report_takes_the_kind_of_the_list(record):
    record['prunable_flops_fraction'] = 0.92
    page = make_report([Entry(record['config'], 'hybrid', (3, 64, 64))], [record])
    assert '**1 of 1 networks pass every gate.**' in page and 'hybrid: 1 of 1 pass.' in page


def test_report_says_what_the_packages_do_not_do(record):
    assert 'What the packages do not do' not in make_report([entry_of(record)], [record])
    record['seeds'][1]['not_trained'] = 'no distillation'
    record['seeds'][0]['reload']['missing'] = 4
    record['no_bfloat16'] = 'RuntimeError: no|way'
    page = make_report([entry_of(record)], [record])
    assert 'in evaluation mode, on the cross entropy: "no distillation"' in page
    assert 'does not train in bfloat16 on a CPU: "RuntimeError: no|way"' in page
    assert 'drops 4 buffers from every state' in page
    assert '**1 of 1 networks pass every gate.**' in page


# ---- Running --------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch, record):
    """Entries that were measured, in order; none of them for real."""
    seen = []

    def run_entry(entry, time_limit, threads):
        seen.append(entry.config)
        own = dict(config=entry.config, kind=entry.kind, listed_shape=entry.listed_shape)
        return {**record, **own} if 'resnet' in entry.config else {**FAILED, **own}

    monkeypatch.setattr(runner, 'run_entry', run_entry)
    monkeypatch.setattr(runner, 'provenance', lambda: dict(source='abc'))
    return seen


def test_resume(measured, monkeypatch, tmp_path, capsys):
    entries = [entry_of(RECORD), entry_of(FAILED)]
    out = str(tmp_path / 'new' / 'sweep.jsonl')
    assert runner.sweep(entries[:1], out, 1)
    assert runner.sweep(entries[:1], out, 1) and len(measured) == 1
    assert not runner.sweep(entries, out, 1) and len(measured) == 2
    printed = capsys.readouterr().out
    assert '2/2 mmpretrain::lenet/lenet5_mnist.py: FAIL: trace: ValueError: no|way' in printed
    assert '1 of 2 networks pass' in printed and '(measured before)' in printed

    with open(out, 'a') as file:
        file.write('{"config": "torn')
    assert not runner.sweep(entries, out, 1) and len(measured) == 2
    assert runner.sweep(entries[:1], out, 1, fresh=True) and len(measured) == 3
    monkeypatch.setattr(runner, 'provenance', lambda: dict(source='def'))
    assert runner.sweep(entries[:1], out, 1) and len(measured) == 4
    other_shape = Entry(entries[0].config, 'convolutional', (3, 96, 96))
    assert runner.sweep([other_shape], out, 1) and len(measured) == 5
    lines = Path(out).read_text().splitlines()
    assert len(lines) == 6 and len(read_records(out, runner.KEY)) == 4


def test_network_that_cannot_be_built_is_a_row():
    record = runner.run_entry(Entry('mmpretrain::lenet/lenet6.py', 'convolutional'), 120)
    assert record['stage'] == 'build' and 'ConfigError' in record['error'] and 'lenet5_mnist' in record['error']
    assert 'Traceback' in record['log']


def test_network_over_the_time_limit_is_a_row():
    record = runner.run_entry(Entry(LENET, 'convolutional'), 0.5)
    assert record['stage'] == 'start' and record['error'] == 'over the time limit of 0.5 s'


def test_one_network_through_the_command(run_tool, tmp_path):
    out, page = tmp_path / 'sweep.jsonl', tmp_path / 'coverage.md'
    # One channel of the six in its first layer is more than the gate of a convolutional network allows.
    (tmp_path / 'zoo.txt').write_text(f'{LENET} convolutional 1 32 32\n')
    arguments = ['../benchmarks/sweep_zoo.py', '--zoo', tmp_path / 'zoo.txt', '--out', out]
    printed = run_tool(*arguments, cwd=tmp_path, status=1)
    assert '1/1' in printed and 'FAIL: fraction 0.9468 < 0.97 (' in printed
    (record,) = map(json.loads, out.read_text().splitlines())
    assert gates.misses(record) == ['fraction 0.9468 < 0.97'] and 'stage' not in record
    assert [seed['seed'] for seed in record['seeds']] == [0, 1, 2]
    assert record['seeds'][0]['reload']['max_abs_output'] > 0
    assert all(seed['parity']['max_abs_output'] > 0 for seed in record['seeds'])
    assert record['input_shape'] == [1, 32, 32] and record['flops'] == 416_520 and record['params'] == 61_706
    assert record['peak_mb'] >= record['trace_mb'] > 100

    (tmp_path / 'zoo.txt').write_text(f'{LENET} hybrid 1 32 32\n')
    run_tool(*arguments, '--report', page, cwd=tmp_path)
    assert 'hybrid: 1 of 1 pass.' in page.read_text()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--only', '*/nothing*'], "--only '*/nothing*' matches no config"),
        (['--zoo', 'nowhere.txt'], 'nowhere.txt'),
        (['--time-limit', '0'], 'must be positive'),
        (['--report', '-'], 'run without --report first'),
    ],
)
def test_bad_arguments(fail_tool, arguments, message):
    assert message in fail_tool('../benchmarks/sweep_zoo.py', '--out', 'out.jsonl', *arguments)


@pytest.mark.sweep
@pytest.mark.timeout(0)
def test_full_sweep_passes_where_the_coverage_page_says_so(tmp_path):
    """An hour on one core, by ``pytest -m sweep``; ``make sweep`` runs the same and keeps its results."""
    entries, out = [*read_zoo(), *read_zoo(DETECTORS)], str(tmp_path / 'sweep.jsonl')
    runner.sweep(entries, out, time_limit=600)
    before = {record['config']: record for record in read_records(RESULTS, runner.KEY)}
    failed = {record['config']: gates.misses(record) for record in read_records(out, runner.KEY)}
    assert not {c: found for c, found in failed.items() if found and not gates.misses(before[c])}
