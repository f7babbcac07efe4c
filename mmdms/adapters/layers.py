"""Attributes of PyTorch's own layers."""

from __future__ import annotations

from torch import Tensor, nn

from ..registry import ADAPTERS
from .base import Adapter

Shapes = dict[str, tuple[int, ...]]


@ADAPTERS.register_module()
class ConvAdapter(Adapter):
    """Convolutions of any number of dimensions, plain, grouped, depthwise and transposed."""

    adapts = nn.modules.conv._ConvNd
    groups: int

    def resized(self, old: Shapes) -> None:
        """Channels follow the weight; the groups of a depthwise convolution follow its channels."""
        first, second = self.weight.shape[:2]
        if self.groups > 1 and old['weight'][1] == 1:
            self.groups = first // (old['weight'][0] // self.groups)
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
        self.out_features, self.in_features = self.weight.shape


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
        self.sized('num_features', x, 1)
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
