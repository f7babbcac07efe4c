"""Adapters of module types whose sizes are written into their Python; importing this registers them."""

from . import attention, layers, norms, swin

__all__ = ['attention', 'layers', 'norms', 'swin']
