"""Sizes that a forward reads from attributes of modules: where a labelled dimension has one, it follows.

While a network is traced, its whole numbers know where they were read (:class:`AttributeInt`). A view, a split or a
slice that is given one says with it which dimension the attribute counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from .context import RuleContext
from .declarations import Declares, axis_labels
from .labels import canonical, compact, lies_along, no_labels, varying_dims
from .trace import Size


class AttributeInt(int):
    """A whole number that was read from an attribute of a module, or a multiple or part of one.

    Attributes:
        module, attribute: names; ``'shape[0]'`` is the first item of the tuple ``shape``.
        times: the number as a multiple of the attribute.
    """

    module: str
    attribute: str
    times: Fraction

    @classmethod
    def of(cls, value: int, module: str, attribute: str, times: Fraction = Fraction(1)) -> AttributeInt:
        """A number with its source."""
        number = cls(value)
        number.module, number.attribute, number.times = module, attribute, times
        return number

    def __mul__(self, other: Any) -> Any:
        return self._times(int(self) * other, other, lambda: Fraction(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return self._times(int(self) // other, other, lambda: 1 / Fraction(other))

    def _times(self, result: Any, other: Any, factor: Callable[[], Fraction]) -> Any:
        """A result of arithmetic; with its source, if the other operand is a plain number and nothing was lost."""
        if type(other) is not int or other == 0:
            return result
        share = factor()
        if result != int(self) * share:  # a part that was rounded down
            return result
        return AttributeInt.of(result, self.module, self.attribute, self.times * share)

    def __copy__(self) -> int:
        return int(self)

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __reduce__(self) -> Any:
        return int, (int(self),)


@contextmanager
def attributes_known(model: nn.Module, skip: Callable[[nn.Module], bool]) -> Iterator[None]:
    """Have whole numbers in attributes of modules, and in tuples there, know where they are.

    Args:
        skip: modules whose attributes follow by other means.
    """
    before: list[tuple[nn.Module, str, Any]] = []
    for name, module in model.named_modules():
        if skip(module) or isinstance(module, Declares):
            continue
        for attribute, value in list(vars(module).items()):
            known = _known(value, name, attribute)
            if known is not None:
                before.append((module, attribute, value))
                module.__dict__[attribute] = known
    try:
        yield
    finally:
        for module, attribute, value in before:
            if _known(module.__dict__.get(attribute), '', '') is not None and module.__dict__[attribute] == value:
                module.__dict__[attribute] = value


def _known(value: Any, module: str, attribute: str) -> Any:
    """A number, or a tuple of numbers, that know their source; None of anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and type(value) in (int, AttributeInt) and value > 1:
        return AttributeInt.of(int(value), module, attribute)
    if type(value) is tuple and value and all(type(item) in (int, AttributeInt) for item in value):
        return tuple(AttributeInt.of(int(item), module, f'{attribute}[{i}]') for i, item in enumerate(value))
    return None


class FollowedSizes(TorchFunctionMode):
    """Notes which attributes count labelled dimensions while a tracer runs."""

    def __init__(self, tracer: RuleContext) -> None:
        super().__init__()
        self._tracer = tracer
        self._unlabelled: dict[tuple[str, str], str] = {}  # attributes that count something fixed -> the operation

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = SIZES.get(func)
        if read is not None:
            for number, tensor, dim in read(out, *args, **(kwargs or {})):
                if isinstance(number, AttributeInt) and isinstance(tensor, Tensor) and tensor.size(dim) == number:
                    with _disable_current_modes(), torch.no_grad():
                        self._note(number, tensor, dim, func.__name__)
        return out

    def _note(self, number: AttributeInt, x: Tensor, dim: int, operation: str) -> None:
        t, key = self._tracer, (number.module, number.attribute)
        if t.is_weight(x) or t.records.get(x) is None:
            return
        if number.times != 1 and key in self._unlabelled:
            return  # a number of repeats, which is fixed, times a size that the forward asked a tensor for
        labels = self._along(canonical(t.extent(x)), dim % x.dim())
        if labels is None:
            return
        known = t.trace.sizes.get(key)
        if not bool(labels.any()):
            self._unlabelled.setdefault(key, operation)
        elif known is None:
            known = t.trace.sizes[key] = Size(labels, times=number.times)
        elif known.times == number.times and known.values is None and len(known.labels) == len(labels):
            t.store.unify(known.labels, labels)
        if known is not None and key in self._unlabelled:
            where = '.'.join(part for part in key if part)
            t.freeze(known.labels, f'{where} counts them, and something of fixed size in {self._unlabelled[key]}')

    def _along(self, labels: Tensor, dim: int) -> Tensor | None:
        """Labels that a dimension counts; None where they also lie along others, and no factor of them along it."""
        varying = varying_dims(labels)
        if self._tracer.store.factors_of(compact(labels)) is None:
            if dim not in varying:
                return no_labels((labels.size(dim),))
            if not lies_along(labels, dim):
                return None
        return axis_labels(self._tracer, labels, dim)


Found = Iterator[tuple[Any, Any, int]]
"""A number, a tensor, and the dimension of it that the number counts."""


def _view(out: Tensor, x: Tensor, *shape: Any, **kwargs: Any) -> Found:
    given = kwargs.get('shape', kwargs.get('size', shape))
    given = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    yield from ((number, out, dim) for dim, number in enumerate(given))


def _unflatten(out: Tensor, x: Tensor, dim: int, sizes: Any) -> Found:
    yield from ((number, out, dim % x.dim() + place) for place, number in enumerate(sizes))


def _split(out: Any, x: Tensor, split_size: Any, dim: int = 0, **kwargs: Any) -> Found:
    sizes = split_size if isinstance(split_size, (tuple, list)) else [split_size]
    yield from ((number, part, dim) for number, part in zip(sizes, out, strict=False))


def _narrow(out: Tensor, x: Tensor, dim: int, start: Any, length: Any) -> Found:
    yield length, out, dim
    if isinstance(start, AttributeInt):
        yield start, x.narrow(dim, 0, start), dim


def _item(out: Tensor, x: Tensor, index: Any) -> Found:
    parts = index if isinstance(index, tuple) else (index,)
    if not all(part is None or part is ... or isinstance(part, (int, slice)) for part in parts):
        return
    taken = sum(part is not None and part is not ... for part in parts)
    dim = 0
    for part in parts:
        if part is ...:
            dim += x.dim() - taken
            continue
        if isinstance(part, slice) and part.step in (None, 1):
            for number, begin in ((part.stop, part.start), (part.start, None)):
                if isinstance(number, AttributeInt) and not begin and number <= x.size(dim):
                    yield number, x.narrow(dim, 0, number), dim
        dim += part is not None


def _normalized(out: Tensor, x: Tensor, normalized_shape: Any, *_: Any, **__: Any) -> Found:
    if len(normalized_shape) == 1:
        yield normalized_shape[0], out, x.dim() - 1


SIZES: dict[Any, Callable[..., Found]] = {
    **dict.fromkeys((Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand), _view),
    **dict.fromkeys((Tensor.unflatten, torch.unflatten), _unflatten),
    **dict.fromkeys((Tensor.split, torch.split, Tensor.split_with_sizes, torch.split_with_sizes), _split),
    **dict.fromkeys((Tensor.narrow, torch.narrow), _narrow),
    Tensor.__getitem__: _item,
    **dict.fromkeys((F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm), _normalized),
}
"""Functions that are given sizes -> what reads them."""
