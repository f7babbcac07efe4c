"""The largest scores, against a sort."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmdms.ops.magnitude import largest

SCORES = arrays(np.float32, st.integers(1, 60), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e30]))


def test_by_hand():
    scores = torch.tensor([3.0, 1.0, 2.0, 2.0, 2.0])
    assert largest(scores, 2).tolist() == [True, False, True, False, False]  # of equal ones, the first
    assert largest(scores, 4).tolist() == [True, False, True, True, True]
    assert not largest(scores, 0).any() and largest(scores, 5).all()


@given(SCORES, st.data())
def test_is_what_a_stable_sort_keeps(values, data):
    number = data.draw(st.integers(0, len(values)))
    expected = np.zeros(len(values), dtype=bool)
    expected[np.argsort(-values, kind='stable')[:number]] = True
    assert largest(torch.from_numpy(values), number).tolist() == expected.tolist()


@pytest.mark.parametrize('number', [-1, 4])
def test_number_out_of_range(number):
    with pytest.raises(ValueError, match=rf'in \[0, 3\], but it is {number}'):
        largest(torch.rand(3), number)
