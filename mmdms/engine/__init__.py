"""Hooks, schedules and the optimizer constructor; importing this registers them."""

from .hooks import BudgetHook
from .optim import DMSOptimWrapperConstructor
from .schedule import SearchSchedule

__all__ = ['BudgetHook', 'DMSOptimWrapperConstructor', 'SearchSchedule']
