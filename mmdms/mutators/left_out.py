"""Kinds of units that are left out of a search: their units leave the space, and the structure holds them whole."""

from __future__ import annotations

from collections.abc import Collection

from ..space.search_space import SearchSpace
from ..space.structure import Structure
from ..verification.verifier import freeze_units


def without_kinds(space: SearchSpace, left_out: Collection[str]) -> SearchSpace:
    """The space without the units of some kinds, which are listed in ``frozen``; ``space`` itself if it has none.

    Args:
        left_out: names of kinds, as of :func:`mmdms.mutables.left_out`.
    """
    reasons = {
        index: f'is left out by mutables=dict({unit.kind}=False)'
        for index, unit in enumerate(space.units)
        if unit.kind in left_out
    }
    return freeze_units(space, reasons) if reasons else space


def with_whole_units(structure: Structure, space: SearchSpace) -> Structure:
    """A structure of ``space`` from one without some of its units, all elements of which stay."""
    if len(structure.units) == len(space.units):
        return structure
    kept = [structure.kept.get(unit.name, range(unit.total)) for unit in space.units]
    return Structure(space.units, kept)
