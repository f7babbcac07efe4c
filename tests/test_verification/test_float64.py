import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmdms.slicing.slim import _selected
from mmdms.verification import float64 as precision
from mmdms.verification.float64 import Product, float64

LAYERS = {
    'linear': (nn.Linear(5, 7), (3, 5)),
    'tokens': (nn.Linear(5, 7, bias=False), (2, 3, 5)),
    'vector': (nn.Linear(5, 7), (5,)),
    'conv': (nn.Conv2d(4, 6, 3, stride=2, padding=1), (1, 4, 9, 9)),
    'sequence': (nn.Conv1d(4, 6, 3, dilation=2), (2, 4, 9)),
    'unbatched': (nn.Conv2d(4, 6, 3), (4, 9, 9)),
    'grouped': (nn.Conv2d(6, 9, 3, groups=3), (2, 6, 5, 5)),
    'depthwise': (nn.Conv2d(4, 8, 3, groups=4, padding='same'), (1, 4, 5, 5)),
    'volume': (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3)),
}


@pytest.fixture
def small(monkeypatch):
    """Pieces of a few values, so that every layer here is computed in several."""
    for name, value in dict(PIECE=20, LARGE=8, UNFOLDED=300).items():
        monkeypatch.setattr(precision, name, value)


@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_pieces_are_the_whole(small, name, masked, dtype):
    """Against the layer in float64, to its rounding; float32 would be off by 1e-7."""
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    x = torch.randn(shape, dtype=torch.float64)
    weight = layer.weight.detach().to(dtype)
    mask = torch.arange(weight.size(1)).view(1, -1, *[1] * (weight.dim() - 2)) % 2 + 0.25 if masked else 1.0
    bias = None if layer.bias is None else layer.bias.detach()
    expected = _run(layer, x, weight.double() * mask, None if bias is None else bias.double())
    with torch.no_grad(), float64():
        found = _run(layer, x, weight * mask if masked else weight, bias)
    assert found.dtype == torch.float64 and found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def _run(layer, x, weight, bias):
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    conv = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()]
    return conv(x, weight, bias, layer.stride, layer.padding, layer.dilation, groups=layer.groups)


def test_a_product_is_the_product_to_whatever_uses_it(small):
    tensor, factor = torch.rand(4, 6), torch.tensor([0.0, 1, 0, 1, 0, 1], dtype=torch.float64)
    expected = tensor.double() * factor
    with torch.no_grad(), float64():
        product = tensor * factor
        assert isinstance(product, Product) and product.shape == (4, 6) and product.dtype == torch.float64
        used = [product + 0, product.view(24).view(4, 6), product.T.T, product[:], product.data, product.clone(),
                torch.eye(4) @ product, F.normalize(product) * expected.norm(dim=1, keepdim=True),
                product * torch.ones(6), product.double(), product.float()]  # fmt: skip
    outside = [product + 0, product.detach(), torch.stack([product])[0]]
    for found in [*used, *outside]:
        torch.testing.assert_close(torch.as_tensor(found).as_subclass(torch.Tensor), expected, rtol=1e-14, atol=0)


def test_a_number_is_a_factor(small):
    with torch.no_grad(), float64():
        found = F.linear(torch.eye(6), torch.rand(4, 6) * 0.0)
    assert found.shape == (6, 4) and not found.any()


@pytest.mark.parametrize(('given', 'bias'), [(6, 5), (5, 4)])
def test_a_layer_that_does_not_fit_says_so(small, given, bias):
    with torch.no_grad(), float64(), pytest.raises(RuntimeError):
        F.linear(torch.rand(3, given), torch.rand(4, 6), torch.rand(bias))
    with torch.no_grad(), float64(), pytest.raises(RuntimeError):
        F.conv2d(torch.rand(1, given, 3, 3), torch.rand(4, 3, 2, 2), torch.rand(bias), groups=2)


def test_gradients_are_as_without(small):
    weight = torch.rand(4, 6, requires_grad=True)
    with float64():
        F.linear(torch.ones(6), weight * torch.arange(6.0)).sum().backward()
    assert weight.grad.tolist() == [[0, 1, 2, 3, 4, 5]] * 4


@pytest.mark.parametrize('dims', [(0,), (1,), (0, 1), (1, 0), (0, 2), (0, 1, 2)])
def test_places_along_several_dimensions(dims, monkeypatch):
    monkeypatch.setattr('mmdms.slicing.slim.LARGE', 16)
    value = torch.arange(7 * 4 * 3).view(7, 4, 3)
    places = {0: torch.tensor([1, 2, 5, 6]), 1: torch.tensor([0, 3]), 2: torch.tensor([2])}
    expected = value
    for dim in dims:
        expected = expected.index_select(dim, places[dim])
    assert torch.equal(_selected(value, {dim: places[dim] for dim in dims}), expected)


CASTS = {
    'float': lambda x: x.float(),
    'half': lambda x: x.half(),
    'bfloat16': lambda x: x.bfloat16(),
    'to': lambda x: x.to(torch.float32),
    'to device': lambda x: x.to('cpu', torch.float16),
    'type': lambda x: x.type(torch.float32),
    'type of tensors': lambda x: x.type(torch.FloatTensor),
    'name of a type': lambda x: x.type('torch.HalfTensor'),
    'sum': lambda x: x.cumsum(0, dtype=torch.float32),
    'new': lambda x: torch.zeros(3, dtype=torch.float32).copy_(x),
    'like': lambda x: torch.empty_like(x, dtype=torch.float16).copy_(x),
}


@pytest.mark.parametrize('name', CASTS)
@pytest.mark.parametrize('whole', [False, True])
def test_a_forward_that_casts_is_given_float64(name, whole):
    """Whole numbers (indices, masks) that a network computes with must become floats, as its weights are."""
    x = torch.arange(3) if whole else torch.tensor([1 / 3, 0, 1], dtype=torch.float64)
    with torch.no_grad(), float64():
        found = CASTS[name](x)
        F.linear(found, torch.rand(2, 3), torch.rand(2))  # raises for a type that is not that of the weight
    assert torch.Tensor.dtype.__get__(found) == torch.float64
    assert torch.equal(found, (x.cumsum(0) if name == 'sum' else x).double())


def test_bits_are_shown_as_the_type_that_was_asked_for():
    bits = torch.tensor([0x3F800000], dtype=torch.int32)
    with torch.no_grad(), float64():
        assert bits.view(torch.float32).item() == 1.0
