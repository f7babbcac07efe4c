"""How a batch is split does not matter: through real Runners, whose batches of 8 accumulate to 32."""

import pytest
import torch
from helpers.exact import exact_config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner


class Steps(Hook):
    """What the search held after every iteration."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        mutator = runner.model.mutator
        weights = torch.cat([parameter.detach().flatten() for parameter in runner.model.parameters()])
        self.seen.append((mutator.keep_ratio.clone(), mutator.importance.clone(), weights, mutator.progress))


@pytest.fixture(scope='module')
def search(pytestconfig, tmp_path_factory):
    def run(batch_size, counts, **changes):
        config = exact_config(pytestconfig.rootpath, batch_size, epochs=4, images=64)
        folder = tmp_path_factory.mktemp('split')
        config.work_dir, config.experiment_name = str(folder), folder.name
        config.optim_wrapper.accumulative_counts = counts
        config.merge_from_dict(changes)
        init_default_scope('mmpretrain')
        runner, steps = Runner.from_cfg(config), Steps()
        runner.register_hook(steps)
        runner.train()
        return runner.model.mutator, steps.seen

    return run


@pytest.fixture(scope='module')
def whole(search):
    return search(32, 1)


def test_four_batches_of_8_are_one_of_32(search, whole):
    mutator, seen = search(8, 4)
    expected, steps = whole
    assert [len(seen), len(steps)] == [32, 8]
    for split, one in zip(seen[3::4], steps, strict=True):
        for found, wanted in zip(split[:3], one[:3], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-14)
        assert split[3] == one[3]
    assert torch.equal(mutator.final_mask, expected.final_mask) and bool(expected.settled)
    # The structure moved, in the shrink and in the refine phase, or this had compared nothing.
    assert not torch.equal(steps[0][0], steps[3][0]) and not torch.equal(steps[4][0], steps[5][0])


def test_the_structure_stays_while_a_batch_is_gathered(search):
    """64 images in batches of 8, three to a step: the last step of the run is made of two."""
    _, seen = search(8, 3)
    for index, (found, before) in enumerate(zip(seen[1:], seen, strict=False), start=1):
        if (index + 1) % 3 and index + 1 < len(seen):
            assert all(torch.equal(a, b) for a, b in zip(found[:3], before[:3], strict=True)), index
    assert [progress * 32 for *_, progress in seen] == [index - index % 3 for index in range(32)]


def test_clipped_weights_leave_the_structure_alone(search):
    """With a learning rate of 0 the weights stay; clipped to a thousandth or not, the structure moves alike."""
    frozen = {'optim_wrapper.optimizer': dict(lr=0.0)}
    plain, _ = search(32, 1, **frozen)
    clipped, _ = search(32, 1, **frozen, **{'optim_wrapper.clip_grad': dict(max_norm=1e-3)})
    for name in ('keep_ratio', 'velocity', 'importance', 'final_mask'):
        assert torch.equal(getattr(plain, name), getattr(clipped, name)), name
    assert not torch.equal(plain.keep_ratio, torch.ones_like(plain.keep_ratio))
