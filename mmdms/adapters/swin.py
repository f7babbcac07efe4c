"""Swin and Swin V2: blocks that go in pairs, and widths that the backbone keeps in a list."""

from __future__ import annotations

from ..registry import ADAPTERS
from .base import Adapter
from .layers import Shapes


@ADAPTERS.register_module()
class SwinAdapter(Adapter):
    """Swin: its forward views every output by a width from a list."""

    adapts = 'mmpretrain.models.backbones.swin_transformer.SwinTransformer'

    def resized(self, old: Shapes) -> None:
        """The width of every stage that is given out follows its norm."""
        for stage in self.out_indices:
            norm = getattr(self, f'norm{stage}')
            if getattr(norm, 'weight', None) is not None:
                self.num_features[stage] = norm.weight.numel()


@ADAPTERS.register_module()
class SwinBlocks(Adapter):
    """A stage of Swin: a block with shifted windows follows one without, and goes with it."""

    adapts = 'mmpretrain.models.backbones.swin_transformer.SwinBlockSequence'
    together = {'blocks': 2}


@ADAPTERS.register_module()
class SwinV2Adapter(Adapter):
    """Swin V2: its forward views every output by a width that its stage holds."""

    adapts = 'mmpretrain.models.backbones.swin_transformer_v2.SwinTransformerV2'

    def resized(self, old: Shapes) -> None:
        """The width of every stage that is given out follows its norm."""
        for stage in self.out_indices:
            norm = getattr(self, f'norm{stage}')
            if getattr(norm, 'weight', None) is not None:
                self.stages[stage].out_channels = norm.weight.numel()


@ADAPTERS.register_module()
class DaViTAdapter(SwinAdapter):
    """DaViT: as Swin."""

    adapts = 'mmpretrain.models.backbones.davit.DaViT'


@ADAPTERS.register_module()
class SwinV2Blocks(Adapter):
    """A stage of Swin V2: see :class:`SwinBlocks`."""

    adapts = 'mmpretrain.models.backbones.swin_transformer_v2.SwinBlockV2Sequence'
    together = {'blocks': 2}
