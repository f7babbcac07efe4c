"""Adapters of module types whose sizes are written into their Python; importing this registers them."""

from . import attention as attention
from . import channel_attention as channel_attention
from . import conformer as conformer
from . import convnets as convnets
from . import edgenext as edgenext
from . import eva02 as eva02
from . import heads as heads
from . import hornet as hornet
from . import inception as inception
from . import layers as layers
from . import levit as levit
from . import mvit as mvit
from . import norms as norms
from . import repmlp as repmlp
from . import shuffle as shuffle
from . import swin as swin
from . import tnt as tnt
from . import twins as twins
from . import van as van
from . import vig as vig
from . import windows as windows
from . import xcit as xcit
from . import yolo as yolo
from .base import Adapter as Adapter
