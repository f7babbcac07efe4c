"""Inception V3: its auxiliary classifier reads the stream in training only."""

from __future__ import annotations

from torch import Tensor

from ..registry import ADAPTERS
from ..tracing.declarations import active_tracer
from .base import Adapter


@ADAPTERS.register_module()
class InceptionV3Adapter(Adapter):
    """The whole backbone, whose layers run in the order in which they are held."""

    adapts = 'mmpretrain.models.backbones.inception_v3.InceptionV3'

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """As the module; x is (B, 3, H, W)."""
        auxiliary = None
        for name, layer in self._modules.items():
            if name == 'AuxLogits':
                auxiliary = self._auxiliary(x)
            else:
                x = layer(x.flatten(1) if name == 'fc' else x)
        return auxiliary, x

    def _auxiliary(self, x: Tensor) -> Tensor | None:
        if self.training:
            return self.AuxLogits(x)
        tracer = active_tracer()
        if tracer is not None:  # what it reads is traced all the same, but costs nothing
            counted = len(tracer.trace.costs)
            self.AuxLogits(x)
            del tracer.trace.costs[counted:]
        return None
