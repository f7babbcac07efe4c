"""Hooks, schedules, and how a search is optimized; importing this registers them."""

from ...mutators.schedule import SearchSchedule, SparsitySchedule
from ..optim import CPUAmpOptimWrapper, DMSOptimWrapperConstructor
from .budget import BudgetHook
from .resume import ResumeHook, SafeCheckpointHook
from .scores import ScoreHook
from .sparse import SparseCheckpointHook

__all__ = [
    'BudgetHook', 'CPUAmpOptimWrapper', 'DMSOptimWrapperConstructor', 'ResumeHook', 'SafeCheckpointHook',
    'ScoreHook', 'SearchSchedule', 'SparseCheckpointHook', 'SparsitySchedule',
]  # fmt: skip
