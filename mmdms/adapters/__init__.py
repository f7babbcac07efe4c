"""Adapters of module types whose sizes are written into their Python; importing this registers them."""

from . import attention as attention
from . import layers as layers
from . import levit as levit
from . import norms as norms
from . import swin as swin
