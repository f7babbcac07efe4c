"""Real handwritten digits as a COCO data set: a detection task that needs no download."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np

from ...errors import ConfigError
from .digits import load_digits_split

SETTINGS = 'settings.json'
FORMAT = dict(type='mmdms.digits_coco', version=1)
SPLITS = {'train': 'train', 'val': 'test'}
"""Split of the data set: that of the digits which it shows. No digit is in both."""

INK = 0.4
"""A pixel belongs to a digit where at least this share of its colour is ink."""

MAX_OVERLAP = 0.15
"""Share of the smaller of two boxes that the other may cover."""


@dataclasses.dataclass(frozen=True)
class DigitsCocoSettings:
    """What a data set is made from; equal settings give equal bytes.

    Args:
        size: height and width of an image, in pixels.
        train, val: number of images of either split.
        max_digits: most digits of an image, of which there are 1 or more.
        scales: smallest and largest height of a digit, as shares of ``size``.
        seed: of everything random.

    Raises:
        ConfigError: for a value out of range; the message names it.
    """

    size: int = 128
    train: int = 500
    val: int = 200
    max_digits: int = 6
    scales: tuple[float, float] = (0.14, 0.45)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in dict(size=64, train=1, val=1, max_digits=1, seed=0).items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f'{name} of the digits must be a whole number from {least} on, but it is {value!r}')
        small, large = self.scales
        if not 8 / self.size <= small <= large <= 0.9:
            raise ConfigError(
                f'scales of the digits must be two rising shares from {8 / self.size:g} (8 pixels) to 0.9, '
                f'but they are {self.scales!r}'
            )

    def to_dict(self) -> dict:
        """As :data:`SETTINGS` holds them."""
        return {**FORMAT, **dataclasses.asdict(self), 'scales': list(self.scales)}


def make_digits_coco(folder: str | Path, settings: DigitsCocoSettings, overwrite: bool = False) -> bool:
    """Write a COCO data set of digits on cluttered canvases.

    ``folder`` gets ``train/`` and ``val/`` (PNG), ``annotations/instances_train.json``,
    ``annotations/instances_val.json`` and ``settings.json``, all of it or nothing.

    Args:
        folder: where to; its parents are made.
        settings: what to make.
        overwrite: replace a data set of other settings.

    Returns:
        Whether anything was written: False if the same data set is there already.

    Raises:
        ConfigError: if ``folder`` holds something else, or cannot be written.
    """
    folder = Path(folder)
    if _made_of(folder) == settings.to_dict():
        return False
    if folder.exists():
        if _made_of(folder) is None and not (folder.is_dir() and not any(folder.iterdir())):
            raise ConfigError(f'{str(folder)!r} holds something that is no data set of digits: name another folder')
        if _made_of(folder) is not None and not overwrite:
            raise ConfigError(
                f'{str(folder)!r} holds digits of other settings, {_made_of(folder)}: '
                'name another folder, or pass --overwrite'
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}-') as temporary:
            made = Path(temporary) / 'made'
            (made / 'annotations').mkdir(parents=True)
            for position, split in enumerate(SPLITS):
                _write_split(made, split, settings, np.random.RandomState([settings.seed, position]))
            (made / SETTINGS).write_text(json.dumps(settings.to_dict(), indent=2) + '\n', encoding='utf-8')
            if folder.exists():
                os.replace(folder, Path(temporary) / 'old')
            os.replace(made, folder)
    except OSError as error:
        raise ConfigError(f'cannot write the digits to {str(folder)!r}: {error}') from error
    return True


def draw_canvas(
    images: np.ndarray, settings: DigitsCocoSettings, rng: np.random.RandomState
) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """Draw one image.

    Args:
        images: digits to choose from, (N, 8, 8), uint8.
        settings: size and scales.
        rng: moved on.

    Returns:
        The image (size, size, 3), uint8, and for every digit on it its index in
        ``images`` and its box ``[x, y, width, height]`` in pixels.
    """
    size = settings.size
    canvas, ground = _background(size, rng)
    _clutter(canvas, images, rng)
    found: list[tuple[int, list[int]]] = []
    for _ in range(rng.randint(1, settings.max_digits + 1)):
        index = int(rng.randint(len(images)))
        # Small digits are as frequent per octave as large ones.
        height = size * np.exp(rng.uniform(*np.log(settings.scales)))
        ink = _enlarged(images[index], int(round(height * rng.uniform(0.85, 1.15))), int(round(height)))
        box = _tight_box(ink)
        ink = ink[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
        place = _free_place(size, ink.shape, [other for _, other in found], rng)
        if place is None:
            continue
        x, y = place
        _blend(canvas[y : y + box[3], x : x + box[2]], ink, _contrasting(ground, rng, 60, 170))
        found.append((index, [x, y, box[2], box[3]]))
    canvas += rng.normal(0, rng.uniform(2, 12), canvas.shape).astype(np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), found


def _write_split(folder: Path, split: str, settings: DigitsCocoSettings, rng: np.random.RandomState) -> None:
    images, labels = load_digits_split(SPLITS[split])
    (folder / split).mkdir()
    listed: list[dict] = []
    annotations: list[dict] = []
    for number in range(1, getattr(settings, split) + 1):
        canvas, digits = draw_canvas(images, settings, rng)
        name = f'{number:06d}.png'
        if not cv2.imwrite(str(folder / split / name), canvas, [cv2.IMWRITE_PNG_COMPRESSION, 6]):
            raise OSError(f'{name} could not be written')
        listed.append(dict(id=number, file_name=name, width=settings.size, height=settings.size))
        for index, box in digits:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=int(labels[index]) + 1,  # 0 is no category in COCO
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
            )
    content = dict(
        info=dict(description="scikit-learn's handwritten digits on canvases", version=str(FORMAT['version'])),
        images=listed,
        annotations=annotations,
        categories=[dict(id=digit + 1, name=str(digit), supercategory='digit') for digit in range(10)],
    )
    (folder / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content), encoding='utf-8')


def _background(size: int, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """A canvas (size, size, 3) that slowly changes its colour, float32, and its mean colour (3,)."""
    ground = rng.uniform(40, 215) + rng.uniform(-25, 25, 3)
    corners = (ground + rng.uniform(-25, 25, (2, 2, 3))).astype(np.float32)
    return cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR), ground


def _clutter(canvas: np.ndarray, images: np.ndarray, rng: np.random.RandomState) -> None:
    """Draw lines, and pieces of strokes cut out of digits: ink that is no digit."""
    size = len(canvas)
    ground = canvas.mean((0, 1))
    for _ in range(rng.randint(0, 4)):
        ends = rng.randint(0, size, (2, 2)).tolist()
        colour = _contrasting(ground, rng, 15, 90).tolist()
        cv2.line(canvas, ends[0], ends[1], colour, int(rng.randint(1, 3)), cv2.LINE_AA)
    for _ in range(rng.randint(0, 7)):
        top, left = rng.randint(0, 5, 2)
        piece = images[rng.randint(len(images))][top : top + 4, left : left + 4]
        height, width = rng.randint(size // 16, size // 6 + 1, 2)
        y, x = rng.randint(0, size - height), rng.randint(0, size - width)
        ink = _enlarged(piece, int(width), int(height))
        _blend(canvas[y : y + height, x : x + width], ink, _contrasting(ground, rng, 30, 150))


def _contrasting(ground: np.ndarray, rng: np.random.RandomState, least: float, most: float) -> np.ndarray:
    """A colour (3,) that is lighter or darker than ``ground`` by ``least`` to ``most`` levels, where these fit."""
    level = ground.mean()
    room = 255 - level if (level < 128) == (rng.uniform() < 0.9) else level
    sign = 1 if room == 255 - level else -1
    step = min(rng.uniform(least, most), max(room, least))
    return np.clip(level + sign * step + rng.uniform(-20, 20, 3), 0, 255)


def _enlarged(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Share of ink per pixel (height, width), float32 in [0, 1], of an image of uint8."""
    ink = cv2.resize(image.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_CUBIC)
    # A steeper slope than interpolation gives: strokes have edges.
    return np.clip((ink - 0.3) * 2, 0, 1)


def _tight_box(ink: np.ndarray) -> list[int]:
    """``[x, y, width, height]`` around the pixels that are ink."""
    rows, columns = np.flatnonzero((ink >= INK).any(1)), np.flatnonzero((ink >= INK).any(0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def _free_place(
    size: int, shape: tuple[int, ...], boxes: list[list[int]], rng: np.random.RandomState
) -> tuple[int, int] | None:
    """``(x, y)`` of a box of ``shape`` (height, width) that hardly overlaps others; None after 20 misses."""
    height, width = shape
    for _ in range(20):
        x, y = int(rng.randint(0, size - width + 1)), int(rng.randint(0, size - height + 1))
        if all(_overlap([x, y, width, height], other) <= MAX_OVERLAP for other in boxes):
            return x, y
    return None


def _overlap(one: list[int], other: list[int]) -> float:
    """Intersection of two boxes as a share of the smaller."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(across, 0) * max(down, 0) / min(one[2] * one[3], other[2] * other[3])


def _blend(canvas: np.ndarray, ink: np.ndarray, colour: np.ndarray) -> None:
    canvas += ink[..., None] * (colour.astype(np.float32) - canvas)


def _made_of(folder: Path) -> dict | None:
    """Settings of the data set in a folder; None if there is none."""
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get('type') == FORMAT['type'] else None
