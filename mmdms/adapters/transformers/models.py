"""Whole models: the numbers under which layers keep their keys and values."""

from __future__ import annotations

from torch import nn

from ...registry import ADAPTERS
from ..base import Adapter


@ADAPTERS.register_module()
class PreTrainedModelAdapter(Adapter):
    """Numbers the layers that stay anew, as a cache of keys and values counts them.

    A cache is asked for its length under the number of the first layer of a kind. Were that layer gone, and the others
    numbered as before, it would always be empty there, and attention masks would be of the wrong size.
    """

    adapts = 'transformers.modeling_utils.PreTrainedModel'

    def blocks_removed(self, names: list[str]) -> None:
        """Layers that stay come first, in ``layer_idx`` and in the config's ``layer_types``."""
        for container in dict.fromkeys(name.rpartition('.')[0] for name in names):
            layers = list(self.get_submodule(container).named_children())
            gone = [layer for name, layer in layers if f'{container}.{name}' in names]
            staying = [layer for _, layer in layers if layer not in gone]
            holders = [[module for module in layer.modules() if hasattr(module, 'layer_idx')] for layer in staying]
            numbers = [module.layer_idx for found in holders for module in found[:1]]
            if len(set(numbers)) < len(staying):
                continue  # parts of one layer, which has one number, or layers without
            for number, found in enumerate(holders):
                for module in found:
                    module.layer_idx = number
            types = [_type_of(layer) for layer in [*staying, *gone]]
            if len(getattr(self.config, 'layer_types', None) or ()) == len(types) and None not in types:
                self.config.layer_types = types


def _type_of(layer: nn.Module) -> str | None:
    """How a layer attends, ``'full_attention'`` or ``'sliding_attention'``, where it says so."""
    return getattr(layer, 'attention_type', None)
