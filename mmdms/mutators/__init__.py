"""Mutators: how masks come about."""

from .base import BaseMutator
from .dms import DMSMutator
from .dpf import DPFMutator
from .dpf_filters import StructuredDPFMutator
from .mutator import Mutator

__all__ = ['BaseMutator', 'DMSMutator', 'DPFMutator', 'Mutator', 'StructuredDPFMutator']
