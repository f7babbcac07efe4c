"""The table of rules: for every operation the function that says how labels pass through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..context import Rule

RULES: dict[Any, Rule] = {}
"""Rules by aten operation, all its overloads; ``'pointwise'`` is the rule of those that PyTorch tags so."""


def rule(*ops: Any) -> Callable[[Rule], Rule]:
    """Register the rule of some aten operations."""

    def register(function: Rule) -> Rule:
        for op in ops:
            RULES[op] = function
        return function

    return register
