"""How layers are put together: residuals, concatenations, splits, products, and modules that call a layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CHANNELS_LAST = ('tokens', 'vector')
"""Layouts whose channels are the last dimension; in all others they are the second."""


def channel_dim(layout: str) -> int:
    """The dimension that holds the channels of a tensor of this layout."""
    return -1 if layout in CHANNELS_LAST else 1


class Residual(nn.Module):
    """``x + block(x)``."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Concat(nn.Module):
    """Branches held in a ModuleList, concatenated along the channels."""

    def __init__(self, branches: Sequence[nn.Module], dim: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], self.dim)


class Sum(nn.Module):
    """Branches held in a ModuleDict, added up."""

    def __init__(self, branches: dict[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x) for branch in self.branches.values())


class Gate(nn.Module):
    """``a(x) * sigmoid(b(x))``."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * torch.sigmoid(self.b(x))


class Split(nn.Module):
    """Both halves of the channels, of which one goes through a block, together again."""

    def __init__(self, block: nn.Module, dim: int, sliced: bool) -> None:
        super().__init__()
        self.block, self.dim, self.sliced = block, dim, sliced

    def forward(self, x: Tensor) -> Tensor:
        if self.sliced:
            half = x.size(self.dim) // 2
            first, second = x.narrow(self.dim, 0, half), x.narrow(self.dim, half, half)
        else:
            first, second = x.chunk(2, self.dim)
        return torch.cat([first, self.block(second)], self.dim)


class Twice(nn.Module):
    """The same block, called twice: ``block(block(x))``."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


class Item(nn.Module):
    """One item of what a layer returns."""

    def __init__(self, layer: nn.Module, index: int = 0) -> None:
        super().__init__()
        self.layer, self.index = layer, index

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[self.index]


class Permuted(nn.Module):
    """A layer called on permuted dimensions."""

    def __init__(self, layer: nn.Module, *dims: int) -> None:
        super().__init__()
        self.layer, self.dims = layer, dims

    def forward(self, x: Tensor) -> Tensor:
        back = [self.dims.index(dim) for dim in range(x.dim())]
        return self.layer(x.permute(self.dims)).permute(back)


class Tokens(nn.Module):
    """(N, C, ...) to (N, positions, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class Pooled(nn.Module):
    """The mean over everything but batch and channels."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) if self.layout == 'tokens' else x.flatten(2).mean(2)


class Pair(nn.Module):
    """A layer of two inputs (Bilinear, a distance), fed with the outputs of two branches."""

    def __init__(self, a: nn.Module, b: nn.Module, layer: nn.Module, scale: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.layer, self.scale = a, b, layer, scale

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        out = self.layer(a, b)
        return a * out.unsqueeze(-1) if self.scale else out


class PoolUnpool(nn.Module):
    """Max pooling that keeps its indices, a block, and the unpooling that reads them."""

    def __init__(self, pool: nn.Module, block: nn.Module, unpool: nn.Module) -> None:
        super().__init__()
        self.pool, self.block, self.unpool = pool, block, unpool

    def forward(self, x: Tensor) -> Tensor:
        y, indices = self.pool(x)
        return self.unpool(self.block(y), indices, output_size=x.shape)


class UnfoldFold(nn.Module):
    """Patches of an image, weighed, and folded back."""

    def __init__(self, unfold: nn.Module, fold: nn.Module) -> None:
        super().__init__()
        self.unfold, self.fold = unfold, fold

    def forward(self, x: Tensor) -> Tensor:
        return self.fold(torch.relu(self.unfold(x)))
