"""The digits as a COCO data set, read by the loaders that detectors train with."""

import contextlib
import hashlib
import io
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import mmdms  # noqa: F401  (mmyolo can be imported after it)
from mmdms.errors import ConfigError
from mmdms.openmmlab.datasets import digits_coco
from mmdms.openmmlab.datasets.digits import load_digits_split
from mmdms.openmmlab.datasets.digits_coco import MAX_OVERLAP, DigitsCocoSettings, make_digits_coco

SMALL = DigitsCocoSettings(size=96, train=12, val=6)
CLASSES = tuple('0123456789')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'digits'
    assert make_digits_coco(folder, SMALL) is True
    return folder


def content(folder):
    """Hash of every file."""
    files = (path for path in Path(folder).rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def annotations(folder, split):
    return json.loads((folder / 'annotations' / f'instances_{split}.json').read_text())


def test_same_settings_same_bytes(made, tmp_path):
    make_digits_coco(tmp_path / 'again', SMALL)
    assert content(tmp_path / 'again') == content(made)
    other = DigitsCocoSettings(size=96, train=12, val=6, seed=1)
    make_digits_coco(tmp_path / 'other', other)
    names = [name for name in content(made) if name.endswith('.png')]
    assert len(names) == 18
    assert all(content(tmp_path / 'other')[name] != content(made)[name] for name in names)


def test_found_ready(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob('*')}
    assert make_digits_coco(made, SMALL) is False
    assert {path: path.stat().st_mtime_ns for path in made.rglob('*')} == before


@pytest.mark.parametrize('split', ['train', 'val'])
def test_loads_in_pycocotools(made, split):
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(made / 'annotations' / f'instances_{split}.json'))
    assert len(coco.getImgIds()) == getattr(SMALL, split)
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = cv2.imread(str(made / split / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3) == (96, 96, 3)
        boxes = [a['bbox'] for a in coco.loadAnns(coco.getAnnIds(image['id']))]
        assert 1 <= len(boxes) <= SMALL.max_digits
        for x, y, width, height in boxes:
            assert 0 <= x and x + width <= 96 and 0 <= y and y + height <= 96 and min(width, height) >= 3
    assert all(a['area'] == a['bbox'][2] * a['bbox'][3] and a['iscrowd'] == 0 for a in coco.anns.values())


def test_loads_in_mmdet_and_mmyolo(made):
    from mmdet.datasets import CocoDataset
    from mmyolo.datasets import YOLOv5CocoDataset

    listed = annotations(made, 'val')
    for kind in (CocoDataset, YOLOv5CocoDataset):
        dataset = kind(
            data_root=str(made),
            ann_file='annotations/instances_val.json',
            data_prefix=dict(img='val/'),
            metainfo=dict(classes=CLASSES),
        )
        assert len(dataset) == SMALL.val
        info = dataset.get_data_info(0)
        assert cv2.imread(info['img_path']) is not None
        own = [a for a in listed['annotations'] if a['image_id'] == info['img_id']]
        assert [i['bbox_label'] for i in info['instances']] == [a['category_id'] - 1 for a in own]
        assert [i['bbox'] for i in info['instances']] == [
            [x, y, x + w, y + h] for x, y, w, h in (a['bbox'] for a in own)
        ]


def test_boxes_are_tight_and_labels_right(monkeypatch):
    """On an empty canvas without noise, the ink itself tells where the digits are."""
    monkeypatch.setattr(digits_coco, '_clutter', lambda *args: None)
    monkeypatch.setattr(digits_coco, '_background', lambda size, rng: (np.zeros((size, size, 3), np.float32), 0.0))
    monkeypatch.setattr(digits_coco, '_contrasting', lambda *args: np.full(3, 250.0))
    images = load_digits_split('train')[0]
    settings = DigitsCocoSettings(size=96, max_digits=1, seed=3)
    rng = np.random.RandomState(3)
    for _ in range(20):
        canvas, [(index, box)] = digits_coco.draw_canvas(images, settings, rng)
        inked = (canvas.mean(2) > 0.4 * 250).nonzero()
        noise = 1.5  # pixels by which noise may move the threshold
        found = [inked[1].min(), inked[0].min(), np.ptp(inked[1]) + 1, np.ptp(inked[0]) + 1]
        assert np.abs(np.subtract(found, box)).max() <= noise
        # The ink in the box looks like the digit that is said to be there.
        x, y, width, height = box
        digit = images[index].astype(np.float32)
        shown = cv2.resize(canvas[y : y + height, x : x + width].mean(2), (8, 8), interpolation=cv2.INTER_AREA)
        tight = digit[(digit > 100).any(1)][:, (digit > 100).any(0)]
        expected = cv2.resize(tight, (8, 8), interpolation=cv2.INTER_LINEAR)
        assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.7


def test_boxes_hardly_overlap_and_sizes_vary(made):
    boxes: dict[int, list] = {}
    for annotation in annotations(made, 'train')['annotations']:
        boxes.setdefault(annotation['image_id'], []).append(annotation['bbox'])
    heights = [box[3] for found in boxes.values() for box in found]
    assert min(heights) < 0.2 * 96 and max(heights) > 0.35 * 96
    for found in boxes.values():
        for position, (x, y, w, h) in enumerate(found):
            for left, top, width, height in found[:position]:
                shared = max(0, min(x + w, left + width) - max(x, left)) * max(
                    0, min(y + h, top + height) - max(y, top)
                )
                assert shared <= MAX_OVERLAP * min(w * h, width * height)


def test_val_shows_digits_of_the_test_split(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(digits_coco, 'load_digits_split', lambda s: asked.append(s) or load_digits_split(s))
    make_digits_coco(tmp_path / 'd', DigitsCocoSettings(size=64, train=1, val=1))
    assert asked == ['train', 'test']


def test_a_failure_leaves_nothing(monkeypatch, tmp_path):
    calls = []

    def fail(path, *args):
        calls.append(path)
        return len(calls) < 4

    monkeypatch.setattr(digits_coco.cv2, 'imwrite', fail)
    with pytest.raises(ConfigError, match='cannot write the digits'):
        make_digits_coco(tmp_path / 'd', SMALL)
    assert list(tmp_path.iterdir()) == []


def test_other_settings_need_overwrite(tmp_path):
    first, second = (DigitsCocoSettings(size=64, train=2, val=1, seed=seed) for seed in (0, 1))
    folder = tmp_path / 'd'
    make_digits_coco(folder, first)
    before = content(folder)
    with pytest.raises(ConfigError, match="'seed': 0.*pass --overwrite"):
        make_digits_coco(folder, second)
    assert content(folder) == before
    assert make_digits_coco(folder, second, overwrite=True) is True
    assert content(folder) != before and list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(ConfigError, match='is no data set of digits'):
        make_digits_coco(tmp_path, SMALL, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        (dict(size=32), 'size of the digits must be a whole number from 64 on, but it is 32'),
        (dict(train=0), 'train of the digits'),
        (dict(scales=(0.5, 0.2)), 'two rising shares'),
        (dict(scales=(0.01, 0.2)), '0.0625'),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ConfigError, match=message):
        DigitsCocoSettings(**setting)


def test_the_tool(monkeypatch, capsys, tmp_path):
    script = str(Path(__file__).parents[2] / 'tools' / 'make_digits_coco.py')
    arguments = [script, '--out', str(tmp_path / 'd'), '--size', '64', '--train', '2', '--val', '1']
    monkeypatch.setattr(sys, 'argv', arguments)
    runpy.run_path(script, run_name='__main__')
    assert 'wrote' in capsys.readouterr().out
    runpy.run_path(script, run_name='__main__')
    assert 'already there' in capsys.readouterr().out
    assert len(annotations(tmp_path / 'd', 'train')['images']) == 2
