import torch

from mmdms.space.frozen import FreezeReason
from mmdms.tracing.labels import LabelStore, canonical, compact, no_labels, varying_dims


def test_canonical_labels_are_stored_once_per_channel():
    labels = canonical(torch.tensor([5, 7]).view(1, 2, 1, 1).repeat(1, 1, 3, 3))
    assert labels.shape == (1, 2, 3, 3) and labels.stride()[2:] == (0, 0)
    assert compact(labels).flatten().tolist() == [5, 7]
    assert varying_dims(labels) == [1]
    assert varying_dims(no_labels((2, 3))) == []


def test_unions_are_transitive():
    store = LabelStore()
    a, b, c = store.fresh(2), store.fresh(2), store.fresh(2)
    assert [a.tolist(), b.tolist(), c.tolist()] == [[1, 2], [3, 4], [5, 6]]
    store.unify(a, b)
    store.unify(b, c)
    classes = store.resolve().of_label
    assert classes[1] == classes[3] == classes[5] and classes[2] == classes[4] == classes[6]
    assert len({classes[0], classes[1], classes[2]}) == 3


def test_no_element_unifies_with_nothing():
    store = LabelStore()
    a = store.fresh(2)
    store.unify(a, torch.tensor([0, 1]))
    classes = store.resolve().of_label
    # Label 2 meets label 1; label 1 meets 0, «no element».
    assert classes[1] == classes[2] != classes[0]


def test_along_unifies_what_shares_an_index():
    store = LabelStore()
    store.fresh(4)
    vector = store.along(torch.tensor([[1, 2], [3, 0]]), 1)
    # Column 0 holds 1 and 3, column 1 holds 2 and nothing.
    assert vector.tolist() == [3, 2]
    classes = store.resolve().of_label
    assert classes[1] == classes[3] and classes[2] != classes[1]


def test_rows_that_are_even_already_are_left_as_they_are():
    store = LabelStore()
    table, other = store.fresh(6).view(2, 3), store.fresh(3)
    store.even(table)
    # Every row holds each of the others once, in another order.
    store.unify(table, torch.stack([other, other.roll(1)]))
    classes = store.resolve().of(table)
    assert len(set(classes.flatten().tolist())) == 3 and classes[0].tolist() == classes[1, [1, 2, 0]].tolist()


def test_uneven_rows_are_unified_in_their_order():
    store = LabelStore()
    table = store.fresh(8).view(2, 4)
    store.even(table)
    # 2 of the first row and 5 of the second are one, even; what is left are 1, 3, 4 and 6, 7, 8.
    store.unify(table[0, 1:2], table[1, :1])
    classes = store.resolve().of(table)
    assert classes[0, 1] == classes[1, 0]
    assert classes[0, [0, 2, 3]].tolist() == classes[1, 1:].tolist()
    assert len(set(classes.flatten().tolist())) == 4


def test_freezing_names_each_label_once():
    store = LabelStore()
    reason = FreezeReason('layer', 'why')
    store.freeze(torch.tensor([3, 0, 3, 2]), reason)
    store.freeze(torch.tensor([0]), reason)
    ((labels, found),) = store.resolve().frozen
    assert labels.tolist() == [2, 3] and found is reason
