"""Export a network whose single weights were pruned: the plain network with zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from torch import Tensor, nn

from ...errors import BudgetError, ConfigError
from ...masks.channel_masks import without_masks
from ...masks.weight_masks import WeightMasks
from ...mutators.dpf import DPFMutator
from ...network.copying import copy_network
from ...verification.parity import Parity, compare, prepare_for_parity
from ..algorithm import DMSAlgorithm
from ..architecture import tensor_forward
from ..example import Example, example_of
from .export import plain_state, retrain_config
from .sparse_storage import compress
from .write import write_export

TOLERANCE = 1e-3
"""By how much the sparsity of the masks may differ from what was asked for."""


def export_weights(
    algorithm: DMSAlgorithm, config: Config, folder: Path, init: str, sparse: bool = False
) -> dict[str, Any]:
    """Write the plain network with the masked weights set to 0.

    Args:
        algorithm: after the pruning, its checkpoint loaded.
        config: the config of the pruning.
        folder: where ``config.py``, ``checkpoint.pth`` and ``report.json`` go.
        init: must be ``'inherit'``.
        sparse: store pruned weights as values and positions, where that takes less room. A Runner reads them by
            the hook that the written config has.

    Returns:
        The report.

    Raises:
        ConfigError: for ``init='scratch'``, or if the folder cannot be written.
        BudgetError: if the checkpoint is not pruned to the sparsity of the config.
    """
    if init != 'inherit':
        raise ConfigError(
            "--init scratch would leave nothing of pruned weights, whose zeros are the result: use '--init inherit'"
        )
    mutator: Any = algorithm.mutator
    assert isinstance(mutator, DPFMutator)
    masks = mutator.kept_weights()
    total = sum(mutator.sizes)
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    achieved = 1 - sum(kept.values()) / total
    if abs(achieved - mutator.sparsity) > max(TOLERANCE, len(kept) / total):
        raise BudgetError(
            f'the weights of this checkpoint are pruned to a sparsity of {achieved:.4f}, and the config asks for '
            f'{mutator.sparsity:g}: give a checkpoint from after the schedule reached it, and the config of that run'
        )
    pruned = _zeroed(without_masks(algorithm.architecture), masks)
    example = example_of(pruned, algorithm.input_shape)
    flops, saved = _flops(pruned, example, {name: 1 - kept[name] / mask.numel() for name, mask in masks.items()})
    params = sum(parameter.numel() for parameter in pruned.parameters())
    fewer = params - total + sum(kept.values())
    report = dict(
        flops=dict(supernet=flops, subnet=flops - saved, ratio=1 - saved / flops),
        params=dict(supernet=params, subnet=fewer, ratio=fewer / params),
        budget=dict(metric='sparsity', target=mutator.sparsity, achieved=achieved),
        parity=_parity(algorithm.architecture, masks, example).to_dict(),
        units=[dict(name=name, kind='weights', total=mask.numel(), kept=kept[name]) for name, mask in masks.items()],
        left_whole=mutator.left,
        input_shape=list(algorithm.input_shape),
    )
    found = retrain_config(config, config.model['architecture'].to_dict(), init)
    state = plain_state(pruned)
    checkpoint: dict[str, Any] = {'state_dict': state}
    if sparse:
        checkpoint = compress(state, [name for name in masks if name in state])
        found['custom_hooks'] = [*found['custom_hooks'], dict(type='mmdms.SparseCheckpointHook')]
    write_export(folder, found, checkpoint, None, report)
    return report


def _flops(model: nn.Module, example: Example, sparsity: dict[str, float]) -> tuple[int, int]:
    """Multiply-accumulates of the network, and how many of them are with a weight that is 0."""

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            return tensor_forward(self.model)(*inputs)

    training = model.training
    analyzer = FlopAnalyzer(Images().eval(), example.flops_inputs or example.inputs)
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    by_module = analyzer.by_module()
    model.train(training)
    saved = sum(share * by_module[f'model.{name.rpartition(".")[0]}'] for name, share in sparsity.items())
    return int(by_module['']), round(saved)


def _parity(masked: nn.Module, masks: dict[str, Tensor], example: Example) -> Parity:
    """Compare the network under its masks with one that has zeros in their place, in float64, norms randomised."""
    reference = prepare_for_parity(without_masks(masked))
    zeroed = _zeroed(copy_network(reference), masks)
    WeightMasks(reference, masks, feedback=False).set(masks)
    return compare(reference, zeroed, example.inputs, tensor_forward)


@torch.no_grad()
def _zeroed(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """The model, with 0 where masks are false."""
    for name, parameter in model.named_parameters():
        if name in masks:
            parameter.masked_fill_(~masks[name], 0.0)
    return model
