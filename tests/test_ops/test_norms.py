import pytest
import torch
import torch.nn.functional as F

from mmdms.ops.norms import masked_layer_norm


def numbers(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1


def by_formula(x, mask, weight, bias, eps):
    share = mask / mask.sum()
    mean = (share * x).sum(-1, keepdim=True)
    variance = (share * (x - mean).square()).sum(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight + (0 if bias is None else bias)


@pytest.mark.parametrize('bias', [True, False])
def test_soft_masks_and_all_gradients(bias):
    operands = [numbers(2, 3, 5), numbers(5, seed=1), numbers(5, seed=2), numbers(5, seed=3) if bias else None]
    operands = [o if o is None else o.requires_grad_() for o in operands]
    torch.testing.assert_close(masked_layer_norm(*operands, 1e-3), by_formula(*operands, 1e-3))
    assert torch.autograd.gradcheck(lambda *o: masked_layer_norm(*o, 1e-3), operands)


def test_hard_masks_give_the_norm_of_what_stays():
    x, weight, bias = numbers(4, 6), numbers(6, seed=1), numbers(6, seed=2)
    keep = torch.tensor([True, False, True, True, False, True])
    x[:, ~keep] = 1e3
    found = masked_layer_norm(x, keep.double(), weight, bias, 1e-6)
    expected = F.layer_norm(x[:, keep], (4,), weight[keep], bias[keep], 1e-6)
    torch.testing.assert_close(found[:, keep], expected, rtol=1e-12, atol=1e-12)
    ones = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(
        masked_layer_norm(x, ones, weight, bias, 1e-6), F.layer_norm(x, (6,), weight, bias, 1e-6)
    )


def test_types():
    x, mask, weight, bias = numbers(4, 6).half(), torch.ones(6), numbers(6, seed=1).float(), numbers(6, seed=2).float()
    found = masked_layer_norm(x, mask, weight, bias, 1e-6)
    assert found.dtype == torch.float32  # as under autocast
    torch.testing.assert_close(found, F.layer_norm(x.float(), (6,), weight, bias, 1e-6))
    half = masked_layer_norm(x.bfloat16(), mask, weight.bfloat16(), bias.bfloat16(), 1e-6)
    assert half.dtype == torch.bfloat16


def test_a_large_mean_does_not_swallow_the_variance():
    x = numbers(3, 64).float() + 1e3
    ones = torch.ones(64)
    found, expected = masked_layer_norm(x, ones, ones, ones, 1e-6), F.layer_norm(x, (64,), ones, ones, 1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_images_whose_channels_come_last_as_a_view():
    x, weight, bias = numbers(2, 5, 3, 4), numbers(5, seed=1), numbers(5, seed=2)
    view = x.permute(0, 2, 3, 1)
    found = masked_layer_norm(view, torch.ones(5, dtype=torch.float64), weight, bias, 1e-6)
    torch.testing.assert_close(found, F.layer_norm(view, (5,), weight, bias, 1e-6))
