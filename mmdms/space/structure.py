"""The structure of a subnet: the only thing that passes from search to export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StructureError
from ..mutables import MutableUnit, kind_of, kinds

if TYPE_CHECKING:
    from .outcome import BudgetOutcome

FORMAT = 'mmdms.structure'
VERSION = 1


@dataclass(frozen=True)
class UnitInfo:
    """Elements that live in the same places: one keep ratio searches them.

    Attributes:
        name: the layer that produces the channels, the attribute that counts the heads
            or their width, or the container of the blocks.
        kind: name of a class in the registry ``MUTABLES``: ``'channels'``, ``'heads'``, ``'depth'``, or one of yours.
        total: number of elements in the supernet.
    """

    name: str
    kind: str
    total: int

    @property
    def mutable(self) -> type[MutableUnit]:
        """The class of the kind."""
        return kind_of(self.kind)

    @property
    def minimum(self) -> int:
        """Fewest elements that may stay: a unit of channels or heads keeps one, a depth unit may lose all."""
        return self.mutable.minimum


class Structure:
    """Which elements of which unit stay.

    Args:
        units: units of the search space.
        kept: for every unit the indices that stay, each in [0, total).

    Attributes:
        budget: how near it came to the budget that it was searched for; None where that is not known (``subnet.json``
            does not hold it).

    Raises:
        StructureError: for an index out of range, repeated, or too few of them.
    """

    def __init__(self, units: Sequence[UnitInfo], kept: Sequence[Sequence[int]]) -> None:
        self.budget: BudgetOutcome | None = None
        self.units = list(units)
        if len({u.name for u in units}) != len(units):
            raise StructureError('the structure names a unit twice')
        self.kept = {unit.name: sorted(indices) for unit, indices in zip(units, kept, strict=True)}
        for unit in self.units:
            _check_indices(unit, self.kept[unit.name])

    def __str__(self) -> str:
        """The budget, if it is known, and a line per unit."""
        rows = [f'{row["name"]}: {row["kept"]} of {row["total"]} {row["kind"]}' for row in self.report()]
        return '\n'.join(rows if self.budget is None else [str(self.budget), *rows])

    def mask(self, name: str) -> np.ndarray:
        """Boolean mask of one unit, shape (total,)."""
        unit = next(u for u in self.units if u.name == name)
        mask = np.zeros(unit.total, dtype=bool)
        mask[self.kept[name]] = True
        return mask

    def check(self, units: Sequence[UnitInfo]) -> None:
        """Raise StructureError unless this structure is one of a space with these units.

        Units of one element that must stay are left out of account: older spaces have them, newer ones do not. So are
        units that the structure keeps whole where the space has none of that name: they were left out of the search.
        """
        mine, theirs = ({u.name: u for u in listed if u.total > u.minimum} for listed in (self.units, units))
        wrong = [name for name in [*mine, *theirs] if mine.get(name) != theirs.get(name)]
        if all(name not in theirs and len(self.kept[name]) == mine[name].total for name in wrong):
            return
        name = wrong[0]
        raise StructureError(
            f'the structure does not fit this network: unit {name!r} is {mine.get(name) or "absent"} '
            f'in the structure and {theirs.get(name) or "absent"} in the network'
        )

    def report(self) -> list[dict[str, Any]]:
        """Rows ``{"name", "kind", "total", "kept"}``, kept as a number."""
        return [dict(name=u.name, kind=u.kind, total=u.total, kept=len(self.kept[u.name])) for u in self.units]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, with format and version."""
        rows = [dict(name=u.name, kind=u.kind, total=u.total, kept=self.kept[u.name]) for u in self.units]
        return dict(format=FORMAT, version=VERSION, units=rows)

    def to_json(self) -> str:
        """Text of ``subnet.json``, a line per unit."""
        data = self.to_dict()
        rows = ',\n'.join('  ' + json.dumps(row) for row in data['units'])
        return f'{{"format": "{FORMAT}", "version": {VERSION}, "units": [\n{rows}\n]}}\n'

    @classmethod
    def from_dict(cls, data: Any) -> Structure:
        """Read what :meth:`to_dict` wrote.

        Raises:
            StructureError: if it is something else, says what.
        """
        if not isinstance(data, dict) or data.get('format') != FORMAT:
            raise StructureError(f'this is no mmdms structure: expected "format": "{FORMAT}"')
        version = data.get('version')
        if not _whole(version) or version != VERSION:
            newer = isinstance(version, int) and version > VERSION
            remedy = ', which a newer one wrote: update mmdms' if newer else ': export again'
            raise StructureError(
                f'the structure has format version {version!r}; this mmdms reads version {VERSION}{remedy}'
            )
        rows = data.get('units')
        if not isinstance(rows, list):
            raise StructureError(f'the structure is damaged: "units" must be a list, but it is {rows!r}')
        for index, row in enumerate(rows):
            _check_row(index, row)
        units = [UnitInfo(row['name'], row['kind'], row['total']) for row in rows]
        kept = [row['kept'] for row in rows]
        return cls(units, kept)

    @classmethod
    def load(cls, path: str | Path) -> Structure:
        """Read ``subnet.json``.

        Raises:
            StructureError: if it cannot be read as a structure.
        """
        try:
            data = json.loads(Path(path).read_text(encoding='utf-8'))
        except (OSError, ValueError, RecursionError) as error:
            raise StructureError(f'cannot read the structure {path}: {error}') from error
        return cls.from_dict(data)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_row(index: int, row: Any) -> None:
    """Raise StructureError unless a row of ``units`` has the four keys with values of their types."""
    where = f'the structure is damaged: units[{index}]'
    if not isinstance(row, dict):
        raise StructureError(f'{where} must be a dict, but it is {row!r}')
    for key in ('name', 'kind', 'total', 'kept'):
        if key not in row:
            raise StructureError(f'{where}.{key} is missing')
    if not isinstance(row['name'], str):
        raise StructureError(f'{where}.name must be text, but it is {row["name"]!r}')
    if not isinstance(row['kind'], str) or row['kind'] not in kinds():
        raise StructureError(
            f'{where}.kind must be one of {sorted(kinds())}, but it is {row["kind"]!r}; a kind of your own is known '
            'once the module that registers it is imported'
        )
    if not _whole(row['total']) or row['total'] < 1:
        raise StructureError(f'{where}.total must be a whole number from 1, but it is {row["total"]!r}')
    if not isinstance(row['kept'], list) or not all(_whole(i) for i in row['kept']):
        raise StructureError(f'{where}.kept must be a list of whole numbers, but it is {row["kept"]!r}')


def _check_indices(unit: UnitInfo, kept: Sequence[int]) -> None:
    if len(set(kept)) != len(kept) or any(not 0 <= i < unit.total for i in kept):
        raise StructureError(f'unit {unit.name!r}: kept indices must be distinct and in [0, {unit.total}), got {kept}')
    if len(kept) < unit.minimum:
        raise StructureError(f'unit {unit.name!r} of kind {unit.kind!r} must keep at least {unit.minimum}')
    if unit.mutable.prefix_only and max(kept, default=-1) != len(kept) - 1:
        raise StructureError(
            f'unit {unit.name!r} of kind {unit.kind!r} must keep its first elements, but it keeps {sorted(kept)}'
        )
