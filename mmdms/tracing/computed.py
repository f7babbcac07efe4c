"""Weights that a network computes from its parameters before a layer uses them.

A weight norm, a spectral norm, a standardised or a modulated weight: along each dimension, such a weight follows a
dimension of a parameter. While a network is traced, a :class:`ComputedWeight` is kept beside every tensor that is
computed from parameters. A layer that uses the tensor as its weight asks which parameters to slice, and which of them
to mask.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Source = tuple[str, int]
"""Name of a parameter or buffer, and one of its dimensions."""

ZERO, OTHER, NAN = 0.0, 1.0, float('nan')
"""Values of the positions of an element whose mask is 0: none left, another number, or 0 / 0."""


@dataclass(frozen=True)
class Dimension:
    """Elements along one dimension of a computed weight.

    Attributes:
        labels: of the shape of the weight.
        masked: per source, the value (``ZERO``, ``OTHER`` or ``NAN``) that a position has if its element is masked in
            this source alone.
        fixed: whether a tensor of fixed size lies along the dimension too.
    """

    labels: Tensor
    masked: dict[Source, float]
    fixed: bool = False


@dataclass(frozen=True)
class Reduction:
    """A sum or a statistic over elements that went into a computed weight.

    Attributes:
        labels: of the elements, shape (elements,).
        sources: the parameters that follow the elements.
        harmless: sources in which a mask leaves the result as slicing does: a sum over zeros.
    """

    labels: Tensor
    sources: tuple[Source, ...]
    harmless: frozenset[Source] = frozenset()


@dataclass(frozen=True)
class ComputedWeight:
    """A tensor computed from parameters: the elements along its dimensions, and those that were summed over."""

    dims: tuple[Dimension, ...] = ()
    reductions: tuple[Reduction, ...] = ()
