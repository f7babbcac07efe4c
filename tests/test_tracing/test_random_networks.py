"""Random small networks of supported operations: whatever the tracer finds, masks and slices agree."""

import torch
import torch.nn.functional as F
from helpers.tiny import assert_parity, image, remarkable
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmpretrain.models.utils.attention import MultiheadAttention
from torch import nn

from mmdms.api import build_search_space

STEPS = (
    'conv bn relu act_ grouped depthwise multiplied gate add cat pool scale chunk '
    'shuffle layer_norm group_norm groups_norm attention'
).split()
EVEN = ('grouped', 'chunk', 'shuffle', 'groups_norm', 'attention')


class RandomNet(nn.Module):
    """Applies steps ``(kind, target, source)`` to two streams; some steps read the source stream too."""

    def __init__(self, steps):
        super().__init__()
        self.steps = []
        self.layers = nn.ModuleDict()
        widths = [4, 4]
        self.layers['stem0'], self.layers['stem1'] = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        for i, (kind, target, source) in enumerate(steps):
            width = widths[target]
            if kind in EVEN and width % 2:
                kind = 'relu'
            self.steps.append((kind, target, source))
            if kind == 'conv':
                widths[target] = 2 + 2 * (source + i % 3)
                self.layers[str(i)] = nn.Conv2d(width, widths[target], 3, padding=1)
            elif kind == 'bn':
                self.layers[str(i)] = nn.BatchNorm2d(width)
            elif kind == 'grouped':
                self.layers[str(i)] = nn.Conv2d(width, 2 * width, 1, groups=2)
                widths[target] = 2 * width
            elif kind == 'depthwise':
                self.layers[str(i)] = nn.Conv2d(width, width, 3, padding=1, groups=width)
            elif kind == 'multiplied':
                self.layers[str(i)] = nn.Conv2d(width, 2 * width, 1, groups=width)
                widths[target] = 2 * width
            elif kind == 'gate':
                self.layers[str(i)] = nn.Sequential(nn.Conv2d(width, 3, 1), nn.ReLU(), nn.Conv2d(3, width, 1))
            elif kind == 'add':
                self.layers[str(i)] = nn.Conv2d(widths[source], width, 1)
            elif kind == 'cat':
                widths[target] = width + widths[source]
            elif kind == 'scale':
                self.layers[str(i)] = nn.PReLU(width)
            elif kind == 'chunk':
                widths[target] = width // 2
            elif kind == 'layer_norm':
                self.layers[str(i)] = nn.LayerNorm(width)
            elif kind in ('group_norm', 'groups_norm'):
                self.layers[str(i)] = nn.GroupNorm(1 if kind == 'group_norm' else 2, width)
            elif kind == 'attention':
                self.layers[str(i)] = MultiheadAttention(width, 2)
        self.head = nn.Linear(4 * widths[0] + widths[1], 3)

    def forward(self, x):
        streams = [self.layers['stem0'](x), self.layers['stem1'](x)]
        for i, (kind, target, source) in enumerate(self.steps):
            y, layer = streams[target], self.layers[str(i)] if str(i) in self.layers else None
            if kind == 'relu':
                y = F.relu(y)
            elif kind == 'act_':
                y = F.hardswish(y + 0.1, inplace=True)
            elif kind == 'gate':
                y = y * torch.sigmoid(layer(y.mean((2, 3), keepdim=True)))
            elif kind == 'add':
                y = y + layer(streams[source])
            elif kind == 'cat':
                y = torch.cat([y, streams[source]], 1)
            elif kind == 'pool':
                y = F.max_pool2d(y, 3, 1, 1)
            elif kind == 'chunk':
                first, second = y.chunk(2, 1)
                y = first * second
            elif kind == 'shuffle':
                y = y.unflatten(1, (2, y.size(1) // 2)).transpose(1, 2).flatten(1, 2)
            elif kind == 'layer_norm':
                y = layer(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            elif kind == 'attention':
                y = y + layer(y.flatten(2).mT).mT.unflatten(2, tuple(y.shape[2:]))
            else:
                y = layer(y)
            streams[target] = y
        flat = [F.adaptive_avg_pool2d(streams[0], 2).flatten(1), streams[1].mean((2, 3))]
        return self.head(torch.cat(flat, 1))


step = st.tuples(st.sampled_from(STEPS), st.integers(0, 1), st.integers(0, 1))


SINGLE = 'is a single channel, and one must stay'


def is_single(net, module):
    """Whether a layer has one channel. An attention has two heads, and the channels of both count."""
    layer = net.layers[module.split('.')[1]]
    return not isinstance(layer, MultiheadAttention) and len(layer.weight) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(step, min_size=1, max_size=8), st.integers(0, 99))
@example([*[('conv', 0, 0)] * 4, ('shuffle', 0, 0)], 0)  # two channels, seen as two parts of one
@example([*[('conv', 0, 0)] * 3, ('conv', 1, 0), ('shuffle', 1, 0)], 0)
@example([('groups_norm', 0, 0), ('cat', 0, 0), ('shuffle', 0, 0), ('shuffle', 0, 0)], 0)  # aaaabbbb, in two parts
@example([('groups_norm', 0, 0), ('cat', 0, 1), ('shuffle', 0, 0), ('shuffle', 0, 0)], 0)
@example([*[('conv', 0, 0)] * 4, ('chunk', 0, 0), ('depthwise', 0, 0)], 0)  # a single channel
@example([('conv', 0, 0), ('attention', 0, 0)], 0)  # two heads of a width of one
def test_random_networks(steps, seed):
    torch.manual_seed(seed)
    net = RandomNet(steps)
    # Without verification: every one of these operations has a rule, and the rules alone must be right.
    space = build_search_space(net, image(), verify=False)
    tied = remarkable(space)
    assert space.units or tied
    # Parts of one channel each may tie all channels of a layer, which is then no unit, and half of two channels is a
    # single one. Nothing else may be frozen.
    assert not tied or any(kind in EVEN for kind, _, _ in net.steps)
    assert [frozen.reason for frozen in tied] == [
        SINGLE if is_single(net, frozen.module) else f'its {frozen.elements} channels can only go or stay together'
        for frozen in tied
    ]
    assert_parity(net, space, image(), seeds=2, tolerance=1e-10)
