"""What an algorithm, its hook and its optimizer constructor ask of any mutator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ...errors import ConfigError
from ...utils.checkpoint import SEARCH_VERSION


class Mutator(nn.Module):
    """Masks a network while it trains.

    :meth:`survey` and :meth:`prepare` once, :meth:`attach` to the optimizer, then :meth:`set_progress` before every
    step. The parameters of the network keep their names.

    Args:
        check_ranks_every: in a distributed run, steps between two checks that all processes
            hold the same masks; they cost one small collective each. 0: never.

    Attributes:
        settled: whether the masks are as they will be exported.
        masks: what is installed on the network.
        needs_weights: whether masks follow from how the weights learn, so that these must not be frozen.
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
        self.attached = False

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

    @abstractmethod
    def survey(
        self, model: nn.Module, input_shape: tuple[int, int, int], include: Iterable[str], exclude: Iterable[str]
    ) -> Any:
        """Find what may be removed from a network; :meth:`prepare` takes it.

        Args:
            model: a model of the OpenMMLab family.
            input_shape: ``(channels, height, width)`` of one sample.
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

    @abstractmethod
    def attach(self, optimizer: Optimizer) -> None:
        """Follow the steps of ``optimizer``."""

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
