"""Layers whose Python holds sizes."""

from __future__ import annotations

import copy
from typing import Any

from ...registry import ADAPTERS
from ..base import Adapter
from ..layers import Shapes


@ADAPTERS.register_module()
class Conv1DAdapter(Adapter):
    """Linear layers of GPT-2, whose weight is (in, out)."""

    adapts = 'transformers.pytorch_utils.Conv1D'

    def resized(self, old: Shapes) -> None:
        """Features follow the weight."""
        self.nx, self.nf = self.weight.shape


@ADAPTERS.register_module()
class Phi3AttentionAdapter(Adapter):
    """Attention with one layer for queries, keys and values, cut by numbers of heads, one of them in the config."""

    adapts = 'transformers.models.phi3.modeling_phi3.Phi3Attention'
    config: Any

    def resized(self, old: Shapes) -> None:
        """Heads follow the layer that reads them; the config that counts them is this module's own."""
        heads = self.o_proj.in_features // self.head_dim
        self.num_key_value_heads = heads // self.num_key_value_groups
        config = copy.copy(self.config)
        config.num_attention_heads = heads
        self.config = config
