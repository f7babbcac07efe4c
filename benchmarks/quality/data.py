"""The canvases task: find the one large digit among clutter.

Plain 8x8 digits are too easy for the size of a network to matter. Here each
image is a 32x32 canvas that holds one digit, enlarged 1.75 to 3 times at a
random place and contrast, and four clutter crops (3 to 5 pixels a side,
enlarged 1.5 to 2.5 times) of other digits. Everything is merged by maximum.

All objects of a batch are drawn at once: an enlarged crop is
``rows @ crop @ columns.T``, where the two matrices hold the bilinear weights of
every canvas line. A batch of 64 takes 2 ms on one thread, so training canvases
are drawn fresh and never repeat.
"""

import functools

import torch
from sklearn.datasets import load_digits

SIZE = 32  # pixels a side of a canvas
SOURCE = 8  # pixels a side of a digit
CLASSES = 10
CLUTTER = 4  # crops per canvas
DIGIT_SCALE = (1.75, 3.0)
CLUTTER_SCALE = (1.5, 2.5)
CLUTTER_SIDE = (3, 5)  # pixels, both included
DIGIT_CONTRAST = (0.5, 1.0)
CLUTTER_CONTRAST = (0.3, 0.65)
TRAIN_DIGITS = 1200
TEST_CANVASES = 2000
SPLIT_SEED = 0
TEST_SEED = 12345


@functools.lru_cache(maxsize=1)
def load_split():
    """Return ``{'train': (images, labels), 'test': ...}``: 1,200 and 597 digits in [0, 1] by a fixed shuffle."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, test = order[:TRAIN_DIGITS], order[TRAIN_DIGITS:]
    return {'train': (images[train], labels[train]), 'test': (images[test], labels[test])}


def _uniform(shape, bounds, generator):
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)


def _interpolation(start, scale, first, side):
    """Bilinear weights (N, SIZE, SOURCE) that draw pixels ``first .. first + side - 1`` at ``start``, enlarged.

    Canvas pixels outside the enlarged crop get zero weights; those at its rim repeat its outermost pixel.
    """
    canvas = torch.arange(SIZE) + 0.5
    position = (canvas - start[:, None]) / scale[:, None]  # in crop pixels, from the crop's edge
    inside = (position >= 0) & (position < side[:, None])
    centre = torch.minimum(position.sub(0.5).clamp(min=0), side[:, None] - 1) + first[:, None]
    weights = (1 - (centre[:, :, None] - torch.arange(SOURCE)).abs()).clamp(min=0)
    return weights * inside[:, :, None]


def _draw(images, scale, side, contrast, generator):
    """Draw a random ``side`` x ``side`` crop of every image, enlarged, at a random place that holds it whole."""
    axes = []
    for _ in range(2):
        first = (torch.rand(len(images), generator=generator) * (SOURCE - side + 1)).floor()
        start = torch.rand(len(images), generator=generator) * (SIZE - side * scale)
        axes.append(_interpolation(start, scale, first, side))
    contrast = _uniform((len(images), 1, 1), contrast, generator)
    return axes[0] @ images @ axes[1].transpose(1, 2) * contrast


def draw_canvases(images, labels, count, generator):
    """Draw ``count`` canvases from the given digits.

    Args:
        images (Tensor): Digits of shape (N, 8, 8) in [0, 1].
        labels (Tensor): Their classes, of shape (N, ).
        count (int): Canvases to draw.
        generator (torch.Generator): The only source of randomness.

    Returns:
        tuple[Tensor, Tensor]: Canvases (count, 3, 32, 32) in [0, 1], grey
        repeated over three channels without a copy, and their labels.
    """
    chosen = torch.randint(len(images), (count,), generator=generator)
    others = torch.randint(1, len(images), (count, CLUTTER), generator=generator)
    others = ((chosen[:, None] + others) % len(images)).flatten()  # never the digit itself
    scale, side = _uniform(count, DIGIT_SCALE, generator), torch.full((count,), SOURCE)
    digit = _draw(images[chosen], scale, side, DIGIT_CONTRAST, generator)
    low, high = CLUTTER_SIDE
    side = torch.randint(low, high + 1, (count * CLUTTER,), generator=generator)
    scale = _uniform(count * CLUTTER, CLUTTER_SCALE, generator)
    clutter = _draw(images[others], scale, side, CLUTTER_CONTRAST, generator)
    clutter = clutter.view(count, CLUTTER, SIZE, SIZE).amax(1)
    canvases = torch.maximum(digit, clutter)[:, None]
    return canvases.expand(-1, 3, -1, -1), labels[chosen]


class TrainStream:
    """An endless stream of training batches, the same for the same seed.

    Args:
        seed (int): Seed of the stream.
        batch_size (int): Canvases per batch.
    """

    def __init__(self, seed, batch_size=64):
        self.images, self.labels = load_split()['train']
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        return self

    def __next__(self):
        return draw_canvases(self.images, self.labels, self.batch_size, self.generator)


@functools.lru_cache(maxsize=2)
def test_canvases(count=TEST_CANVASES):
    """The fixed test canvases and their labels, drawn from the test digits only."""
    return draw_canvases(*load_split()['test'], count, torch.Generator().manual_seed(TEST_SEED))
