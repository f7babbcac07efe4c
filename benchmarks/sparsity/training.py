"""One training run that can stop on its way and be gone on with by several methods."""

import copy
import math

import torch.nn.functional as F
from quality.training import TRAIN_LR, evaluate, make_optimizer, train_stream

from .networks import build_network

RISE = 0.3  # share of a run over which the learning rate rises


def one_cycle(progress, peak=TRAIN_LR):
    """Learning rate at ``progress`` in [0, 1): rises from ``peak / 25`` by cosines, then falls to nothing."""
    if progress < RISE:
        return peak * (0.04 + 0.96 * (1 - math.cos(math.pi * progress / RISE)) / 2)
    return peak * (1 + math.cos(math.pi * (progress - RISE) / (1 - RISE))) / 2


class Run:
    """A network, its optimizer and its data, some steps into a run.

    Args:
        network (str): Name of the network.
        seed (int): Seed of its weights and of its data.
    """

    def __init__(self, network, seed):
        self.network, self.seed = network, seed
        self.model = build_network(network, seed)
        self.stream = train_stream(seed)
        self.restart()

    def restart(self):
        """Forget the momentum."""
        self.optimizer = make_optimizer(self.model.parameters(), TRAIN_LR)

    def fork(self):
        """A copy that goes on from here by itself."""
        copied = Run(self.network, self.seed)
        copied.model.load_state_dict(self.model.state_dict())
        copied.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        copied.stream.generator.set_state(self.stream.generator.get_state())
        return copied

    def train(self, first, last, total, mutator=None):
        """Train from step ``first`` to ``last`` of a schedule of ``total`` steps.

        Args:
            first (int): Steps of the schedule that are done.
            last (int): Step before which to stop.
            total (int): Steps of one cycle of the learning rate, and of the mutator's progress.
            mutator (mmdms.mutators.Mutator): What prunes; it is attached here.
        """
        if mutator is not None:
            mutator.prepare(self.model, mutator.survey(self.model))
            mutator.attach(self.optimizer)
        self.model.train()
        for step in range(first, last):
            if mutator is not None:
                mutator.set_progress(step / total)
            for group in self.optimizer.param_groups:
                group['lr'] = one_cycle(step / total)
            x, y = next(self.stream)
            loss = F.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        if mutator is not None and last == total:
            mutator.set_progress(1.0)
        return self

    def accuracy(self):
        """Test accuracy in percent, as the network is now."""
        return evaluate(self.model)
