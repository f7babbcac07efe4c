"""What a search or a pruning does when: pure functions of progress."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError

PHASES = ('shrink', 'refine', 'settle')


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


@dataclass(frozen=True)
class SparsitySchedule:
    """Sparsity of gradual pruning, cubic in time (DPF, after Zhu & Gupta 2017).

    ``s_t = s_f + (s_i - s_f) * (1 - (t - t_0) / (n * dt)) ** 3``, with times as shares of the run: ``t_0`` is
    ``begin``, and ``t_0 + n * dt`` is ``end``.

    - *shrink*, up to ``end``: sparsity rises from ``initial`` (0 before ``begin``) to the final one.
    - *refine*, up to ``settle``: sparsity stays, masks are still found anew.
    - *settle*, to the end: masks stay.

    Raises:
        ConfigError: unless 0 <= begin <= end <= settle <= 1 and 0 <= initial < 1.
    """

    begin: float = 0.0
    end: float = 0.5
    settle: float = 1.0
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end <= self.settle <= 1:
            raise ConfigError(
                f'schedule needs 0 <= begin <= end <= settle <= 1, but begin is {self.begin!r}, end {self.end!r} '
                f'and settle {self.settle!r}'
            )
        if not 0 <= self.initial < 1:
            raise ConfigError(f'schedule.initial is a sparsity in [0, 1), but it is {self.initial!r}')

    def sparsity(self, final: float, progress: float) -> float:
        """Share that is pruned at ``progress`` in [0, 1], for a final one of ``final`` in [0, 1)."""
        if progress < self.begin:
            return 0.0
        if progress >= self.end:
            return final
        left = 1 - (progress - self.begin) / (self.end - self.begin)
        return final + (self.initial - final) * left**3

    def target(self, final: float, progress: float) -> float:
        """Share that stays, or that a network costs, at ``progress``: 1 - sparsity; falls to ``final``."""
        return final if progress >= self.end else 1 - self.sparsity(1 - final, progress)

    def phase(self, progress: float) -> str:
        """``'shrink'``, ``'refine'`` or ``'settle'``."""
        if progress < self.end:
            return 'shrink'
        return 'refine' if progress < self.settle else 'settle'
