import gc

import numpy as np
import pytest
import torch
from helpers.tiny import Net, conv, image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from mmdms.tracing import labels as labels_module
from mmdms.tracing.labels import LabelStore, named
from mmdms.tracing.rules import RULES
from mmdms.tracing.run import trace
from mmdms.tracing.tensor_records import Record, TensorRecords
from mmdms.tracing.tracer import Tracer


def test_what_a_network_is_done_with_is_let_go():
    """Of 40 layers in a row, a trace knows only the tensors of the one that runs."""
    from mmdms.tracing import rules  # noqa: F401

    net = nn.Sequential(*(nn.Sequential(conv(3, 3), nn.ReLU()) for _ in range(40))).eval()
    tracer = Tracer(net, RULES)
    known = []
    for layer in net:
        layer.register_forward_hook(lambda *_: known.append(len(tracer.records)))
    found = tracer.run(net, image())
    assert len(known) == 40 and max(known) < 8
    assert len(found.axes) == 120


def test_a_record_goes_with_its_tensor():
    book = TensorRecords()
    kept, lost = torch.zeros(3), torch.zeros(3)
    for tensor in (kept, lost):
        book[tensor] = Record(torch.tensor([1, 2, 3]))
    book.settle()  # labelled tensors without a node may be given one: they stay
    assert len(book) == 2
    book.clear()
    unlabelled = torch.zeros(3)
    book[kept], book[unlabelled] = Record(torch.tensor([1, 2, 3])), Record(torch.zeros(3, dtype=torch.int64))
    book.settle()
    del unlabelled
    gc.collect()
    assert len(book) == 1 and book.get(kept) is not None and book.get([kept]) is None


class Hidden(torch.autograd.Function):
    """What it does passes no dispatcher; its input is gone when its output is looked at."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy()[:, ::-1].copy())

    @staticmethod
    def backward(ctx, gradient):
        return gradient.flip(1)


def test_what_an_unseen_operation_read_is_found_though_it_is_gone():
    net = Net(lambda n, x: n.out(Hidden.apply(n.mid(x).relu()).relu()), mid=conv(3, 6), out=conv(6, 2)).eval()
    found = trace(net, image())
    frozen = {
        label
        for labels, reason in found.store._frozen
        if 'HiddenBackward' in reason.reason
        for label in labels.tolist()
    }
    assert frozen == set(found.axes['mid.weight', 0].labels.tolist())


@pytest.mark.parametrize('way', ['autograd', 'func'])
def test_a_forward_that_differentiates_itself(way):
    """A trace drops what autograd saves; such a network is traced once more, with everything kept."""

    def forward(n, x):
        y = n.mid(x)
        if way == 'func':
            return n.out(torch.func.grad(lambda t: (t**2).sum())(y))
        return n.out(torch.autograd.grad((y**2).sum(), y, create_graph=True)[0])

    net = Net(forward, mid=conv(3, 6), out=conv(6, 2)).eval()
    assert set(trace(net, image()).axes) >= {('mid.weight', 0), ('out.weight', 1)}


@pytest.mark.parametrize('many', [1, 1 << 14])
@pytest.mark.parametrize('seed', range(4))
def test_unions_are_connected_components(seed, many, monkeypatch):
    """Whether labels are few or many; a second opinion from scipy."""
    monkeypatch.setattr(labels_module, 'MANY', many)
    generator = np.random.default_rng(seed)
    store = LabelStore()
    count = int(store.fresh(300).max()) + 1
    pairs = generator.integers(0, count, (2, 250))
    pairs[1, 200:] = 7  # many meet one
    for part in np.split(pairs, 5, axis=1):
        store.unify(torch.from_numpy(part[0]), torch.from_numpy(part[1]))
    real = pairs[:, (pairs > 0).all(0)]
    graph = coo_array((np.ones(real.shape[1]), tuple(real)), shape=(count, count))
    expected = connected_components(graph, directed=False)[1]
    assert np.array_equal(store.resolve().of_label, expected)
    simple = store.simplify(torch.arange(count)).numpy()
    assert len(np.unique(simple)) == len(np.unique(expected)) and (simple <= np.arange(count)).all()


@pytest.mark.parametrize('many', [1, 1 << 14])
def test_named_elements(many, monkeypatch):
    monkeypatch.setattr(labels_module, 'MANY', many)
    labels = torch.tensor([[0, 9, 4], [4, 9, 0]])[:, :, None].expand(2, 3, 5)
    assert named(labels).tolist() == [4, 9]
    assert named(torch.zeros(2, 3, dtype=torch.int64)).tolist() == []
