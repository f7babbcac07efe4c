"""What stands where a block was removed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..network.copying import copy_network
from ..network.module_swap import make_class


class Passthrough(nn.Module):
    """Returns the first argument that it is called with, or the first few in a tuple, as the block did.

    Some networks read attributes of their blocks (``nn.TransformerEncoder`` reads ``layers[0].self_attn``): those of
    the removed block are found here too, with empty tensors for weights. They are in no ``state_dict`` and cost
    nothing. Methods of the block are not, nor what its forward leaves behind: nothing is computed here.

    Args:
        streams: arguments that are passed on.
        in_tuple: whether one argument comes in a tuple too.
    """

    def __init__(self, streams: int = 1, in_tuple: bool = False) -> None:
        super().__init__()
        self.streams = streams
        self.in_tuple = in_tuple or streams > 1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first argument as it is, or a tuple of the first few."""
        given = (*args, *kwargs.values())
        return given[: self.streams] if self.in_tuple else given[0]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            block = self.__dict__.get(_BLOCK)
            if block is None or name.startswith('__'):
                raise
            value = getattr(block, name, _MISSING)
            if value is _MISSING or inspect.ismethod(value):
                raise
            return value

    def train(self, mode: bool = True) -> Passthrough:
        """As of any module."""
        super().train(mode)
        if _BLOCK in self.__dict__:
            # Their own train() is not called: some compute with their weights in it, which are empty here.
            for module in self.__dict__[_BLOCK].modules():
                module.training = mode
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Passthrough:
        super()._apply(fn, recurse)
        if _BLOCK in self.__dict__:
            self.__dict__[_BLOCK]._apply(fn, recurse)
        return self


_BLOCK = '_mmdms_block'
_MISSING = object()


def pass_through(block: nn.Module, streams: int = 1, in_tuple: bool = False) -> Passthrough:
    """What takes the place of a block.

    Args:
        block: it is not changed.
        streams, in_tuple: see :class:`Passthrough`.
    """
    in_tuple = in_tuple or streams > 1
    names = _arguments(block, streams)
    kind: Any = Passthrough if names is None else make_class(Passthrough, arguments_level, names, streams, in_tuple)
    standing: Passthrough = kind(streams, in_tuple)
    standing.__dict__[_BLOCK] = _without_weights(block)
    return standing.train(block.training)


def _without_weights(block: nn.Module) -> nn.Module:
    """A copy of a block whose weights are empty, and which keeps nothing that a forward pass has left behind."""
    memo: dict[int, Any] = {}
    for tensor in (*block.parameters(), *block.buffers()):
        empty = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    copied = copy_network(block, memo)
    for module in copied.modules():
        for name in [name for name, value in module.__dict__.items() if isinstance(value, Tensor)]:
            del module.__dict__[name]
    return copied


# ---- a class whose forward has the arguments of the block's, so that torch.jit.script can read it ------------------


def _arguments(block: nn.Module, streams: int) -> tuple[str, ...] | None:
    """Names of the arguments of a block's forward; None if ``torch.jit.script`` cannot read arguments like these."""
    try:
        parameters = list(inspect.signature(block.forward).parameters.values())
    except (TypeError, ValueError):
        return None
    fixed = all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    if not fixed or len([p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]) < streams:
        return None
    return tuple(p.name for p in parameters)  # TorchScript knows no argument by keyword alone


def arguments_level(
    kind: type[nn.Module], names: tuple[str, ...], streams: int, in_tuple: bool
) -> tuple[tuple[type, ...], dict[str, Any]]:
    """Level of a pass-through's class: its forward names its arguments.

    It takes a tensor for each of the first ``names``, and anything or nothing for the others.
    """
    graph = fx.Graph()  # torch.fx keeps the source of the functions that it writes, which TorchScript asks for
    given = tuple(graph.placeholder(name, Tensor) for name in names[:streams])
    for name in names[streams:]:
        graph.placeholder(name, Any, default_value=None)
    graph.output(given if in_tuple else given[0])
    forward = type(fx.GraphModule(nn.Module(), graph)).forward
    return (), dict(forward=forward)
