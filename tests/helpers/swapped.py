"""Networks whose modules resist a change of their class, in a file that a fresh process can import."""

import torch
import torch.nn.functional as F
from torch import fx, nn

from mmdms import DMSMutator, build_search_space


class Rebuilt(nn.Linear):
    """It is pickled as a call with its class."""

    def __reduce__(self):
        return rebuild, (type(self), self.in_features, self.out_features), self.__dict__


def rebuild(kind, inputs, outputs):
    return kind(inputs, outputs)


class Named(nn.Linear):
    """It is pickled as a call of a function that names the class."""

    def __reduce__(self):
        return rebuild, (Named, self.in_features, self.out_features), self.__dict__


class Copied(nn.Linear):
    """It copies itself."""

    def __deepcopy__(self, memo):
        copied = type(self)(self.in_features, self.out_features)
        copied.load_state_dict(self.state_dict())
        return copied


class Labelled(nn.Linear):
    """Subclasses must say their label."""

    def __init_subclass__(cls, *, label, **kwargs):
        super().__init_subclass__(**kwargs)


class Stateful(nn.Linear):
    """What is pickled is not its dictionary."""

    def __getstate__(self):
        return [self.__dict__]

    def __setstate__(self, state):
        super().__setstate__(state[0])


class Around(nn.Module):
    """A layer between two others."""

    def __init__(self, layer):
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(6, 8), layer, nn.Linear(8, 5)

    def forward(self, x):
        return self.head(F.relu(self.layer(F.relu(self.stem(x)))))


class Reading(nn.Module):
    """A network that multiplies by a weight of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return self.head(F.relu(F.linear(F.relu(self.stem(x)), self.weight)))


class Deep(nn.Module):
    """Modules of every kind that a search changes: adapted ones, norms, blocks that can be removed."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.norm(self.layers(self.stem(x)[:, None])).mean(1))


NETWORKS = {
    'deep': Deep,
    'reading': Reading,
    'traced by fx': lambda: fx.symbolic_trace(Reading()),
    **{kind.__name__: (lambda kind=kind: Around(kind(8, 8))) for kind in (Rebuilt, Named, Copied, Labelled, Stateful)},
}


def example():
    """The same batch every time, (10, 6)."""
    return torch.randn(10, 6, generator=torch.Generator().manual_seed(0))


def half_searched(name, steps):
    """A network in a search of 20 steps, after ``steps`` of them, and its mutator."""
    torch.manual_seed(0)
    model, x = NETWORKS[name](), example()
    mutator = DMSMutator(dict(metric='params', target=0.5))
    mutator.prepare(model, build_search_space(model, x[:1], verify=name == 'deep'))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    mutator.attach(optimizer)
    for step in range(steps):
        mutator.set_progress(step / 20)
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.arange(10) % 5).backward()
        optimizer.step()
    return model, mutator


def outputs(model, x):
    """In evaluation and in training, without gradients."""
    with torch.no_grad():
        return [model.train(mode)(x) for mode in (False, True)]


def assert_outputs(cases):
    """Networks, by name, return what is written beside them, also once they have more hooks."""
    for name, (model, x, expected) in cases.items():
        for found, wanted in zip(outputs(model, x), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=name)
        for module in model.modules():
            module.register_forward_hook(lambda *_: None)
            module.register_forward_pre_hook(lambda *_: None)
        for found, wanted in zip(outputs(model, x), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, msg=f'{name}, with other hooks')
