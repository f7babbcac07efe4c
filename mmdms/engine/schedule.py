"""What a search does when: a pure function of progress."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass(frozen=True)
class SearchSchedule:
    """Phases of a search, as shares of the run.

    - *shrink*, up to ``shrink``: the target falls from 1 to the final one as
      ``target ** (progress / shrink)``, width and depth are searched.
    - *refine*, up to ``settle``: the target stays, width is searched with ever sharper
      masks, depth is fixed.
    - *settle*, to the end: the structure is fixed and weights train under hard masks.

    Raises:
        ConfigError: unless 0 < shrink <= settle <= 1.
    """

    shrink: float = 0.5
    settle: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.shrink <= self.settle <= 1:
            raise ConfigError(
                f'schedule needs 0 < shrink <= settle <= 1, but shrink is {self.shrink!r} and settle {self.settle!r}'
            )

    def target(self, final: float, progress: float) -> float:
        """Budget target at ``progress`` in [0, 1]; falls from 1 to ``final``."""
        return final ** min(1.0, progress / self.shrink)

    def phase(self, progress: float) -> str:
        """``'shrink'``, ``'refine'`` or ``'settle'``."""
        if progress < self.shrink:
            return 'shrink'
        return 'refine' if progress < self.settle else 'settle'

    def refined(self, progress: float) -> float:
        """Share of the refine phase that is done, in [0, 1]."""
        if self.settle == self.shrink:
            return float(progress >= self.shrink)
        return min(1.0, max(0.0, (progress - self.shrink) / (self.settle - self.shrink)))
