"""What a network may be called on, and what it may return."""

import collections
import dataclasses
from collections import UserDict

import pytest
import torch
from helpers.tiny import image, sizes
from mmengine.model import BaseModel
from torch import nn

import mmdms
from mmdms.errors import ModelError
from mmdms.network.trees import map_tensors, tensors_of
from mmdms.openmmlab.algorithm import DMSAlgorithm
from mmdms.openmmlab.model_space import build_model_space
from mmdms.verification.parity import check_parity, difference
from mmdms.verification.verifier import random_structure


class Two(nn.Module):
    """Three layers on an image; what it returns is packed by a function."""

    def __init__(self, pack=lambda y: y):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
        self.pack = pack

    def forward(self, image, other=None, *, scale=1.0):
        y = scale * self.head(self.b(self.a(image).relu()).relu())
        return self.pack(y if other is None else y + other)


class OfBatch(Two):
    def forward(self, batch):
        return super().forward(batch['image'])


class Words(nn.Module):
    """Token ids and their mask, by name."""

    def __init__(self):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(11, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, input_ids, attention_mask=None):
        assert input_ids.dtype == torch.int64 and attention_mask.dtype == torch.int64
        return self.b((self.a(self.embed(input_ids)) * attention_mask[..., None]).relu().sum(1))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple = ()


class Holder:
    def __init__(self, y):
        self.y = [y]


Named = collections.namedtuple('Named', 'y rest')

INPUTS = {
    'tensor': image(),
    'tuple': (image(),),
    'list': [image()],
    'mapping': dict(image=image()),
    'two': (image(), image(2)),
    'names': dict(image=image(), other=image(2), scale=2.0),
    'call': mmdms.ExampleCall(image(), scale=3.0),
}


def assert_searched(model, inputs, found):
    space = mmdms.build_search_space(model, inputs)
    assert sizes(space).items() >= found.items()  # whether an embedding is searched is no matter here
    parity = check_parity(model, space, random_structure(space, 0.5), inputs)
    assert parity.holds and parity.max_abs_output > 0


@pytest.mark.parametrize('inputs', INPUTS.values(), ids=INPUTS)
def test_ways_to_call_a_network(inputs):
    assert_searched(Two(), inputs, {'a': 8, 'b': 6})


def test_a_dict_as_the_only_argument():
    assert_searched(OfBatch(), (dict(image=image()),), {'a': 8, 'b': 6})
    with pytest.raises(ModelError, match=r"OfBatch cannot be called on \(image=Tensor\): .*'batch'.* \(inputs,\)"):
        mmdms.build_search_space(OfBatch(), dict(image=image()))


def test_token_ids_stay_integers():
    encoding = UserDict(input_ids=torch.tensor([[3, 1, 4]]), attention_mask=torch.tensor([[1, 1, 0]]))
    assert_searched(Words(), encoding, {'a': 6})  # a tokenizer returns such a mapping


WRONG = {
    'array': (image().numpy(), r'but they are a numpy\.ndarray: .*torch\.as_tensor'),
    'text': ('image', r'but they are a builtins\.str'),
    'number': (3, r'but they are a builtins\.int'),
    'keys': ({0: image()}, r'but 0 is no name: .*\(inputs,\)'),
    'other name': (dict(picture=image()), r"Two cannot be called on \(picture=Tensor\): .*'image'"),
    'too many': ((image(), image(), image()), r'Two cannot be called on \(Tensor, Tensor, Tensor\): too many'),
}


@pytest.mark.parametrize('name', WRONG)
def test_inputs_that_are_refused(name):
    inputs, message = WRONG[name]
    with pytest.raises(ModelError, match=message):
        mmdms.build_search_space(Two(), inputs)


PACKED = {
    'dataclass': Output,
    'dataclass in a list': lambda y: [Output(None, (y, 3))],
    'dict': lambda y: dict(y=y, none=None),
    'mapping': lambda y: UserDict(y=y),
    'named tuple': lambda y: Named(y, 'text'),
    'object': Holder,
    'set': lambda y: {y},
}


@pytest.mark.parametrize('pack', PACKED.values(), ids=PACKED)
def test_outputs_of_any_kind_are_compared(pack):
    """The head's channels are outputs, so they stay; a wrong slice is seen."""
    torch.manual_seed(1)  # not all channels of b are negative
    model = Two(pack)
    space = mmdms.build_search_space(model, image())
    assert sizes(space) == {'a': 8, 'b': 6}
    assert [f.reason for f in space.frozen if f.module == 'head'] == ['reaches an output of the network']
    (axis,) = [a for a in space.axes if (a.parameter, a.dim) == ('b.weight', 0)]
    axis.elements = axis.elements.flip(0)
    assert not check_parity(model, space, random_structure(space, 0.4), image()).holds


EMPTY = {
    'nothing': (lambda y: None, 'Two returned NoneType, in which there is no tensor of floating-point'),
    'dict of nothing': (lambda y: dict(y=None), 'Two returned a dict of NoneType, '),
    'classes': (lambda y: y.argmax(1), 'Two returned a Tensor, '),
    'generator': (lambda y: (part for part in y), 'Two returned a generator, '),
}


@pytest.mark.parametrize('name', EMPTY)
def test_outputs_that_cannot_be_compared_are_refused(name):
    pack, message = EMPTY[name]
    for verify in (True, False):
        with pytest.raises(ModelError, match=message):
            mmdms.build_search_space(Two(pack), image(), verify=verify)
    space = mmdms.build_search_space(Two(), image())
    with pytest.raises(ModelError, match='so nothing was compared'):
        check_parity(Two(pack), space, random_structure(space, 0.5), image())


def testdifferences_of_other_types_of_tensors():
    y, true, infinite = torch.ones(2).double(), torch.tensor([True, False]), torch.tensor([1, -torch.inf]).double()
    found = difference([y, true, infinite], [y, true, infinite])
    assert found.holds and found.max_abs_output == 1
    assert not difference([y, true], [y, ~true]).holds
    assert not difference([y, infinite], [y, y]).holds
    assert not difference([torch.complex(y, y)], [torch.complex(y, 2 * y)]).holds
    assert not difference([0 * y], [y]).holds
    with pytest.raises(ValueError, match='returns 1 tensors instead of 2'):
        difference([y, y], [y])


def test_tensors_are_replaced_in_their_containers():
    ones, lists = torch.ones(2), type('Lists', (list,), {})
    value = (UserDict(a=ones), Output(ones, (ones,)), lists([ones]), Named(ones, 1), Holder(ones))
    doubled = map_tensors(value, lambda t: 2 * t)
    assert [type(part) for part in doubled] == [type(part) for part in value]
    assert [float(t.sum()) for t in tensors_of(doubled)] == [4, 4, 4, 4, 4, 2]  # an object is handed on as it is
    assert [float(t.sum()) for t in tensors_of(value)] == [2] * 6


class Tutorial(BaseModel):
    """As mmengine's tutorial has it: of images and labels, which have no default."""

    def __init__(self, in_tensor_mode):
        super().__init__()
        self.net, self.in_tensor_mode = Two(), in_tensor_mode

    def forward(self, imgs, labels, mode):
        y = self.net(imgs)
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(y.mean((2, 3)), labels)}
        if mode == 'predict':
            return y, labels
        return self.in_tensor_mode(y, labels)


def test_a_model_of_images_and_labels():
    model = Tutorial(lambda y, labels: y)
    assert sizes(build_model_space(model, (3, 4, 4))) == {'net.a': 8, 'net.b': 6}
    mutator = dict(type='DMSMutator', budget=dict(metric='flops', target=0.5))
    algorithm = DMSAlgorithm(model, mutator, (3, 4, 4))
    labels = torch.zeros(1, dtype=torch.long)
    losses = [algorithm(image(), labels, mode='loss'), algorithm(image(), labels, 'loss')]
    losses += [algorithm(imgs=image(), labels=labels, mode='loss')]
    assert all(set(found) >= {'loss', 'budget_loss'} for found in losses)
    predicted, same = algorithm(image(), labels, mode='predict')
    assert predicted.shape == (1, 2, 4, 4) and same is labels


def test_a_model_that_returns_nothing_for_images_alone():
    with pytest.raises(
        ModelError, match=r"Tutorial\.forward\(images, mode='tensor', labels=None\) returned None: have"
    ):
        build_model_space(Tutorial(lambda y, labels: None), (3, 4, 4))
    with pytest.raises(ModelError, match=r'labels=None\) raised TypeError: .*only images are known'):
        build_model_space(Tutorial(lambda y, labels: y + labels), (3, 4, 4))
