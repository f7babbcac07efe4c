"""Attention heads: groups of channels that an attention divides its width into."""

from __future__ import annotations

from ..registry import MUTABLES
from .base import MutableUnit


@MUTABLES.register_module('heads')
class HeadUnit(MutableUnit):
    """Heads of one attention. There are few of them, so the soft top-k is sharper than that of channels."""

    sharpness = 4.0
    noun = 'head'
    groups_channels = True
