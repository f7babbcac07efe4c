import pytest
import torch

from mmdms.ops.products import blend, gather_masks, inner, mask_product

SHAPES = [((4, 3, 3, 3), 1), ((5, 4), 1), ((4, 3, 2, 2), 0), ((6,), 0), ((2, 3, 9, 9), 1), ((2, 5, 3), 2)]


def numbers(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1


@pytest.mark.parametrize('shape,dim', SHAPES)
@pytest.mark.parametrize('channels_last', [False, True])
def test_gradients_of_a_masked_weight(shape, dim, channels_last):
    tensor, mask = numbers(*shape), numbers(shape[dim], seed=1)
    if channels_last and len(shape) == 4:
        tensor = tensor.to(memory_format=torch.channels_last)
    view = [-1 if d == dim else 1 for d in range(len(shape))]
    assert torch.equal(mask_product(tensor, mask, dim), tensor * mask.view(view))
    tensor.requires_grad_(), mask.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mask_product(a, b, dim), (tensor, mask))


def test_only_what_is_wanted_has_a_gradient():
    tensor, mask = numbers(3, 2), numbers(2, seed=1).requires_grad_()
    (mask_product(tensor, mask, 1).sum()).backward()
    torch.testing.assert_close(mask.grad, tensor.sum(0))
    tensor.requires_grad_()
    mask_product(tensor, mask.detach(), 1).sum().backward()
    assert torch.equal(tensor.grad, mask.detach().expand(3, 2))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    """4,096 products of 1/16: 256, which a running sum in half precision would never reach exactly in bfloat16."""
    a = torch.full((4096, 3, 1, 1), 0.25, dtype=dtype)
    found = inner(a, a, 1)
    assert found.dtype == torch.float32 and found.tolist() == [256.0] * 3
    mask = torch.ones(3, requires_grad=True)
    product = mask_product(a, mask, 1)
    assert product.dtype == dtype
    product.backward(a)
    assert mask.grad.dtype == torch.float32 and mask.grad.tolist() == [256.0] * 3


def test_the_gradient_of_a_gate_in_half_precision_exceeds_its_range():
    """By hand: 2**20 products of 1/4 are 2**18, and float16 ends at 65,504."""
    given, result = torch.zeros(2**20, dtype=torch.float16), torch.full((2**20,), 0.5, dtype=torch.float16)
    gate = torch.tensor(0.3, requires_grad=True)
    blend(given, result, gate).backward(result)
    assert gate.grad.item() == 2**18


def test_gathered_masks():
    values = torch.tensor([2.0, 3.0, 5.0], requires_grad=True)
    first, second, third = gather_masks(values, torch.tensor([0, 3, 0, 2, 1]), [2, 2, 1])
    assert (first.tolist(), second.tolist(), third.tolist()) == ([2, 1], [2, 5], [3])
    # By hand: element 0 is read with weights 1 and 10, element 2 with 100; nothing reads the third place.
    (first @ torch.tensor([1.0, 7.0]) + second @ torch.tensor([10.0, 100.0])).backward()
    assert values.grad.tolist() == [11, 0, 100]


def test_masks_are_gathered_once_for_several_backward_passes():
    values = torch.tensor([2.0, 3.0], requires_grad=True)
    first, second = gather_masks(values, torch.tensor([0, 1, 1]), [1, 2])
    first.sum().backward()
    second.sum().backward()  # as activation checkpointing does, without retain_graph
    assert values.grad.tolist() == [1, 2]


@pytest.mark.parametrize('value', [0.0, 0.3, 1.0])
def test_gradients_of_a_gate(value):
    given, result = numbers(2, 3).requires_grad_(), numbers(2, 3, seed=1).requires_grad_()
    gate = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    blended = blend(given, result, gate)
    torch.testing.assert_close(blended, given + gate * (result - given))
    if value in (0.0, 1.0):
        assert torch.equal(blended, result if value else given)
    assert torch.autograd.gradcheck(blend, (given, result, gate))
    assert torch.autograd.gradcheck(lambda a, b, g: blend(a.T, b, g), (numbers(3, 2).requires_grad_(), result, gate))
