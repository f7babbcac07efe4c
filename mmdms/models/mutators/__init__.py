"""Mutators: how masks come about."""

from .base import BaseMutator
from .dms import DMSMutator

__all__ = ['BaseMutator', 'DMSMutator']
