"""Layers whose weight is computed from parameters: what is searched, its cost, and the parity of slices."""

import pytest
import torch
import torch.nn.functional as F
from helpers.adapted import flops
from helpers.tiny import Net, assert_parity, conv, image, random_mask, reasons, sizes
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from mmdms.api import build_search_space
from mmdms.masks.channel_masks import Masks
from mmdms.mutators.budgets.fit import fit_to_budget, unit_divisors
from mmdms.slicing.slim import slim


def chain(wrap, first=None, second=None, out=None):
    """Two layers with computed weights, and a plain one that reads them."""
    layers = dict(a=wrap(first or conv(3, 6, 3)), b=wrap(second or conv(6, 8, 3)), out=out or conv(8, 4))
    return Net(lambda n, x: n.out(F.relu(n.b(F.relu(n.a(x))))), **layers)


class Standardised(nn.Conv2d):
    """Its statistics are over all inputs of a filter, and no adapter knows it."""

    def forward(self, x):
        std, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), self.bias, 1, self.padding, 1, self.groups)


class MeanFree(nn.Conv2d):
    """As above, with operations of their own."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, 1, self.padding, 1, self.groups)


class Scaled(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight * 0.5, self.bias, 1, self.padding, 1, self.groups)


class ScaledLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 0.5, self.bias * 2)


class Cosine(nn.Linear):
    """Rows of unit length."""

    def forward(self, x):
        return F.linear(x, F.normalize(self.weight), self.bias)


class Quantised(nn.Conv2d):
    """Every weight hangs on the largest of all."""

    def forward(self, x):
        step = self.weight.abs().amax() / 127
        return F.conv2d(x, (self.weight / step).round() * step, self.bias, 1, self.padding)


class FixedPattern(nn.Conv2d):
    """Half of the inputs are left out by a tensor that nothing slices."""

    def forward(self, x):
        pattern = torch.arange(self.in_channels).remainder(2).view(1, -1, 1, 1)
        return F.conv2d(x, self.weight * pattern, self.bias, 1, self.padding)


class Modulated(nn.Module):
    """The weight of StyleGAN2: scaled by a style per input channel, then to unit length per output channel."""

    def __init__(self, inputs, outputs, style):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, 3, 3))
        self.style = nn.Linear(style, inputs)

    def forward(self, x, z):
        batch, inputs, height, width = x.shape
        weight = 0.3 * self.weight * self.style(z).view(batch, 1, inputs, 1, 1)
        scale = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
        weight = weight * scale.view(batch, -1, 1, 1, 1)
        outputs = weight.shape[1]
        x = F.conv2d(x.view(1, -1, height, width), weight.flatten(0, 1), padding=1, groups=batch)
        return x.view(batch, outputs, height, width)


def rebuilt(kind):
    """A layer of another class with the sizes of a convolution."""
    return lambda layer: kind(layer.in_channels, layer.out_channels, 3, padding=1, groups=layer.groups)


BOTH = {'a': 6, 'b': 8}
CONVOLUTIONS = {
    'weight norm': (lambda: chain(parametrizations.weight_norm), BOTH),
    'weight norm by hook': (lambda: chain(weight_norm), BOTH),
    'weight norm over outputs': (lambda: chain(lambda layer: parametrizations.weight_norm(layer, dim=1)), BOTH),
    'one weight norm': (lambda: chain(lambda layer: parametrizations.weight_norm(layer, dim=None)), BOTH),
    'spectral norm': (lambda: chain(parametrizations.spectral_norm), BOTH),
    'spectral norm by hook': (lambda: chain(spectral_norm), BOTH),
    'scaled': (lambda: chain(rebuilt(Scaled)), BOTH),
    # The channels in stay, those out go.
    'standardised': (lambda: chain(rebuilt(Standardised)), {'b': 8}),
    'mean taken off': (lambda: chain(rebuilt(MeanFree)), {'b': 8}),
    'quantised': (lambda: chain(lambda layer: rebuilt(Quantised)(layer) if layer.in_channels == 6 else layer), {}),
    'fixed pattern': (
        lambda: chain(lambda layer: rebuilt(FixedPattern)(layer) if layer.in_channels == 6 else layer),
        {'b': 8},
    ),
    # Both groups lose equally many channels.
    'grouped': (
        lambda: chain(parametrizations.weight_norm, conv(3, 6, 3), conv(6, 8, 3, groups=2)),
        {'a': 3, 'b': 4},
    ),
    'depthwise': (lambda: chain(parametrizations.weight_norm, conv(3, 8, 3), conv(8, 8, 3, groups=8)), {'a': 8}),
    'depthwise, standardised': (
        lambda: chain(rebuilt(Standardised), conv(3, 8, 3), conv(8, 8, 3, groups=8)),
        {'a': 8},
    ),
    'depthwise, spectral norm': (
        lambda: chain(parametrizations.spectral_norm, conv(3, 8, 3), conv(8, 8, 3, groups=8)),
        {'a': 8},
    ),
    'transposed': (
        lambda: chain(parametrizations.weight_norm, conv(3, 6, 3), nn.ConvTranspose2d(6, 8, 4, 2, 1)),
        BOTH,
    ),
    'transposed, spectral norm': (
        lambda: chain(parametrizations.spectral_norm, conv(3, 6, 3), nn.ConvTranspose2d(6, 8, 4, 2, 1)),
        BOTH,
    ),
    'transposed in groups': (
        lambda: chain(lambda layer: layer, conv(3, 6, 3), nn.ConvTranspose2d(6, 8, 4, 2, 1, groups=2)),
        {'a': 3, 'b': 4},
    ),
    'transposed, depthwise': (
        lambda: chain(lambda layer: layer, conv(3, 4, 3), nn.ConvTranspose2d(4, 8, 4, 2, 1, groups=4)),
        {'a': 4},
    ),
    'no batch': (lambda: Net(lambda n, x: n.out(n.a(x[0])), a=conv(3, 6, 3), out=conv(6, 4)), {'a': 6}),
}
LINEAR = {
    'weight norm': parametrizations.weight_norm,
    'weight norm by hook': weight_norm,
    'spectral norm': parametrizations.spectral_norm,
    'scaled': lambda layer: ScaledLinear(layer.in_features, layer.out_features),
    'cosine': lambda layer: Cosine(layer.in_features, layer.out_features),
}


def check(net, *inputs, units):
    """Units, costs before and after a random prune by mmengine's count, parity."""
    with torch.no_grad():
        net.eval()(*inputs)
    space = build_search_space(net, inputs)
    assert sizes(space) == units, reasons(space)
    for mask in (torch.ones(space.num_elements).bool(), random_mask(space, 1), random_mask(space, 2)):
        subnet = slim(net, space, space.structure(mask)).eval()
        assert space.cost('flops', mask) == flops(subnet, inputs)
        assert space.cost('params', mask) == sum(p.numel() for p in subnet.parameters())
    assert_parity(net, space, *inputs)
    return space


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_convolution(name):
    torch.manual_seed(0)
    build, units = CONVOLUTIONS[name]
    check(build(), image(), units=units)


@pytest.mark.parametrize('name', LINEAR)
def test_linear_layer(name):
    torch.manual_seed(0)
    net = chain(LINEAR[name], nn.Linear(5, 6), nn.Linear(6, 8), nn.Linear(8, 4))
    check(net, torch.rand(1, 3, 5), units=BOTH)


def test_modulated_weights():
    """The style has as many channels as the map that it scales, and they go with them."""
    torch.manual_seed(0)
    layers = dict(m=nn.Linear(7, 9), a=conv(3, 8), b=Modulated(8, 6, 9), c=Modulated(6, 5, 9), out=conv(5, 4))
    net = Net(lambda n, x, z: n.out(n.c(n.b(n.a(x), n.m(z)), n.m(z))), **layers)
    check(net, image(), torch.rand(1, 7), units={'a': 8, 'm': 9, 'b': 6, 'c': 5})


@pytest.mark.parametrize(
    'wrap, reason',
    [
        (rebuilt(Standardised), 'computed with a statistic over these channels'),
        (rebuilt(Quantised), 'computed with a statistic over these channels'),
        (rebuilt(FixedPattern), 'also follows a tensor of fixed size'),
    ],
)
def test_reasons(wrap, reason):
    """What stays says why, and names the layer that reads it."""
    space = build_search_space(chain(lambda layer: wrap(layer) if layer.in_channels == 6 else layer), image())
    assert reason in reasons(space)['b']


@pytest.mark.parametrize('kind', [nn.InstanceNorm2d, nn.BatchNorm2d])
@pytest.mark.parametrize('options', [{}, dict(affine=True), dict(affine=False), dict(track_running_stats=True)])
def test_norms_that_take_their_own_statistics(kind, options):
    """mmengine counts 5 per value, or 4 without a scale, and 2 or 1 where the statistics are known."""
    options = {**options, 'track_running_stats': options.get('track_running_stats', False)}
    net = Net(lambda n, x: n.out(n.norm(n.a(x))), a=conv(3, 6), norm=kind(6, **options), out=conv(6, 4))
    check(net, image(), units={'a': 6})


@pytest.mark.parametrize('norm', [nn.LayerNorm([6, 4, 4]), nn.GroupNorm(2, 6, affine=False), nn.LayerNorm(4)])
def test_norms_that_freeze_cost_all_the_same(norm):
    net = Net(lambda n, x: n.out(n.norm(n.a(x))), a=conv(3, 6), norm=norm, out=conv(6, 4)).eval()
    space = build_search_space(net, image())
    assert space.cost('flops', torch.ones(space.num_elements)) == flops(net, (image(),))


def test_a_matrix_times_a_vector():
    net = Net(lambda n, x: torch.matmul(n.a(x)[0, 0], x[0, 0, 0]), a=conv(3, 6)).eval()
    space = build_search_space(net, image())
    # 6 * 3 products at 16 positions, and 4 rows of 4.
    assert space.cost('flops', torch.ones(space.num_elements)) == 288 + 16 == flops(net, (image(),))


def test_a_budget_is_met_by_the_count_of_mmengine():
    """Four convolutions of 32 channels, three of them weight-normed: half is half."""
    torch.manual_seed(0)
    layers = [conv(3, 32, 3), *(parametrizations.weight_norm(conv(32, 32, 3)) for _ in range(3)), conv(32, 10)]
    net = nn.Sequential(*layers).eval()
    space = build_search_space(net, image(size=8))
    ratios = torch.full((len(space.units),), 0.7, dtype=torch.float64)
    ranks = torch.cat([(torch.arange(32, dtype=torch.float64) + 0.5) / 32 for _ in space.units])
    mask = fit_to_budget(space, 'flops', 0.5, ratios, ranks, unit_divisors(space.units))
    subnet = slim(net, space, space.structure(mask)).eval()
    # 3 * 32 * 9 + 3 * 32 * 32 * 9 + 32 * 10 products at each of 64 positions.
    assert flops(net, (image(size=8),)) == 1845248
    assert 0.48 < flops(subnet, (image(size=8),)) / 1845248 <= 0.5


@pytest.mark.parametrize('wrap', [parametrizations.spectral_norm, parametrizations.weight_norm, weight_norm])
@pytest.mark.parametrize('kept', [0.0, 0.5])
def test_masks_inside_a_norm_learn(wrap, kept):
    """Soft and hard masks in a training step: finite gradients, of importance too."""
    torch.manual_seed(0)
    net = chain(wrap).train()
    space = build_search_space(net, image())
    values = torch.ones(space.num_elements).index_fill(0, torch.arange(0, 14, 2), kept).requires_grad_()
    Masks(net, space).set(values)
    net(image(size=8)).square().sum().backward()
    for tensor in (values, *net.parameters()):
        assert bool(tensor.grad.isfinite().all())
    assert bool((values.grad[:6] != 0).all()) == (kept > 0 or wrap is not parametrizations.spectral_norm)
