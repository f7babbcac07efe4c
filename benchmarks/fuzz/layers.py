"""Layers of torch.nn for vectors, sequences, images and volumes, each with its options drawn at random.

A factory takes the choices and an example of the layer's input, and returns a module. Where the options do not fit the
input, it may raise, or the module may: another layer is drawn then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from .draw import Draw
from .wiring import Item, Pair, Permuted, PoolUnpool, UnfoldFold, channel_dim

Factory = Callable[[Draw, Tensor], nn.Module]
LAYERS: dict[str, dict[str, Factory]] = {}
"""Layout -> name of a layer -> factory."""

SPATIAL = ('sequence', 'image', 'volume')
ALL = ('vector', 'tokens', *SPATIAL)


def layer(*layouts: str, name: str | None = None) -> Callable[[Factory], Factory]:
    """Register a factory for some layouts."""

    def register(factory: Factory) -> Factory:
        for layout in layouts:
            LAYERS.setdefault(layout, {})[name or factory.__name__] = factory
        return factory

    return register


def of_dims(x: Tensor, name: str) -> Any:
    """The class of torch.nn for the spatial dimensions of an input: ``Conv`` is Conv1d, Conv2d or Conv3d."""
    return getattr(nn, f'{name}{x.dim() - 2}d')


def channels(x: Tensor, layout: str) -> int:
    """Number of channels."""
    return x.size(channel_dim(layout))


@layer(*SPATIAL)
def convolution(draw: Draw, x: Tensor) -> nn.Module:
    """Dense, grouped, depthwise, strided, dilated, padded in every mode."""
    groups = draw.pick(1, 1, 1, draw.divisor(x.size(1)))
    outputs = draw.width(groups)
    kernel = draw.pick(1, 3, 3, (3, 1, 3)[: x.dim() - 2], 2)
    stride, dilation = draw.pick(1, 1, 1, 2), draw.pick(1, 1, 1, 2)
    same = stride == 1 and draw.chance(0.2)
    padding = draw.pick('same', 'valid') if same else draw.pick(0, 1, 1, 1)
    mode = draw.pick('zeros', 'zeros', 'zeros', 'reflect', 'replicate', 'circular')
    kind = of_dims(x, 'Conv')
    return kind(x.size(1), outputs, kernel, stride, padding, dilation, groups, draw.chance(0.6), mode)


@layer(*SPATIAL)
def depthwise(draw: Draw, x: Tensor) -> nn.Module:
    """Every channel by itself, perhaps with a multiplier."""
    width = x.size(1)
    return of_dims(x, 'Conv')(width, width * draw.pick(1, 1, 2), 3, padding=1, groups=width, bias=draw.chance(0.5))


@layer(*SPATIAL)
def transposed(draw: Draw, x: Tensor) -> nn.Module:
    """Transposed convolution, perhaps grouped or dilated, with an output padding."""
    groups = draw.pick(1, 1, draw.divisor(x.size(1)))
    stride = draw.pick(1, 2)
    kind = of_dims(x, 'ConvTranspose')
    extra = 1 if stride == 2 and draw.chance(0.5) else 0
    outputs = draw.width(groups)
    return kind(x.size(1), outputs, 3, stride, 1, extra, groups, draw.chance(0.5), draw.pick(1, 1, 2))


@layer(*ALL)
def parametrised(draw: Draw, x: Tensor) -> nn.Module:
    """A convolution or linear layer whose weight is computed from others."""
    if x.dim() == 2 or draw.layout == 'tokens':
        made = nn.Linear(x.size(-1), draw.width())
    else:
        made = of_dims(x, 'Conv')(x.size(1), draw.width(), draw.pick(1, 3), padding=draw.pick(0, 1))
    how = draw.pick(
        weight_norm, parametrizations.weight_norm, spectral_norm, parametrizations.spectral_norm,
        parametrizations.orthogonal, lambda made: weight_norm(made, dim=draw.pick(None, 1)),
    )  # fmt: skip
    return how(made)


@layer('vector', 'tokens')
def linear(draw: Draw, x: Tensor) -> nn.Module:
    """Linear."""
    return nn.Linear(x.size(-1), draw.width(), bias=draw.chance(0.7))


@layer(*ALL)
def lazy(draw: Draw, x: Tensor) -> nn.Module:
    """Layers that find their input's size as they first run."""
    if draw.layout in ('vector', 'tokens'):
        return nn.LazyLinear(draw.width())
    return of_dims(x, draw.pick('LazyConv', 'LazyConvTranspose'))(draw.width(), draw.pick(1, 3))


@layer('vector', 'tokens')
def bilinear(draw: Draw, x: Tensor) -> nn.Module:
    """Two linear layers that meet in a bilinear one."""
    a, b = draw.width(), draw.width()
    meet = nn.Bilinear(a, b, draw.width(), bias=draw.chance(0.5))
    return Pair(nn.Linear(x.size(-1), a), nn.Linear(x.size(-1), b), meet)


@layer('vector')
def distance(draw: Draw, x: Tensor) -> nn.Module:
    """Two linear layers, and how far apart their outputs are."""
    width = draw.width()
    meet = draw.pick(nn.CosineSimilarity(), nn.PairwiseDistance(draw.pick(1.0, 2.0)))
    return Pair(nn.Linear(x.size(-1), width), nn.Linear(x.size(-1), width), meet, scale=True)


@layer('vector', *SPATIAL)
def batch_norm(draw: Draw, x: Tensor) -> nn.Module:
    """Batch norm, with and without parameters and statistics."""
    options = draw.options(affine=(True, True, False), track_running_stats=(True, True, True, False))
    options['momentum'] = draw.pick(0.1, 0.1, None)
    kind = nn.BatchNorm1d if x.dim() == 2 else of_dims(x, 'BatchNorm')
    if draw.chance(0.15):
        return (nn.LazyBatchNorm1d if x.dim() == 2 else of_dims(x, 'LazyBatchNorm'))(**options)
    return kind(x.size(1), **options)


@layer(*SPATIAL)
def instance_norm(draw: Draw, x: Tensor) -> nn.Module:
    """Instance norm."""
    options = draw.options(affine=(True, False), track_running_stats=(True, False))
    lazy = draw.chance(0.15)
    kind = of_dims(x, 'LazyInstanceNorm' if lazy else 'InstanceNorm')
    return kind(**options) if lazy else kind(x.size(1), **options)


@layer('vector', *SPATIAL)
def group_norm(draw: Draw, x: Tensor) -> nn.Module:
    """Group norm of one, some, or as many groups as there are channels."""
    return nn.GroupNorm(draw.divisor(x.size(1)), x.size(1), affine=draw.chance(0.8))


@layer(*ALL)
def layer_norm(draw: Draw, x: Tensor) -> nn.Module:
    """Layer norm or RMS norm over the channels, or over all that follows the batch."""
    kind = draw.pick(nn.LayerNorm, nn.LayerNorm, nn.RMSNorm)
    affine = draw.chance(0.8)
    if draw.layout in ('vector', 'tokens'):
        return kind(x.size(-1), elementwise_affine=affine)
    if draw.chance(0.3):
        return kind(x.shape[1:], elementwise_affine=affine)
    return Permuted(kind(x.size(1), elementwise_affine=affine), 0, *range(2, x.dim()), 1)


@layer(*SPATIAL)
def response_norm(draw: Draw, x: Tensor) -> nn.Module:
    """Norms over neighbouring channels."""
    return nn.CrossMapLRN2d(3) if x.dim() == 4 and draw.chance(0.3) else nn.LocalResponseNorm(draw.pick(2, 3))


@layer(*SPATIAL)
def pooling(draw: Draw, x: Tensor) -> nn.Module:
    """Max, average and power pooling."""
    kind = draw.pick('MaxPool', 'AvgPool', 'LPPool')
    if kind == 'LPPool':
        return of_dims(x, kind)(draw.pick(1, 2), draw.pick(2, 3), ceil_mode=draw.chance(0.3))
    kernel, stride = draw.pick(2, 3), draw.pick(1, 2, None)
    options: dict[str, Any] = dict(padding=draw.pick(0, 1), ceil_mode=draw.chance(0.3))
    if kind == 'AvgPool':
        options['count_include_pad'] = draw.chance(0.5)
    elif draw.chance(0.3):
        return Item(of_dims(x, kind)(kernel, stride, return_indices=True, **options))
    elif draw.chance(0.3):
        options['dilation'] = 2
    return of_dims(x, kind)(kernel, stride, **options)


@layer(*SPATIAL)
def adaptive_pooling(draw: Draw, x: Tensor) -> nn.Module:
    """Adaptive pooling to some size."""
    size = draw.pick(2, 3, 4, (4, None, 2)[: x.dim() - 2])
    if draw.chance(0.4):
        return of_dims(x, 'AdaptiveAvgPool')(size)
    if draw.chance(0.4):
        return Item(of_dims(x, 'AdaptiveMaxPool')(size, return_indices=True))
    return of_dims(x, 'AdaptiveMaxPool')(size)


@layer('image', 'volume')
def fractional_pooling(draw: Draw, x: Tensor) -> nn.Module:
    """Fractional max pooling, whose windows are drawn at random in every mode."""
    return of_dims(x, 'FractionalMaxPool')(2, output_ratio=0.6)


@layer(*SPATIAL)
def unpooling(draw: Draw, x: Tensor) -> nn.Module:
    """Pooling, a layer or none, and the unpooling that belongs to it."""
    width = x.size(1)
    block = draw.pick(nn.Identity(), nn.ReLU(), of_dims(x, 'Conv')(width, width, 1))
    return PoolUnpool(of_dims(x, 'MaxPool')(2, return_indices=True), block, of_dims(x, 'MaxUnpool')(2))


@layer(*SPATIAL)
def padding(draw: Draw, x: Tensor) -> nn.Module:
    """Padding of every mode."""
    kind = draw.pick('ReflectionPad', 'ReplicationPad', 'ZeroPad', 'ConstantPad', 'CircularPad')
    amount = draw.pick(1, tuple(draw.randint(0, 2) for _ in range(2 * (x.dim() - 2))))
    return of_dims(x, kind)(amount, 0.5) if kind == 'ConstantPad' else of_dims(x, kind)(amount)


@layer(*ALL)
def activation(draw: Draw, x: Tensor) -> nn.Module:
    """Activations without parameters."""
    kind = draw.pick(
        nn.ReLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
        nn.Hardsigmoid, nn.Hardtanh, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink, nn.Softplus, nn.Softsign, nn.Tanh,
        nn.Sigmoid, nn.LogSigmoid, nn.RReLU, nn.Threshold, nn.GELU,
    )  # fmt: skip
    if kind is nn.Threshold:
        return nn.Threshold(0.1, draw.pick(0.0, 0.5))
    if kind is nn.GELU:
        return nn.GELU(approximate=draw.pick('none', 'tanh'))
    inplace = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU, nn.Mish, nn.Hardswish)
    return kind(inplace=True) if kind in inplace and draw.chance(0.3) else kind()


@layer(*ALL)
def prelu(draw: Draw, x: Tensor) -> nn.Module:
    """A slope for all, or one per channel (which PReLU expects in the second dimension)."""
    return nn.PReLU(draw.pick(1, x.size(1))) if draw.layout != 'tokens' else nn.PReLU()


@layer(*ALL)
def gated(draw: Draw, x: Tensor) -> nn.Module:
    """Half of the channels gates the other half."""
    return nn.GLU(channel_dim(draw.layout))


@layer(*ALL)
def softmax(draw: Draw, x: Tensor) -> nn.Module:
    """Softmax over channels or positions."""
    if x.dim() == 4 and draw.chance(0.2):
        return nn.Softmax2d()
    return draw.pick(nn.Softmax, nn.Softmin, nn.LogSoftmax)(draw.pick(1, -1))


@layer(*ALL)
def dropout(draw: Draw, x: Tensor) -> nn.Module:
    """Dropout of values or of whole channels."""
    kinds: list[Any] = [nn.Dropout, nn.Dropout, nn.AlphaDropout]
    if draw.layout in SPATIAL:
        kinds += [of_dims(x, 'Dropout'), nn.FeatureAlphaDropout]
    return draw.choice(kinds)(draw.pick(0.0, 0.3))


@layer('image')
def shuffle(draw: Draw, x: Tensor) -> nn.Module:
    """Pixels to channels and back, and channels among themselves."""
    groups = draw.divisor(x.size(1))
    return draw.pick(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(groups))


@layer('image')
def unfolding(draw: Draw, x: Tensor) -> nn.Module:
    """Unfold and Fold."""
    options = dict(kernel_size=draw.pick(2, 3), stride=draw.pick(1, 2), padding=draw.pick(0, 1))
    return UnfoldFold(nn.Unfold(**options), nn.Fold(tuple(x.shape[2:]), **options))


@layer(*SPATIAL)
def upsampling(draw: Draw, x: Tensor) -> nn.Module:
    """Upsampling of every mode."""
    smooth = {3: ('linear',), 4: ('bilinear', 'bicubic'), 5: ('trilinear',)}[x.dim()]
    if x.dim() == 4 and draw.chance(0.3):
        return draw.pick(nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)(scale_factor=2)
    mode = draw.pick('nearest', 'nearest-exact', *smooth)
    corners = draw.pick(True, False, None) if mode in smooth else None
    size = {} if draw.chance(0.6) else dict(size=tuple(s + 1 for s in x.shape[2:]))
    return nn.Upsample(**(size or dict(scale_factor=2)), mode=mode, align_corners=corners)


@layer(*ALL)
def nothing(draw: Draw, x: Tensor) -> nn.Module:
    """Identity, Flatten and Unflatten that cancel."""
    if draw.layout not in SPATIAL:
        return nn.Identity()
    return nn.Sequential(nn.Flatten(2), nn.Unflatten(2, tuple(x.shape[2:])))


LEFT_OUT = {
    'Module': 'no layer',
    'Sequential': 'a container: networks are built of it',
    'ModuleList': 'a container: see fuzz/wiring.py',
    'ModuleDict': 'a container: see fuzz/wiring.py',
    'ParameterList': 'a container without a forward',
    'ParameterDict': 'a container without a forward',
    'Container': 'deprecated; no forward',
    'SyncBatchNorm': 'trains on GPUs only',
    'RNNBase': 'the base of recurrent layers',
    'RNNCellBase': 'the base of recurrent cells',
}
"""Classes of torch.nn that no network holds, and why; losses (``...Loss``) are left out too."""
