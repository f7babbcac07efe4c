"""Hooks of a search, of exact resumption, and of sparse checkpoints; importing this registers them."""

from .budget import BudgetHook
from .resume import ResumeHook, SafeCheckpointHook
from .scores import ScoreHook
from .sparse import SparseCheckpointHook

__all__ = [
    'BudgetHook', 'ResumeHook', 'SafeCheckpointHook',
    'ScoreHook', 'SparseCheckpointHook',
]  # fmt: skip
