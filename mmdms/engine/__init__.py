"""Hooks, schedules, and how a search is optimized; importing this registers them."""

from .hooks import BudgetHook
from .optim import CPUAmpOptimWrapper, DMSOptimWrapperConstructor
from .resume import ResumeHook, SafeCheckpointHook
from .schedule import SearchSchedule, SparsitySchedule
from .scores import ScoreHook
from .sparse import SparseCheckpointHook

__all__ = [
    'BudgetHook', 'CPUAmpOptimWrapper', 'DMSOptimWrapperConstructor', 'ResumeHook', 'SafeCheckpointHook',
    'ScoreHook', 'SearchSchedule', 'SparseCheckpointHook', 'SparsitySchedule',
]  # fmt: skip
