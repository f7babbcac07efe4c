"""Run a network in float64 without a copy of its weights in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


@contextmanager
def float64(coarse: bool = False, differentiable: bool = True) -> Iterator[None]:
    """Everything is computed in float64, also what a forward creates (a position encoding, say).

    Args:
        coarse: move every result of a layer by up to ``COARSE`` of itself, at random, as if fewer bits were kept.
        differentiable: whether a backward pass may follow where gradients are on, which takes more memory.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Promote(coarse, differentiable):
            yield
    finally:
        torch.set_default_dtype(before)


class Promote(TorchFunctionMode):
    """Whatever an operation is given in lower precision, it is given in float64.

    So weights need not be copied to be compared in float64, and what some networks compute in float32 on
    purpose (position encodings) is exact too. Of the weight of a layer, and of its product with a mask, a part is
    held in float64 at any time.
    """

    def __init__(self, coarse: bool = False, differentiable: bool = True) -> None:
        super().__init__()
        self._noise = torch.Generator().manual_seed(0) if coarse else None
        self._differentiable = differentiable
        # Written again and again: between results that stay, memory that is given back is not found again.
        self._scratch = torch.empty(PIECE, dtype=torch.float64)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._run(func, args, kwargs or {})
        if self._noise is None or func not in LAYERS:
            return result
        share = torch.empty_like(result).uniform_(-COARSE, COARSE, generator=self._noise)
        return result * (1 + share)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func == DTYPE:  # a forward that casts to the type of its weights
            found = func(*args)
            return torch.float64 if found.is_floating_point else found
        if func in CASTS:  # of whole numbers too
            return _whole(args[0]).double()
        if func.__name__ in ASKED:
            return func(*args, **kwargs)
        if not (self._differentiable and torch.is_grad_enabled()):
            if func in PRODUCTS and not kwargs and _fits(*args):
                return Product.of(*args)
            if func in LAYERS:
                return self._layer(func, *args, **kwargs)
        if not func.__name__.endswith('_'):  # written in place, an operand must stay itself; attributes need no cast
            args, kwargs = tree_map(_promote, (args, kwargs))
            if func is not torch.Tensor.view:  # which shows the bits of each value as another type
                args, kwargs = tree_map(_widen, (args, kwargs))
        return func(*args, **kwargs)

    def _layer(self, func: Callable[..., Tensor], input: Tensor, weight: Tensor, bias: Any = None, *args: Any,
               **kwargs: Any) -> Tensor:  # fmt: skip
        """A linear layer or a convolution, some of its outputs after the other where that takes much memory."""
        input, bias = _promote(input), _promote(bias)
        kwargs.update(zip(('stride', 'padding', 'dilation', 'groups'), args, strict=False))
        groups = kwargs.get('groups', 1)
        outputs = len(weight) // groups if weight.dim() else 0  # of one group
        if groups == 1:
            rows = PIECE // max(weight.numel() // len(weight), 1) if outputs else 0
        else:  # a grouped convolution unfolds its input, and takes new memory for every group
            unfolded = input[0].numel() // groups * prod(weight.shape[2:])
            rows = max(UNFOLDED // max(unfolded, 1), 1) * outputs
            rows = rows if rows * weight[0].numel() <= PIECE and input.dim() == weight.dim() else 0
        # The layer itself says what is wrong with a bias or an input.
        fits = weight.dim() > 1 and (bias is None or bias.shape == weight.shape[:1])
        fits = fits and (groups == 1 or input.size(1) == groups * weight.size(1))
        if rows == 0 or not fits:
            return func(input, _promote(weight), bias, **kwargs)
        parts = []
        for begin in range(0, len(weight), rows):
            end = min(begin + rows, len(weight))
            read = input
            if groups > 1:
                kwargs['groups'] = (end - begin) // outputs
                read = input.narrow(1, begin // outputs * weight.size(1), kwargs['groups'] * weight.size(1))
            own = None if bias is None else bias[begin:end]
            parts.append(func(read, self._piece(weight, begin, end), own, **kwargs))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1 if func is F.linear else 1 - weight.dim())

    def _piece(self, weight: Tensor, begin: int, end: int) -> Tensor:
        """Some rows of a weight in float64; the next piece overwrites them."""
        plain, factor = (weight.plain, weight.factor) if isinstance(weight, Product) else (weight, None)
        part = plain.detach()[begin:end]
        copied = self._scratch[: part.numel()].view(part.shape).copy_(part)
        return copied if factor is None else copied.mul_(factor.expand(plain.shape)[begin:end])


class Product(Tensor):
    """A large tensor in lower precision times a factor that broadcasts to it, multiplied in float64 where it is used.

    To whatever else than a layer uses it, it is the product.
    """

    plain: Tensor
    factor: Tensor

    @staticmethod
    def of(tensor: Tensor, factor: Any) -> Product:
        """``tensor * factor``."""
        product = tensor.detach().as_subclass(Product)
        product.plain = tensor.detach()
        product.factor = torch.as_tensor(factor, dtype=torch.float64)
        return product

    def whole(self) -> Tensor:
        """The product, in float64."""
        return self.plain.double().mul_(self.factor)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        attribute = getattr(func.__self__, '__name__', '') if func.__name__ == '__get__' else ''
        if func.__name__ not in ASKED and attribute not in ATTRIBUTES:
            args, kwargs = tree_map(_whole, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs or {})


DTYPE = torch.Tensor.dtype.__get__  # type: ignore[attr-defined]

ATTRIBUTES = {'shape', 'dtype', 'device', 'requires_grad', 'ndim', 'layout', 'is_cuda', 'is_sparse', 'is_leaf'}
ASKED = {'dim', 'size', 'numel', 'nelement', 'ndimension', 'is_floating_point', 'is_complex', '__len__'}
"""What a tensor is asked without its values."""

CASTS = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}
"""A forward that casts by name is given float64 instead."""

WIDER: dict[Any, Any] = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    **dict.fromkeys((torch.complex64, torch.complex32), torch.complex128),
    **dict.fromkeys((torch.FloatTensor, torch.HalfTensor, torch.BFloat16Tensor), torch.DoubleTensor),
    **dict.fromkeys(('torch.FloatTensor', 'torch.HalfTensor', 'torch.BFloat16Tensor'), 'torch.DoubleTensor'),
}
"""Types that a forward may ask for by an argument, and the type that it is given."""

PRODUCTS = {torch.Tensor.mul, torch.mul}
LAYERS = {F.linear, F.conv1d, F.conv2d, F.conv3d}

COARSE = 2.0**-44
"""As a share; 512 times what float64 rounds by."""

PIECE = 1 << 19
"""So many values of a weight are held in float64 at a time (4 MB)."""

UNFOLDED = 1 << 20
"""So many values of an input are unfolded at a time (8 MB)."""

LARGE = 1 << 16
"""Smaller weights are multiplied at once."""


def _fits(tensor: Any, factor: Any) -> bool:
    """Whether a large tensor in lower precision is multiplied by a number, or by what is repeated along it."""
    if not isinstance(tensor, Tensor) or isinstance(tensor, Product) or tensor.numel() < LARGE:
        return False
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return False
    if not isinstance(factor, Tensor):
        return isinstance(factor, (int, float))
    return not factor.is_complex() and torch.broadcast_shapes(tensor.shape, factor.shape) == tensor.shape


def _promote(leaf: Any) -> Any:
    leaf = _whole(leaf)
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _widen(leaf: Any) -> Any:
    return WIDER.get(leaf, leaf) if isinstance(leaf, (torch.dtype, type(torch.FloatTensor), str)) else leaf


def _whole(leaf: Any) -> Any:
    return leaf.whole() if isinstance(leaf, Product) else leaf
