"""Notices a training loop in which a search does not move."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from ..errors import SearchWarning

LONG = 50
"""So many steps at one progress are more than the batches of one step, and too many to be meant."""


QUIET = 5
"""So many steps may pass without importance: a head that starts at 0, as those of vision transformers do, passes
nothing back in the first, nor while a warm-up keeps its learning rate at 0."""


class LoopWatch:
    """Warns, of each mistake once, as soon as it shows.

    Attributes:
        steps: that were taken, by this process.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._progress: float | None = None  # as it was last stated
        self._here = 0  # steps since it moved
        self._written = -1  # writes to the weights, as they were then
        self._quiet = 0  # steps in which the gradient of every mask was 0
        self._said: set[str] = set()

    def progressed(self, progress: float, attached: bool, model: nn.Module) -> None:
        """Progress is stated.

        Args:
            progress: in [0, 1].
            attached: whether the mutator is attached to an optimizer.
            model: the network with the masks.
        """
        if self._progress is not None and progress < self._progress:
            self._say(
                'back',
                f'the progress of the search went back from {self._progress:g} to {progress:g}: the structure stays '
                'until it is ahead again; give set_progress() the share of the run that is done, step / steps',
            )
        if not self.steps:
            written = sum(parameter._version for parameter in model.parameters())
            if self._progress is not None and progress > self._progress and written != self._written:
                seen = 'the optimizer that it is attached to has taken no step' if attached else 'it saw no step'
                self._say(
                    'attach',
                    f'the weights of the network have changed, and the structure has not: {seen}; call '
                    'mutator.attach(optimizer) with the optimizer that trains them, before the loop',
                )
            self._written = written
        if progress != self._progress:
            self._here = 0
        self._progress = progress

    def stepped(self) -> None:
        """The optimizer has taken a step."""
        self.steps += 1
        self._here += 1
        if self._progress is None:
            self._say(
                'progress',
                'the optimizer takes steps, and the mutator was never told how far the run is: call '
                'mutator.set_progress(step / steps) before every step, and mutator.set_progress(1.0) at the end; '
                'until then nothing becomes smaller',
            )
        elif self._here == LONG:
            self._say(
                'stuck',
                f'the progress of the search has been {self._progress:g} for {LONG} steps, and the structure moves by '
                'the progress of a step: call mutator.set_progress(step / steps) before every step',
            )

    def unmoved(self, mode_of: nn.Module) -> None:
        """A step of a search brought no gradient for the masks.

        Args:
            mode_of: the module whose mode says whether masks learn.
        """
        start = 'this step moved weights only, not the structure: '
        if not mode_of.training:
            kind = type(mode_of).__name__
            self._say(
                'mode',
                f'{start}the network is in evaluation mode ({kind}.training is False), where masks learn nothing; '
                'call train() of the network before you train it',
            )
            return
        self._say(
            'gradient',
            f'{start}no gradient reached the masks. Train the network that prepare() was given, not a copy of it; run '
            'it with gradients; and call zero_grad() before backward(), not between backward() and step()',
        )

    def without_importance(self) -> None:
        """A step brought gradients of the masks that are 0, as every step before it."""
        self._quiet += 1
        if self._quiet < QUIET:
            return
        self._say(
            'importance',
            f'the gradient of every mask is 0, for {QUIET} steps now, so nothing is learnt about the structure: look '
            'whether the loss hangs on the output of the network, and whether it is so small that its square is 0',
        )

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warnings.warn(text, SearchWarning, stacklevel=3)


def remedy(watch: LoopWatch, attached: bool, mode_of: Any) -> str:
    """What is missing in a loop that has gathered no importance."""
    if not watch.steps:
        seen = 'the optimizer that the mutator is attached to took' if attached else 'the mutator saw'
        return f'{seen} no step. Call mutator.attach(optimizer) with the optimizer that trains the weights'
    mode = 'in evaluation mode' if not mode_of.training else 'in training mode'
    return (
        f'in {watch.steps} steps no gradient reached the masks (the network is {mode} now). Train the network that '
        'prepare() was given, with model.train(), and call zero_grad() before backward()'
    )
