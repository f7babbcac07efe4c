"""Time what is to be compared in turn, in one process, and take medians of ratios."""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from mmengine.optim import OptimWrapper

from mmdms.network.copying import copy_network
from mmdms.openmmlab.example import example_of
from mmdms.openmmlab.export.subnet import build_subnet, subnet_config
from mmdms.openmmlab.model_space import build_model_space
from mmdms.ops.topk import normalized_ranks, soft_mask
from mmdms.slicing.slim import slim
from mmdms.verification.parity import check_parity
from mmdms.verification.verifier import random_structure

from .networks import batch_of, build, load
from .timing import Step, against, alternate
from .ways import PROGRESS, PRUNING, TARGET, evaluation_of, mutated, search, step_of


def steps(name: str, size: int, batch: int, ways: list[str], rounds: int, device: str = 'cpu') -> dict[str, Any]:
    """Training steps and evaluation of one network; a way that cannot run is told with its reason."""
    config = load(name, size)
    model = build(config).to(device)
    data = batch_of(config, model, size, batch, device)
    found, failed = {'plain': step_of('plain', config, model, data)}, {}
    for way in ways:
        try:
            step = step_of(way, config, model, data)
            step()
            found[way] = step
        except Exception as error:  # a peer that cannot trace a network is a result
            failed[way] = f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'
    record: dict[str, Any] = dict(what='steps', network=name, size=size, batch=batch, rounds=rounds, failed=failed)
    record['train'] = against(alternate(found, rounds, device=device))
    del found
    gc.collect()
    evaluated = {way: evaluation_of(way, config, model, data[0]) for way in ('plain', 'shrink', 'settle')}
    record['evaluate'] = against(alternate(evaluated, rounds, device=device))
    record['parts'] = parts(config, model, data, rounds)
    plain = record['train']['plain']['seconds']
    for way in set(PRUNING) & set(ways) - set(failed):
        # Masks are found anew every so many steps, which a median does not show: their share of each step is added.
        seconds, interval = reallocation(model, data, way, rounds)
        record['train'][way].update(
            reallocation=seconds, averaged=record['train'][way]['ratio'] + seconds / interval / plain
        )
    return record


def reallocation(model: Any, data: Any, way: str, rounds: int) -> tuple[float, int]:
    """Seconds that a pruning takes to find its masks, and the steps between two of them."""
    mutator = mutated(copy_network(model), data[0], PRUNING[way]).mutator
    mutator.set_progress(PROGRESS['shrink'])
    with torch.no_grad():
        seconds = alternate(dict(found=mutator._reallocate), rounds, device=str(data[0].device.type))
    return statistics.median(seconds['found']), mutator.reallocation_interval


def parts(config: Any, model: Any, data: Any, rounds: int) -> dict[str, float]:
    """Milliseconds of what a search step does outside the passes through the network."""
    network = search(config, model, data[0])
    mutator = network.mutator
    mutator.set_progress(PROGRESS['shrink'])

    def update() -> None:
        mutator._gradient = torch.randn(mutator.space.num_elements, device=data[0].device)
        mutator.update()

    def masks() -> None:
        mutator.masks.bank.state = None  # as after a step
        mutator.refresh_masks(mutator.masks.bank)

    ways: dict[str, Step] = dict(plain=lambda: None, masks=masks, update=update, log=mutator.losses)
    seconds = alternate(ways, rounds)
    mutator.masks.remove()
    return {way: statistics.median(found) * 1e3 for way, found in seconds.items() if way != 'plain'}


def memory(name: str, size: int, batch: int, ways: list[str]) -> dict[str, Any]:
    """Peak resident memory of a process that takes three steps of each way, in MB."""
    found = {}
    for way in ['plain', *ways]:
        command = [sys.executable, str(Path(__file__).parents[1] / 'run_speed.py'), '--one-way', way]
        arguments = ['--networks', name, '--sizes', f'{size}:{batch}', '--out', '-']
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])['peak_mb'] if done.returncode == 0 else None
    return dict(what='memory', network=name, size=size, batch=batch, peak_mb=found)


def one_way(way: str, name: str, size: int, batch: int) -> dict[str, Any]:
    """Three steps of one way; the memory that they add to that of the network at rest."""
    config = load(name, size)
    model = build(config)
    data = batch_of(config, model, size, batch)
    step = step_of(way, config, model, data)
    del model
    gc.collect()
    for _ in range(3):
        step()
    return dict(peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def subnet(name: str, size: int, batch: int, rounds: int, device: str = 'cpu') -> dict[str, Any]:
    """Evaluation of the supernet and of a subnet of half its FLOPs, all keep ratios alike, widths multiples of 8."""
    config = load(name, size)
    model = build(config).to(device)
    network = search(config, copy_network(model), torch.zeros(1, 3, size, size, device=device), divisor=8)
    network.mutator.keep_ratio.fill_(TARGET**0.5)
    network.mutator.importance.fill_(1.0)  # all alike: the first elements stay
    network.mutator.set_progress(1.0)
    structure, space = network.mutator.structure(), network.mutator.space
    small = slim(model, space, structure)
    images = torch.rand(batch, 3, size, size, device=device)
    ways = {}
    for way, one in dict(plain=model, subnet=small).items():
        ways[way] = evaluation_of('plain', config, one, images)
    record = dict(what='subnet', network=name, size=size, batch=batch)
    share = space.cost('flops', space.mask(structure)) / space.cost('flops', torch.ones(space.num_elements))
    return {**record, 'flops': share, 'evaluate': against(alternate(ways, rounds, device=device))}


def hand_written(size: int, batch: int, rounds: int, device: str = 'cpu') -> dict[str, Any]:
    """Evaluation of an exported ResNet-50 of half the width, and of one whose config says half the width.

    Raises:
        ValueError: if the two differ in the shape of a parameter.
    """
    config = load('resnet50', size)
    model = build(config)
    space = build_model_space(model, (3, size, size))
    mask = torch.cat([torch.arange(unit.total) < (unit.total if unit.kind == 'depth' else unit.total // 2)
                      for unit in space.units])  # fmt: skip
    small = slim(model, space, space.structure(mask))
    found = subnet_config(config.model, model, small, space, mask)
    exported = build_subnet(**{key: value for key, value in found.items() if key != 'type'})
    config.model.backbone.update(stem_channels=32, base_channels=32)
    config.model.head.in_channels //= 2
    hand = build(config)
    shapes = [{name: tuple(p.shape) for name, p in one.named_parameters()} for one in (hand, exported)]
    if shapes[0] != shapes[1]:
        raise ValueError('the exported network has other shapes than the one written by hand')
    images = torch.rand(batch, 3, size, size, device=device)
    ways = {way: evaluation_of('plain', config, one.to(device), images)
            for way, one in dict(plain=hand, exported=exported).items()}  # fmt: skip
    record = dict(what='hand', network='resnet50', size=size, batch=batch)
    return {**record, 'evaluate': against(alternate(ways, rounds, device=device))}


def setup(config_name: str, size: int) -> dict[str, Any]:
    """Processor seconds to trace, verify and slice a network, and its size."""
    from mmengine.registry import init_default_scope

    from mmdms.openmmlab.architecture import build_architecture, tensor_forward
    from mmdms.openmmlab.configs import load_config
    from mmdms.openmmlab.export.subnet import without_pretrained

    config = load_config(config_name)
    init_default_scope(config.default_scope)
    model = build_architecture(without_pretrained(config.model), config.get('data_preprocessor'))
    shape = (3, size, size)
    begin = time.process_time()
    space = build_model_space(model, shape)
    traced = time.process_time() - begin
    structure = random_structure(space, 0.5)
    begin = time.process_time()
    subnet = slim(model, space, structure)
    check_parity(model, space, structure, example_of(model, shape).inputs, tensor_forward)
    found = subnet_config(config.model, model, subnet, space, space.mask(structure))
    sliced = time.process_time() - begin
    begin = time.process_time()
    build_subnet(**{key: value for key, value in found.items() if key != 'type'})
    return dict(
        what='setup', config=config_name, size=size, modules=sum(1 for _ in model.modules()),
        params=sum(p.numel() for p in model.parameters()), units=len(space.units), elements=space.num_elements,
        trace_seconds=traced, export_seconds=sliced, build_seconds=time.process_time() - begin,
    )  # fmt: skip


def endurance(iterations: int, parts: int = 10) -> dict[str, Any]:
    """A search of many iterations on a small network: resident memory and median step time of each part of it.

    Returns:
        ``rss_mb`` at the end of every part, and ``milliseconds`` of a step in it. Phases differ in what a step does:
        the first half shrinks, the next quarter refines, the last is settled.
    """
    config = load('resnet18-cifar', 16)
    model = build(config)
    inputs, samples = batch_of(config, model, 16, 2)
    network = search(config, model, inputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    network.mutator.attach(optimizer)
    wrapper = OptimWrapper(optimizer)
    rss, milliseconds, seconds = [], [], []
    for iteration in range(iterations):
        begin = time.perf_counter()
        network.mutator.set_progress(iteration / iterations)
        loss, _ = network.parse_losses(network(inputs, samples, mode='loss'))
        wrapper.update_params(loss)
        seconds.append(time.perf_counter() - begin)
        if (iteration + 1) % (iterations // parts) == 0:
            rss.append(round(psutil.Process().memory_info().rss / 1e6, 1))
            milliseconds.append(round(statistics.median(seconds) * 1e3, 2))
            seconds = []
    found = dict(rss_mb=rss, milliseconds=milliseconds)
    return dict(what='endurance', network='resnet18-cifar', iterations=iterations, **found)


def all_pairs(importance: torch.Tensor) -> torch.Tensor:
    """Ranks as the official form finds them: by comparing all pairs."""
    return (importance[None, :] > importance[:, None]).float().mean(1)


def operator(elements: int, units: int, rounds: int, pairs: bool) -> dict[str, Any]:
    """Milliseconds of ranks, mask and its gradient for ``units`` units of ``elements`` each, and of all pairs."""
    total = elements * units
    unit = torch.arange(units).repeat_interleave(elements)
    totals = torch.full((units,), elements)
    importance, ratio = torch.rand(total), torch.full((units,), 0.5, requires_grad=True)

    def ours() -> None:
        ranks = normalized_ranks(importance, unit, totals)
        mask = soft_mask(ratio, ranks, unit, totals, torch.ones(units))
        torch.autograd.grad(mask.sum(), ratio)

    def direct() -> None:
        for part, number in zip(importance.split(elements), range(units), strict=True):
            mask = torch.sigmoid(elements * (ratio[number] - all_pairs(part)))
            torch.autograd.grad(mask.sum(), ratio)

    ways: dict[str, Callable[[], Any]] = dict(ours=ours)
    if pairs:
        ways['all_pairs'] = direct
    found = alternate(ways, rounds)
    milliseconds = {way: statistics.median(times) * 1e3 for way, times in found.items()}
    return dict(what='operator', elements=elements, units=units, milliseconds=milliseconds)
