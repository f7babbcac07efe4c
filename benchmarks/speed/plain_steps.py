"""Steps of plain training, of a search in each phase and of its subnet, with torch alone."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import mmdms

from .launches import kernels, operations
from .plain_networks import Case
from .timing import Step, against, alternate

PHASES = dict(shrink=0.3, refine=0.7, settle=0.95)
"""Progress at which each phase of a search is timed."""


def measure(case: Case, batch: int, rounds: int, device: str) -> dict[str, Any]:
    """Seconds to set a search up, and per way: time, memory, operations, kernels and waits of a step.

    Args:
        case: the network, its inputs and its loss.
        batch: rows of the input of a step.
        rounds: timed steps of every way.
        device: ``'cuda'`` or ``'cpu'``.
    """
    torch.manual_seed(0)
    model, inputs = case.build().to(device), case.inputs(batch).to(device)
    begin = time.perf_counter()
    space = mmdms.build_search_space(model, inputs[:1])
    set_up = time.perf_counter() - begin
    ways: dict[str, Step] = {}
    static = {}
    for way, build in makers(model, space, device).items():
        before = allocated(device)
        ways[way] = step_of(*build(), case, inputs)
        ways[way]()  # the optimizer makes its state in the first step
        static[way] = allocated(device) - before
    seconds = against(alternate(ways, rounds, device=device))
    found = {}
    for way, step in ways.items():
        found[way] = dict(
            milliseconds=seconds[way]['seconds'] * 1e3, ratio=seconds[way]['ratio'],
            megabytes=(static[way] + peak(step, device)) / 1e6 if device == 'cuda' else None,
            operations=sum(operations(step).values()), **(kernels(step) or dict(kernels=None, waits=None)),
        )  # fmt: skip
    params = sum(parameter.numel() for parameter in model.parameters())
    return dict(params=params, units=len(space.units), set_up_seconds=set_up, rounds=rounds, ways=found)


Maker = Callable[[], tuple[nn.Module, Any]]


def makers(model: nn.Module, space: Any, device: str) -> dict[str, Maker]:
    """Per way, a function that makes its network and the mutator in it (None outside a search)."""

    def searched(phase: str) -> tuple[nn.Module, Any]:
        network = copy.deepcopy(model)
        mutator = mmdms.DMSMutator(budget=dict(metric='flops', target=0.5))
        mutator.prepare(network, space)
        mutator.to(device)
        mutator.importance.fill_(1.0)  # a structure can be fixed; elements are all alike, the first ones stay
        mutator.keep_ratio.fill_(0.7)
        mutator.set_progress(PHASES[phase])
        return network, mutator

    def subnet() -> tuple[nn.Module, Any]:
        _, mutator = searched('settle')
        return mmdms.slim(model, space, mutator.structure()), None

    phases = {phase: (lambda phase=phase: searched(phase)) for phase in PHASES}
    return {'plain': lambda: (copy.deepcopy(model), None), **phases, 'subnet': subnet}


def step_of(network: nn.Module, mutator: Any, case: Case, inputs: torch.Tensor) -> Step:
    """A function that takes one training step with SGD and bfloat16, at the progress that the mutator has."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)
    progress = None
    if mutator is not None:
        mutator.attach(optimizer)
        progress = mutator.progress

    def step() -> None:
        if mutator is not None:
            mutator.set_progress(progress)
        optimizer.zero_grad()
        with torch.autocast(inputs.device.type, torch.bfloat16):
            loss = case.loss(network(inputs), inputs)
        loss.backward()
        optimizer.step()

    return step


def allocated(device: str) -> int:
    """Bytes that tensors hold on the GPU now; 0 on a CPU."""
    gc.collect()
    return torch.cuda.memory_allocated() if device == 'cuda' else 0


def peak(step: Step, device: str) -> int:
    """Bytes that a step needs at its peak, above those held when it begins."""
    before = allocated(device)
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def table(records: list[dict[str, Any]]) -> str:
    """The records as a table in Markdown, a row per network and way."""
    if not records:
        return 'nothing was measured'
    first = records[0]
    lines = [
        f'{first["device"]}, torch {first["torch"]}, Python {first["python"]}, batch {first["batch"]}, bfloat16',
        '',
        '| network | way | ms | of plain | MB | of plain | operations | kernels | waits |',
        '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    for record in records:
        base = record['ways']['plain']['megabytes']
        for way, row in record['ways'].items():
            memory = ('', '') if base is None else (f'{row["megabytes"]:,.0f}', f'{row["megabytes"] / base:.2f}')
            counts = ['' if row[key] is None else row[key] for key in ('operations', 'kernels', 'waits')]
            cells = [record['network'], way, f'{row["milliseconds"]:.1f}', f'{row["ratio"]:.2f}', *memory, *counts]
            lines.append(f'| {" | ".join(map(str, cells))} |')
    set_up = ', '.join(f'{one["network"]} {one["set_up_seconds"]:.1f} s ({one["units"]} units)' for one in records)
    return '\n'.join([*lines, '', f'Search spaces traced and verified: {set_up}.'])
