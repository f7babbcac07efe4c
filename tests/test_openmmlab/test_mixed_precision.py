"""Mixed precision: loss scales cancel, skipped steps are skipped for the structure too, autocast works."""

import pytest
import torch
import torch.nn.functional as F
from helpers.searched import Residual, assert_same, batch, network, searched, state_of
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import AmpOptimWrapper
from torch import nn

from mmdms.openmmlab.hooks import BudgetHook

pytestmark = pytest.mark.usefixtures('amp_on_cpu')


class Run:
    """What the hook needs of a Runner, with a real hook and a real optimizer wrapper."""

    def __init__(self, scale, fused=False, total=8, **kwargs):
        self.architecture, self.mutator = searched()
        self.model, self.max_iters, self.iter, self.hook = self, total, 0, BudgetHook()
        self.logger, self.message_hub = MMLogger.get_current_instance(), MessageHub.get_current_instance()
        optimizer = torch.optim.SGD(self.architecture.parameters(), lr=0.01, fused=fused)
        self.mutator.attach(optimizer)
        self.optim_wrapper = AmpOptimWrapper(dict(init_scale=scale), optimizer=optimizer, **kwargs)

    def step(self, factor=1.0, seed=None):
        self.hook.before_train_iter(self, self.iter)
        x, y = batch(self.iter if seed is None else seed)
        self.optim_wrapper.update_params(F.cross_entropy(self.architecture(x), y) * factor)
        self.iter += 1


@pytest.mark.parametrize(
    'kwargs', [{}, dict(fused=True), dict(clip_grad=dict(max_norm=0.1)), dict(accumulative_counts=2)]
)
def test_the_loss_scale_cancels(kwargs):
    """A power of two changes exponents only, so that not one bit may differ."""
    runs = [Run(scale, **kwargs) for scale in (1.0, 2.0**10)]
    for run in runs:
        for _ in range(6):
            run.step()
    first, second = runs
    assert_same(state_of(first.mutator), second.mutator)
    assert int(first.mutator.importance.count_nonzero()) and bool((first.mutator.keep_ratio != 1).any())


@pytest.mark.parametrize('kwargs', [{}, dict(fused=True), dict(clip_grad=dict(max_norm=0.1))])
@pytest.mark.parametrize('factor', [float('inf'), 1e36])
def test_a_step_that_overflows_leaves_no_trace(kwargs, factor):
    """Inf in the loss; and a loss that is finite, but not once it is scaled."""
    run = Run(2.0**10, **kwargs)
    for _ in range(3):
        run.step()
    before, weights = state_of(run.mutator), [p.clone() for p in run.architecture.parameters()]
    run.step(factor)
    assert_same(before, run.mutator)
    assert all(torch.equal(a, b) for a, b in zip(weights, run.architecture.parameters(), strict=True))
    assert run.optim_wrapper.loss_scaler.get_scale() == 2.0**9

    # Nor in the next step: it is what it had been without the one that was skipped, at the same progress.
    run.step(seed=7)
    other = Run(2.0**9, **kwargs)
    for _ in range(3):
        other.step()
    other.iter += 1
    other.step(seed=7)
    assert_same(state_of(other.mutator), run.mutator)


@pytest.mark.parametrize('fused', [False, True])
def test_an_overflow_of_one_weight_alone(fused):
    """The masks' gradient is finite, but the step is skipped: the structure must wait too."""
    run = Run(2.0**10, fused=fused)
    run.step()
    before = state_of(run.mutator)
    bias = run.architecture[-1].bias
    handle = bias.register_hook(lambda grad: grad * float('inf'))
    run.step()
    handle.remove()
    assert_same(before, run.mutator)
    assert run.mutator._gradient is None
    run.step()
    assert not torch.equal(before['importance'], run.mutator.importance)


def test_zero_grad_forgets_the_masks_too():
    model, mutator = searched()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mutator.attach(optimizer)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    assert mutator._gradient is not None and model[0].weight.grad is not None
    optimizer.zero_grad(set_to_none=True)
    assert mutator._gradient is None and model[0].weight.grad is None


@pytest.mark.parametrize(
    ('dtype', 'scale', 'tolerance'), [(torch.bfloat16, 1.0, 0.05), (torch.float16, 2.0**16, 0.01)]
)
def test_autocast_on_the_cpu(dtype, scale, tolerance):
    """Masked weights, gates and the update work under autocast, and importance is that of float32 but for rounding."""
    found = []
    for enabled in (False, True):
        model, mutator = searched(network())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        mutator.attach(optimizer)
        for index in range(8):
            mutator.set_progress(index / 20)
            optimizer.zero_grad()
            x, y = batch(index)
            with torch.autocast('cpu', dtype, enabled=enabled):
                out = model(x)
                assert out.dtype == (dtype if enabled else torch.float32)
            mutator.loss_scale = scale
            (F.cross_entropy(out.float(), y) * scale).backward()
            optimizer.step()
        assert mutator.keep_ratio.dtype == mutator.importance.dtype == torch.float32
        found.append(mutator.importance)
    exact, rounded = found
    assert not torch.equal(exact, rounded)
    assert float((exact - rounded).norm() / exact.norm()) < tolerance


class Weighted(Residual):
    """Gives out float32 in mixed precision, for its parameter is: so do blocks of YOLOv6 and PPYOLOE."""

    def __init__(self, width):
        super().__init__(width)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x + F.silu(self.alpha * self.conv2(F.silu(self.conv1(x))))


@pytest.mark.parametrize('progress', [0.1, 0.6, 0.8])
def test_a_block_that_gives_out_another_type(progress):
    torch.manual_seed(0)
    blocks = nn.Sequential(Weighted(8), Weighted(8))
    layers = [nn.Conv2d(3, 8, 3, padding=1), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    model, mutator = searched(nn.Sequential(*layers))
    mutator.keep_ratio[mutator.is_depth] = 0.0  # from the refine phase on, both blocks are gone
    mutator.importance.fill_(1.0)
    mutator.set_progress(progress)
    x, y = batch()
    with torch.autocast('cpu', torch.bfloat16):
        out = model(x)
    F.cross_entropy(out.float(), y).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert (mutator._gradient is None) == (progress == 0.8)


def test_float16_that_really_overflows():
    """Gradients in float16 end at 65504: the scaler steps back, the structure waits, and the search goes on."""
    run = Run(2.0**23, total=20)
    x, y = batch(size=64)
    scales, moved = [], []
    for _ in range(7):
        before = state_of(run.mutator)
        run.hook.before_train_iter(run, run.iter)
        with torch.autocast('cpu', torch.float16):
            out = run.architecture(x)
        run.optim_wrapper.update_params(F.cross_entropy(out.float(), y))
        run.iter += 1
        scales.append(run.optim_wrapper.loss_scaler.get_scale())
        moved.append(not torch.equal(before['importance'], run.mutator.importance))
    assert scales[0] == 2.0**22 and scales[-1] == scales[-2]
    assert moved == [scale == before for scale, before in zip(scales, [2.0**23, *scales], strict=False)]
    assert bool(torch.isfinite(run.mutator.importance).all())
