import torch

from mmdms.tracing.labels import FreezeReason, LabelStore, canonical, compact, no_labels, varying_dims


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


def test_freezing_names_each_label_once():
    store = LabelStore()
    reason = FreezeReason('layer', 'why')
    store.freeze(torch.tensor([3, 0, 3, 2]), reason)
    store.freeze(torch.tensor([0]), reason)
    ((labels, found),) = store.resolve().frozen
    assert labels.tolist() == [2, 3] and found is reason
