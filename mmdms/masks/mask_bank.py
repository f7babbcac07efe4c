"""The current masks of one network, gathered for all places that want them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ops.products import gather_masks
from ..space.search_space import FIXED
from .followed import Followed


class MaskBank(Followed):
    """The current masks, shared by all instrumented modules of one network.

    ``values`` has shape (elements,); ``None`` switches masking off. ``token``
    is what the one who set them knows them by, if they are plain numbers and will stay
    for several forward passes; ``number`` counts how often they were set.

    Every place where masks are wanted is registered once; the masks of all
    places are then gathered at once, whenever masks are set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values: Tensor | None = None
        self.token: Any = None
        self.number = 0
        self._known: Mapping[int, float] | Sequence[float] | None = None
        self._places: dict[bytes, int] = {}
        self._indices: list[Tensor] = []  # of every place, its elements
        self._index: Tensor | None = None  # of all places together
        self._masks: tuple[Tensor, ...] = ()
        self._ones: dict[tuple[int, ...], bool] = {}  # of masks that stay, by place

    def place(self, elements: Tensor) -> tuple[int, ...]:
        """Register an axis, of its elements (positions, factors); the result is what :meth:`at` takes."""
        found = []
        for factor in elements.cpu().unbind(1):
            key = factor.numpy().tobytes()
            if key not in self._places:
                self._places[key] = len(self._indices)
                self._indices.append(factor)
                self._index = None
            found.append(self._places[key])
        if self.values is not None and self._index is None:
            self._gather()
        return tuple(found)

    def set(self, values: Tensor | None, token: Any = None, known: Mapping[int, float] | None = None) -> None:
        """Use these masks from now on; ``known`` are elements whose masks are numbers, which need no gradient."""
        if values is not None and values.is_inference():  # set in inference mode, they serve a training step too
            with torch.inference_mode(False):
                values = values.clone()
        elsewhere = values is not None and self.device not in (None, values.device)
        self.values = values.to(self.device) if values is not None and elsewhere else values
        self.token = token
        self.number += 1
        self._known = known
        self._ones = {}
        self._gather()

    def at(self, place: tuple[int, ...]) -> Tensor:
        """Masks of the positions of an axis, shape (positions,)."""
        first, *others = place
        mask = self._masks[first]
        for other in others:
            mask = mask * self._masks[other]
        return mask

    def is_one(self, place: tuple[int, ...]) -> bool:
        """Whether all positions of an axis stay, of masks that stay; False of others."""
        if self.token is None:
            return False
        if place not in self._ones:
            self._ones[place] = bool((self.at(place) == 1).all())
        return self._ones[place]

    def known(self, element: int) -> float | None:
        """The mask of one element as a number, of masks that stay; None of others, which hang on a graph."""
        if self.values is None:
            return None
        if self._known is None:
            if self.token is None:
                return None
            self._known = self.values.tolist()
        return self._known.get(element) if isinstance(self._known, Mapping) else self._known[element]

    def _gather(self) -> None:
        self._masks = ()
        if self.values is None or not self._indices:
            return
        if self._index is None or self._index.device != self.values.device:
            # FIXED is -1, and the mask after that of the last element is 1.
            index = torch.cat(self._indices)
            self._index = torch.where(index == FIXED, len(self.values), index).to(self.values.device)
        # At once, and with its graph: activation checkpointing runs the forward pass without gradients first.
        with torch.inference_mode(False), torch.set_grad_enabled(self.values.requires_grad):
            self._masks = gather_masks(self.values, self._index, [len(index) for index in self._indices])

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskBank:
        # Masks of a training step hang on a graph, which cannot be copied: the copy asks for its own, or gets values.
        copied = MaskBank()
        memo[id(self)] = copied
        copied._places, copied._indices = dict(self._places), list(self._indices)
        self._copy_source(copied, memo)
        if self.values is not None and self.source is None:
            copied.set(self.values.detach().clone())
        return copied

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, '_masks': (), '_index': None, '_running': False, '_held': False, 'state': None}
        if self.source is not None:
            return {**state, 'values': None, 'token': None}  # they are asked for
        return {**state, 'values': None if self.values is None else self.values.detach()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._gather()
