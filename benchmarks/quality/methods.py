"""The methods that are compared, by name.

A method is a function from a :class:`Cell` to a :class:`Found`. All get the
same steps after pretraining, ``cell.total_steps``: what a method uses to find
its structure is missing when its network is retrained or fine-tuned.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from . import peers
from .layout import get_layout
from .training import FINETUNE_LR, make_optimizer, ready_to_train, train_stream

METHODS = {}
TAYLOR_STAGES = 5
TAYLOR_BATCHES = 10  # for the gradients of a stage; each counts as a step
TAYLOR_LR = FINETUNE_LR / 3  # between stages
RANDOM_SHARES = (0.1, 1.0)

#: What a seed is used for; the same seed gives the same data to every method.
STREAMS = {'pretrain': 0, 'search': 1, 'finetune': 2, 'retrain': 10}


@dataclass
class Cell:
    """One task for a method: a network, a budget, a seed.

    Attributes:
        network (str): Name of the network.
        target (float): Budget as a fraction of the network's FLOPs.
        seed (int): Seed of everything random.
        pretrained (Callable): Returns a fresh copy of the seed's pretrained
            network.
        total_steps (int): Steps after pretraining, for search and training
            together.
        search_steps (int): How many of them a search should use.
        pretrain_steps (int): Steps of the pretraining. A method that starts
            from scratch may spend them on its search in addition.
    """

    network: str
    target: float
    seed: int
    pretrained: Callable[[], nn.Module]
    total_steps: int = 1200
    search_steps: int = 500
    pretrain_steps: int = 700

    def stream_seed(self, purpose, repeat=0):
        """Seed of the data (and new weights) for a purpose; no two purposes share one."""
        return 1000 * (self.seed + 1) + STREAMS[purpose] + repeat


@dataclass
class Found:
    """What a method found.

    Attributes:
        model (nn.Module): The narrowed network.
        steps (int): Training steps used of ``total_steps``.
        instead (int): Steps used instead of those of the pretraining.
        seconds (float): Time that the search took.
        inherits (bool): Whether the weights are worth fine-tuning.
        notes (dict): Anything else to keep with the result.
    """

    model: nn.Module
    steps: int = 0
    instead: int = 0
    seconds: float = 0.0
    inherits: bool = True
    notes: dict = field(default_factory=dict)


def register(name):
    """Add a method to the registry under this name."""

    def add(method):
        METHODS[name] = method
        return method

    return add


def run_method(name, cell):
    """Seed and run a method by name, and time it."""
    if name not in METHODS:
        raise ValueError(f'unknown method {name!r}: choose from {sorted(METHODS)}')
    torch.manual_seed(cell.stream_seed('search'))
    start = time.perf_counter()
    found = METHODS[name](cell)
    found.seconds = time.perf_counter() - start
    return found


@register('uniform')
def uniform(cell):
    """The same share of every unit; weights by magnitude within each unit."""
    layout = get_layout(cell.network)
    widths = layout.fit(dict.fromkeys(layout.full, 1.0), cell.target)
    return Found(peers.prune_to_widths(cell.network, cell.pretrained(), widths))


@register('random')
def random_widths(cell):
    """A random share of every unit, scaled to the budget; no weights to inherit."""
    layout = get_layout(cell.network)
    generator = random.Random(cell.seed)
    widths = layout.fit({unit: generator.uniform(*RANDOM_SHARES) for unit in layout.full}, cell.target)
    return Found(layout.narrow(widths), inherits=False)


@register('magnitude')
def magnitude(cell):
    """Torch-Pruning's group magnitude, ranked globally, in one shot."""
    return Found(peers.prune_global(cell.network, cell.pretrained(), 'magnitude', cell.target))


def _taylor(cell, settle_steps):
    model, stream = ready_to_train(cell.pretrained()), train_stream(cell.stream_seed('search'))
    for stage in range(1, TAYLOR_STAGES + 1):
        peers.accumulate_gradients(model, stream, TAYLOR_BATCHES)
        peers.prune_global(cell.network, model, 'taylor', cell.target ** (stage / TAYLOR_STAGES))
        ready_to_train(model)
        peers.settle(model, make_optimizer(model.parameters(), TAYLOR_LR), stream, settle_steps)
    return Found(model, steps=TAYLOR_STAGES * (TAYLOR_BATCHES + settle_steps))


@register('taylor')
def taylor(cell):
    """Torch-Pruning's group Taylor importance, ranked globally, in five stages.

    Only gradients are taken between the stages, which leaves most steps for
    fine-tuning: better than ``taylor_iterative`` on the ResNet, worse on the
    MobileNet.
    """
    return _taylor(cell, 0)


@register('taylor_iterative')
def taylor_iterative(cell):
    """As ``taylor``, but the steps of a search are spent on training between the stages."""
    return _taylor(cell, max(cell.search_steps // TAYLOR_STAGES - TAYLOR_BATCHES, 0))


from . import mmdms_methods  # noqa: E402, F401  (registers its own methods above)
