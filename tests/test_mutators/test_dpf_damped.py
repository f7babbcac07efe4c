"""Damped feedback: what a masked weight learns by, and that emptied filters do not diverge."""

import pytest
import torch
import torch.nn.functional as F
from helpers.searched import batch, network
from torch import nn

from mmdms.errors import ConfigError
from mmdms.masks.weight_masks import WeightMasks
from mmdms.mutators import DPFMutator


def gradients(damped, kept, weight):
    """Gradients of a convolution's weight, with and without its mask."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    layer.weight.data = weight.clone()
    masks = WeightMasks(layer, ['weight'], feedback=True, damped=damped)
    masks.set(dict(weight=kept))
    layer(torch.ones(1, weight.shape[1], 1, 1)).sum().backward()
    return dict(layer.named_parameters())['weight'].grad


def test_gradient_by_hand():
    # Sixteen inputs of ones: every weight has gradient 1. Filters keep 16, 4, 1 and 0 of 16 weights: gains of 1
    # (2, but for the bound), 2 * 1/2, 2 * 1/4, 0.
    weight = torch.rand(4, 16, 1, 1) + 0.5
    kept = torch.arange(16) < torch.tensor([16, 4, 1, 0])[:, None]
    expected = torch.ones(4, 16)
    expected[2, 1:] = 0.5
    expected[3] = 0.0
    assert torch.equal(gradients(True, kept[:, :, None, None], weight).flatten(1), expected)
    assert torch.equal(gradients(False, kept[:, :, None, None], weight), torch.ones(4, 16, 1, 1))


def test_gains_follow_a_mask_that_changes_in_place():
    layer = nn.Linear(16, 1, bias=False)
    kept = torch.ones(1, 16, dtype=torch.bool)
    WeightMasks(layer, ['weight'], feedback=True, damped=True).set(dict(weight=kept))
    parameter = dict(layer.named_parameters())['weight']
    for number, gain in ((16, 1.0), (1, 0.5), (8, 1.0)):
        kept.copy_(torch.arange(16) < number)
        parameter.grad = None
        layer(torch.ones(1, 16)).sum().backward()
        assert parameter.grad.tolist() == [number * [1.0] + (16 - number) * [gain]]


def test_with_all_masks_one_it_is_plain_training():
    found = []
    for damped in (None, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        if damped:
            mutator = DPFMutator(0.5, schedule=dict(begin=1.0, end=1.0), damped=True)
            mutator.prepare(model, mutator.survey(model))
            mutator.attach(optimizer)
        for step in range(10):
            if damped:
                mutator.set_progress(step / 20)
            inputs, labels = batch(step % 4)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def normed(damped):
    """How far the weights of a convolution get in one interval in which its first filter is empty."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    kept = torch.ones(4, 8, 1, 1, dtype=torch.bool)
    kept[0] = False
    WeightMasks(net, ['0.weight'], feedback=True, damped=damped).set({'0.weight': kept})
    weight = dict(net.named_parameters())['0.weight']
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    inputs, labels = torch.rand(16, 8, 2, 2), torch.arange(16) % 2
    for _ in range(16):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
    return (weight.detach() - before).flatten(1).norm(dim=1)


def test_an_emptied_filter_before_a_norm_does_not_diverge():
    plain, damped = normed(False), normed(True)
    assert plain[0] > 10 * plain[1:].max()  # what damping is for: the norm divides by next to nothing
    assert damped[0] == 0
    assert torch.allclose(plain[1:], damped[1:], rtol=1e-4)


@pytest.mark.parametrize('damped', [False, True])
def test_layers_of_which_nothing_is_left_are_named(damped):
    net = nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(7)))
    mutator = DPFMutator(0.5, damped=damped)
    mutator.prepare(net, mutator.survey(net))
    assert mutator.describe_structure() == 'masks are final: sparsity 0.0000 of the prunable weights, target 0.5'
    hint = '' if damped else ': where the network learns no more, try mutator.damped=True'
    for layers, named in ((1, '0.weight'), (4, '0.weight, 1.weight, 2.weight, 3.weight')):
        mutator.kept[: 16 * layers] = False
        assert mutator.describe_structure().endswith(f'nothing is left of {layers} of 7 layers ({named}){hint}')
    mutator.kept[:80] = False
    assert mutator.describe_structure().endswith(f'nothing is left of 5 of 7 layers ({named}, ...){hint}')


@pytest.mark.parametrize('settings', [dict(damped=1), dict(damped=True, method='incremental')])
def test_bad_settings(settings):
    with pytest.raises(ConfigError, match=r"mutator\.damped must be False, or True with method='feedback', but it is"):
        DPFMutator(0.5, **settings)
