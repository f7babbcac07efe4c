"""Pickle modules whose class was made at run time: masked ones, and those with an adapter."""

from __future__ import annotations

import copyreg
from typing import Any

from torch import nn

RECIPE = '_mmdms_recipe'
"""Attribute of a class that was made at run time: ``(maker, base, *others)``, where ``maker(base, *others)`` is it."""


def reduce_made(module: nn.Module, protocol: Any) -> Any:
    """``__reduce_ex__`` of such a class, which no module holds under its name: pickle writes its recipe instead."""
    reduced: Any = object.__reduce_ex__(module, protocol)
    function, arguments, *rest = reduced
    if function is not copyreg.__newobj__:  # type: ignore[attr-defined]
        return function, arguments, *rest  # the base class has a way of its own
    return _make_instance, (_recipe_of(type(module)),), *rest


def _recipe_of(kind: type[nn.Module]) -> Any:
    if RECIPE not in vars(kind):
        return kind
    maker, base, *others = vars(kind)[RECIPE]
    return maker, _recipe_of(base), *others


def _class_of(recipe: Any) -> Any:
    if isinstance(recipe, type):
        return recipe
    maker, base, *others = recipe
    return maker(_class_of(base), *others)


def _make_instance(recipe: Any) -> Any:
    kind = _class_of(recipe)
    return kind.__new__(kind)
