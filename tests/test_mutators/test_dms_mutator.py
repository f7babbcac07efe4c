"""The mutator in a hand-written loop."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.searched import Residual
from torch import nn

from mmdms import DMSMutator, build_search_space, slim
from mmdms.errors import BudgetError, ConfigError
from mmdms.masks.channel_masks import without_masks
from mmdms.ops.topk import normalized_ranks, soft_mask


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Sequential(Residual(12), Residual(12)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


def batch(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, 6, 6, generator=generator), torch.randint(0, 5, (size,), generator=generator)


def prepared(**kwargs):
    model = network()
    space = build_search_space(model, torch.rand(1, 3, 6, 6))
    mutator = DMSMutator(**{'budget': dict(metric='flops', target=0.4), 'divisor': 1, **kwargs})
    mutator.prepare(model, space)
    return model, mutator


def step(model, mutator, optimizer, x, y):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def run(steps=20, start=0, state=None, **kwargs):
    model, mutator = prepared(**kwargs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mutator.attach(optimizer)
    if state is not None:
        model.load_state_dict(state[0])
        mutator.load_state_dict(state[1])
        optimizer.load_state_dict(state[2])
    for index in range(start, steps):
        mutator.set_progress(index / 20)
        step(model, mutator, optimizer, *batch(seed=index))
    return model, mutator, optimizer


def test_first_update_by_hand():
    """Importance is (1 - decay) (m g)^2, and keep ratios follow the gradient through the soft top-k."""
    model, mutator = prepared(structure_momentum=0.0)
    x, y = batch()
    mutator.set_progress(0.0)
    ranks = normalized_ranks(torch.zeros(mutator.space.num_elements), mutator.unit, mutator.totals)
    ratio = torch.ones(len(mutator.space.units), requires_grad=True)
    mask = soft_mask(ratio, ranks, mutator.unit, mutator.totals, mutator.sharpness)
    mask.retain_grad()
    plain = without_masks(model)
    reference = masked_by_hand(plain, mutator.space, mask)
    F.cross_entropy(reference(x), y).backward()

    F.cross_entropy(model(x), y).backward()
    mutator.update()
    torch.testing.assert_close(mutator.importance, 0.01 * (mask * mask.grad).square().detach(), rtol=1e-3, atol=1e-10)
    torch.testing.assert_close(mutator.velocity, ratio.grad / ratio.grad.square().mean().sqrt(), rtol=1e-3, atol=1e-4)


def masked_by_hand(model, space, mask):
    """The same network with weights multiplied by their input masks, and the branch of every block, by hand."""
    extended = torch.cat([mask, mask.new_ones(1)])
    masked = {}
    for axis in space.axes:
        if axis.role == 'in':
            weight = dict(model.named_parameters())[axis.parameter]
            shape = [1] * weight.dim()
            shape[axis.dim] = -1
            masked[axis.parameter] = weight * extended[axis.elements].prod(1).view(shape)

    def forward(x):
        for name, block in list(model.named_modules()):
            for element, gated in space.blocks.items():
                if name in gated:
                    block.conv2.register_forward_hook(lambda _, args, out, element=element: mask[element] * out)
        return torch.func.functional_call(model, masked, (x,))

    return forward


def test_cost_follows_the_target():
    model, mutator = prepared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mutator.attach(optimizer)
    for index in range(15):
        mutator.set_progress(index / 20)
        step(model, mutator, optimizer, *batch(seed=index))
        losses = mutator.losses()
        assert float(losses['soft_cost']) <= float(losses['target']) * 1.01
        assert float(losses['budget_loss']) <= 0.01
        if index >= 10:
            assert float(losses['soft_cost']) == pytest.approx(0.4, rel=0.01)


def test_settled_structure_is_what_is_exported():
    model, mutator, _ = run(20)
    assert bool(mutator.settled)
    space, structure = mutator.space, mutator.structure()
    cost = space.cost('flops', space.mask(structure)) / space.cost('flops', torch.ones(space.num_elements))
    assert 0.35 <= cost <= 0.4  # one channel more or less is up to 8% of this tiny network
    x, _ = batch()
    model.eval()
    plain = without_masks(model)
    with torch.no_grad():
        torch.testing.assert_close(slim(plain, space, structure)(x), model(x))
    assert type(plain[0]) is nn.Conv2d and type(model[3][0].conv1) is not nn.Conv2d


def evaluated_by_hand(model, mutator, mask):
    """Outputs of the network in evaluation mode, and of the same with weights multiplied by ``mask`` (elements,)."""
    model.eval()
    with torch.no_grad():
        return model(batch()[0]), masked_by_hand(without_masks(model), mutator.space, mask)(batch()[0])


@pytest.mark.parametrize(('steps', 'lambdas'), [(8, (1.0, 4.0)), (13, (8**0.4, None))])
def test_evaluation_before_settling_is_of_the_soft_network(steps, lambdas):
    """The masks of the last phases of training, by the formulas of docs/method.md; 8^0.4 is 2/5 of refine."""
    model, mutator, _ = run(steps)
    assert not mutator.settled and mutator.network == 'soft'
    ratio, ranks = mutator.keep_ratio[mutator.unit], mutator._ranks()
    depth = mutator.is_depth[mutator.unit]
    hard = (ranks <= ratio).float()
    sharpness = torch.where(depth, lambdas[1] or 1.0, lambdas[0])
    mask = torch.sigmoid(sharpness * mutator.totals[mutator.unit] * (ratio - ranks))
    if lambdas[1] is None:
        mask = torch.where(depth, hard, mask)
    assert not torch.equal(mask, hard)
    torch.testing.assert_close(*evaluated_by_hand(model, mutator, mask))


def test_evaluation_is_hard_on_request_and_once_settled():
    model, mutator, _ = run(8)
    mutator.evaluate_hard = True
    hard = mutator.hard_mask()
    assert mutator.network == 'hard' and 0 < int(hard.sum()) < hard.numel()
    torch.testing.assert_close(*evaluated_by_hand(model, mutator, hard.float()))
    mutator.evaluate_hard = False
    model, mutator, _ = run(16)
    assert mutator.network == 'final' and 0 < int(mutator.final_mask.sum()) < mutator.final_mask.numel()
    torch.testing.assert_close(*evaluated_by_hand(model, mutator, mutator.final_mask.float()))


def test_evaluation_before_the_first_step_is_of_the_whole_network():
    """The weights that a search starts from, pretrained ones for example, are those of no masks."""
    model, mutator = prepared()
    assert mutator.network == 'whole' and '1.0000 of the flops' in mutator.describe_network()
    torch.testing.assert_close(*evaluated_by_hand(model, mutator, torch.ones(mutator.space.num_elements)))


def test_a_checkpoint_is_evaluated_under_the_masks_of_its_progress():
    model, mutator, _ = run(13)
    loaded, other = prepared()
    loaded.load_state_dict(model.state_dict()), other.load_state_dict(mutator.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded.eval()(batch()[0]), model.eval()(batch()[0]))
    assert other.describe_network() == mutator.describe_network()
    assert mutator.describe_network().startswith('the soft network (phase refine, 0.4')


def test_depth_is_fixed_while_refining():
    model, mutator = prepared(structure_lr=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mutator.attach(optimizer)
    depth = []
    for index in range(15):
        mutator.set_progress(index / 20)
        step(model, mutator, optimizer, *batch(seed=index))
        depth.append(mutator.keep_ratio[mutator.is_depth].clone())
    assert not torch.equal(depth[0], depth[9])
    assert all(torch.equal(depth[10], later) for later in depth[11:])


def test_resumes_exactly():
    whole = run(20)
    half = run(9)
    state = [copy.deepcopy(part.state_dict()) for part in half]
    resumed = run(20, start=9, state=state)
    for a, b in zip(whole[:2], resumed[:2], strict=True):
        for (key, expected), found in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(expected, found), key


def test_micro_batches_and_loss_scale_do_not_matter():
    results = []
    for parts, scale in ((1, 1.0), (4, 1.0), (1, 1024.0)):
        model, mutator = prepared()
        model.eval()
        mutator.masks.set(None)
        x, y = batch(16)
        mutator.set_progress(0.1)
        mutator.loss_scale = scale
        for xs, ys in zip(x.chunk(parts), y.chunk(parts), strict=True):
            mutator.masks.set(mutator._training_mask())
            model._forward_pre_hooks.clear()
            (F.cross_entropy(model(xs), ys) / parts * scale).backward()
        mutator.update()
        results.append((mutator.importance.clone(), mutator.keep_ratio.clone()))
    for importance, ratio in results[1:]:
        torch.testing.assert_close(importance, results[0][0], rtol=1e-3, atol=1e-12)
        torch.testing.assert_close(ratio, results[0][1], rtol=1e-4, atol=1e-6)


def test_a_nan_leaves_the_structure_alone():
    model, mutator = prepared()
    mutator.set_progress(0.1)
    before = copy.deepcopy(mutator.state_dict())
    (model(batch()[0]).sum() * float('nan')).backward()
    mutator.update()
    assert all(torch.equal(before[key], value) for key, value in mutator.state_dict().items())


def test_weights_schedule_and_decay_do_not_reach_the_structure():
    """The same gradients move keep ratios alike, whatever learning rate and decay the weights have."""
    ratios = []
    for lr, decay in ((0.0, 0.0), (0.0, 0.5)):
        model, mutator = prepared()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=decay)
        mutator.attach(optimizer)
        assert all(p is not mutator.keep_ratio for group in optimizer.param_groups for p in group['params'])
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-12, total_steps=10)
        for index in range(6):
            mutator.set_progress(index / 20)
            step(model, mutator, optimizer, *batch(seed=index))
            scheduler.step()
        ratios.append(mutator.keep_ratio.clone())
    assert not torch.equal(ratios[0], torch.ones_like(ratios[0]))
    torch.testing.assert_close(ratios[0], ratios[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(budget=dict(metric='flops')), 'mutator.budget must be'),
        (dict(structure_lr=-1), 'structure_lr must not be negative, but it is -1'),
        (dict(importance_decay=1.0), r'importance_decay must be in \[0, 1\), but it is 1.0'),
        (dict(divisor='eight'), "divisor must be 'auto' or a whole number from 1, but it is 'eight'"),
        (dict(budget=dict(metric='watts', target=0.5)), r"must be one of \['flops', 'params'\], but it is 'watts'"),
        (dict(budget=dict(metric='flops', target=True)), 'but it is True'),
    ],
)
def test_bad_values(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        prepared(**kwargs)


def test_unreachable_budget_names_the_lowest():
    with pytest.raises(BudgetError, match=r'still costs 0\.\d{4} of the supernet'):
        prepared(budget=dict(metric='flops', target=0.001))


def test_progress_out_of_range():
    _, mutator = prepared()
    with pytest.raises(ConfigError, match='progress must be in'):
        mutator.set_progress(1.5)
