"""How labels pass through aten operations; importing this package registers all rules."""

from . import computed, convolutions, elementwise, movement, norms, products, reduction

__all__ = ['computed', 'convolutions', 'elementwise', 'movement', 'norms', 'products', 'reduction']
