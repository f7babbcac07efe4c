"""How labels pass through aten operations; importing this package registers all rules."""

from . import computed, convolutions, norms, products
from . import pointwise as elementwise
from . import reductions as reduction
from . import views as movement

__all__ = ['computed', 'convolutions', 'elementwise', 'movement', 'norms', 'products', 'reduction']
