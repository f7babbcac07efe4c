"""Kinds of mutable units: how the elements of a unit are chosen, rounded, masked and reported.

Every kind is a class in the registry ``MUTABLES``; importing this package registers ours.
"""

from .base import MutableUnit, kind_of, kinds
from .channels import ChannelUnit
from .depth import DepthUnit
from .heads import HeadUnit
from .options import build_mutables, left_out

__all__ = [
    'ChannelUnit', 'DepthUnit', 'HeadUnit', 'MutableUnit', 'build_mutables', 'kind_of', 'kinds', 'left_out',
]  # fmt: skip
