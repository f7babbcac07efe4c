import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdms.errors import StructureError
from mmdms.structure import Structure, UnitInfo

UNITS = [UnitInfo('conv', 'channels', 4), UnitInfo('blocks', 'depth', 2)]


def test_json_by_hand():
    text = Structure(UNITS, [[2, 0], []]).to_json()
    assert json.loads(text) == {
        'format': 'mmdms.structure',
        'version': 1,
        'units': [
            {'name': 'conv', 'kind': 'channels', 'total': 4, 'kept': [0, 2]},
            {'name': 'blocks', 'kind': 'depth', 'total': 2, 'kept': []},
        ],
    }
    assert len(text.splitlines()) == 4  # a line per unit


@given(st.sets(st.integers(0, 3), min_size=1), st.sets(st.integers(0, 1)))
def test_round_trip(tmp_path_factory, channels, blocks):
    structure = Structure(UNITS, [list(channels), list(blocks)])
    path = tmp_path_factory.mktemp('structure') / 'subnet.json'
    path.write_text(structure.to_json())
    loaded = Structure.load(path)
    assert loaded.units == UNITS
    assert loaded.kept == {'conv': sorted(channels), 'blocks': sorted(blocks)}


def test_mask_and_report():
    structure = Structure(UNITS, [[3, 1], [0]])
    np.testing.assert_array_equal(structure.mask('conv'), [False, True, False, True])
    np.testing.assert_array_equal(structure.mask('blocks'), [True, False])
    assert structure.report() == [
        dict(name='conv', kind='channels', total=4, kept=2),
        dict(name='blocks', kind='depth', total=2, kept=1),
    ]


@pytest.mark.parametrize(
    ('kept', 'message'),
    [
        ([[0, 0], []], r"'conv': kept indices must be distinct and in \[0, 4\), got \[0, 0\]"),
        ([[4], []], r"'conv': kept indices must be distinct and in \[0, 4\), got \[4\]"),
        ([[-1], []], r"'conv': kept indices must be distinct and in \[0, 4\), got \[-1\]"),
        ([[], [0]], "'conv' of kind 'channels' must keep at least 1"),
    ],
)
def test_bad_indices(kept, message):
    with pytest.raises(StructureError, match=message):
        Structure(UNITS, kept)


def test_a_depth_unit_may_lose_all_blocks():
    assert Structure(UNITS, [[0], []]).report()[1]['kept'] == 0


def test_a_name_twice():
    with pytest.raises(StructureError, match='names a unit twice'):
        Structure([UNITS[0], UNITS[0]], [[0], [1]])


def damaged(**changes):
    data = Structure(UNITS, [[0], [1]]).to_dict()
    data.update(changes)
    return data


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ([], 'no mmdms structure'),
        ({'version': 1}, 'no mmdms structure'),
        (damaged(version=2), 'format version 2; this mmdms reads version 1: update mmdms'),
        (damaged(units=[{'name': 'conv'}]), "damaged: KeyError: 'kind'"),
        (damaged(units=3), 'damaged: TypeError'),
        (damaged(units=[dict(name='conv', kind='channels', total='many', kept=[0])]), 'damaged: ValueError'),
        (damaged(units=[dict(name='conv', kind='channels', total=2, kept=[2])]), 'kept indices'),
    ],
)
def test_damaged_data(data, message):
    with pytest.raises(StructureError, match=message):
        Structure.from_dict(data)


@pytest.mark.parametrize('content', [None, b'{"format": ', b'\xff\xfe\x00'])
def test_a_file_that_is_no_json(tmp_path, content):
    path = tmp_path / 'subnet.json'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StructureError, match='cannot read the structure .*subnet.json'):
        Structure.load(path)


@pytest.mark.parametrize(
    ('units', 'message'),
    [
        ([UNITS[0]], "unit 'blocks' is .* in the structure and absent in the network"),
        ([*UNITS, UnitInfo('new', 'channels', 1)], "unit 'new' is absent in the structure"),
        ([UnitInfo('conv', 'channels', 8), UNITS[1]], "unit 'conv' is .*total=4.* and .*total=8"),
    ],
)
def test_a_structure_of_another_network(units, message):
    with pytest.raises(StructureError, match=message):
        Structure(UNITS, [[0], [1]]).check(units)
