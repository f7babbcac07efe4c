"""Attributes of PyTorch's own layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..registry import ADAPTERS
from .base import Adapter

Shapes = dict[str, tuple[int, ...]]


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """Shape of the weight of a layer, which may be computed from parameters (a weight norm, a parametrisation)."""
    own: dict[str, Any] = layer._parameters
    parametrised: Any = getattr(layer, 'parametrizations', {})
    if 'weight' in parametrised:
        own = parametrised['weight']._parameters
    else:
        own = {name: own[name] for name in ('weight', 'weight_orig', 'weight_v') if own.get(name) is not None}
    # Of a norm and a direction, the direction has the shape of the weight.
    found: Any = max(own.values(), key=Tensor.numel) if own else layer.weight
    return tuple(found.shape)


@ADAPTERS.register_module()
class ConvAdapter(Adapter):
    """Convolutions of any number of dimensions, plain, grouped, depthwise and transposed."""

    adapts = nn.modules.conv._ConvNd
    groups: int
    in_channels: int
    out_channels: int

    def resized(self, old: Shapes) -> None:
        """Channels follow the weight; the groups of a depthwise convolution follow its channels."""
        first, second = weight_shape(self)[:2]
        if self.groups > 1 and self.groups == self.in_channels:
            self.groups = first if self.transposed else first // (self.out_channels // self.groups)
        if self.transposed:
            self.in_channels, self.out_channels = first, second * self.groups
        else:
            self.in_channels, self.out_channels = second * self.groups, first


@ADAPTERS.register_module()
class LinearAdapter(Adapter):
    """Linear layers."""

    adapts = nn.Linear

    def resized(self, old: Shapes) -> None:
        """Features follow the weight."""
        self.out_features, self.in_features = weight_shape(self)


@ADAPTERS.register_module()
class BatchNormAdapter(Adapter):
    """Batch and instance norms."""

    adapts = nn.modules.batchnorm._NormBase

    def resized(self, old: Shapes) -> None:
        """Features follow the weight or the running mean."""
        for name in ('weight', 'running_mean'):
            if getattr(self, name) is not None:
                self.num_features = getattr(self, name).numel()


@ADAPTERS.register_module()
class InstanceNormAdapter(Adapter):
    """Instance norms, which know their number of channels even where they have no vectors."""

    adapts = nn.modules.instancenorm._InstanceNorm
    only_masked = True

    def forward(self, x: Tensor) -> Tensor:
        """As the layer; x is (B, C, ...)."""
        self._mmdms.sized('num_features', x, 1)
        return super().forward(x)


@ADAPTERS.register_module()
class PReLUAdapter(Adapter):
    """PReLU with one slope per channel."""

    adapts = nn.PReLU

    def resized(self, old: Shapes) -> None:
        """The number of slopes follows the weight."""
        self.num_parameters = self.weight.numel()


@ADAPTERS.register_module()
class EmbeddingAdapter(Adapter):
    """Embeddings."""

    adapts = nn.Embedding

    def resized(self, old: Shapes) -> None:
        """The number of vectors and their width follow the weight."""
        self.num_embeddings, self.embedding_dim = self.weight.shape
