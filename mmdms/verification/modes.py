"""Is the sliced network the masked network as users run it, in evaluation and in training?

Parity in float64 (:mod:`mmdms.verification.parity`) is exact, but it is computed under a mode of PyTorch's
functions, where the fused paths of evaluation without gradients are off, and in evaluation alone.
Here both networks run as users run them: in float32, and in float64 where a difference in float32 leaves a doubt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..masks.channel_masks import Masks, without_masks
from ..network.copying import copy_network
from ..network.example_call import ExampleCall, Inputs
from ..network.trees import tensors_of
from ..slicing.resize import swap_tensors
from ..slicing.slim import sliced_tensors, slim
from ..space.search_space import SearchSpace
from ..space.structure import Structure
from .float64 import Promote
from .graphs import with_gradients
from .parity import BLUR, TOLERANCE, difference

INFERENCE, TRAINING = MODES = ('in inference mode', 'in training mode')

ROUGH = 1e-4
"""Largest difference in float32, as a share of the largest output, that needs no second look in float64."""


class Pair(NamedTuple):
    """A masked network and its slice, both in one precision."""

    masked: nn.Module
    masks: Masks
    subnet: nn.Module
    space: SearchSpace
    mask: Tensor
    dtype: torch.dtype


class Modes:
    """Compares slices of a network with the masked network in every mode.

    Args:
        model: as :func:`mmdms.verification.parity.prepare_for_parity` returns it; not changed.
        inputs, forward: as of :func:`mmdms.build_search_space`.

    Attributes:
        left_out: modes in which the network cannot be compared at all, with the reason.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, forward: Callable[..., Any] | None = None) -> None:
        self._model = without_masks(model, share_tensors=True)  # adapters are still to be put on this one
        self._example = ExampleCall.of(inputs)
        self._forward = forward or (lambda m: m)
        self._doubled = False  # whether training takes two samples
        self.left_out: dict[str, str] = {}

    def problem(self, space: SearchSpace, structure: Structure) -> str | None:
        """What goes wrong when this structure is cut, and in which mode; None if nothing does."""
        pair = self._pair(space, structure, torch.float32)
        for mode in MODES:
            if mode in self.left_out:
                continue
            problem = self._problem(pair, mode)
            if problem is not None and mode == TRAINING and not self._doubled and self._unfit(mode) is not None:
                self._doubled = True  # norms over a batch need more than one value
                problem = self._problem(self._pair(space, structure, torch.float32), mode)
            if problem is None or self._problem(self._pair(space, structure, torch.float64), mode) is None:
                continue
            unfit = self._unfit(mode)
            if unfit is None:
                return problem
            self.left_out[mode] = unfit
        return None

    def _problem(self, pair: Pair, mode: str) -> str | None:
        if mode == TRAINING:
            _unshare(pair.subnet, pair.masked)
            _unshare(pair.masked, self._model)
        runs = []
        for name, network in (('sliced', pair.subnet), ('masked', pair.masked)):
            try:
                runs.append(self._run(network, mode, pair.dtype, pair))
            except Exception as error:  # a forward may raise anything
                what = (str(error).splitlines() or [''])[0]
                return f'the {name} network does not run {mode}: {type(error).__name__}: {what}'
        tolerance = _tolerance(pair.dtype)
        try:
            found = difference(runs[1], runs[0])
            if tolerance < found.share <= BLUR and pair.dtype == torch.float64:
                found = difference(runs[1], runs[0], self._coarse(pair, mode))
            if found.share <= tolerance and mode == TRAINING:
                found = _difference_of_buffers(pair) or found
        except ValueError as error:
            return f'{error} {mode}'
        if found.share <= tolerance:
            return None
        return f'the sliced network differs from the masked one by {found.max_abs_diff:.3g} {mode}'

    def _coarse(self, pair: Pair, mode: str) -> list[Tensor]:
        """What the masked network returns when its layers round more; from its first state, as training changes it."""
        masked = self._own_copy(pair.dtype)
        fresh = pair._replace(masked=masked, masks=Masks(masked, pair.space))
        return self._run(masked, mode, pair.dtype, fresh, coarse=True)

    def _unfit(self, mode: str) -> str | None:
        """Why the network itself, whole, cannot be compared in a mode; None if it can."""
        reason = None
        for dtype in (torch.float64, torch.float32):  # some hold tensors, or cast to types, that rule out the former
            try:
                first, second = (self._run(self._own_copy(dtype), mode, dtype, seed=seed) for seed in (0, 1))
                same = difference(first, second).share <= _tolerance(dtype)
            except Exception as error:  # a forward may raise anything
                reason = f'it raises {type(error).__name__}: {(str(error).splitlines() or [""])[0]}'
            else:
                return None if same else 'what it computes depends on chance'
        return reason

    def _pair(self, space: SearchSpace, structure: Structure, dtype: torch.dtype) -> Pair:
        masked = self._copy(dtype)
        subnet = slim(masked, space, structure, share_tensors=True)
        return Pair(masked, Masks(masked, space), subnet, space, space.mask(structure), dtype)

    def _copy(self, dtype: torch.dtype) -> nn.Module:
        """A copy of the network in one precision; parameters that have it are shared."""
        tensors = {id(p): nn.Parameter(_cast(p.detach(), dtype), p.requires_grad) for p in self._model.parameters()}
        copied = copy_network(self._model, tensors)
        cast: dict[int, Tensor] = {}
        for module in copied.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = cast.setdefault(id(buffer), _cast(buffer, dtype))
        return copied

    def _own_copy(self, dtype: torch.dtype) -> nn.Module:
        copied = self._copy(dtype)
        _unshare(copied, self._model)
        return copied

    def _run(
        self,
        network: nn.Module,
        mode: str,
        dtype: torch.dtype,
        pair: Pair | None = None,
        seed: int = 0,
        coarse: bool = False,
    ) -> list[Tensor]:
        """All tensors that a network returns in a mode; under the masks of a pair, if it is the masked one of it.

        With ``coarse``, fewer bits are kept of what layers return (see :class:`Promote`); for float64 alone.
        """
        example = self._example.map_tensors(lambda tensor: _cast(tensor.cpu(), dtype))
        if mode == TRAINING and self._doubled:
            example = example.map_tensors(_two_samples)
        function = self._forward(network)

        def run() -> list[Tensor]:
            rounding = Promote(coarse=True, differentiable=mode == TRAINING) if coarse else nullcontext()
            with _mode(network, mode, dtype, seed), rounding:
                if pair is not None and network is pair.masked:
                    known = {block: float(pair.mask[block]) for block in pair.space.blocks}
                    # Under a name, masked weights would be kept in inference mode: as much memory as the network.
                    pair.masks.set(pair.mask.to(dtype), token=None if mode == INFERENCE else mode, known=known)
                return tensors_of(example.run(function))

        return [tensor.detach() for tensor in (with_gradients(run) if mode == TRAINING else run())]


@contextmanager
def _mode(network: nn.Module, mode: str, dtype: torch.dtype, seed: int) -> Iterator[None]:
    """Run a network in a mode; random numbers are drawn from ``seed``, and in training dropout is off."""
    before, states = torch.get_default_dtype(), (random.getstate(), np.random.get_state())
    network.train(mode == TRAINING)
    if mode == TRAINING:
        _without_dropout(network)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(torch.set_default_dtype, before)
        stack.callback(np.random.set_state, states[1])
        stack.callback(random.setstate, states[0])
        torch.set_default_dtype(dtype)
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        if mode == INFERENCE:
            stack.enter_context(torch.inference_mode())
        else:
            stack.enter_context(_Seeded(seed))
        yield


class _Seeded(TorchFunctionMode):
    """Every random number is drawn anew from a seed, and dropout is off.

    So a network and its slice draw equal numbers wherever they draw equally many.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            return args[0] if args else kwargs['input']
        if func is F.scaled_dot_product_attention:  # its fifth argument is a share that is dropped
            args, kwargs = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args, {**kwargs}
            kwargs.pop('dropout_p', None)
        torch.default_generator.manual_seed(self._seed)
        return func(*args, **kwargs)


DROPOUTS = {
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout,
}  # fmt: skip

RANDOM = ('drop', 'stochastic', 'rrelu')
"""Modules without children whose class bears one of these in its name are random in training alone."""


def _without_dropout(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            module.dropout = 0.0
        elif not module._modules and any(part in type(module).__name__.lower() for part in RANDOM):
            module.eval()


def _unshare(network: nn.Module, other: nn.Module) -> None:
    """Give a network memory of its own where it shares that of another: in training some write into their tensors.

    The tensors themselves are replaced, as both networks may hold one and the same.
    """
    shared = {tensor.data_ptr() for tensor in [*other.parameters(), *other.buffers()]}
    tensors = [*network.named_parameters(), *network.named_buffers()]
    swap_tensors(network, {name: tensor.detach().clone() for name, tensor in tensors if tensor.data_ptr() in shared})


def _difference_of_buffers(pair: Pair) -> Any:
    """Compare what both networks have in their buffers (running statistics); None if there is nothing."""
    found = {name: buffer for name, buffer in pair.subnet.named_buffers() if buffer.is_floating_point()}
    axes = [axis for axis in pair.space.axes if axis.parameter in found]
    expected = dict(pair.masked.named_buffers())
    expected.update(sliced_tensors(pair.masked, replace(pair.space, axes=axes), pair.mask))
    names = [name for name in found if found[name].numel()]
    return difference([expected[name] for name in names], [found[name] for name in names]) if names else None


def _tolerance(dtype: torch.dtype) -> float:
    return ROUGH if dtype == torch.float32 else TOLERANCE


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _two_samples(tensor: Tensor) -> Tensor:
    """A batch of one made one of two that differ; norms over a batch need more than one value per channel."""
    if tensor.dim() == 0 or len(tensor) != 1:
        return tensor
    return torch.cat([tensor, tensor.roll(1, -1) if tensor.dim() > 1 else tensor])
