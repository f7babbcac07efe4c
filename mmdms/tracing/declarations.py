"""What the forward of an adapter tells the tracer, beyond what the dispatcher shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..mutables import kind_of
from .context import RuleContext
from .labels import canonical, compact, no_labels, varying_dims
from .trace import InnerMask, Size


class Declares:
    """Base of classes of modules whose own forward tells the tracer what it masks."""


_active: list[RuleContext] = []


@contextmanager
def tracing(tracer: RuleContext) -> Iterator[None]:
    """Hints given in this context go to ``tracer``."""
    _active.append(tracer)
    try:
        yield
    finally:
        _active.pop()


def active_tracer() -> RuleContext | None:
    """The tracer that is running, if any."""
    return _active[-1] if _active else None


@contextmanager
def _untraced() -> Iterator[None]:
    with _disable_current_modes(), torch.no_grad():
        yield


def note_size(tracer: RuleContext, attribute: str, x: Tensor, dim: int, kind: str = 'channels') -> None:
    """An attribute of the running module holds the size of dimension ``dim`` of ``x``, in elements of a kind."""
    kind_of(kind)
    with _untraced():
        _size(tracer, attribute, axis_labels(tracer, tracer.labels(x), dim), kind)


def note_list(tracer: RuleContext, attribute: str, x: Tensor, dim: int) -> None:
    """An attribute of the running module lists a value for every position along dimension ``dim`` of ``x``."""
    with _untraced():
        values = tuple(getattr(tracer.running, attribute))
        labels = axis_labels(tracer, tracer.labels(x), dim)
        tracer.trace.sizes[tracer.module, attribute] = Size(labels, values=values)


def note_mask(tracer: RuleContext, name: str, x: Tensor, dim: int, removes: bool) -> None:
    """The running module masks what lies along dimension ``dim`` of ``x`` itself, under ``name``."""
    with _untraced():
        _mask(tracer, name, axis_labels(tracer, tracer.labels(x), dim), removes)


def begin(tracer: RuleContext, attribute: str, x: Tensor, dim: int, kind: str) -> Tensor:
    """``x``, whose positions along ``dim`` are elements of a kind, as many as an attribute of the running module says.

    They stay where other elements lie along any dimension of ``x``.
    """
    kind_of(kind)
    with _untraced():
        labels = tracer.labels(x)
        known = tracer.trace.sizes.get((tracer.module, attribute))
        own = tracer.store.fresh(x.size(dim)) if known is None else known.labels
        tracer.trace.sizes[tracer.module, attribute] = Size(own, kind, begins=True)
        if bool((compact(labels) > 0).any()):
            tracer.freeze(own, 'begins beside elements that other layers output')
            return x
        shape = [1] * x.dim()
        shape[dim] = -1
        return tracer.alias(x, own.view(shape).expand(x.shape))


def split_heads(
    tracer: RuleContext, x: Tensor, dim: int, heads: str, widths: tuple[str, ...], kind: str = 'heads'
) -> Tensor:
    """Unflatten dimension ``dim`` of ``x`` into heads times width; attributes of the running module hold the numbers.

    Several widths lie one after the other in every head. ``kind`` is that of the units of heads.
    """
    kind_of(kind)
    with _untraced():
        module = tracer.running
        labels = tracer.store.along(tracer.labels(x), dim)
        sizes = [int(getattr(module, attribute)) for attribute in (heads, *widths)]
        counts = sizes[0], sum(sizes[1:])
        grid = labels.reshape(counts)
        for attribute, size in zip((heads, *widths), sizes, strict=True):
            if (tracer.module, attribute) not in tracer.trace.sizes:
                _size(tracer, attribute, tracer.store.fresh(size), kind if attribute == heads else 'channels')
        known = tracer.trace.sizes
        first = known[tracer.module, heads].labels
        second = torch.cat([known[tracer.module, width].labels for width in widths])
        fixed = (grid == 0).any()
        tracer.store.compose(grid, first, second)
        if bool(fixed):
            tracer.freeze(torch.cat([first, second, labels]), 'is divided into heads beside channels of fixed number')
        with torch.enable_grad():
            divided = x.unflatten(dim, counts)
        return tracer.alias(divided, tracer.labels(x).unflatten(dim, counts))


def tie(tracer: RuleContext, a: Tensor, b: Tensor) -> None:
    """Elements at equal positions of two tensors (after broadcasting) are one."""
    with _untraced():
        tracer.store.unify(tracer.labels(a), tracer.labels(b))


def contract(tracer: RuleContext, name: str, a: Tensor, b: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Dimension ``dim`` of ``a`` and ``b`` will be summed over, with the mask ``name`` upon ``a``.

    Returns:
        Both tensors, their elements along ``dim`` no longer followed.
    """
    with _untraced():
        sides = []
        for x in (a, b):
            labels = tracer.labels(x)
            sides.append(_factor_along(tracer, labels, dim))
        tracer.store.unify(*sides)
        _mask(tracer, name, sides[0], removes=True)
    return hide(tracer, a, dim), hide(tracer, b, dim)


def hide(tracer: RuleContext, x: Tensor, *dims: int) -> Tensor:
    """The same tensor, its elements along ``dims`` no longer followed: the running module takes care of them."""
    with _untraced():
        labels = tracer.labels(x)
        for dim in dims:
            labels = _without(tracer, labels, dim % x.dim())
        return tracer.alias(x, labels)


def carry(tracer: RuleContext, out: Tensor, x: Tensor, dim: int) -> Tensor:
    """The tensor ``out`` with the labels of ``x`` along ``dim``, from which an unseen operation computed it."""
    with _untraced():
        labels = tracer.store.along(tracer.labels(x), dim)
        shape = [1] * out.dim()
        shape[dim] = -1
        tracer.state(out, labels.view(shape).expand(out.shape))
    return out


def _size(tracer: RuleContext, attribute: str, labels: Tensor, kind: str) -> None:
    known = tracer.trace.sizes.setdefault((tracer.module, attribute), Size(labels, kind))
    tracer.store.unify(known.labels, labels)


def _mask(tracer: RuleContext, name: str, labels: Tensor, removes: bool) -> None:
    known = tracer.trace.inner.setdefault((tracer.module, name), InnerMask(labels, removes))
    tracer.store.unify(known.labels, labels)


def axis_labels(tracer: RuleContext, labels: Tensor, dim: int) -> Tensor:
    """Labels per index of a dimension; of products those of the factor that lies along it.

    Elements that are no products and share an index are unified. Where elements lie along other dimensions alone
    (whole heads, say), none lies along this one.
    """
    if tracer.store.factors_of(compact(labels)) is None:
        dims = varying_dims(canonical(labels))
        if dims and dim % labels.dim() not in dims:
            return no_labels((labels.size(dim),))
        return tracer.store.along(labels, dim)
    return _factor_along(tracer, labels, dim)


def _factors(tracer: RuleContext, labels: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Labels split into those that vary along ``dim`` and those that do not; both of the shape of ``labels``."""
    parts = tracer.store.factors_of(compact(labels))
    if parts is None:
        varies = dim in varying_dims(labels)
        return (labels, no_labels(labels.shape)) if varies else (no_labels(labels.shape), labels)
    moving = [part.size(dim) > 1 and bool((part != part.narrow(dim, 0, 1)).any()) for part in parts]
    if labels.size(dim) == 1:  # one head, or heads of width one: the factor that varies nowhere
        moving = [bool((part == part.flatten()[0]).all()) for part in parts]
        moving[0] &= not moving[1]
    along = next((part for part, moves in zip(parts, moving, strict=True) if moves), no_labels(parts[0].shape))
    across = next((part for part, moves in zip(parts, moving, strict=True) if not moves), no_labels(parts[0].shape))
    return along.expand(labels.shape), across.expand(labels.shape)


def _factor_along(tracer: RuleContext, labels: Tensor, dim: int) -> Tensor:
    return tracer.store.along(_factors(tracer, labels, dim % labels.dim())[0], dim)


def _without(tracer: RuleContext, labels: Tensor, dim: int) -> Tensor:
    return _factors(tracer, labels, dim)[1]
