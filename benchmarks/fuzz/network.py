"""Draw a whole network from a seed."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from . import sequences  # noqa: F401  (registers its layers)
from .draw import Draw
from .layers import LAYERS, SPATIAL, of_dims
from .wiring import Concat, Gate, Pooled, Residual, Split, Sum, Tokens, Twice, channel_dim

INPUTS = {
    'image': (3, 8, 8), 'sequence': (3, 16), 'volume': (2, 5, 5, 5), 'tokens': (6, 8), 'vector': (10,), 'ids': (6,),
}  # fmt: skip
"""Shapes of one example, by the layout of what goes in."""

USUAL = ('convolution', 'convolution', 'linear', 'linear', 'batch_norm', 'activation')
"""A quarter of all layers are drawn among these."""

LARGEST = 6000
"""No tensor of one example is larger."""


class CannotDraw(Exception):
    """No layer that was drawn fits here."""


class RandomNetwork(nn.Module):
    """A network and what it was drawn from.

    Attributes:
        layout: of its input, a key of ``INPUTS``.
        layers: names of the layers that were drawn, in order.
    """

    def __init__(self, body: nn.Module, layout: str, layers: list[str]) -> None:
        super().__init__()
        self.body = body
        self.layout = layout
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def inputs(self, batch: int, seed: int) -> Tensor:
        """A batch of inputs, of the type of the parameters."""
        made = example(self.layout, batch, seed)
        return made.to(next(self.parameters()).dtype) if made.is_floating_point() else made


def example(layout: str, batch: int, seed: int) -> Tensor:
    """A batch of a layout: numbers around 0, or ids."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *INPUTS[layout])
    if layout == 'ids':
        return torch.randint(sequences.IDS, shape, generator=generator)
    return torch.randn(shape, generator=generator)


class Builder:
    """Draws modules one after the other; the example goes through each at once, so that all shapes are known."""

    def __init__(self, seed: int) -> None:
        self.draw = Draw(seed)
        self.layers: list[str] = []

    def network(self) -> RandomNetwork:
        """A stem, a body of 3 to 8 parts in one or two layouts, and a head."""
        draw = self.draw
        start = draw.choices(list(INPUTS), (40, 20, 10, 12, 6, 12))[0]
        x, layout = example(start, 2, 0), start
        parts: list[nn.Module] = []
        if start == 'ids':
            parts.append(sequences.embedding(draw, x))
            self.layers.append(f'embedding:{type(parts[-1]).__name__}')
            x = self._run(parts[-1], x)
            layout = 'tokens' if x.dim() == 3 else 'vector'
        else:
            parts.append(self._dense(x, layout, draw.width()))
            x = self._run(parts[-1], x)
        for index in range(draw.randint(3, 8)):
            if index and layout in SPATIAL and draw.chance(0.12):
                parts.append(Tokens())
                layout = 'tokens'
            else:
                parts.append(self.part(x, layout, depth=0))
            x = self._run(parts[-1], x)
        parts.append(self._dense(x, layout, draw.width()))
        x = self._run(parts[-1], x)
        parts += [draw.pick(nn.ReLU(), nn.GELU(), nn.Tanh())]
        if layout != 'vector':
            parts.append(Pooled(layout))
            x = self._run(parts[-1], x)
        parts.append(nn.Linear(x.size(-1), 3))
        return RandomNetwork(self._contained(parts), start, self.layers)

    def part(self, x: Tensor, layout: str, depth: int) -> nn.Module:
        """One layer, or a composition of several."""
        draw, dim = self.draw, channel_dim(layout)
        if depth > 1 or draw.chance(0.85 if depth else 0.5):
            return self.layer(x, layout)
        kind = draw.pick('residual', 'stage', 'concat', 'sum', 'gate', 'split', 'twice')
        width = x.size(dim)
        self.layers.append(kind)
        if kind == 'residual':
            return Residual(self.chain(x, layout, depth + 1, width))
        if kind == 'stage':
            made = [Residual(self.chain(x, layout, depth + 1, width)) for _ in range(draw.randint(2, 3))]
            return nn.Sequential(*made)
        if kind == 'concat':
            return Concat([self.chain(x, layout, depth + 1) for _ in range(draw.randint(2, 3))], dim)
        if kind == 'sum':
            width = draw.width()
            return Sum({name: self.chain(x, layout, depth + 1, width) for name in ('left', 'right')})
        if kind == 'gate':
            width = draw.width()
            return Gate(*(self.chain(x, layout, depth + 1, width) for _ in range(2)))
        if kind == 'twice':
            return Twice(self.chain(x, layout, depth + 1, width))
        if width % 2:
            return self.layer(x, layout)
        return Split(self.chain(x.narrow(dim, 0, width // 2), layout, depth + 1), dim, draw.chance(0.5))

    def chain(self, x: Tensor, layout: str, depth: int, width: int | None = None) -> nn.Module:
        """One to three parts that keep all sizes but that of the channels, which become ``width`` if given."""
        made: list[nn.Module] = []
        given = _positions(x, layout)
        for _ in range(self.draw.randint(1, 3)):
            for _ in range(10):
                before = len(self.layers)
                part = self.part(x, layout, depth)
                y = self._run(part, x)
                if _positions(y, layout) == given:
                    made.append(part)
                    x = y
                    break
                del self.layers[before:]
        if width is not None and (x.size(channel_dim(layout)) != width or not made):
            made.append(self._dense(x, layout, width, same=True))
        return self._contained(made) if made else nn.Identity()

    def layer(self, x: Tensor, layout: str) -> nn.Module:
        """One layer that fits."""
        names = list(LAYERS[layout])
        dense = [
            n for n in ('convolution', 'convolution', 'linear', 'linear', 'batch_norm', 'activation') if n in names
        ]
        for _ in range(40):
            name = self.draw.choice(dense if self.draw.chance(0.25) else names)
            self.draw.layout = layout
            try:
                made = LAYERS[layout][name](self.draw, x)
                y = self._run(made, x)
            except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, NotImplementedError):
                continue
            if y.dim() == x.dim() and y.numel() <= LARGEST and bool(y.isfinite().all()) and min(y.shape[1:]) > 0:
                self.layers.append(f'{name}:{type(made).__name__}')
                return made
        raise CannotDraw(f'no layer fits {layout} {tuple(x.shape)}')

    def _dense(self, x: Tensor, layout: str, width: int, same: bool = False) -> nn.Module:
        if layout in ('vector', 'tokens'):
            return nn.Linear(x.size(-1), width)
        kernel = 3 if not same and min(x.shape[2:]) > 2 else 1
        return of_dims(x, 'Conv')(x.size(1), width, kernel, padding=kernel // 2)

    def _contained(self, parts: list[nn.Module]) -> nn.Module:
        """In one flat container, or some of them in an inner one."""
        if len(parts) > 2 and self.draw.chance(0.3):
            cut = self.draw.randint(1, len(parts) - 1)
            return nn.Sequential(nn.Sequential(*parts[:cut]), *parts[cut:])
        return parts[0] if len(parts) == 1 and self.draw.chance(0.5) else nn.Sequential(*parts)

    @staticmethod
    def _run(module: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            module.train()
            module(x.clone())  # what is lazy settles, and what cannot train shows
            module.eval()
            module(x[:1].clone())
            return module(x.clone())


def _positions(x: Tensor, layout: str) -> list[int]:
    dim = channel_dim(layout) % x.dim()
    return [size for index, size in enumerate(x.shape) if index != dim]


def random_network(seed: int) -> RandomNetwork:
    """The network of a seed, in training mode; the same in every process.

    Its outputs in evaluation mode are finite and not all the same.
    """
    for attempt in range(50):
        torch.manual_seed(seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                network = Builder(seed + 1_000_000 * attempt).network()
                # Some cannot train: what one branch writes in place, another has kept for its gradient.
                network.train()(network.inputs(4, 1)).sum().backward()
                network.zero_grad()
                found = Builder._run(network, network.inputs(4, 1))
        except (CannotDraw, RuntimeError, ValueError):
            continue
        if bool(found.isfinite().all()) and float(found.abs().max()) < 1e4 and float(found.std(0).max()) > 1e-6:
            return network.train()
    raise RuntimeError(f'seed {seed} gives no network that runs')
