"""The weight of a layer: a parameter, or a tensor that is computed from parameters (:mod:`.computed`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .computed import OTHER, ZERO, ComputedWeight, Dimension, Reduction, Source
from .context import RuleContext
from .labels import varying_dims


def of_parameter(t: RuleContext, tensor: Tensor) -> ComputedWeight | None:
    """A view of a whole parameter or buffer as a computed weight; None for other tensors.

    Further dimensions than the first two above 1 are those of a kernel, and carry no elements.
    """
    view = t.parameters.view(tensor)
    if view is None:
        return None
    leading = sorted(dim for dim in view.dims if dim is not None)[:2]
    dims = []
    for place, dim in enumerate(view.dims):
        if dim in leading:
            assert dim is not None
            shape = [1] * tensor.dim()
            shape[place] = -1
            source = view.name, dim
            dims.append(Dimension(t.own_axis(*source).view(shape).expand(tensor.shape), {source: ZERO}))
    return ComputedWeight(tuple(dims))


class WeightOfLayer:
    """The weight of a convolution or a linear layer, which says which parameters follow its channels."""

    name: str | None = None
    """Of the parameter that it is; None where it is computed."""

    def known(self, dim: int) -> Tensor | None:
        """Labels along a dimension, if there are any yet."""
        raise NotImplementedError

    def follows(self, dim: int, labels: Tensor, role: str) -> None:
        """State that a dimension follows ``labels``; ``role`` as of :class:`mmdms.tracing.trace.Axis`."""
        raise NotImplementedError


class ParameterWeight(WeightOfLayer):
    """A parameter; ``dims`` are its dimensions by those of the weight."""

    name: str

    def __init__(self, t: RuleContext, name: str, dims: tuple[int, ...] = (0, 1)) -> None:
        self._t, self.name, self._dims = t, name, dims

    def known(self, dim: int) -> Tensor | None:
        return self._t.known_axis(self.name, self._dims[dim])

    def follows(self, dim: int, labels: Tensor, role: str) -> None:
        self._t.axis(self.name, self._dims[dim], labels, role)


class WeightFromParameters(WeightOfLayer):
    """A weight that is computed; its parameters are sliced, and masked where masks act upon the weight as slices."""

    def __init__(self, t: RuleContext, computed: ComputedWeight) -> None:
        self._t, self._computed = t, computed

    def known(self, dim: int) -> Tensor | None:
        found = self._along(dim)
        return None if found is None else self._t.store.along(found.labels, dim)

    def follows(self, dim: int, labels: Tensor, role: str) -> None:
        t, found, own = self._t, self._along(dim), self.known(dim)
        side = 'is read by' if role == 'in' else 'is given out by'
        if found is None or own is None:
            t.freeze(labels, f'{side} a computed weight that follows no parameter there')
            return
        t.store.unify(own, labels)
        t.freeze(own[labels == 0], 'meets channels of fixed number in a computed weight')
        reductions = [r for r in self._computed.reductions if self._meet(r.labels, own)]
        chosen = self._to_mask(found, reductions) if role == 'in' or reductions else None
        if found.fixed:
            t.freeze(labels, f'{side} a computed weight that also follows a tensor of fixed size')
        elif chosen is None and (role == 'in' or reductions) and not (role == 'in' and t.masks_itself(labels)):
            t.freeze(labels, f'{side} a weight computed with a statistic over these channels that no mask can follow')
        sources = dict.fromkeys([*found.masked, *(source for r in reductions for source in r.sources)])
        first = next(iter(found.masked), None)
        for source in sources:
            leads = source == (chosen if role == 'in' else first)
            axis = t.own_axis(*source)
            if len(axis) == len(labels):  # as a parameter that reads the input of the network has none
                axis = torch.where(labels == 0, 0, axis)
            t.axis(*source, axis, role if leads else 'through', masked=source == chosen)

    def _along(self, dim: int) -> Dimension | None:
        return next((d for d in self._computed.dims if varying_dims(d.labels) == [dim]), None)

    def _meet(self, a: Tensor, b: Tensor) -> bool:
        return bool(torch.isin(self._t.store.simplify(a), self._t.store.simplify(b)).any())

    def _to_mask(self, found: Dimension, reductions: list[Reduction]) -> Source | None:
        """The parameter in which a mask makes the weight 0 and leaves the rest of it as slicing does."""
        for source, value in found.masked.items():
            if value == ZERO and all(source in r.harmless for r in reductions):
                return source
        return None


def weight_of(t: RuleContext, tensor: Tensor) -> WeightOfLayer | None:
    """The weight of a convolution; None if it is neither a whole parameter nor computed from parameters alone."""
    view = t.parameters.view(tensor)
    if view is not None and view.dims[0] in (0, None) and view.dims[1] in (1, None):
        return ParameterWeight(t, view.name)
    computed = t.computed(tensor)
    return None if computed is None or not computed.dims else WeightFromParameters(t, computed)


def merged(t: RuleContext, dims: list[Dimension], labels: Tensor | None = None) -> Dimension:
    """Several dimensions as one: their elements are the same. What masks make of it is not known."""
    first = dims[0].labels if labels is None else labels
    for other in dims[1:]:
        t.store.unify(first, other.labels)
    sources = {source: OTHER for dim in dims for source in dim.masked}
    return replace(dims[0], labels=first, masked=sources, fixed=any(dim.fixed for dim in dims))
