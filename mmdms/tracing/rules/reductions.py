"""Pooling, means and resampling: values of one channel stay within it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..context import RuleContext
from ..labels import compact, no_labels, varying_dims
from ..op_sets import Call
from .layers import expand_along
from .table import rule

aten = torch.ops.aten


@rule(
    aten.mean,
    aten.sum,
    aten.amax,
    aten.amin,
    aten.var,
    aten.std,
    aten.var_mean,
    aten.std_mean,
    aten.max,
    aten.min,
    aten.linalg_vector_norm,
)
def reduce(t: RuleContext, call: Call) -> Tensor | list[Tensor] | None:
    """Reduction over dimensions along which labels are constant; over channels it freezes them."""
    x = call.args[0]
    others = call.tensors[1:]
    out = call.out[0] if isinstance(call.out, (tuple, list)) else call.out
    labels = t.elementwise_labels(x)
    position = 2 if call.func.overloadpacket is aten.linalg_vector_norm else 1
    dims = call.arg(position, 'dim', None)
    # What adaptive pooling to a single position becomes; mmengine counts that of images.
    pools = list(call.args[1:3]) == [[-1, -2], True] and not isinstance(t.running, nn.AdaptiveAvgPool1d)
    dims = [dims] if isinstance(dims, int) else dims
    dims = [d % x.dim() for d in dims] if dims else list(range(x.dim()))
    if others or set(dims) & set(varying_dims(labels)):
        for tensor in call.tensors:
            t.freeze(t.elementwise_labels(tensor), f'is mixed with other channels by {call.func}')
        return None
    if pools:
        _pool_cost(t, x, labels)
    if not x.numel():
        return None
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    if out.dim() != x.dim():
        kept = [d for d in range(x.dim()) if d not in dims]
        labels = labels.permute(*kept, *dims).reshape([x.size(d) for d in kept])
    result = labels.expand(out.shape)
    return [result, result] if isinstance(call.out, (tuple, list)) else result


@rule(
    aten.max_pool2d_with_indices, aten.max_pool2d, aten.avg_pool2d, aten._adaptive_avg_pool2d,
    aten.adaptive_max_pool2d, aten.avg_pool1d, aten._adaptive_avg_pool3d, aten.max_pool3d_with_indices,
    aten.avg_pool3d, aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d,
    aten.upsample_nearest1d, aten.upsample_linear1d, aten._upsample_nearest_exact2d,
)  # fmt: skip
def spatial(t: RuleContext, call: Call) -> Tensor | list[Tensor]:
    """Pooling and resampling over the trailing dimensions of (B, C, ...): what they mix is one element."""
    x = call.args[0]
    out = call.out[0] if isinstance(call.out, (tuple, list)) else call.out
    labels = t.elementwise_labels(x)
    leading = x.dim() - (1 if '1d' in str(call.func) else 3 if '3d' in str(call.func) else 2)
    if t.parameters.owner(x) is not None:  # entries that are resampled into each other are one element
        for dim in range(leading, x.dim()):
            t.store.unify(labels.narrow(dim, 0, 1), labels)
            labels = labels.narrow(dim, 0, 1)
        labels = labels.expand(x.shape)
    if any(dim >= leading for dim in varying_dims(labels)):
        if leading != 2 or (0 in varying_dims(labels)):
            t.freeze(labels, f'is mixed with other elements by {call.func}')
            return no_labels(out.shape)
        # A position embedding, say, which is a parameter of many elements, resized to another input.
        labels = expand_along(t.store.along(labels, 1), 1, x.shape)
    packet = call.func.overloadpacket
    if packet is aten._adaptive_avg_pool2d:
        _pool_cost(t, x, labels)
    elif packet is aten.upsample_bilinear2d:
        _pool_cost(t, out, compact(labels).expand(out.shape), 4)
    elif packet is aten.upsample_nearest2d:
        _pool_cost(t, out, compact(labels).expand(out.shape))
    return [compact(labels).expand(out.shape)]


@rule(aten.cumsum, aten.cumprod, aten.cummax, aten.cummin)
def accumulate(t: RuleContext, call: Call) -> Tensor:
    """What lies before a position, added up or compared."""
    labels = t.elementwise_labels(call.args[0])
    if call.arg(1, 'dim') % max(labels.dim(), 1) in varying_dims(labels):
        t.freeze(labels, f'is mixed with other channels by {call.func}')
        return no_labels(labels.shape)
    return labels


@rule(aten.grid_sampler_2d)
def sample(t: RuleContext, call: Call) -> Tensor:
    """Maps (B, C, H, W) read at the points of a grid (B, h, w, 2); both may carry heads along their batch."""
    x, grid = call.args[:2]
    labels, where = t.elementwise_labels(x), t.elementwise_labels(grid)
    if any(dim > 0 for dim in varying_dims(where)):
        t.freeze(where, f'is a coordinate of {call.func}')
    elif bool(compact(where).any()):
        t.store.inside(compact(where), compact(labels))
    if any(dim > 1 for dim in varying_dims(labels)):
        t.freeze(labels, f'is mixed with other elements by {call.func}')
        return no_labels(call.out.shape)
    counted = compact(labels).flatten()
    t.cost(4 * call.out.numel() / counted.numel(), counted)
    return compact(labels).expand(call.out.shape)


@rule(aten._fft_r2c, aten._fft_c2r, aten._fft_c2c)
def fourier(t: RuleContext, call: Call) -> Tensor:
    """Fourier transforms over positions."""
    labels = t.elementwise_labels(call.args[0])
    if set(call.args[1]) & set(varying_dims(labels)):
        t.freeze(labels, f'is mixed with other elements by {call.func}')
        return no_labels(call.out.shape)
    return compact(labels).expand(call.out.shape)


def _pool_cost(t: RuleContext, tensor: Tensor, labels: Tensor, scale: int = 1) -> None:
    """Adaptive pooling and upsampling count elements, as mmengine counts them."""
    channels = t.store.along(labels, labels.dim() - 3)
    t.cost(scale * tensor.numel() / channels.numel(), channels)
