"""The list of configs that a sweep walks, and of the folders that it leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ZOO = FOLDER / 'mmpretrain.txt'
LEFT_OUT = FOLDER / 'left_out.txt'
DETECTORS = FOLDER / 'detectors.txt'
KINDS = ('convolutional', 'transformer', 'hybrid', 'one-stage', 'two-stage', 'detr')


@dataclass(frozen=True)
class Entry:
    """One line of the list.

    Attributes:
        config: such as ``'mmpretrain::resnet/resnet18_8xb32_in1k.py'``.
        kind: one of ``KINDS``; says which share of the FLOPs must be prunable.
        input_shape: ``(channels, height, width)``; what the config says if None.
    """

    config: str
    kind: str
    input_shape: tuple[int, int, int] | None = None

    @property
    def folder(self) -> str:
        """Folder of the config inside its package's zoo, such as ``'beit/benchmarks'``."""
        return self.config.partition('::')[2].rpartition('/')[0]

    @property
    def listed_shape(self) -> str:
        """The shape as the list gives it; empty if it does not."""
        return ' '.join(map(str, self.input_shape or ()))


def read_zoo(path: str | Path = ZOO) -> list[Entry]:
    """Entries of a list, in its order.

    Raises:
        ValueError: for a line that is no entry, or a config that is listed twice.
    """
    entries: dict[str, Entry] = {}
    for number, line in _lines(path):
        words = line.split()
        where = f'{path}:{number}: {line!r}'
        if len(words) not in (2, 5) or words[1] not in KINDS or '::' not in words[0]:
            raise ValueError(
                f'{where} is no entry: write package::family/config.py, one of {", ".join(KINDS)}, '
                'and optionally the channels, height and width of the input'
            )
        if not all(word.isdecimal() and int(word) for word in words[2:]):
            raise ValueError(f'{where} gives an input shape that is not three positive whole numbers')
        if words[0] in entries:
            raise ValueError(f'{where} is listed before: take one of both out')
        shape = (int(words[2]), int(words[3]), int(words[4])) if words[2:] else None
        entries[words[0]] = Entry(words[0], words[1], shape)
    return list(entries.values())


def read_left_out(path: str | Path = LEFT_OUT) -> dict[str, str]:
    """Folders that hold image classifiers and are left out, with the reason of each."""
    found = {}
    for number, line in _lines(path):
        folder, _, reason = line.partition(' ')
        if not reason.strip():
            raise ValueError(f'{path}:{number}: {line!r} gives no reason: write folder, space, reason')
        found[folder] = reason.strip()
    return found


def _lines(path: str | Path) -> list[tuple[int, str]]:
    """Number and text of the lines that are not empty and not comments."""
    lines = [line.partition('#')[0].strip() for line in Path(path).read_text(encoding='utf-8').splitlines()]
    return [(number, line) for number, line in enumerate(lines, 1) if line]
