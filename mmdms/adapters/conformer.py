"""Conformer: blocks with a stream of maps and one of tokens."""

from __future__ import annotations

from ..registry import ADAPTERS
from .base import Adapter


@ADAPTERS.register_module()
class ConvTransBlockAdapter(Adapter):
    """A block of Conformer hands on both streams."""

    adapts = 'mmpretrain.models.backbones.conformer.ConvTransBlock'
    streams = 2
