"""From a structure to a plain, smaller network; importing this registers the builder of exported configs."""

from .subnet import build_subnet

__all__ = ['build_subnet']
