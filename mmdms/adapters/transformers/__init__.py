"""Adapters of modules of Hugging Face's ``transformers``, which need not be installed."""

from . import layers as layers
from . import models as models
