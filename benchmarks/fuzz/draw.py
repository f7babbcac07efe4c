"""Choices of one random network."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any


class Draw(random.Random):
    """Random choices, all from one seed."""

    def pick(self, *options: Any) -> Any:
        """One of the options."""
        return self.choice(options)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def width(self, of: int = 1) -> int:
        """A number of channels from 4 to 16 that ``of`` divides, or ``of`` itself where it is larger."""
        options = [n for n in (4, 6, 8, 10, 12, 16) if n % of == 0]
        return self.choice(options or [of])

    def divisor(self, *numbers: int) -> int:
        """A number that divides all of these; 1 and the largest one are the likeliest."""
        options = [n for n in range(1, min(numbers) + 1) if all(number % n == 0 for number in numbers)]
        return self.choice([1, options[-1], *options])

    def options(self, **choices: Sequence[Any]) -> dict[str, Any]:
        """One value per keyword."""
        return {name: self.choice(values) for name, values in choices.items()}
