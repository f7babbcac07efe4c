"""Algorithms: an architecture with a mutator, as a Runner trains it."""

from .dms import DMSAlgorithm

__all__ = ['DMSAlgorithm']
