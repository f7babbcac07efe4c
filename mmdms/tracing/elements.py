"""The elements of a trace once its labels are resolved: which there are, and who gives, reads and names them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..mutables import kind_of
from ..space.frozen import FreezeReason
from .labels import Classes
from .trace import Axis, Trace


class Elements:
    """Classes of labels, as :class:`mmdms.tracing.labels.Classes` numbers them, and where a trace met each.

    Args:
        trace: of a network. Its ``axes`` gain those of parameters that are used elementwise, its ``opaque`` those of
            them that nobody can slice.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.classes: Classes = trace.store.resolve()
        self.frozen_labels = list(self.classes.frozen)
        self._settle_elementwise()

    def factors(self, labels: Tensor) -> set[int]:
        """Every class that some label is, or is a product of; that of label 0 left out."""
        found = self.classes.factors[self.classes.of(labels[labels > 0])]
        return set(found[found >= 0].tolist())

    def with_role(self, role: str) -> set[int]:
        """Classes along some axis of a role."""
        return set().union(*(self.factors(a.labels) for a in self.trace.axes.values() if _has_role(a, role)))

    def begun(self) -> dict[int, str]:
        """Classes that an attribute makes and no layer outputs, with the module of the attribute."""
        sizes = self.trace.sizes.items()
        return {m: module for (module, _), size in sizes if size.begins for m in self.factors(size.labels)}

    def removable(self) -> set[int]:
        """Classes that some mask takes out of all that follows."""
        return self.with_role('in').union(*(self.factors(m.labels) for m in self.trace.inner.values() if m.removes))

    @cached_property
    def stated_kinds(self) -> dict[int, list[str]]:
        """Kinds of the classes that are counted (heads, say), as adapters state or views show; mostly one of each."""
        counted = [(s.kind, s.labels) for s in self.trace.sizes.values() if kind_of(s.kind).counted_by_attribute]
        counted += [('heads', labels) for views in self.trace.heads.values() for labels in views]
        found: dict[int, list[str]] = {}
        for kind, labels in counted:
            for member in self.factors(labels):
                stated = found.setdefault(member, [])
                stated.extend([] if kind in stated else [kind])
        return found

    @cached_property
    def producers(self) -> dict[int, str]:
        """The first module that outputs each class, or makes it."""
        return {**self.begun(), **self._first_modules(('out',))}

    @cached_property
    def holders(self) -> dict[int, str]:
        """The first module that outputs each class; of a class that no layer outputs the first that holds it."""
        return {**self._first_modules(('in', 'through')), **self.producers}

    def names(self) -> dict[int, str]:
        """Per class the first layer that outputs it, or for heads and their width the attribute that counts them."""
        found: dict[int, str] = {}
        sizes = [(key, size) for key, size in self.trace.sizes.items() if kind_of(size.kind).counted_by_attribute]
        for (module, attribute), size in sizes:
            for member in self.factors(size.labels):
                found.setdefault(member, f'{module}.{attribute}' if module else attribute)
        for module, views in self.trace.heads.items():
            for member in set().union(*map(self.factors, views)):
                found.setdefault(member, f'{module}.heads' if module else 'heads')
        for axis in self.trace.axes.values():
            if axis.produces:
                single = self.classes.factors[self.classes.of(axis.labels)]
                for member in single[single[:, 1] < 0][:, 0].tolist():
                    found.setdefault(member, axis.module)
        for (module, attribute), size in self.trace.sizes.items():
            for member in self.factors(size.labels):
                found.setdefault(member, f'{module}.{attribute}' if module else attribute)
        return found

    def _first_modules(self, roles: tuple[str, ...]) -> dict[int, str]:
        found: dict[int, str] = {}
        for axis in self.trace.axes.values():
            if any(_has_role(axis, role) for role in roles):
                for member in self.factors(axis.labels):
                    found.setdefault(member, axis.module)
        return found

    def _settle_elementwise(self) -> None:
        """Parameters used elementwise follow what they meet, along at most one dimension."""
        members = np.bincount(self.classes.of_label)
        for name, (labels, module) in self.trace.elementwise.items():
            classes = self.classes.of(labels)
            met = members[classes] > 1  # an entry that met nothing fits everywhere
            if not met.any():
                continue
            dim = _single_dim(classes, met)
            known = [axis for axis in self.trace.axes.values() if axis.parameter == name]
            if known and all(self._same_vector(axis, classes) for axis in known):
                continue  # a bias that some calls add by themselves, as they do for inputs that are not contiguous
            clash = bool(known)
            if clash or dim is None:
                why = (
                    'is used both as a weight and elementwise'
                    if clash
                    else 'follows elements along several dimensions'
                )
                self.frozen_labels.append((labels.flatten(), FreezeReason(module, f'parameter {name} {why}')))
                self.trace.opaque.setdefault(name, FreezeReason(module, f'parameter {name} {why}'))
            elif dim >= 0:
                rows = torch.where(torch.from_numpy(met), labels, 0).movedim(dim, 0)
                self.trace.axes[name, dim] = Axis(name, dim, rows.reshape(len(rows), -1).amax(1), 'through', module)
        for axis in self.trace.axes.values():
            if axis.parameter in self.trace.opaque:
                self.frozen_labels.append((axis.labels, self.trace.opaque[axis.parameter]))

    def _same_vector(self, axis: Axis, classes: np.ndarray) -> bool:
        """Whether an axis is that of a vector whose entries, used elementwise, are of these classes (n,)."""
        return axis.role == 'through' and np.array_equal(self.classes.of(axis.labels), classes)


def _has_role(axis: Axis, role: str) -> bool:
    return axis.produces if role == 'out' else axis.role == role


def _single_dim(classes: np.ndarray, met: np.ndarray) -> int | None:
    """The one dimension along which classes differ; -1 if they are all one, None if they differ along several."""
    if len(np.unique(classes[met])) == 1:
        return -1
    for dim in range(classes.ndim):
        others = tuple(d for d in range(classes.ndim) if d != dim)
        low = np.where(met, classes, np.iinfo(classes.dtype).max).min(axis=others, keepdims=True)
        if (~met | (classes == low)).all():
            return dim
    return None
