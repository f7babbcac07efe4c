import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdms.errors import StructureError
from mmdms.space.structure import Structure, UnitInfo

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


def row(**changes):
    return {**dict(name='conv', kind='channels', total=2, kept=[0]), **changes}


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ([], 'no mmdms structure'),
        ({'version': 1}, 'no mmdms structure'),
        (damaged(version=2), 'format version 2; this mmdms reads version 1, which a newer one wrote: update mmdms'),
        (damaged(version=0), 'format version 0; this mmdms reads version 1: export again'),
        (damaged(version=True), 'format version True; this mmdms reads version 1: export again'),
        (damaged(version='1'), "format version '1'; this mmdms reads version 1: export again"),
        (damaged(units=[{'name': 'conv'}]), r'damaged: units\[0\].kind is missing'),
        (damaged(units=3), 'damaged: "units" must be a list, but it is 3'),
        (damaged(units=[3]), r'damaged: units\[0\] must be a dict, but it is 3'),
        (damaged(units=[row(name=3)]), r'units\[0\].name must be text, but it is 3'),
        (damaged(units=[row(kind='width')]), r"units\[0\].kind must be one of .*, but it is 'width'"),
        (damaged(units=[row(kind=['depth'])]), r"units\[0\].kind must be one of .*, but it is \['depth'\]"),
        (damaged(units=[row(total='many')]), r"units\[0\].total must be a whole number from 1, but it is 'many'"),
        (damaged(units=[row(total=2.0)]), r'units\[0\].total must be a whole number from 1, but it is 2.0'),
        (damaged(units=[row(total=0, kept=[])]), r'units\[0\].total must be a whole number from 1, but it is 0'),
        (damaged(units=[row(kept='01')]), r"units\[0\].kept must be a list of whole numbers, but it is '01'"),
        (damaged(units=[row(kept=[0.0])]), r'units\[0\].kept must be a list of whole numbers, but it is \[0.0\]'),
        (damaged(units=[row(kept=[0, 0])]), 'kept indices must be distinct'),
        (damaged(units=[row(), row()]), 'names a unit twice'),
        (damaged(units=[dict(name='conv', kind='channels', total=2, kept=[2])]), 'kept indices'),
    ],
)
def test_damaged_data(data, message):
    with pytest.raises(StructureError, match=message):
        Structure.from_dict(data)


@pytest.mark.parametrize('content', [None, b'', b'{"format": ', b'\xff\xfe\x00', b'[' * 100_000])
def test_a_file_that_is_no_json(tmp_path, content):
    path = tmp_path / 'subnet.json'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StructureError, match='cannot read the structure .*subnet.json'):
        Structure.load(path)


def test_format_version_1_is_read():
    """A file as the first release wrote it: later ones must read it."""
    structure = Structure.load(Path(__file__).parents[1] / 'fixtures' / 'subnet_v1.json')
    assert structure.kept['architecture.stem'] == [0, 2, 3] and structure.kept['architecture.blocks'] == []
    assert [unit.kind for unit in structure.units] == ['channels', 'heads', 'depth']
    assert structure.mask('architecture.heads').tolist() == [False, True]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = ['format', 'version', 'units', 'name', 'kind', 'total', 'kept', 'x']


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_structure_edited_at_random_is_read_or_refused(data):
    """Some value anywhere in it becomes another, or goes, or its text is cut."""
    content = Structure(UNITS, [[0, 2], [1]]).to_dict()
    for _ in range(data.draw(st.integers(1, 3))):
        place = content
        if isinstance(content.get('units'), list) and data.draw(st.booleans()):
            rows = [item for item in content['units'] if isinstance(item, dict)]
            place = data.draw(st.sampled_from(rows)) if rows else content
        key = data.draw(st.sampled_from(KEYS))
        if data.draw(st.booleans()):
            place[key] = data.draw(JSON)
        else:
            place.pop(key, None)
    text = json.dumps(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'subnet.json'
        path.write_text(text[: data.draw(st.integers(0, len(text)))] if data.draw(st.integers(0, 3)) == 0 else text)
        try:
            structure = Structure.load(path)
        except StructureError as error:
            assert str(error)
        else:
            assert Structure.from_dict(json.loads(structure.to_json())).kept == structure.kept


@pytest.mark.parametrize(
    ('units', 'message'),
    [
        ([UNITS[0]], "unit 'blocks' is .* in the structure and absent in the network"),
        ([*UNITS, UnitInfo('new', 'channels', 2)], "unit 'new' is absent in the structure"),
        ([UnitInfo('conv', 'channels', 8), UNITS[1]], "unit 'conv' is .*total=4.* and .*total=8"),
    ],
)
def test_a_structure_of_another_network(units, message):
    with pytest.raises(StructureError, match=message):
        Structure(UNITS, [[0], [1]]).check(units)
