"""Run a network with gradients on, without the memory of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar('Result')


def with_gradients(run: Callable[[], Result], again: Callable[[], Result] | None = None) -> Result:
    """What ``run`` returns with gradients on; what operations save for a backward pass is let go.

    A network that runs backward passes of its own in its forward is run once more, with all that it saves: by
    ``again``, or by ``run`` if that is None.
    """
    with torch.enable_grad():
        try:
            with torch.autograd.graph.saved_tensors_hooks(_drop, _dropped):
                return run()
        except RuntimeError as error:
            if DROPPED not in str(error):
                raise
        return (again or run)()


DROPPED = 'was let go, as no backward pass was expected'


def _drop(saved: Tensor) -> None:
    return None


def _dropped(saved: None) -> Tensor:
    raise RuntimeError(f'a tensor that was saved for a backward pass {DROPPED}')
