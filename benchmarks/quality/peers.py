"""Pruning by Torch-Pruning, an optional dependency of the benchmark (``pip install torch-pruning``).

Its dependency graph groups and slices the channels and its importances score
them. Ranking and budget are ours, for two reasons. Its global pruner leaves a
group whole whose channels would all go, where here the best one stays; and it
takes a share of channels, not FLOPs. Where neither matters, both keep the same
channels (``tests/test_tools/test_benchmark_quality.py``).
"""

import torch.nn.functional as F

from .layout import TOLERANCE, get_layout
from .networks import example_input


def _torch_pruning():
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError('this method of the benchmark needs Torch-Pruning: pip install torch-pruning') from error
    return torch_pruning


class Pruner:
    """Scores and removes channels of one network.

    Args:
        name (str): Name of the network.
        model (nn.Module): The network; it is pruned in place.
        importance (str): ``'magnitude'`` or ``'taylor'``, which needs
            gradients on the parameters.
    """

    def __init__(self, name, model, importance='magnitude'):
        self.tp = _torch_pruning()
        self.layout = get_layout(name)
        self.model = model
        self.importance = {
            'magnitude': self.tp.importance.GroupMagnitudeImportance,
            'taylor': self.tp.importance.GroupTaylorImportance,
        }[importance]()
        self.graph = self.tp.DependencyGraph().build_dependency(model, example_input())

    def _group(self, unit, channels):
        conv = self.model.get_submodule(self.layout.roots[unit])
        return self.graph.get_pruning_group(conv, self.tp.prune_conv_out_channels, channels)

    def scores(self):
        """The importance of every channel of every unit."""
        widths = self.layout.widths_of(self.model)
        return {unit: self.importance(self._group(unit, list(range(width)))) for unit, width in widths.items()}

    def global_widths(self, scores, fraction):
        """Widths that keep the channels that score highest anywhere, one per unit at least, within the budget."""
        widths = dict.fromkeys(scores, 1)
        limit = self.layout.target(fraction)
        rest = [(score, unit) for unit in scores for score in scores[unit].sort(descending=True).values[1:].tolist()]
        for _, unit in sorted(rest, reverse=True):
            raised = {**widths, unit: widths[unit] + 1}
            if self.layout.flops(raised) <= limit:
                widths = raised
            elif self.layout.flops(widths) >= (1 - TOLERANCE) * limit:
                break
        return widths

    def cut(self, widths, scores):
        """Keep the channels of each unit that score highest."""
        for unit, score in scores.items():
            drop = score.argsort()[: len(score) - widths[unit]].tolist()
            if drop:
                self._group(unit, drop).prune()


def prune_global(name, model, importance, fraction):
    """Prune in place to a budget by one global ranking."""
    pruner = Pruner(name, model, importance)
    scores = pruner.scores()
    pruner.cut(pruner.global_widths(scores, fraction), scores)
    return model


def prune_to_widths(name, model, widths):
    """Prune in place to given widths, by magnitude within each unit."""
    pruner = Pruner(name, model)
    pruner.cut(widths, pruner.scores())
    return model


def accumulate_gradients(model, stream, count):
    """Leave the mean gradient of ``count`` batches on the parameters."""
    model.zero_grad()
    for _ in range(count):
        x, y = next(stream)
        (F.cross_entropy(model(x), y) / count).backward()
    return model


def settle(model, optimizer, stream, steps):
    """Train for some steps at the optimizer's rate."""
    for _ in range(steps):
        x, y = next(stream)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model
