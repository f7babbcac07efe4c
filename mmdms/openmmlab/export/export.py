"""Export what a search found as a config and checkpoint of a plain network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ...errors import BudgetError
from ...masks.channel_masks import without_masks
from ...slicing.slim import slim
from ...space.structure import Structure
from ...verification.parity import check_parity
from ..algorithm import DMSAlgorithm
from ..architecture import tensor_forward
from ..example import example_of
from .subnet import subnet_config
from .write import CHECKPOINT, write_export

SEARCH_HOOKS = ('mmdms.BudgetHook', 'BudgetHook')


def export(algorithm: DMSAlgorithm, config: Config, folder: Path, init: str) -> dict[str, Any]:
    """Slice the searched network and write it.

    Args:
        algorithm: after the search, its checkpoint loaded.
        config: the search config.
        folder: where ``config.py``, ``checkpoint.pth``, ``subnet.json`` and ``report.json`` go.
        init: ``'inherit'``: the written config loads the sliced weights; ``'scratch'``: it does not.

    Returns:
        The report.

    Raises:
        ConfigError: if the folder cannot be written.
        BudgetError: if no structure meets the budget.
    """
    mutator, space = algorithm.mutator, algorithm.mutator.space
    structure = mutator.structure()
    mask = space.mask(structure)
    supernet = without_masks(algorithm.architecture)
    subnet = slim(supernet, space, structure)
    parity = check_parity(
        supernet, space, structure, example_of(supernet, algorithm.input_shape).inputs, tensor_forward
    )
    full = torch.ones(space.num_elements)
    achieved = space.cost(mutator.metric, mask) / space.cost(mutator.metric, full)
    if achieved > mutator.target:
        raise BudgetError(
            f'the structure of this checkpoint was fixed at {achieved:.4f} of the {mutator.metric}, and the config '
            f'allows {mutator.target:g}: give the config that it was searched with, or search again'
        )

    def figures(metric: str) -> dict[str, float]:
        before, after = space.cost(metric, full), space.cost(metric, mask)
        return dict(supernet=int(before), subnet=int(after), ratio=after / before)

    report = dict(
        flops=figures('flops'),
        params=figures('params'),
        budget=_budget(structure, achieved),
        parity=parity.to_dict(),
        units=structure.report(),
        input_shape=list(algorithm.input_shape),
    )
    model = subnet_config(config.model['architecture'], supernet, subnet, space, mask)
    checkpoint = dict(state_dict=plain_state(subnet))
    write_export(folder, retrain_config(config, model, init), checkpoint, structure.to_json(), report)
    return report


def _budget(structure: Structure, achieved: float) -> dict[str, Any]:
    outcome = structure.budget
    assert outcome is not None  # a mutator's structures know their budgets
    return dict(
        metric=outcome.metric, target=outcome.target, achieved=achieved, met=outcome.within, reason=outcome.reason
    )


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """State of a model on the CPU, as the checkpoint holds it.

    Some models leave parameters out of their state that a pretrained checkpoint
    holds (frozen weights, beside which low-rank ones are trained). A smaller
    model has no such checkpoint, so they are part of this one.
    """
    state = dict(model.state_dict())
    left_out = {name: parameter for name, parameter in model.named_parameters() if name not in state}
    if left_out:
        unknown = model.load_state_dict({**state, **left_out}, strict=False).unexpected_keys
        state.update({name: parameter for name, parameter in left_out.items() if name not in unknown})
    return {key: value.detach().cpu().clone() for key, value in state.items()}


def retrain_config(config: Config, model: dict[str, Any], init: str) -> dict[str, Any]:
    """The search config without the search.

    The model becomes the subnet, the hook and the optimizer constructor of the
    search go, and what the search config lists under ``retrain`` replaces the
    schedule of the search.
    """
    found = Config(copy.deepcopy(config._cfg_dict))
    retrain = found.pop('retrain', None)
    found.model = model
    hooks = [hook for hook in found.get('custom_hooks') or [] if hook.get('type') not in SEARCH_HOOKS]
    found.custom_hooks = hooks
    wrapper = found.get('optim_wrapper')
    if wrapper is not None:
        wrapper.pop('constructor', None)
        base = wrapper.pop('base_constructor', None)
        if base is not None:
            wrapper.constructor = base
    for key in ('work_dir', 'resume', 'launcher'):
        found.pop(key, None)
    found.load_from = '{{ fileDirname }}/' + CHECKPOINT if init == 'inherit' else None
    if retrain is not None:
        found.merge_from_dict(retrain)
    imports = found.setdefault('custom_imports', dict(imports=[], allow_failed_imports=False))
    if 'mmdms' not in imports['imports']:
        imports['imports'] = [*imports['imports'], 'mmdms']
    return found._cfg_dict.to_dict()
