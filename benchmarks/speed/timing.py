"""Time several ways in turn, in one process, and take medians of ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Step = Callable[[], Any]

WARM_UP = 3


def alternate(
    ways: dict[str, Step], rounds: int, warm_up: int = WARM_UP, device: str = 'cpu'
) -> dict[str, list[float]]:
    """Seconds of every call, all ways once per round, so that other work on the machine hits all alike."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(warm_up + rounds):
        for way, step in ways.items():
            begin = time.perf_counter()
            step()
            if device != 'cpu':
                torch.cuda.synchronize()
            if number >= warm_up:
                seconds[way].append(time.perf_counter() - begin)
    return seconds


def against(seconds: dict[str, list[float]], base: str = 'plain') -> dict[str, dict[str, float]]:
    """Median seconds per way, and the median over rounds of its ratio to ``base``."""
    return {
        way: dict(
            seconds=statistics.median(found),
            ratio=statistics.median(a / b for a, b in zip(found, seconds[base], strict=True)),
        )
        for way, found in seconds.items()
    }
