"""Masks over single weights: which may be masked, and how a network reads them masked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import ConfigError
from ..ops.feedback import feedback
from ..space.patterns import Patterns
from .channel_masks import mask_weights, remove_masks
from .followed import Followed, MaskSource, follow

ENDS = ('first', 'last')


class PrunableWeights(dict[str, nn.Parameter]):
    """Weights that may be masked, by name, and why others may not.

    Attributes:
        left: reason to the number of weights that are left whole for it.
    """

    left: Counter[str]


def prunable_weights(
    model: nn.Module, include: Iterable[str] = ('*',), exclude: Iterable[str] = (), keep_dense: Iterable[str] = ()
) -> PrunableWeights:
    """Weights of convolutions and linear layers, whatever class they are of.

    Biases, norms and embeddings stay whole, as in DPF, and so do parameters that no layer holds as its weight.

    Args:
        model: any network.
        include, exclude: shell patterns over module names that select layers.
        keep_dense: of ``'first'`` and ``'last'``: that layer stays whole too, in the order in which the network
            registers its layers.

    Raises:
        ConfigError: for a pattern that matches nothing, or if no weight is left.
    """
    ends = list(keep_dense)
    if isinstance(keep_dense, str) or not set(ends) <= set(ENDS):
        raise ConfigError(f'mutator.keep_dense must be a list out of {list(ENDS)}, but it is {keep_dense!r}')
    patterns = Patterns(include, exclude)
    found, left = PrunableWeights(), Counter[str]()
    layers: dict[str, str] = {}
    owners = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        owner, _, attribute = name.rpartition('.')
        reason = _reason(owners[owner], attribute, parameter)
        if reason is None and not patterns.selects(owner):
            reason = 'excluded by a pattern'
        if reason is None:
            found[name] = parameter
            layers.setdefault(owner, name)
        else:
            left[reason] += parameter.numel()
    patterns.check_used()
    order = list(layers.values())
    for end, index in zip(ENDS, (0, -1), strict=True):
        if end in ends and order and order[index] in found:
            left[f'{end} layer'] += found.pop(order[index]).numel()
    if not found:
        raise ConfigError(f'there is nothing to prune: every weight is left whole ({_told(left)})')
    found.left = left
    return found


def _reason(module: nn.Module, attribute: str, parameter: nn.Parameter) -> str | None:
    if not parameter.requires_grad:
        return 'frozen'
    if parameter.dim() < 2:
        return 'bias, norm or scale'
    if isinstance(module, (nn.Embedding, nn.LayerNorm, _NormBase)):
        return 'norm or embedding'
    return None if attribute in ('weight', 'in_proj_weight') else 'parameter of no layer'


def _told(left: Mapping[str, int]) -> str:
    return ', '.join(f'{reason}: {number:,}' for reason, number in left.items()) or 'the network has none'


def filter_gains(kept: Tensor) -> Tensor:
    """``min(1, 2 * sqrt(share))`` of the share of each filter that is kept, of shape (outputs, 1, ...).

    The gradient of a weight that a norm follows is inversely proportional to the magnitude of its filter. What masks
    leave of a filter is smaller than the dense filter that learns by that gradient: of normal weights the largest
    tenth has two thirds of the magnitude, the largest hundredth 0.28 of it.
    """
    return kept.flatten(1).float().mean(1).sqrt().mul(2).clamp(max=1).view(-1, *[1] * (kept.dim() - 1))


class KeptWeights(Followed):
    """The current masks of single weights, by name; None: all weights are read as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: Mapping[str, Tensor] | None = None

    def set(self, masks: Mapping[str, Tensor] | None) -> None:
        """Use these boolean masks, of the shapes of the weights, from now on."""
        if masks is not None and self.device is not None:
            masks = {name: mask.to(self.device) for name, mask in masks.items()}
        self.masks = masks

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptWeights:
        memo[id(self)] = copied = KeptWeights()
        self._copy_source(copied, memo)
        return copied  # it asks for its masks

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, 'masks': None, 'state': None, '_running': False, '_held': False}


class KeptWeight:
    """What one layer reads in place of its weight.

    In evaluation the product is kept for as long as mask and weight are what they were.
    """

    def __init__(self, masks: KeptWeights, name: str, feedback: bool, damped: bool = False) -> None:
        self.masks = masks
        self.name = name
        self.feedback = feedback
        self.damped = damped
        self._gains: tuple[Any, Tensor] | None = None
        self._product: tuple[Any, Tensor] | None = None

    @property
    def kept(self) -> Tensor | None:
        """The mask as it was last set."""
        return None if self.masks.masks is None else self.masks.masks[self.name]

    def __call__(self, weight: Tensor) -> Tensor:
        self.masks.refresh()
        kept = self.kept
        if kept is None:
            return weight
        if torch.is_grad_enabled():
            self._product = None
            if not self.feedback:
                return torch.where(kept, weight, 0.0)
            return feedback(weight, kept, self._gain(kept) if self.damped else None)
        state = (weight.data_ptr(), weight._version, weight.dtype, kept.data_ptr(), kept._version)
        if self._product is None or self._product[0] != state:
            self._product = state, torch.where(kept, weight, 0.0)
        return self._product[1]

    def _gain(self, kept: Tensor) -> Tensor:
        state = (kept.data_ptr(), kept._version)
        if self._gains is None or self._gains[0] != state:
            self._gains = state, filter_gains(kept)
        return self._gains[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_gains': None, '_product': None}


class WeightMasks:
    """Masks on the weights of a network; :meth:`remove` takes them off again.

    Args:
        model: any network.
        weights: names of parameters.
        feedback: whether a masked weight gets the gradient of the masked network, or none.
        damped: whether that gradient is multiplied by :func:`filter_gains`.
    """

    def __init__(self, model: nn.Module, weights: Iterable[str], feedback: bool, damped: bool = False) -> None:
        self._model = model
        self.bank = KeptWeights()
        self._read = {name: KeptWeight(self.bank, name, feedback, damped) for name in weights}
        mask_weights(model, self._read)

    def set(self, kept: Mapping[str, Tensor] | None) -> None:
        """Use these boolean masks, of the shapes of the weights; None: none. Held as by :class:`Masks`."""
        self.bank.set(kept)
        self.bank.hold()

    def follow(self, source: MaskSource) -> None:
        """See :meth:`mmdms.masks.channel_masks.Masks.follow`."""
        follow(self._model, self.bank, source)

    def remove(self) -> None:
        """Give the modules of the network their own classes back."""
        remove_masks(self._model)
