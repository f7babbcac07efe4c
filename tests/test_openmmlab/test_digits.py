import sys

import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.evaluation import Accuracy

from mmdms.errors import MissingDependencyError
from mmdms.openmmlab.datasets import DigitsDataset
from mmdms.openmmlab.datasets.digits import load_digits_split


def test_split_is_fixed_and_complete():
    from sklearn.datasets import load_digits

    train, train_labels = load_digits_split('train')
    test, test_labels = load_digits_split('test')
    assert train.shape == (1200, 8, 8) and test.shape == (597, 8, 8)
    # Every image of scikit-learn's is on exactly one side.
    everything = sorted(image.tobytes() for image in np.concatenate([train, test]))
    shades = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert everything == sorted(image.tobytes() for image in shades)
    # The split of 2026: were it to change, published accuracies would no longer compare.
    assert train_labels[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]
    assert np.bincount(train_labels).min() > 100 and np.bincount(test_labels).min() > 40


def test_images_are_enlarged_rgb():
    item = DigitsDataset(split='test')[0]
    small, labels = load_digits_split('test')
    assert item['img'].shape == (32, 32, 3) and item['img'].dtype == np.uint8
    assert item['gt_label'] == labels[0]
    assert (item['img'] == item['img'][..., :1]).all()
    # Bilinear enlargement by a whole factor keeps the mean, but for clamping at the border.
    assert item['img'].mean() == pytest.approx(small[0].mean(), rel=0.05)


def test_image_size():
    assert DigitsDataset(split='test', img_size=64, indices=1)[0]['img'].shape == (64, 64, 3)


def test_resolves_from_another_scope_and_packs():
    config = dict(type='mmdms.DigitsDataset', split='test', indices=8, pipeline=[dict(type='PackInputs')])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = DATASETS.build(config)
    assert len(dataset) == 8 and dataset.CLASSES == tuple('0123456789')
    item = dataset[0]
    assert tuple(item['inputs'].shape) == (3, 32, 32)
    sample = item['data_samples'].set_pred_label(item['data_samples'].gt_label)
    metric = Accuracy()
    metric.process({}, [sample.to_dict()])
    assert metric.evaluate(1) == {'accuracy/top1': 100.0}


def test_unknown_split():
    with pytest.raises(ValueError, match="'train' or 'test', got 'val'"):
        DigitsDataset(split='val')


def test_without_sklearn(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(MissingDependencyError, match='pip install scikit-learn'):
        load_digits_split('train')
