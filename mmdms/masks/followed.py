"""Masks that follow a mutator, however and whenever the network is called."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn


class MaskSource(Protocol):
    """Whoever finds the masks of a network: a mutator."""

    def refresh_masks(self, masks: Any) -> None:
        """Set the masks of the moment on ``masks``, unless they are there."""


class Followed:
    """Base of an object that holds the current masks of one network.

    Everything that reads a mask calls :meth:`refresh` first, and the source sets the masks of the moment. So it does
    not matter which part of the network is called, or by which method. While the network itself runs, from
    :meth:`enter` to :meth:`leave`, its masks stay as they were when it was called: a part that it runs without
    gradients (activation checkpointing, a target of the loss) sees the masks of the step.

    Masks that were set by hand are held until the network itself is called, or :meth:`release` says that the search
    has moved on. ``None``, set by hand, means that all weights are read as they are.

    A copy follows the same source as the original, unless the source is copied with it.

    Attributes:
        source: sets the masks; None: only the caller does.
        state: by which the source knows the masks that it has set.
        device: where the network was when it was last called; None before.
    """

    def __init__(self) -> None:
        self.source: MaskSource | None = None
        self.state: State | None = None
        self.device: torch.device | None = None
        self._held = False
        self._running = False

    def refresh(self) -> None:
        """Have the source set the masks of the moment."""
        if self.source is not None and not self._running and not self._held:
            self.source.refresh_masks(self)

    def hold(self) -> None:
        """Keep the masks that were set by hand."""
        self._held, self.state = True, None

    def release(self) -> None:
        """From now on, masks are those of the source again."""
        self._held = self._running = False

    def enter(self, network: nn.Module) -> None:
        """The network itself is called."""
        self.release()
        parameter = next(network.parameters(), None)
        self.device = None if parameter is None else parameter.device
        self.refresh()
        self._running = True

    def leave(self) -> None:
        """The call of the network has ended."""
        self._running = False

    def _copy_source(self, copied: Followed, memo: dict[int, Any]) -> None:
        copied.source = None if self.source is None else memo.get(id(self.source), self.source)


class NetworkCall:
    """Forward pre-hook of a network, and with :attr:`ends` its forward hook: tells its masks that it runs."""

    def __init__(self, masks: Followed, ends: bool = False) -> None:
        self.masks = masks
        self.ends = ends
        self.handle: Any = None
        """Of this hook. Where it is unpickled, PyTorch gives its number to no other hook."""

    def __call__(self, module: nn.Module, *_: Any) -> None:
        if self.ends:
            self.masks.leave()
        else:
            self.masks.enter(module)


def follow(network: nn.Module, masks: Followed, source: MaskSource) -> None:
    """Have the masks of a network, which are off now, follow a source."""
    masks.source = source
    masks.hold()
    begins, ends = NetworkCall(masks), NetworkCall(masks, ends=True)
    begins.handle = network.register_forward_pre_hook(begins)
    ends.handle = network.register_forward_hook(ends, always_call=True)


State = tuple[tuple[Any, ...], tuple[torch.Tensor, ...]]
"""What masks follow from: the first item is compared; the second keeps the tensors, and so their ids."""


def state_of(tensors: Iterable[Any], *others: Any) -> State:
    """State of masks that follow from these tensors, as they are written now, and from other values."""
    held = tuple(tensors)
    return (*others, *map(id, held), *[tensor._version for tensor in held]), held


def same_state(first: State | None, second: State) -> bool:
    """Whether nothing has changed between two states; asked by every read of a mask."""
    return first is not None and first[0] == second[0]


def gradients_wanted() -> bool:
    """Whether what runs now belongs to a pass whose gradients are wanted.

    Activation checkpointing (``use_reentrant=True``) and reversible blocks run their modules without gradients inside
    of an autograd function, and again in the backward pass: both runs need the same masks.
    """
    if torch.is_grad_enabled():
        return True
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _APPLY:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
