"""Dynamic model pruning with feedback, of single weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..masks.followed import same_state, state_of
from ..masks.weight_masks import KeptWeights, PrunableWeights, WeightMasks, prunable_weights
from ..ops.magnitude import largest
from ..registry import MUTATORS
from .agreement import check_agreement
from .reallocation import Reallocation

SCOPES = ('global', 'layer')


@MUTATORS.register_module()
class DPFMutator(Reallocation):
    """Prunes single weights in one training run (unstructured sparsity).

    The weights of convolutions and linear layers are masked; biases, norms and embeddings stay whole. See
    :class:`Reallocation` for the methods.

    Args:
        sparsity: share of the prunable weights that are 0 in the end, in (0, 1).
        method, reallocation_interval: see :class:`Reallocation`.
        schedule: arguments of :class:`mmdms.mutators.schedule.SparsitySchedule`.
        scope: ``'global'``: the smallest weights of the whole network go; ``'layer'``: the same share of every layer.
        keep_dense: of ``'first'`` and ``'last'``: that layer stays whole.
        damped: with ``'feedback'``, weights that are masked in a filter of which less than a quarter is kept learn by
            less than their gradient (:func:`mmdms.masks.weight_masks.filter_gains`). Without, as in the paper, a
            filter of which next to nothing is kept may diverge, for a norm that follows makes its gradient ever
            larger: at a sparsity of 99% that has ended in networks that guess.
        check_ranks_every: see :class:`Mutator`.

    Raises:
        ConfigError: for values out of range; the message names the key.
    """

    kept: Tensor

    def __init__(
        self,
        sparsity: float,
        method: str = 'feedback',
        schedule: dict[str, float] | None = None,
        reallocation_interval: int = 16,
        scope: str = 'global',
        keep_dense: Sequence[str] = (),
        damped: bool = False,
        check_ranks_every: int = 100,
    ) -> None:
        super().__init__(method, reallocation_interval, check_ranks_every=check_ranks_every)
        if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 < sparsity < 1:
            raise ConfigError(f'mutator.sparsity must be a share of the weights in (0, 1), but it is {sparsity!r}')
        if scope not in SCOPES:
            raise ConfigError(f'mutator.scope must be one of {list(SCOPES)}, but it is {scope!r}')
        if not isinstance(damped, bool) or (damped and method != 'feedback'):
            raise ConfigError(f"mutator.damped must be False, or True with method='feedback', but it is {damped!r}")
        self.sparsity = float(sparsity)
        self.schedule = self.make_schedule(method, schedule)
        self.scope = scope
        self.keep_dense = keep_dense
        self.damped = damped

    def survey(
        self, model: nn.Module, space_of: Any = None, include: Iterable[str] = ('*',), exclude: Iterable[str] = ()
    ) -> PrunableWeights:
        """Weights that may be masked (see :func:`mmdms.masks.weight_masks.prunable_weights`)."""
        return prunable_weights(model, include, exclude, self.keep_dense)

    def prepare(self, model: nn.Module, space: PrunableWeights, mode_of: nn.Module | None = None) -> None:
        """See :meth:`Mutator.prepare`."""
        self._check_free(model)
        self._install(model, WeightMasks(model, space, self.feedback, self.damped), mode_of)
        self.__dict__['_weights'] = dict(space)  # no parameters of the mutator's own
        self.left = dict(space.left)
        self.shapes = {name: weight.shape for name, weight in space.items()}
        self.sizes = [weight.numel() for weight in space.values()]
        self.register_buffer('settled', torch.zeros((), dtype=torch.bool))
        self.register_buffer('kept', torch.ones(sum(self.sizes), dtype=torch.bool))

    @property
    def final_sparsity(self) -> float:
        """Share of the prunable weights that is masked in the end."""
        return self.sparsity

    @property
    def comparable(self) -> bool:
        """See :attr:`Mutator.comparable`: masks move up to the end, but all keep equally many weights."""
        return bool(self._number('settled')) or self._reached == self.sparsity

    @property
    def comparable_from(self) -> float:
        """See :attr:`Mutator.comparable_from`."""
        return self.schedule.end

    def kept_weights(self) -> dict[str, Tensor]:
        """Boolean masks by name, of the shapes of the weights, as they are now."""
        parts = self.kept.split(self.sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def losses(self) -> dict[str, Tensor]:
        """For the log: the sparsity of the masks, and the one that the schedule asks for."""
        wanted = torch.tensor(
            self.sparsity if self._number('settled') else self.sparsity_now, device=self.reached.device
        )
        return dict(sparsity=self.reached.float(), target_sparsity=wanted)

    def describe(self) -> str:
        """See :meth:`Mutator.describe`."""
        left = ', '.join(f'{reason} {number:,}' for reason, number in self.left.items())
        return (
            f'{len(self.shapes)} layers with {sum(self.sizes):,} weights to prune to a sparsity of {self.sparsity:g} '
            f'({self.method}, {self.scope}); left whole: {left or "nothing"}'
        )

    def describe_network(self) -> str:
        """See :meth:`Mutator.describe_network`."""
        phase = 'settle' if self._number('settled') else self.phase
        return f'the {self.network} network (phase {phase}, sparsity {self._reached:.4f} of the prunable weights)'

    def describe_structure(self) -> str:
        """See :meth:`Mutator.describe_structure`."""
        share = 1 - float(self.kept.double().mean())
        text = f'masks are final: sparsity {share:.4f} of the prunable weights, target {self.sparsity:g}'
        empty = [name for name, kept in self.kept_weights().items() if not kept.any()]
        if empty:
            text += f'; nothing is left of {len(empty)} of {len(self.shapes)} layers ({", ".join(empty[:4])}'
            text += ', ...)' if len(empty) > 4 else ')'
            if self.feedback and not self.damped:
                text += ': where the network learns no more, try mutator.damped=True'
        return text

    def check_ranks(self) -> None:
        """Raise ``StructureError`` unless all processes hold the same masks; all must call this."""
        layers = list(self.shapes)
        words = [_words(part) for part in self.kept.split(self.sizes)]
        sums = torch.stack([(part * (2 * torch.arange(len(part), device=part.device) + 1)).sum() for part in words])
        check_agreement({'which of its weights stay': sums}, sums.new_zeros(0), layers)

    def _reallocate(self) -> None:
        self._prune(self.sparsity_now)

    def _settle(self) -> None:
        if self._reached != self.sparsity:
            self._prune(self.sparsity)
        self._write('settled', True)
        if self.check_ranks_every:
            self.check_ranks()

    def _prune(self, sparsity: float) -> None:
        """Mask this share of the weights, those of least magnitude."""
        if sparsity > 0:
            values = self._values(self.__dict__['_weights'])
            scores = torch.cat([value.abs().flatten() for value in values.values()])
            if not self._usable(scores):
                return
            if self.method == 'incremental':
                scores.masked_fill_(~self.kept, -1.0)
            parts = [scores] if self.scope == 'global' else scores.split(self.sizes)
            found = [largest(part, len(part) - round(sparsity * len(part))) for part in parts]
            self.kept.copy_(found[0] if len(found) == 1 else torch.cat(found))
        self._note_reached(sparsity)

    def refresh_masks(self, masks: KeptWeights) -> None:  # type: ignore[override]
        """See :meth:`Mutator.refresh_masks`."""
        state = state_of((self.kept,), masks.device)
        if not same_state(masks.state, state):
            masks.set(self.kept_weights())
            masks.state = state


def _words(kept: Tensor) -> Tensor:
    """The bits of a boolean vector as whole numbers of 8 bytes, filled up with zeros."""
    return nn.functional.pad(kept.view(torch.uint8), (0, -len(kept) % 8)).view(torch.int64)
