"""No tensor is left behind on the CPU when a network is searched or pruned on another device."""

import pytest
import torch
from helpers.elsewhere import DEVICE, Elsewhere, Far, bring_back
from helpers.searched import network, train
from mmengine.registry import init_default_scope

from mmdms import DMSMutator, build_search_space
from mmdms.mutators import DPFMutator, StructuredDPFMutator
from mmdms.openmmlab.configs import load_config
from mmdms.registry import MODELS

BUDGET = dict(budget=dict(metric='flops', target=0.4), divisor=1)
WAYS = {
    'search': lambda: DMSMutator(**BUDGET),
    'weights': lambda: DPFMutator(0.5, reallocation_interval=4),
    'weights, damped, per layer': lambda: DPFMutator(0.5, reallocation_interval=4, damped=True, scope='layer'),
    'weights, incremental': lambda: DPFMutator(0.5, reallocation_interval=4, method='incremental'),
    'channels': lambda: StructuredDPFMutator(**BUDGET, reallocation_interval=4),
}


def test_mixtures_are_refused():
    """As on a GPU: or the tests below could not fail."""
    here, single = torch.arange(3.0), torch.tensor(2.0)
    with Elsewhere():
        there = here.to(DEVICE)
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([here, there]),
            lambda: there.index_add(0, here.long(), there),
        ):
            with pytest.raises(RuntimeError, match='elsewhere'):
                mixed()
        assert (there * single).tolist() == [0, 2, 4] and there[here.long()].tolist() == [0, 1, 2]
        assert isinstance(there + 1, Far) and not isinstance(there.cpu(), Far)


def run(way, device=None):
    model, mutator = network(), WAYS[way]()
    space = (
        mutator.survey(model) if isinstance(mutator, DPFMutator) else build_search_space(model, torch.rand(1, 3, 6, 6))
    )
    mutator.prepare(model, space)
    if device is not None:
        model.to(device)
        mutator.to(device)
    train(model, mutator, steps=24, device=device)
    mutator.losses()
    return {**mutator.state_dict(), **model.state_dict()}


@pytest.mark.parametrize('way', WAYS)
def test_elsewhere_is_the_same(way):
    expected = run(way)
    with Elsewhere():
        found = run(way, DEVICE)
        assert all(isinstance(value, Far) for value in found.values())
        for name, value in found.items():
            assert torch.equal(bring_back(value), expected[name]), name


@pytest.mark.parametrize('name', [
    'configs/digits/dms-10_resnet18_b64_digits.py', 'configs/digits/dms-30_deit-tiny-narrow_b64_digits.py',
    'configs/digits/dms-30_swin-tiny-narrow_b64_digits.py', 'configs/digits/dms-30_convnext-tiny-narrow_b64_digits.py',
])  # fmt: skip
def test_a_search_by_its_config(pytestconfig, name):
    """Norms over channels, heads, windows: a step of each phase, and one in evaluation."""
    config = load_config(str(pytestconfig.rootpath / name))
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    images, mutator = torch.rand(4, *config.model.input_shape), model.mutator
    with Elsewhere():
        model.to(DEVICE).train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        mutator.attach(optimizer)
        for progress in (0.0, 0.2, 0.6, 0.8):
            mutator.set_progress(progress)
            optimizer.zero_grad()
            model.architecture(images.to(DEVICE)).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            assert isinstance(model.eval().architecture(images.to(DEVICE)), Far)
        assert mutator.structure().report()
