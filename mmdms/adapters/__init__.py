"""Adapters of module types whose sizes are written into their Python; importing this registers them."""

from . import attention as attention
from . import convnets as convnets
from . import heads as heads
from . import hornet as hornet
from . import inception as inception
from . import layers as layers
from . import levit as levit
from . import norms as norms
from . import repmlp as repmlp
from . import swin as swin
from . import van as van
