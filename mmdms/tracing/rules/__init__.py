"""How labels pass through aten operations; ``RULES`` is the table of all rules."""

from . import computed as computed
from . import convolutions as convolutions
from . import layers as layers
from . import norms as norms
from . import pointwise as pointwise
from . import products as products
from . import reductions as reductions
from . import views as views
from .table import RULES as RULES
