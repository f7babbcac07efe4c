"""How labels pass through aten operations; importing this package registers all rules."""

from . import elementwise, movement, reduction, sites

__all__ = ['elementwise', 'movement', 'reduction', 'sites']
