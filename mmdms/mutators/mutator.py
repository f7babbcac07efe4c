"""What an algorithm, its hook and its optimizer constructor ask of any mutator."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import ConfigError
from ..masks.channel_masks import has_masks, refuse_masks
from ..masks.followed import Followed
from ..space.search_space import SearchSpace
from .loop_watch import LoopWatch

SEARCH_VERSION = 1
"""Format of what a search keeps in checkpoints; PyTorch writes it there as ``_version`` of the mutator."""

SpaceOf = Callable[[nn.Module, Iterable[str], Iterable[str]], SearchSpace]
"""``space_of(model, include, exclude)``."""


class Mutator(nn.Module):
    """Masks a network while it trains.

    :meth:`survey` and :meth:`prepare` once, :meth:`attach` to the optimizer, then :meth:`set_progress` before every
    step. The parameters of the network keep their names. :meth:`remove` takes the masks off again.

    A copy of the network (``copy.deepcopy``, ``AveragedModel``) follows the search of the original: it always runs
    under the masks that the original has in evaluation, and teaches the search nothing. A copy of network and mutator
    together, and what is unpickled, is a search of its own, which no optimizer moves until it is attached.

    Args:
        check_ranks_every: in a distributed run, steps between two checks that all processes
            hold the same masks; they cost one small collective each. 0: never.

    Attributes:
        settled: whether the masks are as they will be exported.
        masks: what is installed on the network.
        needs_weights: whether masks follow from how the weights learn, so that these must not be frozen.
        evaluate_hard: whether evaluation makes soft masks hard; norm statistics are then not those of the network.
        loss_scale: of mixed precision, by which the gradients of this step are multiplied.

    Raises:
        ConfigError: for values out of range; the message names the key.
    """

    _version = SEARCH_VERSION  # PyTorch writes it beside the state, and `read_checkpoint` looks at it
    schedule_type: type  # dataclass of what `schedule` takes

    needs_weights = False

    settled: Tensor
    masks: Any
    schedule: Any

    def __init__(self, check_ranks_every: int = 100) -> None:
        super().__init__()
        if type(check_ranks_every) is not int or check_ranks_every < 0:
            raise ConfigError(
                f'mutator.check_ranks_every must be a number of steps, or 0 for never, but it is {check_ranks_every!r}'
            )
        self.check_ranks_every = check_ranks_every
        self.progress = 0.0
        self.loss_scale = 1.0
        self.evaluate_hard = False
        self.attached = False
        self.watch = LoopWatch()
        self._optimizer: Any = None  # weak reference to the optimizer that is followed
        self._known: Any = weakref.WeakSet()  # optimizers that have our hooks
        self._numbers: dict[str, tuple[Tensor, int, Any]] = {}  # of buffers of one element, as last read
        self.register_load_state_dict_post_hook(_follow_again)

    @classmethod
    def check_schedule(cls, settings: Mapping[str, Any]) -> None:
        """Raise ``ConfigError`` unless ``settings['schedule']``, of a mutator's config, adds up."""
        cls.schedule_type(**settings['schedule'])

    def share_state(self, other: Mutator) -> None:
        """Have ``other``, the mutator of a copy of the network, hold the very tensors of this one's state.

        A copy whose weights are averaged over time must not average its
        structure: means of keep ratios and ranks belong to no structure, and
        what is no float (the structure, once fixed) would stay as it was first.
        """
        for name, value in self.named_buffers(recurse=False):
            setattr(other, name, value)

    @property
    @abstractmethod
    def phase(self) -> str:
        """``'shrink'``, ``'refine'`` or ``'settle'``."""

    @property
    def comparable(self) -> bool:
        """Whether networks that are validated from now on are of one structure, so that their scores compare."""
        return bool(self._number('settled'))

    @property
    def comparable_from(self) -> float:
        """Progress from which on :attr:`comparable` holds, in [0, 1]; at 1 it never holds while a run trains."""
        return float(self.schedule.settle)

    @property
    def network(self) -> str:
        """The network that evaluation runs now, in a word.

        ``'whole'``: nothing is masked yet; ``'soft'``: under the masks of training, as its norm statistics are;
        ``'hard'``: under these masks made hard; ``'masked'``: pruned, for the moment; ``'final'``: as exported.
        """
        return 'final' if self._number('settled') else 'masked'

    @abstractmethod
    def describe_network(self) -> str:
        """The network that evaluation runs now, with its phase and size."""

    @abstractmethod
    def survey(self, model: nn.Module, space_of: SpaceOf, include: Iterable[str], exclude: Iterable[str]) -> Any:
        """Find what may be removed from a network; :meth:`prepare` takes it.

        Args:
            model: any network.
            space_of: builds the search space of a network, from patterns that select it (see
                :func:`mmdms.build_search_space`); a mutator of single weights has no use for it.
            include, exclude: shell patterns over module names.
        """

    @abstractmethod
    def prepare(self, model: nn.Module, space: Any, mode_of: nn.Module | None = None) -> None:
        """Install masks on ``model``.

        Args:
            model: the network that was surveyed.
            space: what :meth:`survey` returned.
            mode_of: masks are those of training while this module is in training
                mode; ``model`` if None.
        """

    def attach(self, optimizer: Optimizer) -> None:
        """Follow the steps of ``optimizer``, and no longer those of one that was attached before."""
        self._check_prepared('attach')
        if optimizer not in self._known:
            self._known.add(optimizer)
            self._add_hooks(optimizer)
        self._optimizer = weakref.ref(optimizer)
        self.attached = True

    @abstractmethod
    def _add_hooks(self, optimizer: Optimizer) -> None:
        """Have an optimizer call this mutator, which asks :meth:`_follows` then."""

    def _follows(self, optimizer: Optimizer) -> bool:
        return self._optimizer is not None and self._optimizer() is optimizer

    @abstractmethod
    def refresh_masks(self, masks: Followed) -> None:
        """Set the masks of the moment, unless they are there.

        Args:
            masks: those of the network that was prepared, or of a copy of it.
        """

    def remove(self) -> None:
        """Take the masks off the network, and follow no optimizer any more.

        Classes, attributes and hooks of the network are again those from before :meth:`prepare`; its parameters, which
        are the dense ones, and the keys of its state stay. It runs unmasked. What was found so far stays in this
        mutator, so that ``structure()`` and :func:`mmdms.slim` still cut the subnet.
        """
        self._check_prepared('remove')
        self.masks.remove()
        self.attached, self._optimizer = False, None

    def _install(self, model: nn.Module, masks: Any, mode_of: nn.Module | None) -> None:
        """Have masks that are on a network follow this mutator."""
        self.masks = masks
        # In __dict__: the network is no part of the mutator's own state.
        self.__dict__['_model'] = model
        self.__dict__['_mode_of'] = mode_of or model
        masks.follow(self)

    def _check_prepared(self, call: str) -> None:
        if 'masks' not in self.__dict__:
            raise ConfigError(f'call {type(self).__name__}.prepare(model, space) before {call}()')

    def _check_free(self, model: nn.Module) -> None:
        """Raise ``ConfigError`` if a network or this mutator is taken."""
        refuse_masks(model)
        if 'masks' in self.__dict__ and has_masks(self.__dict__['_model']):
            raise ConfigError(
                f'this {type(self).__name__} holds the masks of another network: take one mutator per network, or '
                'call its remove() first'
            )

    def _note_progress(self, progress: float) -> None:
        self._check_prepared('set_progress')
        if not 0 <= progress <= 1:
            raise ConfigError(f'progress must be in [0, 1], but it is {progress!r}')
        if not self._number('settled'):
            self.watch.progressed(progress, self.attached, self.__dict__['_model'])
        self.progress = progress
        self.masks.bank.release()

    def _number(self, name: str) -> Any:
        """The value of a buffer of one element. The device is waited for only after a write to the buffer."""
        buffer, seen = self._buffers[name], self._numbers.get(name)
        assert buffer is not None
        if seen is None or seen[0] is not buffer or seen[1] != buffer._version:
            self._numbers[name] = seen = buffer, buffer._version, buffer.item()
        return seen[2]

    def _write(self, name: str, value: float) -> None:
        """Set a buffer of one element; the device is not waited for to read it again."""
        buffer = self._buffers[name]
        assert buffer is not None
        self._numbers[name] = buffer.fill_(value), buffer._version, value

    def __getstate__(self) -> dict[str, Any]:
        # A copy follows no optimizer.
        return {**self.__dict__, '_optimizer': None, '_known': None, 'attached': False, '_numbers': {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, '_known': weakref.WeakSet()})
        if 'masks' in self.__dict__:
            self.masks.bank.source = self  # of a network that was copied together with this mutator

    @abstractmethod
    def set_progress(self, progress: float) -> None:
        """State how much of the run is done, in [0, 1]; call it before every step."""

    @abstractmethod
    def check_ranks(self) -> None:
        """Raise ``StructureError`` unless all processes hold the same masks; all must call this."""

    @abstractmethod
    def losses(self) -> dict[str, Tensor]:
        """What is added to the losses or logged beside them; a key with ``loss`` in it is a loss."""

    @abstractmethod
    def describe(self) -> str:
        """One line about what may be removed."""

    @abstractmethod
    def describe_structure(self) -> str:
        """One line about what was removed, once it is settled."""


def _follow_again(module: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(module, Mutator)
    if 'masks' in module.__dict__:
        module.masks.bank.release()
