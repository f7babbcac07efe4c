"""Mutators: how masks come about."""

from .dms import DMSMutator

__all__ = ['DMSMutator']
