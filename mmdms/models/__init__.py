"""Algorithms and mutators; importing this registers them."""

from . import algorithms, mutators

__all__ = ['algorithms', 'mutators']
