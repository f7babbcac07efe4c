"""Install masks on a network without renaming its parameters.

A channel is gone exactly when every weight that reads it ignores it, so masks
multiply the input dimension of weights: ``conv(x * m, W) = conv(x, W * m)``.
A module that owns such a weight is given a subclass of its own class whose
``weight`` is a property that returns the masked weight; the parameter itself
stays where it is, under its name. Modules with an adapter mask in their own
forward. Blocks of a depth unit are gated as ``x + m * (block(x) - x)``, or, where
the trace shows which weights end their branches, by those weights times ``m``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.base import adapt, unadapt
from ..adapters.reductions import mask_reductions
from ..adapters.tools import MASKS as INNER_MASKS
from ..errors import ConfigError, StructureError
from ..network.copying import copy_network
from ..network.module_swap import has_level, restore_class, swap_class
from ..ops.feedback import feedback
from ..ops.products import blend, mask_product
from ..space.search_space import FIXED, SearchSpace
from .followed import MaskSource, NetworkCall, follow
from .mask_bank import MaskBank


class MaskedWeight:
    """What one property multiplies: the axes of a parameter that contract over elements.

    With ``gate``, an element of a depth unit, the parameter ends the branch of a block: it is gated here.
    While it is ``idle``, the parameter is read as it is: the input of its layer is masked in its stead (see
    :meth:`of_input`), or its rows are looked up.
    In evaluation, under masks that stay, the product is kept for as long as
    masks and weight are what they were; the next training step lets go of it.
    """

    def __init__(
        self,
        bank: MaskBank,
        axes: Sequence[tuple[int, Tensor]],
        ndim: int,
        feedback: bool = False,
        gate: int | None = None,
    ) -> None:
        self.bank = bank
        self.ndim = ndim
        self.feedback = feedback
        self.gate = gate
        self.idle = False
        self._axes = [(dim, bank.place(elements)) for dim, elements in axes]
        self._gate_place = None if gate is None else bank.place(torch.tensor([[gate]]))
        self._kept: tuple[Any, Tensor] | None = None

    def of_input(self, x: Tensor, parameter: Any, dim: int) -> Tensor | None:
        """What may multiply dimension ``dim`` of a layer's input instead, where that is smaller than its weight.

        ``conv(x * m, W) = conv(x, W * m)``. In evaluation masked weights are kept, and cost nothing.
        """
        self.bank.refresh()
        if self.bank.values is None or self.feedback or len(self._axes) != 1 or not torch.is_grad_enabled():
            return None
        ((axis, place),) = self._axes
        if axis != 1 or x.dtype != parameter.dtype or not x.numel() < parameter.numel():
            return None
        if self.bank.is_one(place):
            return None
        mask = self.bank.at(place)
        if len(mask) != x.size(dim):
            return None
        gate = self._gate_now()
        return mask if gate is None else mask * gate

    def __call__(self, parameter: Tensor) -> Tensor:
        if self.idle:
            return parameter
        self.bank.refresh()
        if self.bank.values is None or self.bank.token is None or torch.is_grad_enabled():
            self._kept = None
            return parameter if self.bank.values is None else self._product(parameter)
        state = (self.bank.number, parameter.data_ptr(), parameter._version, parameter.dtype)
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self._product(parameter)
        return self._kept[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskedWeight:
        memo[id(self)] = copied = copy.copy(self)
        copied.bank = copy.deepcopy(self.bank, memo)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_kept': None, 'idle': False}

    def _gate_now(self) -> Tensor | float | None:
        """What gates the parameter; None where nothing does."""
        if self._gate_place is None or self.gate is None:
            return None
        known = self.bank.known(self.gate)
        if known is None:
            return self.bank.at(self._gate_place)
        return None if known == 1.0 else known

    def _product(self, parameter: Tensor) -> Tensor:
        gate = self._gate_now()
        if isinstance(gate, float) and gate == 0.0:  # a tensor is not compared: that waits for the device
            return parameter * gate
        axes = [(dim, self.bank.at(place)) for dim, place in self._axes if not self.bank.is_one(place)]
        if gate is not None and axes:
            # One product with the weight: the gate multiplies the smaller mask.
            axes[0] = (axes[0][0], axes[0][1] * gate)
        elif isinstance(gate, float):
            return parameter * gate
        elif gate is not None:
            axes = [(0, gate.expand(parameter.size(0)))]
        for dim, mask in axes:
            if self.feedback:
                view = [-1 if d == dim else 1 for d in range(self.ndim)]
                parameter = feedback(parameter, mask.view(view) > 0)
            else:
                parameter = mask_product(parameter, mask, dim)
        return parameter


class ModuleMaskValue:
    """What an adapter's ``follow`` returns: the mask of its elements, or None while masks are off."""

    def __init__(self, bank: MaskBank, elements: Tensor) -> None:
        self.bank = bank
        self.place = bank.place(elements)

    def __call__(self) -> Tensor | None:
        self.bank.refresh()
        return None if self.bank.values is None or self.bank.is_one(self.place) else self.bank.at(self.place)


class BlockGate:
    """Forward hook of one removable block.

    A block that is ``folded`` is gated by the weights that end its branches (see :class:`MaskedWeight`).
    """

    def __init__(self, bank: MaskBank, element: int, folded: bool = False) -> None:
        self.bank = bank
        self.element = element
        self.folded = folded
        self.handle: Any = None  # as of NetworkCall
        self._place = None if folded else bank.place(torch.tensor([[element]]))

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        self.bank.refresh()
        known = self.bank.known(self.element)
        # A block that is gone still takes part in training: all its weights have gradients, of 0, on every rank.
        if self.bank.values is None or known == 1.0:
            return None
        if known == 0.0 and not torch.is_grad_enabled():
            return (*args[: len(output)], *output[len(args) :]) if isinstance(output, tuple) else args[0]
        if self.folded:
            return None
        if isinstance(output, tuple):
            return tuple(self._gated(given, result, known) for given, result in zip(args, output, strict=False))
        return self._gated(args[0], output, known)

    def _gated(self, given: Any, result: Any, known: float | None) -> Any:
        if not isinstance(result, Tensor):
            return result
        given = given.to(result.dtype)  # in mixed precision a block may give out another type than it takes in
        if known is not None:
            return torch.lerp(given, result, known)
        assert self._place is not None
        return blend(given, result, self.bank.at(self._place)[0])


_PREFIX = '_mmdms_masked_'


def _masked_property(attribute: str) -> property:
    def get(module: nn.Module) -> Any:
        parameter = module._parameters[attribute]
        return module.__dict__[_PREFIX + attribute](parameter)

    return property(get)


INPUT_DIMS: dict[Any, int] = {
    nn.Linear.forward: -1, nn.Conv1d.forward: 1, nn.Conv2d.forward: 1, nn.Conv3d.forward: 1,
}  # fmt: skip
"""Forward methods that do no more with their input than multiply it by ``self.weight``, and the dimension it sums."""


def _masked_forward(kind: type[nn.Module], dim: int) -> Callable[[nn.Module, Tensor], Any]:
    """Forward of a layer that masks its input along ``dim``, or its weight, whichever is smaller."""

    def forward(module: nn.Module, input: Tensor) -> Any:
        weight = module.__dict__[_PREFIX + 'weight']
        mask = None
        if isinstance(weight, MaskedWeight) and (dim < 0 or input.dim() == weight.ndim):
            mask = weight.of_input(input, module._parameters['weight'], dim)
        if mask is None:
            return kind.forward(module, input)
        weight.idle = True
        try:
            return kind.forward(module, mask_product(input, mask, dim % input.dim()))
        finally:
            weight.idle = False

    return forward


def _look_up(kind: type[nn.Module]) -> Callable[..., Any]:
    """Forward of a table of embeddings that looks rows up as they are.

    It outputs channels. Whoever reads channels by the same weight, as an output layer does, finds it masked.
    """

    def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        weight = module.__dict__[_PREFIX + 'weight']
        if not isinstance(weight, MaskedWeight):
            return kind.forward(module, *args, **kwargs)
        weight.idle = True
        try:
            return kind.forward(module, *args, **kwargs)
        finally:
            weight.idle = False

    return forward


def mask_level(kind: type[nn.Module], attributes: tuple[str, ...]) -> tuple[tuple[type, ...], dict[str, Any]]:
    """Level of a module's class (see :mod:`mmdms.network.module_swap`): reads of these parameters are masked."""
    found: dict[str, Any] = {name: _masked_property(name) for name in attributes}
    if 'weight' in attributes and kind.forward in INPUT_DIMS:
        found['forward'] = _masked_forward(kind, INPUT_DIMS[kind.forward])
    if 'weight' in attributes and issubclass(kind, nn.Embedding):
        found['forward'] = _look_up(kind)
    return (), found


class Masks:
    """Masks installed on a network; :meth:`remove` takes them off again.

    With ``feedback`` masks are hard, and a masked weight learns as :func:`mmdms.ops.feedback.feedback` says.
    """

    def __init__(self, model: nn.Module, space: SearchSpace, feedback: bool = False) -> None:
        check_fits(space, model)
        self.bank = MaskBank()
        self._model = model
        adapt(model, masked=True, undoable=True)
        for mask in space.inner:
            installed = model.get_submodule(mask.module).__dict__.setdefault(INNER_MASKS, {})
            installed[mask.name] = ModuleMaskValue(self.bank, mask.elements)
        mask_reductions(model)
        wanted: dict[str, list[tuple[int, Tensor]]] = {}
        for axis in space.axes:
            if (axis.role == 'in' or axis.masked) and bool((axis.elements != FIXED).any()):
                wanted.setdefault(axis.parameter, []).append((axis.dim, axis.elements))
        gates: dict[str, int] = {}
        for element, group in space.blocks.items():
            for name in group:
                ends = () if feedback else space.branches.get(name, ())
                gates.update(dict.fromkeys(ends, element))
                gate = BlockGate(self.bank, element, folded=bool(ends))
                gate.handle = model.get_submodule(name).register_forward_hook(gate)
        masked = {
            name: MaskedWeight(self.bank, wanted.get(name, []), parameter.dim(), feedback, gates.get(name))
            for name, parameter in model.named_parameters()
            if name in wanted or name in gates
        }
        mask_weights(model, masked)

    def set(self, values: Tensor | None, token: Any = None, known: Mapping[int, float] | None = None) -> None:
        """Use these masks, shape (elements,); None: none. The rest as of :class:`MaskBank`.

        Where masks follow a mutator, these are held until the network itself is called or the search moves on.
        """
        self.bank.set(values, token, known)
        self.bank.hold()

    def follow(self, source: MaskSource) -> None:
        """Have the masks follow a mutator, however the network is called; until it moves, they are off."""
        follow(self._model, self.bank, source)

    def remove(self) -> None:
        """Give the modules of the network their own classes back (see :func:`remove_masks`)."""
        remove_masks(self._model)


def mask_weights(model: nn.Module, masked: Mapping[str, Callable[[Tensor], Tensor]]) -> None:
    """Have modules read their parameters through functions; :func:`remove_masks` undoes it.

    Args:
        model: its parameters keep their names and their values.
        masked: name of a parameter to what takes the parameter and returns what the forward pass reads instead.
    """
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        read = {
            attribute: masked[by_id[id(parameter)]]
            for attribute, parameter in module._parameters.items()
            if by_id.get(id(parameter)) in masked
        }
        for attribute, weight in read.items():
            module.__dict__[_PREFIX + attribute] = weight
        if read:
            swap_class(module, mask_level, tuple(read))


def remove_masks(model: nn.Module) -> None:
    """Take all masks off a network, in place: what is left are the classes, attributes and hooks from before."""
    for module in model.modules():
        module.__dict__.pop(INNER_MASKS, None)
        if restore_class(module, mask_level):
            for key in [k for k in module.__dict__ if k.startswith(_PREFIX)]:
                del module.__dict__[key]
        for handle in _own_hooks(module):
            for hooks in (module._forward_hooks, module._forward_pre_hooks, module._forward_hooks_always_called):
                hooks.pop(handle, None)
    unadapt(model)


def has_masks(model: nn.Module) -> bool:
    """Whether a network, or a part of it, carries masks."""
    return any(
        has_level(module, mask_level) or INNER_MASKS in module.__dict__ or _own_hooks(module)
        for module in model.modules()
    )


def _own_hooks(module: nn.Module) -> list[int]:
    hooks = {**module._forward_hooks, **module._forward_pre_hooks}
    return [handle for handle, hook in hooks.items() if isinstance(hook, (BlockGate, NetworkCall))]


def refuse_masks(model: nn.Module) -> None:
    """Raise ``ConfigError`` for a network that carries masks already."""
    if has_masks(model):
        raise ConfigError(
            f'this {type(model).__name__} carries the masks of another search or pruning: take them off first, with '
            'the remove() of the mutator that put them there, or with mmdms.remove_masks(model)'
        )


def check_fits(space: SearchSpace, model: nn.Module) -> None:
    """Raise ``StructureError`` unless a search space is one of this network."""
    other = f'the search space is of another network, as this {type(model).__name__} has'
    remedy = 'give the network that build_search_space was given'
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]
    for axis in space.axes:
        tensor = tensors.get(axis.parameter)
        if tensor is None:
            raise StructureError(f'{other} no tensor {axis.parameter!r}; {remedy}')
        if axis.dim >= tensor.dim() or tensor.size(axis.dim) != len(axis.elements):
            raise StructureError(
                f'{other} a tensor {axis.parameter!r} of shape {tuple(tensor.shape)}, of which dimension {axis.dim} '
                f'should be {len(axis.elements)}; {remedy}'
            )
    modules = {name for name, _ in model.named_modules(remove_duplicate=False)}
    for name in (*(mask.module for mask in space.inner), *(name for group in space.blocks.values() for name in group)):
        if name not in modules:
            raise StructureError(f'{other} no module {name!r}; {remedy}')


def without_masks(model: nn.Module, share_tensors: bool = False) -> nn.Module:
    """A copy of a network, plain again; on request it shares its parameters and buffers with the original."""
    tensors = [*model.parameters(), *model.buffers()] if share_tensors else []
    copied = copy_network(model, {id(tensor): tensor for tensor in tensors})
    remove_masks(copied)
    return copied
