"""Widths of a network, unit by unit: their cost, how to fit them to a budget, and how to build the narrowed network.

A *unit* is a set of convolutions whose output channels must stay equal: a
residual stream, the inside of a block, or an expansion with its depthwise
convolution. Widths are a plain dict from unit to channels.
"""

import functools
from collections import namedtuple

import torch
from torch import nn

from .networks import build_network, example_input, reinitialise

#: A convolution and its norm (module names), and the units of its input and output channels.
Site = namedtuple('Site', 'conv norm inside outside')
TOLERANCE = 0.01  # how far below the target a fitted cost may lie


def _resnet_sites(backbone):
    yield Site('backbone.conv1', 'backbone.bn1', None, 'stage1')
    for stage in range(1, 5):
        stream, source = f'stage{stage}', f'stage{max(stage - 1, 1)}'
        for i, module in enumerate(getattr(backbone, f'layer{stage}')):
            block, inner = f'backbone.layer{stage}.{i}', f'inner{stage}.{i}'
            yield Site(f'{block}.conv1', f'{block}.bn1', stream if i else source, inner)
            yield Site(f'{block}.conv2', f'{block}.bn2', inner, stream)
            if module.downsample is not None:
                yield Site(f'{block}.downsample.0', f'{block}.downsample.1', source, stream)


def _mobilenet_sites(backbone):
    yield Site('backbone.conv1.conv', 'backbone.conv1.bn', None, 'stem')
    source = 'stem'
    for stage in range(1, len(backbone.arch_settings) + 1):
        for i, module in enumerate(getattr(backbone, f'layer{stage}')):
            names = [f'backbone.layer{stage}.{i}.conv.{j}' for j in range(len(module.conv))]
            hidden = source if len(names) == 2 else f'hidden{stage}.{i}'
            stream = source if module.use_res_connect else f'stage{stage}'
            units = [source, hidden, hidden, stream][-len(names) - 1 :]
            for name, inside, outside in zip(names, units, units[1:]):
                yield Site(f'{name}.conv', f'{name}.bn', inside, outside)
            source = stream
    yield Site('backbone.conv2.conv', 'backbone.conv2.bn', source, 'last')


SITES = {'resnet': _resnet_sites, 'mobilenetv2': _mobilenet_sites}


class Layout:
    """The units of one network and what they cost.

    Args:
        name (str): Name of the network.

    Attributes:
        sites (list[Site]): All convolutions.
        full (dict): Widths of the whole network.
        roots (dict): The first convolution of each unit, by module name.
    """

    def __init__(self, name):
        self.name = name
        model = build_network(name)
        self.sites = list(SITES[name](model.backbone))
        self.full, self.roots = {}, {}
        self._costs = []  # per site: positions of the output, weights per channel pair, depthwise or not
        places = self._output_places(model)
        for site in self.sites:
            conv = model.get_submodule(site.conv)
            self.roots.setdefault(site.outside, site.conv)
            self.full.setdefault(site.outside, conv.out_channels)
            self._costs.append((places[site.conv], conv.weight[0, 0].numel(), conv.groups > 1))
        self.places = places[self.sites[-1].conv] if name == 'mobilenetv2' else places['backbone.layer4.1.conv2']
        self.last = self.sites[-1].outside
        self.head = (model.head.in_features, model.head.out_features)

    @staticmethod
    @torch.no_grad()
    def _output_places(model):
        places, hooks = {}, []
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                hooks.append(
                    module.register_forward_hook(
                        lambda _, inputs, output, name=name: places.update({name: output[0, 0].numel()})
                    )
                )
        model.eval()(example_input())
        for hook in hooks:
            hook.remove()
        return places

    def flops(self, widths):
        """Multiply-accumulates with these widths; equal to :func:`~.networks.count_flops` of the network."""
        total = widths[self.last] * (self.places + self.head[1])  # pooling and the head
        for site, (places, weights, depthwise) in zip(self.sites, self._costs):
            inside = 1 if depthwise else 3 if site.inside is None else widths[site.inside]
            total += places * widths[site.outside] * (weights * inside + 2)  # 2 for the norm
        return total

    def target(self, fraction):
        """The FLOPs that are this fraction of the whole network's."""
        return fraction * self.flops(self.full)

    def top_up(self, widths, limit, order):
        """Raise units by one channel, in the given order, where the cost stays within the limit."""
        for unit in order:
            if self.flops(widths) >= (1 - TOLERANCE) * limit:
                break
            if widths[unit] < self.full[unit]:
                raised = {**widths, unit: widths[unit] + 1}
                widths = raised if self.flops(raised) <= limit else widths
        return widths

    def fit(self, shares, fraction):
        """Scale relative widths to a budget, by bisection.

        Args:
            shares (dict): For each unit the share of its channels, up to a
                common factor.
            fraction (float): The budget as a fraction of the whole FLOPs.

        Returns:
            dict: Widths at or just below the budget. Every unit keeps a
            channel at least; what rounding down leaves over goes to the units
            that lost most by it.
        """
        limit = self.target(fraction)

        def widths_at(scale):
            exact = {unit: min(scale * shares[unit], 1) * full for unit, full in self.full.items()}
            return exact, {unit: max(int(width + 1e-9), 1) for unit, width in exact.items()}

        low, high = 0.0, 1 / min(shares.values())
        if self.flops(widths_at(low)[1]) > limit:
            raise ValueError(
                f'a budget of {fraction} is below what {self.name} can reach: '
                f'{self.flops(widths_at(low)[1]) / self.target(1):.4f} with one channel everywhere'
            )
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.flops(widths_at(middle)[1]) <= limit else (low, middle)
        exact, widths = widths_at(low)
        order = sorted(widths, key=lambda unit: widths[unit] - exact[unit])
        return self.top_up(widths, limit, order * 3)

    def narrow(self, widths, seed=0):
        """Build the network with these widths, its weights drawn from ``seed``."""
        model = build_network(self.name)
        for site in self.sites:
            conv, norm = model.get_submodule(site.conv), model.get_submodule(site.norm)
            outside = widths[site.outside]
            inside = conv.in_channels if site.inside is None else widths[site.inside]
            groups = outside if conv.groups > 1 else 1
            new = nn.Conv2d(
                inside, outside, conv.kernel_size, conv.stride, conv.padding, groups=groups, bias=conv.bias is not None
            )
            model.set_submodule(site.conv, new)
            model.set_submodule(site.norm, nn.BatchNorm2d(outside, norm.eps, norm.momentum))
        model.head = nn.Linear(widths[self.last], self.head[1])
        return reinitialise(model, seed)

    def widths_of(self, model):
        """The widths of a narrowed network, however it came to be; 0 for a unit that is gone."""
        widths = {}
        for unit, root in self.roots.items():
            try:
                widths[unit] = model.get_submodule(root).out_channels
            except AttributeError:
                widths[unit] = 0
        return widths


@functools.cache
def get_layout(name):
    """The layout of a network, built once."""
    return Layout(name)
