"""torchvision's RAFT, which splits the context by the width of its hidden state."""

from __future__ import annotations

from torch import Tensor

from ..registry import ADAPTERS
from .base import Adapter


@ADAPTERS.register_module()
class UpdateBlockAdapter(Adapter):
    """The recurrent block of RAFT; its hidden state is (B, C, H, W)."""

    adapts = 'torchvision.models.optical_flow.raft.UpdateBlock'

    def forward(
        self, hidden_state: Tensor, context: Tensor, corr_features: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As the module."""
        self._mmdms.sized('hidden_state_size', hidden_state, 1)
        return super().forward(hidden_state, context, corr_features, flow)
