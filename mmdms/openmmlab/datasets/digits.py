"""Real handwritten digits that come with scikit-learn: 1,797 images of 8x8."""

from typing import Any

import mmcv
import numpy as np
from mmpretrain.datasets import BaseDataset

from mmdms.errors import MissingDependencyError

from ..registries import DATASETS

NUM_TRAIN = 1200


def load_digits_split(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Load one side of the fixed split.

    The split is a random permutation, seeded once and for all: its first
    1,200 images train, the other 597 test. ``RandomState`` because its stream
    is frozen, so that the split stays the same over versions of numpy.

    Args:
        split (str): ``'train'`` or ``'test'``.

    Returns:
        tuple: Images (N, 8, 8), uint8 in [0, 255], and labels (N,), int64.
    """
    if split not in ('train', 'test'):
        raise ValueError(f"split is 'train' or 'test', got {split!r}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            'the digits come with scikit-learn, which is not installed: run `pip install scikit-learn`'
        ) from error
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    chosen = order[:NUM_TRAIN] if split == 'train' else order[NUM_TRAIN:]
    # The file counts 16 shades, 0 to 16.
    images = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    return images, digits.target[chosen].astype(np.int64)


@DATASETS.register_module()
class DigitsDataset(BaseDataset):
    """Scikit-learn's digits as RGB images, for mmpretrain's pipelines.

    Each item has ``img`` (H, W, 3), uint8, and ``gt_label``, as those of
    mmpretrain's CIFAR10 have, so a pipeline starts without ``LoadImageFromFile``.

    Args:
        split (str): ``'train'`` (1,200 images) or ``'test'`` (597).
        img_size (int): Height and width to enlarge to, bilinearly.
        **kwargs: Arguments of mmpretrain's ``BaseDataset``.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, split: str = 'train', img_size: int = 32, **kwargs: Any) -> None:
        self.split = split
        self.img_size = img_size
        kwargs.setdefault('ann_file', '')
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        """Enlarge all images once: they take 5 MB."""
        images, labels = load_digits_split(self.split)
        size = (self.img_size, self.img_size)
        return [
            dict(img=np.repeat(mmcv.imresize(image, size)[..., None], 3, axis=2), gt_label=int(label))
            for image, label in zip(images, labels)
        ]

    def extra_repr(self) -> list[str]:
        """Lines that mmpretrain prints for a dataset."""
        return [f'Split: \t{self.split}', f'Image size: \t{self.img_size}']
