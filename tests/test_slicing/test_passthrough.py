"""What stands where a block was removed, and how slices lie in memory."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import Net, conv, image, reasons, space_of
from torch import nn

from mmdms import build_search_space, slim
from mmdms.slicing.passthrough import Passthrough, pass_through


class Block(nn.Module):
    """A residual block with more arguments than one."""

    def __init__(self, width=4):
        super().__init__()
        self.a, self.b, self.stride = conv(width, 6, 3), conv(6, width, 3), 2

    def forward(self, x, mask=None, flag: bool = False, *, more=None):
        return x + self.b(F.relu(self.a(x)))


class Plain(nn.Module):
    """A network that TorchScript can read."""

    def __init__(self):
        super().__init__()
        self.stem, self.out = conv(3, 4, 3), nn.Linear(4, 2)
        self.blocks = nn.Sequential(Branch(), Branch(), Branch())

    def forward(self, x):
        return self.out(self.blocks(F.relu(self.stem(x))).mean([2, 3]))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(conv(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4, 3))

    def forward(self, x):
        return x + self.branch(x)


def cut(model, space, blocks=1, ratio=0.5):
    """A slice that keeps the first of every unit."""
    mask = torch.zeros(space.num_elements, dtype=torch.bool)
    for start, unit in zip(space.offsets, space.units, strict=True):
        mask[start : start + (blocks if unit.kind == 'depth' else round(ratio * unit.total))] = True
    return slim(model, space, space.structure(mask))


def test_scripted(tmp_path):
    torch.manual_seed(0)
    model = Plain().eval()
    subnet = cut(model, space_of(model, image()))
    assert sum(isinstance(module, Passthrough) for module in subnet.modules()) == 2
    scripted = torch.jit.script(subnet)
    torch.testing.assert_close(scripted(image()), subnet(image()))
    torch.jit.save(scripted, tmp_path / 'subnet.pt')
    torch.testing.assert_close(torch.jit.load(tmp_path / 'subnet.pt')(image()), subnet(image()))
    torch.testing.assert_close(torch.jit.trace(subnet, image())(image()), subnet(image()))


class Caller(nn.Module):
    """Calls a block by position and keyword, with several results or a tuple of one."""

    def __init__(self, block, way):
        super().__init__()
        self.block = block
        self.way = way

    def forward(self, x):
        if self.way == 'keywords':
            return self.block(x, flag=True, mask=x)
        if self.way == 'tuple':
            return self.block(x)[0]
        one, other = self.block(x, x + 1)
        return other - one


@pytest.mark.parametrize(('way', 'arguments', 'expected'), [
    ('keywords', (), lambda x: x), ('tuple', (1, True), lambda x: x), ('streams', (2,), lambda x: torch.ones_like(x)),
])  # fmt: skip
def test_scripted_calls(way, arguments, expected):
    standing = pass_through(Block(), *arguments)
    x = image(4)
    for one in (standing, pickle.loads(pickle.dumps(standing)), copy.deepcopy(standing)):
        torch.testing.assert_close(Caller(one, way)(x), expected(x))
        if way != 'keywords':
            assert isinstance(one(x, x), tuple) and one(x, x)[0] is x
        else:
            assert one(x) is x and one(x=x) is x
    if way == 'keywords':
        torch.testing.assert_close(torch.jit.script(Call(standing))(x), x)


class Call(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x, flag=True, mask=x)


def test_attributes_of_the_block_without_its_weights():
    block = Block().train(False)
    block.features = block(image(4))
    standing = pass_through(block)
    assert standing.stride == 2 and isinstance(standing.a, nn.Conv2d) and standing.a.out_channels == 6
    assert standing.a.weight.numel() == 0 and block.a.weight.numel() > 0
    assert not standing.state_dict() and not list(standing.parameters()) and list(standing.modules()) == [standing]
    assert not standing.training and not standing.a.training and standing.train().a.training
    assert standing.half().a.weight.dtype is torch.float16
    with pytest.raises(AttributeError, match="'Passthrough' object has no attribute 'nothing'"):
        standing.nothing  # noqa: B018
    assert not hasattr(standing, 'features')
    linear = pass_through(nn.Linear(2, 2))
    assert not hasattr(linear, 'reset_parameters')  # methods could not compute anything: init_weights and the like


class Cached(nn.Module):
    """A residual layer whose table of biases is looked up once for all of evaluation, as by LeViT's attention."""

    def __init__(self):
        super().__init__()
        self.layer, self.biases = conv(4, 4), nn.Parameter(torch.rand(1, 5))
        self.register_buffer('places', torch.tensor([3]), persistent=False)

    def train(self, mode=True):
        super().train(mode)
        self.cache = None if mode else self.biases[:, self.places]
        return self

    def forward(self, x):
        return x + self.layer(x) * (self.biases[:, self.places] if self.training else self.cache)


def test_no_train_of_the_block_is_called():
    torch.manual_seed(0)
    blocks = nn.Sequential(*[Cached() for _ in range(3)])
    net = Net(lambda n, x: n.out(n.blocks(n.stem(x))), stem=conv(3, 4), blocks=blocks, out=conv(4, 2)).eval()
    space = space_of(net, image())
    assert ('blocks', 'depth', 3) in [(unit.name, unit.kind, unit.total) for unit in space.units]
    # The trace is one of evaluation, where the biases were looked up before.
    unseen = 'biases is used by no operation that the trace sees; '
    assert reasons(space) == {f'blocks.{i}': unseen for i in range(3)}
    standing = pass_through(Cached())
    assert standing.training and not standing.eval().training and not standing.layer.training
    assert standing.train().layer.training


@pytest.mark.parametrize('blocks', [0, 1, 2])
@pytest.mark.parametrize('padded', [False, True])
def test_a_transformer_encoder_reads_its_first_layer(blocks, padded):
    torch.manual_seed(0)

    def run(n, x):
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[:, -1] = padded
        return n.out(n.layers(n.stem(x), src_key_padding_mask=padding if padded else None)[:, :2])

    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, norm_first=True), 3, enable_nested_tensor=False
    )
    model = Net(run, stem=nn.Linear(5, 8), layers=encoder, out=nn.Linear(8, 2)).eval()
    x = torch.rand(1, 4, 5)
    space = build_search_space(model, x)
    subnet = cut(model, space, blocks)
    standing = [module for module in subnet.layers.layers if isinstance(module, Passthrough)]
    assert len(standing) == 3 - blocks
    with torch.no_grad():
        found = subnet(x)
    torch.testing.assert_close(found, subnet(x))


@pytest.mark.parametrize('kernel', [1, 3])
def test_channels_last_survives(kernel):
    layers = dict(a=conv(3, 8, kernel), depthwise=conv(8, 8, 3, groups=8), b=conv(8, 6, kernel), out=conv(6, 2))
    net = Net(lambda n, x: n.out(n.b(n.depthwise(n.a(x)))), **layers)
    expected = cut(net, space_of(net, image()))
    net = net.to(memory_format=torch.channels_last)
    subnet = cut(net, space_of(net, image()))
    for (name, found), plain in zip(subnet.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(found, plain)
        if found.dim() == 4:
            assert found.is_contiguous(memory_format=torch.channels_last), name
            assert found.stride() == found.detach().clone(memory_format=torch.channels_last).stride(), name
            assert plain.is_contiguous() and plain.stride() == plain.detach().clone().contiguous().stride()
    x = image(size=6).to(memory_format=torch.channels_last)
    assert subnet(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(subnet(x), expected(x))


def test_channels_last_of_three_dimensions():
    net = Net(
        lambda n, x: n.out(F.relu(n.a(x))), a=nn.Conv3d(3, 8, 3, padding=1), out=nn.Conv3d(8, 2, 3, padding=1)
    ).to(memory_format=torch.channels_last_3d)
    x = torch.rand(1, 3, 3, 4, 4)
    subnet = cut(net, build_search_space(net, x))
    assert subnet.out.weight.shape[1] == 4
    assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in (subnet.a.weight, subnet.out.weight))


class InTuple(nn.Module):
    """A layer as transformers writes them: the states in a tuple."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, states, mask=None):
        return (states + self.b(F.relu(self.a(states))),)


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.out = nn.Linear(5, 6), nn.Linear(6, 2)
        self.layers = nn.ModuleList([InTuple(), InTuple(), InTuple()])

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x, None)[0]
        return self.out(x)


def test_blocks_that_return_a_tuple_of_one():
    torch.manual_seed(0)
    model, x = Stack(), torch.rand(1, 3, 5)
    space = space_of(model, x)
    assert ('layers', 'depth', 3) in [(unit.name, unit.kind, unit.total) for unit in space.units]
    assert space.tuples == {'layers.0', 'layers.1', 'layers.2'}
    subnet = cut(model, space, blocks=1, ratio=1)
    expected = model.out(model.layers[0](model.stem(x))[0])
    torch.testing.assert_close(subnet(x), expected)
