"""Elements that stay, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FreezeReason:
    """Why some elements cannot be searched: the module, and what was met there."""

    module: str
    reason: str


@dataclass
class Frozen:
    """Elements that cannot be searched, with the reason."""

    module: str
    reason: str
    elements: int
