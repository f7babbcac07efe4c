"""Searched, adapted and pruned networks are pickled, saved whole, copied and sent to other processes."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import swapped
from helpers.swapped import NETWORKS, Deep, assert_outputs, example, half_searched, outputs
from torch import nn
from torch.nn.utils import parametrize

from mmdms import DPFMutator, remove_masks, slim, without_masks
from mmdms.adapters.base import adapt, adapter_level, unadapt
from mmdms.adapters.norms import LayerNormAdapter
from mmdms.errors import ModelError
from mmdms.masks.channel_masks import has_masks, mask_level
from mmdms.network.module_swap import has_level, levels_of, make_class, original_class, restore_class, swap_class
from mmdms.slicing.passthrough import Passthrough


@pytest.fixture(scope='module')
def cases():
    """Networks at every stage, with an input and their outputs."""
    found = {}
    for name in NETWORKS:
        model, _ = half_searched(name, 6)
        found[f'{name}, in the search'] = model
    model, mutator = half_searched('deep', 20)
    mutator.set_progress(1.0)
    subnet = slim(model, mutator.space, mutator.structure())
    found.update(settled=model, plain=without_masks(model), subnet=subnet)
    found.update({'without blocks': smallest(model, mutator.space), 'adapted': adapted()})
    removed, other = half_searched('deep', 3)
    other.remove()
    pruned = Deep()
    pruning = DPFMutator(0.5, schedule=dict(end=0.0))
    pruning.prepare(pruned, pruning.survey(pruned))
    pruning.set_progress(0.5)
    found.update({'masks removed': removed, 'single weights': pruned})
    return {name: (model, example(), outputs(model, example())) for name, model in found.items()}


def smallest(model, space):
    return slim(model, space, space.structure(space.minimum_mask()))


def adapted():
    model = Deep()
    adapt(model, masked=True)
    return model


def test_a_fresh_process_that_only_loads(cases, tmp_path):
    assert any(isinstance(part, Passthrough) for part in cases['without blocks'][0].modules())
    torch.save(cases, tmp_path / 'networks.pth')
    root = Path(swapped.__file__).parents[2]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, (root / 'tests', root)))}
    only_torch = 'import sys, torch; found = torch.load(sys.argv[1], weights_only=False); '
    only_torch += "sys.modules['helpers.swapped'].assert_outputs(found)"
    command = [sys.executable, '-c', only_torch, str(tmp_path / 'networks.pth')]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_spawned_process(cases):
    process = torch.multiprocessing.get_context('spawn').Process(target=assert_outputs, args=(cases,))
    process.start()
    process.join(120)
    assert process.exitcode == 0


@pytest.mark.parametrize('way', [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m, 2))])
def test_copies_and_pickles(cases, way):
    for name, (model, x, expected) in cases.items():
        copied = way(model)
        for found, wanted in zip(outputs(copied, x), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=name)
        if way is not copy.copy:
            remove_masks(copied)
            assert not has_masks(copied) and not any(levels_of(type(part)) for part in plain_parts(copied)), name


def plain_parts(model):
    """Modules that need not be adapted, nor stand where a block was."""
    return [part for part in model.modules() if not isinstance(part, (Passthrough, nn.LayerNorm)) and
            not has_level(part, adapter_level)]  # fmt: skip


def test_classes_are_made_once_and_levels_come_off_in_any_order():
    norm, other = nn.LayerNorm(4), nn.LayerNorm(4)
    for module in (norm, other):
        swap_class(module, adapter_level, LayerNormAdapter)
        swap_class(module, mask_level, ('weight',))
    assert type(norm) is type(other) and type(norm) is not nn.LayerNorm and isinstance(norm, nn.LayerNorm)
    assert levels_of(type(norm)) == ((adapter_level, LayerNormAdapter), (mask_level, ('weight',)))
    assert original_class(type(norm)) is nn.LayerNorm and type(norm).__name__ == 'LayerNorm'
    assert restore_class(norm, adapter_level) and not isinstance(norm, LayerNormAdapter)
    assert has_level(norm, mask_level) and type(norm) is make_class(nn.LayerNorm, mask_level, ('weight',))
    assert restore_class(norm, mask_level) and type(norm) is nn.LayerNorm
    assert not restore_class(norm, mask_level)
    assert restore_class(other, mask_level) and isinstance(other, LayerNormAdapter)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_a_class_that_others_have_changed_since():
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
    adapt(model, masked=True, undoable=True)
    parametrize.register_parametrization(model[0], 'bias', Doubled())
    with pytest.raises(ModelError, match=r'class of this Parametrized\w+ was changed .* undo the other change first'):
        unadapt(model)
    parametrize.remove_parametrizations(model[0], 'bias')
    assert type(model[0]) is make_class(nn.LayerNorm, adapter_level, LayerNormAdapter)
