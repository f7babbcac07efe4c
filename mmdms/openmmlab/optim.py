"""How a search is optimized: the structure learns beside the weights, at its own constant rate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_CONSTRUCTORS
from torch import nn

from ..errors import ConfigError
from .registries import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DMSOptimWrapperConstructor:
    """Builds the optimizer of the weights as usual and has the structure move with its steps.

    The keep ratios are moved by the mutator, at its constant ``structure_lr``
    and without weight decay. They are in no group of the optimizer, so no
    schedule, decay or clipping of the weights can reach them.

    Args:
        optim_wrapper_cfg: as of any constructor; its key ``base_constructor``
            names the constructor that groups the weights
            (``'DefaultOptimWrapperConstructor'``).
        paramwise_cfg: passed on to it.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        config = dict(optim_wrapper_cfg)
        base = config.pop('base_constructor', 'DefaultOptimWrapperConstructor')
        self._base = MMENGINE_CONSTRUCTORS.build(
            dict(type=base, optim_wrapper_cfg=config, paramwise_cfg=paramwise_cfg)
        )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper of a :class:`mmdms.openmmlab.algorithm.DMSAlgorithm`."""
        algorithm: Any = model.module if is_model_wrapper(model) else model
        if not hasattr(algorithm, 'mutator'):
            raise ConfigError(
                f'DMSOptimWrapperConstructor needs a model with a mutator, got {type(algorithm).__name__}: '
                'remove optim_wrapper.constructor to train an ordinary model'
            )
        # Constructors tell parameters by attribute (``weight``, ``bias``): masked weights would look like none.
        algorithm.mutator.masks.set(None)
        optim_wrapper = self._base(algorithm.architecture)
        if algorithm.freeze_weights:
            optim_wrapper.optimizer.add_param_group(dict(params=[algorithm.anchor]))
        algorithm.mutator.attach(optim_wrapper.optimizer)
        return optim_wrapper


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Mixed precision on a CPU, in bfloat16, whose range needs no loss scale; mmengine's wrapper insists on a GPU."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """See ``OptimWrapper``."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield
