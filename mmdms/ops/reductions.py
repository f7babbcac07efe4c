"""Statistics over channels (a mean, a norm, a largest value) of the channels that stay.

Under masks ``m`` in [0, 1], a mean of ``x`` is ``sum(m * x) / sum(m)``, a variance ``sum(m * (x - mean)^2) / sum(m)``,
a sum ``sum(m * x)``, a length that of ``m * x``, and a largest value that of ``x + log(m)``: with hard masks those of
the channels that stay. A norm that is written in these steps is then that of the sliced network, whatever its class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .norms import masked_group_norm, masked_layer_norm


@dataclass
class Reduction:
    """One call of a function that takes a statistic over dimensions of a tensor.

    Attributes:
        x: the tensor.
        dims: the dimensions, from 0.
        keeps: whether the result still has these dimensions, as that of a norm has.
        plain: takes ``x``, or the same values under another name, and returns what the call returns.
        masked: takes a mask that broadcasts to ``x``, and returns the same over what stays.
    """

    x: Tensor
    dims: tuple[int, ...]
    keeps: bool
    plain: Callable[[Tensor], Any]
    masked: Callable[[Tensor], Any]


def reduction_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Reduction | None:
    """A call as a reduction; None if it is no reduction, or one of a form that nobody here knows."""
    read = READERS.get(func)
    if read is None:
        return None
    named = {NAMES.get(name, name): value for name, value in kwargs.items()}
    try:
        found = read(func, *args, **named)
    except TypeError:  # an overload with other arguments, or a wrong call, which PyTorch itself refuses
        return None
    if found is None or not isinstance(found.x, Tensor) or not found.x.is_floating_point():
        return None
    return found


NAMES = {'input': 'x', 'self': 'x', 'axis': 'dim', 'keepdims': 'keepdim'}
"""Names that an argument has elsewhere in PyTorch."""


def _dims(x: Tensor, dim: Any) -> tuple[int, ...]:
    listed = [dim] if isinstance(dim, int) else list(dim or range(x.dim()))
    return tuple(int(d) % x.dim() for d in listed)


def _count(x: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    """How many values stay of those that are reduced to one."""
    return mask.sum(dims, keepdim=True) * prod(x.size(d) for d in dims if mask.size(d) == 1)


def _mean(func: Any, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Reduction:
    dims = _dims(x, dim)

    def masked(mask: Tensor) -> Tensor:
        return (x * (mask / _count(x, mask, dims))).sum(dims, keepdim=keepdim).to(dtype or x.dtype)

    return Reduction(x, dims, False, lambda x: func(x, dims, keepdim, dtype=dtype), masked)


def _sum(func: Any, x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Reduction:
    dims = _dims(x, dim)

    def masked(mask: Tensor) -> Tensor:
        return (x * mask).sum(dims, keepdim=keepdim).to(dtype or x.dtype)

    return Reduction(x, dims, False, lambda x: func(x, dims, keepdim, dtype=dtype), masked)


def _spread(
    func: Any, x: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> Reduction:
    """Variance or standard deviation, or either of them with the mean."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    dims, less = _dims(x, dim), int(unbiased) if correction is None else correction

    def masked(mask: Tensor) -> Any:
        count = _count(x, mask, dims)
        mean = (x * (mask / count)).sum(dims, keepdim=True)
        square = ((x - mean).square() * mask).sum(dims, keepdim=True) / (count - less).clamp(min=1e-6)
        spread = square if 'var' in func.__name__ else square.sqrt()
        spread, mean = ((part if keepdim else part.squeeze(dims)).to(x.dtype) for part in (spread, mean))
        return (spread, mean) if func.__name__.endswith('_mean') else spread

    return Reduction(x, dims, False, lambda x: func(x, dims, correction=less, keepdim=keepdim), masked)


def _length(func: Any, x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    p = 2 if p in (None, 'fro') else p
    if isinstance(p, str) or (func is torch.linalg.norm and not isinstance(dim, int)):  # of matrices
        return None
    dims = _dims(x, dim)

    def length(x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, p, dims, keepdim, dtype=dtype)

    return Reduction(x, dims, False, length, lambda mask: length(x * mask).to(dtype or x.dtype))


def _vector_norm(
    func: Any, x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    return _length(func, x, ord, dim, keepdim, dtype=dtype)


def _extreme(func: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Reduction | None:
    if dim is None or isinstance(dim, Tensor):  # of two tensors, element by element
        return None
    dims = _dims(x, dim)
    sign = 1 if 'max' in func.__name__ else -1

    def masked(mask: Tensor) -> Any:
        shifted = x + sign * mask.clamp(min=torch.finfo(mask.dtype).tiny).log()
        return func(shifted.masked_fill(mask == 0, -sign * torch.inf).to(x.dtype), dim, keepdim)

    return Reduction(x, dims, False, lambda x: func(x, dim, keepdim), masked)


def _normalize(func: Any, x: Tensor, p: Any = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Any:
    dims = _dims(x, dim)

    def by_length_of(part: Tensor) -> Tensor:
        return x / torch.linalg.vector_norm(part, p, dims, True).clamp_min(eps).to(x.dtype)

    return None if out is not None else Reduction(x, dims, True, by_length_of, lambda mask: by_length_of(x * mask))


def _layer_norm(
    func: Any, x: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any,
    **__: Any,
) -> Any:  # fmt: skip
    if len(normalized_shape) != 1:
        return None

    def masked(mask: Tensor) -> Tensor:
        scale = torch.ones_like(mask.flatten()) if weight is None else weight
        return masked_layer_norm(x, mask.flatten(), scale, bias, eps)

    return Reduction(x, (x.dim() - 1,), True, lambda x: func(x, normalized_shape, weight, bias, eps), masked)


def _rms_norm(func: Any, x: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    if len(normalized_shape) != 1:
        return None

    wide = torch.promote_types(x.dtype, torch.float32)
    least = torch.finfo(wide).eps if eps is None else eps

    def by_mean_of(part: Tensor, mask: Tensor | None) -> Tensor:
        square = part.to(wide).square()
        mean = square.mean(-1, keepdim=True) if mask is None else (square * (mask / mask.sum())).sum(-1, keepdim=True)
        normed = (x.to(wide) * torch.rsqrt(mean + least)).to(x.dtype)
        return normed if weight is None else normed * weight

    return Reduction(x, (x.dim() - 1,), True, lambda x: by_mean_of(x, None), lambda mask: by_mean_of(x, mask))


def _group_norm(
    func: Any, x: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    if num_groups != 1:
        return None  # whole groups go

    def masked(mask: Tensor) -> Tensor:
        return masked_group_norm(x, mask.flatten(), weight, bias, eps)

    return Reduction(x, (1,), True, lambda x: func(x, num_groups, weight, bias, eps), masked)


READERS: dict[Any, Callable[..., Reduction | None]] = {
    **dict.fromkeys((torch.mean, Tensor.mean), _mean),
    **dict.fromkeys((torch.sum, Tensor.sum), _sum),
    **dict.fromkeys((torch.var, Tensor.var, torch.std, Tensor.std, torch.var_mean, torch.std_mean), _spread),
    **dict.fromkeys((torch.norm, Tensor.norm), _length),
    **dict.fromkeys((torch.linalg.vector_norm, torch.linalg.norm), _vector_norm),
    **dict.fromkeys((torch.amax, Tensor.amax, torch.amin, Tensor.amin), _extreme),
    **dict.fromkeys((torch.max, Tensor.max, torch.min, Tensor.min), _extreme),
    F.normalize: _normalize,
    **dict.fromkeys((F.layer_norm, torch.layer_norm), _layer_norm),
    **dict.fromkeys((F.rms_norm, torch.rms_norm), _rms_norm),
    **dict.fromkeys((F.group_norm, torch.group_norm), _group_norm),
}  # fmt: skip
"""Functions as a forward calls them -> what reads their arguments."""
