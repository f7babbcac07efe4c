"""FLOPs at another input size than that of the trace."""

import pytest
import torch
from helpers.adapted import flops
from helpers.tiny import Net, conv, random_mask
from torch import nn

from mmdms.api import build_search_space
from mmdms.errors import GeometryError
from mmdms.slicing.slim import slim


def image(size):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))


def layers():
    """Convolutions, a norm, resampling, pooling, attention over positions and a transposed convolution."""

    def run(net, x):
        x = torch.relu_(net.norm(net.a(x)))
        y = net.b(nn.functional.max_pool2d(x, 2))
        y = nn.functional.interpolate(y, scale_factor=2)
        x = net.up(x + y)
        tokens = x.flatten(2).transpose(1, 2)
        weights = (tokens @ tokens.transpose(1, 2)).softmax(-1)
        return net.fc(weights @ tokens).mean(1) + net.gate(nn.functional.adaptive_avg_pool2d(x, 1)).flatten(1)

    return Net(
        run, a=conv(3, 8, 3), norm=nn.BatchNorm2d(8), b=conv(8, 8, 3), up=nn.ConvTranspose2d(8, 6, 2, 2),
        fc=nn.Linear(6, 4), gate=conv(6, 4),
    ).eval()  # fmt: skip


def test_flops_are_those_of_the_real_size_of_supernet_and_subnet():
    net = layers()
    space = build_search_space(net, image(4), flops_inputs=image(12))
    direct = build_search_space(net, image(12))
    for mask in (torch.ones(space.num_elements, dtype=torch.bool), random_mask(space, seed=3)):
        subnet = slim(net, space, space.structure(mask)).eval()
        assert space.cost('flops', mask) == direct.cost('flops', mask) == flops(subnet, (image(12),))
    assert space.cost('params', mask) == sum(p.numel() for p in subnet.parameters())


def test_by_hand():
    net = Net(lambda net, x: net.b(net.a(x)).mean([2, 3]), a=conv(3, 8, 3), b=conv(8, 5))
    space = build_search_space(net, image(4), flops_inputs=image(10))
    # 3x3 kernels over 10x10 positions, then 1x1; mmengine counts the mean over positions as one per value.
    assert space.cost('flops', torch.ones(space.num_elements)) == 100 * (3 * 8 * 9 + 8 * 5)
    half = torch.tensor([True] * 4 + [False] * 4)
    assert space.cost('flops', half) == 100 * (3 * 4 * 9 + 4 * 5)


def test_nothing_of_the_network_changes():
    net = layers().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    build_search_space(net, image(4), flops_inputs=image(8))
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_other_operations_at_the_real_size_are_an_error():
    net = Net(lambda net, x: net.b(net.a(x)) if x.size(-1) < 8 else net.a(x), a=conv(3, 4), b=conv(4, 4))
    with pytest.raises(GeometryError, match=r'real input \(1 that cost something\) than on a small one \(2\)'):
        build_search_space(net, image(4), flops_inputs=image(8))


@pytest.mark.parametrize(('rows', 'real'), [(0, 0), (0, 2)])
def test_a_product_of_no_rows(rows, real):
    """Masks of objects where there are none cost nothing; of objects at the real size alone, they cannot be scaled."""
    model = Net(lambda net, x, n: (net.a(x), x.flatten(2)[0, :, :n].T @ x.flatten(2)[0]), a=conv(3, 4), b=conv(4, 2))
    inputs, large = (image(8), rows), (image(16), real)
    if real:
        with pytest.raises(GeometryError, match='nothing to do on a small input'):
            build_search_space(model, inputs, flops_inputs=large)
    else:
        space = build_search_space(model, inputs, flops_inputs=large)
        exact = build_search_space(model, large)
        full = torch.ones(space.num_elements)
        assert space.cost('flops', full) == exact.cost('flops', full) > 0
