"""Algorithms, backbones and mutators; importing this registers them."""

from . import algorithms, backbones, mutators

__all__ = ['algorithms', 'backbones', 'mutators']
