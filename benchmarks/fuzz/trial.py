"""Take one random network through search space, search, slice, save, load and copy."""

from __future__ import annotations

import copy
import io
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import mmdms
from mmdms.errors import BudgetError
from mmdms.mutators.budgets.fit import check_budget

from .network import RandomNetwork, random_network

TOLERANCE = 1e-7
"""Largest difference, as a share of the largest output, of two networks in float64 that count as equal."""

RANDOM_IN_TRAINING = (nn.RReLU,)
"""Layers that draw random numbers in training, as many as they have values: a slice draws others."""

DROPOUT = (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)


class WrongSlice(Exception):
    """Two networks that should compute the same do not."""


class Refused(Exception):
    """Nothing in a network can be searched; the reasons are listed."""


class Trial:
    """One network; :meth:`run` returns its record and never raises.

    The record holds ``seed``, ``outcome`` (``'ok'``, ``'refused'``, ``'crash'``, ``'wrong slice'``), ``stage`` (what
    was done last), ``reason``, ``input`` (the layout), ``layers``, ``units``, ``elements``, ``kept`` (a share),
    ``frozen`` (reason -> elements) and ``seconds``.
    """

    def __init__(self, seed: int) -> None:
        self.record: dict[str, Any] = dict(seed=seed, outcome='ok', stage='draw', reason='')

    def run(self) -> dict[str, Any]:
        """Take the network through all stages."""
        begin = time.perf_counter()
        record = self.record
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                self._stages()
        except Refused as error:
            record.update(outcome='refused', reason=str(error))
        except WrongSlice as error:
            record.update(outcome='wrong slice', reason=str(error))
        except Exception as error:
            lines = (str(error).splitlines() or [''])[0]
            record.update(outcome='crash', reason=f'{type(error).__name__}: {lines}'[:300])
            record['traceback'] = traceback.format_exc()[-3000:]
        record['seconds'] = round(time.perf_counter() - begin, 2)
        return record

    def _stages(self) -> None:
        model = random_network(self.record['seed'])
        self.record.update(input=model.layout, layers=model.layers)
        fresh = copy.deepcopy(model)
        with self._stage('search space'):
            space = mmdms.build_search_space(model, model.inputs(1, 2))
        frozen: Counter[str] = Counter()
        for part in space.frozen:
            frozen[part.reason] += part.elements
        self.record.update(units=len(space.units), elements=space.num_elements, frozen=dict(frozen))
        if not space.units:
            raise Refused('; '.join(f'{count} x {reason}' for reason, count in frozen.most_common(4)) or 'no reason')
        with self._stage('search'):
            mutator = search(model, space)
        with self._stage('structure'):
            structure = mutator.structure()
            self.record['kept'] = round(sum(map(len, structure.kept.values())) / space.num_elements, 3)
            structure = mmdms.Structure.from_dict(structure.to_dict())
        with self._stage('slice'):
            subnet = mmdms.slim(model, space, structure)
        with self._stage('costs'):
            check_costs(space, structure, subnet, model.inputs(1, 2))
        for network in (model, subnet):
            silence(network.double())
        inputs = model.inputs(3, 3)
        # Evaluation last: PyTorch cannot copy the old weight_norm while it holds a weight that has a gradient.
        for mode in ('training', 'evaluation with gradients', 'evaluation'):
            with self._stage(f'parity in {mode}'):
                compare(model, subnet, inputs, mode)
        with self._stage('copy'):
            compare(model, copy.deepcopy(model), inputs)
            compare(subnet, copy.deepcopy(subnet), inputs)
        with self._stage('save and load'):
            self._reload(subnet, fresh, space, structure, inputs)

    @staticmethod
    def _reload(subnet: nn.Module, fresh: nn.Module, space: Any, structure: Any, inputs: Tensor) -> None:
        file = io.BytesIO()
        torch.save(subnet.state_dict(), file)
        file.seek(0)
        with torch.no_grad():
            for parameter in fresh.parameters():
                parameter.mul_(0.5)
        restored = mmdms.slim(fresh, space, structure).double()
        restored.load_state_dict(torch.load(file, weights_only=True), strict=True)
        compare(subnet, restored, inputs)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.record['stage'] = name
        yield


def search(model: RandomNetwork, space: Any) -> mmdms.DMSMutator:
    """Three steps of a search to half of what can go, and the structure fixed."""
    metric, target = budget(space)
    mutator = mmdms.DMSMutator(budget=dict(metric=metric, target=target), divisor=1)
    mutator.prepare(model, space)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    mutator.attach(optimizer)
    model.train()
    torch.manual_seed(0)
    for step, progress in enumerate((0.0, 0.45, 0.7)):
        mutator.set_progress(progress)
        loss = model(model.inputs(4, 10 + step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    mutator.set_progress(1.0)
    return mutator


def budget(space: Any) -> tuple[str, float]:
    """FLOPs, or where they cannot shrink parameters, and the lowest of a few targets that is within reach.

    Raises:
        Refused: if no target is.
    """
    for metric in ('flops', 'params'):
        for target in (0.5, 0.7, 0.85, 0.95):
            try:
                check_budget(space, metric, target)
            except BudgetError:
                continue
            return metric, target
    raise Refused('no budget is within reach: what can be searched is next to nothing of the cost')


def check_costs(space: Any, structure: Any, subnet: nn.Module, inputs: Tensor) -> None:
    """Raise WrongSlice unless a slice has the parameters, and to 0.1% the FLOPs, that its structure was said to cost.

    Some operations take another course for one channel than for several, and are counted there alone.
    """
    mask = space.mask(structure)
    traced = mmdms.build_search_space(copy.deepcopy(subnet).eval(), inputs, verify=False)
    found = dict(
        params=sum(parameter.numel() for parameter in subnet.parameters()),
        flops=float(traced.cost('flops', torch.ones(traced.num_elements))),
    )
    for metric, value in found.items():
        expected = float(space.cost(metric, mask))
        if abs(value - expected) > max(0.5, expected * (0.001 if metric == 'flops' else 0)):
            raise WrongSlice(f'{metric} of the slice are {value:.0f}, where the structure costs {expected:.0f}')


def silence(model: nn.Module) -> None:
    """Set all dropout to 0, in place: a slice would draw other numbers."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
            module.dropout = 0.0


def compare(model: nn.Module, other: nn.Module, inputs: Tensor, mode: str = 'evaluation') -> None:
    """Raise WrongSlice unless two networks compute the same; what they keep (statistics) stays as it is."""
    if mode == 'training' and any(isinstance(module, RANDOM_IN_TRAINING) for module in model.modules()):
        return
    found = []
    for network in (model, other):
        state = {name: value.clone() for name, value in network.state_dict().items()}
        was = network.training
        network.train(mode == 'training')
        torch.manual_seed(0)
        with torch.set_grad_enabled(mode != 'evaluation'):
            found.append(network(inputs.clone()).detach())
        network.load_state_dict(state)
        network.train(was)
    if found[0].shape != found[1].shape:
        raise WrongSlice(f'shapes {tuple(found[0].shape)} and {tuple(found[1].shape)}')
    size = float(found[0].abs().max())
    difference = float((found[0] - found[1]).abs().max()) / max(size, 1e-12)
    if not difference <= TOLERANCE:
        raise WrongSlice(f'outputs up to {size:.3g} differ by {difference:.3g} of it')
