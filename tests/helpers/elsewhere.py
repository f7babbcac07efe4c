"""A second device made of the first: its tensors hold real numbers, say that they are elsewhere, and are not mixed.

What runs on it runs on a GPU as far as the place of tensors goes: PyTorch refuses the same mixtures there. Autograd
knows the device as ``meta``; numbers are those of the CPU, bit for bit.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = 'meta'
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
"""As on a GPU, their index may be on the CPU."""


class Far(torch.Tensor):
    """A tensor elsewhere."""

    @staticmethod
    def __new__(cls, near):
        far = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            device=DEVICE,
        )  # fmt: skip
        far.near = near
        return far

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self):
        """PyTorch's own refuses subclasses."""
        return self.near.tolist()


class Elsewhere(TorchDispatchMode):
    """While it is entered, ``tensor.to(DEVICE)`` and ``torch.zeros(..., device=DEVICE)`` have numbers.

    And parameters that a module moves are the same objects afterwards, as they are on a GPU.
    """

    def __enter__(self):
        torch.__future__.set_swap_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *exception):
        torch.__future__.set_swap_module_params_on_conversion(False)
        return super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def bring_back(tensor):
    """The numbers of a tensor, wherever it is."""
    return tensor.near if isinstance(tensor, Far) else tensor


def _run(func, args, kwargs):
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, Far)]
    near = [tensor for tensor in tensors if not isinstance(tensor, Far) and tensor.dim()]  # single numbers may mix
    if far and near and func not in COPIES | INDEXING:
        raise RuntimeError(f'{func} of {tuple(far[0].shape)} elsewhere and {tuple(near[0].shape)} here')
    goes_far = bool(far)
    if func in INDEXING or func is aten.copy_.default:
        goes_far = isinstance(args[0], Far)
    if kwargs.get('device') is not None:
        goes_far = torch.device(kwargs['device']).type == DEVICE
        kwargs = {**kwargs, 'device': 'cpu'}
    out = func(*tree_map(bring_back, args), **tree_map(bring_back, kwargs))
    same = {id(tensor.near): tensor for tensor in far}  # what was written in place stays the tensor that it was
    return tree_map(
        lambda leaf: same.get(id(leaf), Far(leaf)) if goes_far and isinstance(leaf, torch.Tensor) else leaf, out
    )
