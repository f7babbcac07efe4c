"""Random networks of torch.nn's own layers: a sample of the fuzz run, what it draws from, and what a run survives."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = str(Path(__file__).parents[2] / 'benchmarks')


@pytest.fixture(scope='module', autouse=True)
def benchmarks_on_path():
    sys.path.insert(0, BENCHMARKS)
    yield
    sys.path.remove(BENCHMARKS)


SAMPLE = [55, 57, 58, 60, 72, 85, 93, 110, 113, 118, 119, 132, 136, 137, 144, 150, 158, 159, 160, 161]
"""Networks that are quick, and that together hold a layer of every factory."""


@pytest.mark.parametrize('seed', SAMPLE)
def test_a_random_network(seed):
    from fuzz.trial import Trial

    record = Trial(seed).run()
    assert record['outcome'] == 'ok', record


def test_a_seed_is_a_network():
    from fuzz.network import random_network

    one, same, other = random_network(3), random_network(3), random_network(4)
    assert one.layers == same.layers != other.layers
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))


def test_every_layer_of_torch_is_drawn_or_left_out_with_its_reason():
    from fuzz import sequences
    from fuzz.draw import Draw
    from fuzz.layers import LAYERS, LEFT_OUT
    from fuzz.network import example

    met = set()
    for layout, factories in LAYERS.items():
        x = example(layout, 2, 0)
        for factory in factories.values():
            for seed in range(150):
                draw = Draw(seed)
                draw.layout = layout
                try:
                    made = factory(draw, x)
                except (ValueError, AssertionError, RuntimeError, IndexError, TypeError):
                    continue  # options that do not fit
                met |= {type(module).__name__ for module in made.modules()}
    for seed in range(20):
        made = sequences.embedding(Draw(seed), example('ids', 2, 0))
        met |= {type(module).__name__ for module in made.modules()}
    classes = {name for name in nn.modules.__all__ if isinstance(getattr(nn, name), type)}
    assert {name for name in classes - met if 'Loss' not in name} == set(LEFT_OUT) & classes - met


def test_a_run_survives_a_network_that_hangs_or_kills_its_process(tmp_path, monkeypatch):
    from fuzz import runner

    out = tmp_path / 'fuzz.jsonl'
    worker = """
import json, os, sys, time
for line in sys.stdin:
    if line == '1\\n':
        os._exit(3)
    if line == '2\\n':
        time.sleep(60)
    print('RECORD ' + json.dumps(dict(seed=int(line), outcome='ok', stage='', reason='')), flush=True)
"""
    monkeypatch.setattr(runner, 'WORKER', worker)
    runner.run([0, 1, 2, 3], out, limit=2)
    found = {record['seed']: (record['outcome'], record['reason']) for record in runner.read(out)}
    assert found == {
        0: ('ok', ''),
        1: ('crash', 'the process ended with 3'),
        2: ('crash', 'took more than 2 s'),
        3: ('ok', ''),
    }
    # What is there is skipped, and on request only that which failed runs again.
    monkeypatch.setattr(runner, 'WORKER', worker.replace("'1", "'-").replace("'2", "'-"))
    runner.run([0, 1, 2, 3, 4], out, limit=2)
    assert out.read_text().count('"seed"') == 5
    out.write_text(out.read_text() + '{"seed": 9, "outc')  # a run that was cut off
    runner.run([1, 2], out, limit=2, again=True)
    assert [record['outcome'] for record in runner.read(out)] == ['ok'] * 5


def test_the_report_counts_equal_faults_together():
    from fuzz.report import summary

    records = [
        dict(seed=1, outcome='crash', stage='slice', reason='RuntimeError: size 3', layers=['linear:Linear']),
        dict(seed=2, outcome='crash', stage='slice', reason='RuntimeError: size 12', layers=['linear:Linear']),
        dict(seed=3, outcome='refused', stage='search space', reason='8 x reaches aten.sort', layers=[], frozen={}),
        dict(seed=4, outcome='ok', stage='save and load', reason='', layers=[], frozen={'body.1.2 is odd': 3}),
    ]
    text = summary(records)
    assert 'crash: 2 (50.0%)' in text and '2 x slice: RuntimeError: size N (seeds 1, 2)' in text
    assert '1 x search space: N x reaches aten.sort (seeds 3)' in text
    assert '1 x LAYER is odd' in text and 'Linear 2' in text


def test_wrong_arguments_are_named(capsys, tmp_path):
    import importlib.util

    spec = importlib.util.spec_from_file_location('fuzz_command', f'{BENCHMARKS}/fuzz.py')
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    for arguments, message in (
        ([], '--out is needed'),
        (['--out', 'x', '--seeds', '5', '5'], '--seeds takes the first number and the one after the last'),
        (['--out', 'x', '--limit', '0'], '--limit must be positive'),
        (['--out', str(tmp_path / 'none'), '--report'], 'does not exist: run without --report first'),
    ):
        with pytest.raises(SystemExit):
            command.main(arguments)
        assert message in capsys.readouterr().err
    (tmp_path / 'a.jsonl').write_text(json.dumps(dict(seed=0, outcome='ok', stage='', reason='')) + '\n')
    command.main(['--out', str(tmp_path / 'a.jsonl'), '--report'])
    assert 'ok: 1 (100.0%)' in capsys.readouterr().out
