"""A tiny network, searched, for tests of the mutator."""

import torch
import torch.nn.functional as F
from torch import nn

from mmdms import DMSMutator, build_search_space


class Residual(nn.Module):
    """A block that a search may remove."""

    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, width, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


def network():
    """Two blocks, no norms, the same weights every time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Sequential(Residual(12), Residual(12)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def batch(seed=0, size=8):
    """Images and labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, 6, 6, generator=generator), torch.randint(0, 5, (size,), generator=generator)


def searched(model=None, **kwargs):
    """The network and a mutator on it."""
    model = model or network()
    space = build_search_space(model, torch.rand(1, 3, 6, 6))
    mutator = DMSMutator(**{'budget': dict(metric='flops', target=0.4), 'divisor': 1, **kwargs})
    mutator.prepare(model, space)
    return model, mutator


def state_of(mutator):
    """A copy of all that the search has learnt."""
    return {name: value.clone() for name, value in mutator.state_dict().items()}


def assert_same(before, mutator):
    """Bit for bit."""
    for name, value in mutator.state_dict().items():
        assert torch.equal(before[name], value), name


def train(model, mutator=None, steps=64, optimizer=None, each=lambda step: None, device=None):
    """Train from four batches in turn, with a mutator from beginning to end if there is one; ``each`` after a step."""
    optimizer = optimizer or torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3
    )
    if mutator is not None:
        mutator.attach(optimizer)
    for step in range(steps):
        if mutator is not None:
            mutator.set_progress(step / steps)
        inputs, labels = (tensor.to(device) for tensor in batch(step % 4))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        each(step)
    if mutator is not None:
        mutator.set_progress(1.0)
