"""Build an exported network: the original architecture with recorded shapes, no tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...adapters.base import adapt
from ...errors import StructureError
from ...slicing.resize import remove_blocks, replace_tensors, reset_parameters, set_sizes
from ...slicing.slim import kept_sizes, removed_blocks
from ...space.search_space import SearchSpace
from ..architecture import build_architecture
from ..registries import MODELS


@MODELS.register_module(name='Subnet')
def build_subnet(
    architecture: dict[str, Any],
    shapes: Mapping[str, Sequence[int]],
    removed: Sequence[str] = (),
    sizes: Mapping[str, int | Sequence[int]] | None = None,
    tuples: Sequence[str] = (),
    data_preprocessor: dict[str, Any] | None = None,
) -> nn.Module:
    """Build ``architecture`` with smaller tensors and without some blocks.

    The result is of the architecture's own class. Resized layers are
    initialised as PyTorch initialises layers of their new shapes.

    Args:
        architecture: config of the supernet's architecture.
        shapes: name of every parameter and buffer that shrank, with its shape.
        removed: names of the blocks that a pass-through replaces.
        sizes: attributes of modules that shrank and follow from no shape (heads), by ``'module.attribute'``.
        tuples: of the removed blocks those that return a tuple of one tensor.
        data_preprocessor: of the architecture, as mmengine passes it.

    Raises:
        StructureError: if a name is unknown or a shape does not fit.
    """
    model = build_architecture(architecture, data_preprocessor)
    adapt(model)
    modules = dict(model.named_modules())
    unknown = [name for name in removed if name not in modules]
    if unknown:
        raise StructureError(f'the architecture has no block {unknown[0]!r} to remove')
    remove_blocks(model, removed, tuples)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    new = {}
    for name, shape in shapes.items():
        if name not in tensors:
            raise StructureError(f'the architecture has no tensor {name!r} to resize')
        old = tensors[name]
        if len(shape) != old.dim() or any(not 0 < n <= total for n, total in zip(shape, old.shape, strict=True)):
            raise StructureError(f'{name!r} has shape {tuple(old.shape)} in the supernet and cannot be {tuple(shape)}')
        new[name] = old.detach()[tuple(slice(n) for n in shape)].clone()
    for name in sizes or {}:
        module, _, attribute = name.rpartition('.')
        if not hasattr(modules.get(module), attribute):
            raise StructureError(f'the architecture has no attribute {name!r} to set')
    set_sizes(model, sizes or {})
    replace_tensors(model, new)
    with torch.no_grad():
        reset_parameters(model, new)
    return model


def subnet_config(
    architecture: dict[str, Any], supernet: nn.Module, subnet: nn.Module, space: SearchSpace, mask: Tensor
) -> dict[str, Any]:
    """Config from which :func:`build_subnet` builds ``subnet``, sliced from ``supernet`` by a mask (elements,)."""
    # All names of a shared weight: the block that holds its first name may be gone.
    before: dict[str, torch.Tensor] = dict(supernet.named_parameters(remove_duplicate=False))
    before.update(supernet.named_buffers(remove_duplicate=False))
    after = {**dict(subnet.named_parameters()), **dict(subnet.named_buffers())}
    shapes = {name: list(t.shape) for name, t in after.items() if t.shape != before[name].shape}
    modules = dict(subnet.named_modules())
    whole = kept_sizes(space, torch.ones(space.num_elements))
    sizes = {
        name: size
        for name, size in kept_sizes(space, mask).items()
        if size != whole[name] and name.rpartition('.')[0] in modules
    }
    removed = removed_blocks(space, mask)
    config = dict(
        type='mmdms.Subnet',
        architecture=without_pretrained(architecture),
        shapes=shapes,
        removed=removed,
        sizes=sizes,
    )
    tuples = [name for name in removed if name in space.tuples]
    return {**config, 'tuples': tuples} if tuples else config


def without_pretrained(config: Any) -> Any:
    """A config without the supernet's pretrained weights, by ``init_cfg`` or ``pretrained``: they no longer fit."""
    if isinstance(config, Mapping):
        found = {}
        for key, value in config.items():
            if key == 'pretrained' and value is not None:
                found[key] = False if isinstance(value, bool) else None
                continue
            if key == 'init_cfg':
                items = value if isinstance(value, (list, tuple)) else [value]
                # Some backbones take a checkpoint without a type.
                items = [i for i in items if not (isinstance(i, Mapping) and 'checkpoint' in i)]
                if not items:
                    continue
                value = items if isinstance(value, (list, tuple)) else items[0]
            found[key] = without_pretrained(value)
        return found
    if isinstance(config, (list, tuple)):
        return type(config)(without_pretrained(item) for item in config)
    return config
