"""Find the input size that a config trains or tests at."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from ..errors import ConfigError
from .architecture import check_input_shape

SIZE_KEYS = ('crop_size', 'scale', 'img_scale', 'size', 'img_size')


def infer_input_shape(config: Any) -> tuple[int, int, int]:
    """``(channels, height, width)`` of one sample of a config.

    Taken from, in this order: ``model.input_shape``, the last step of the test
    pipeline that gives an image a size, the size that the data set gives. There
    are as many channels as the data preprocessor has means; 3 without any. Where it
    pads images to a multiple (of 32, for most detectors), so is this size.

    Raises:
        ConfigError: if none of them tells.
    """
    model = config.get('model') or {}
    if model.get('input_shape'):
        return check_input_shape(model['input_shape'])
    if isinstance(model.get('architecture'), dict):
        model = model['architecture']
    size = model.get('backbone', {}).get('img_size') if isinstance(model.get('backbone'), dict) else None
    for key in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = (config.get(key) or {}).get('dataset') or {}
        sizes = [found for step in dataset.get('pipeline') or [] for found in _sizes(step)]
        if sizes:
            size = sizes[-1] if isinstance(sizes[-1], int) else tuple(sizes[-1])[::-1]  # pipelines say width first
            break
        if 'CIFAR' in str(dataset.get('type')):
            size = 32
            break
        if dataset.get('img_size'):
            size = dataset['img_size']
            break
    if size is None:
        raise ConfigError('the config does not tell its input size: give --input-shape 3 HEIGHT WIDTH')
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    preprocessor = config.get('data_preprocessor') or model.get('data_preprocessor') or {}
    mean, divisor = preprocessor.get('mean') or (0.0,) * 3, preprocessor.get('pad_size_divisor') or 1
    return len(mean), ceil(height / divisor) * divisor, ceil(width / divisor) * divisor


def _sizes(step: Any) -> Iterator[Any]:
    if not isinstance(step, dict):
        return
    for key in SIZE_KEYS:
        value = step.get(key)
        if isinstance(value, int) or (isinstance(value, (tuple, list)) and len(value) == 2):
            yield value
    if isinstance(step.get('width'), int) and isinstance(step.get('height'), int):
        yield step['width'], step['height']
    for inner in step.get('transforms') or []:
        yield from _sizes(inner)
