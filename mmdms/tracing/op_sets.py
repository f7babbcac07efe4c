"""Operations as the dispatcher shows them, and sets of operations that are treated the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map


@dataclass
class Call:
    """One operation as the dispatcher shows it."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, in order."""
        return [leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Tensor)]

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or keyword."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)


def without_values(call: Call) -> Call:
    """The same call, its results as shapes alone: who keeps it does not keep them alive."""

    def shape(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device='meta')

    return Call(call.func, call.args, call.kwargs, tree_map(shape, call.out))


def is_pointwise(func: Any) -> bool:
    """Whether PyTorch tags an operation, or the operation that it does in place, as pointwise."""
    if torch.Tag.pointwise in func.tags:
        return True
    name = func.overloadpacket.__name__
    namespace = getattr(torch.ops, func.namespace)
    # Half of the in-place operations, hardtanh_ (ReLU6) among them, lack the tag of their plain form.
    plain = getattr(namespace, name[:-1], None) if name.endswith('_') else None
    return plain is not None and any(
        torch.Tag.pointwise in getattr(plain, overload).tags for overload in plain.overloads()
    )


RESHAPES = {torch.ops.aten.view, torch.ops.aten._unsafe_view, torch.ops.aten.reshape, torch.ops.aten._reshape_alias}
MOVES = {torch.ops.aten.permute, torch.ops.aten.transpose, torch.ops.aten.t, torch.ops.aten.expand,
         torch.ops.aten.unsqueeze, torch.ops.aten.squeeze, torch.ops.aten.select, torch.ops.aten.slice}  # fmt: skip
"""Operations that a size passes through."""

IDENTITY_OPS = {
    torch.ops.aten.add,
    torch.ops.aten.add_,
    torch.ops.aten.clone,
    torch.ops.aten.detach,
    torch.ops.aten.alias,
}
"""Operations whose result still contains each operand as it was."""
