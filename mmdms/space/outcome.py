"""How near a structure came to its budget."""

from __future__ import annotations

from dataclasses import dataclass

NEAR = 0.01
"""How near a structure came to its budget."""


@dataclass(frozen=True)
class BudgetOutcome:
    """The cost of a structure beside its budget; ``str()`` is a sentence.

    Attributes:
        metric: ``'flops'`` or ``'params'``.
        target: share of the supernet's cost that was allowed, in (0, 1].
        achieved: share of the supernet's cost that the structure has.
        reason: why no structure nearer to the target was chosen, and the remedy; empty within 1%.
    """

    metric: str
    target: float
    achieved: float
    reason: str = ''

    @property
    def within(self) -> bool:
        """Whether the structure costs at most the target and at least 99% of it."""
        return (1 - NEAR) * self.target <= self.achieved <= self.target

    def __str__(self) -> str:
        found = f'{self.metric} at {self.achieved:.4f} of the supernet, target {self.target:g}'
        if self.within:
            return f'{found}: within 1% below it'
        if self.achieved > self.target:
            return f'{found}: ABOVE it; {self.reason}'
        below = 100 * (1 - self.achieved / self.target)
        return f'{found}: {below:.1f}% below it, the nearest structure that was found; {self.reason}'
