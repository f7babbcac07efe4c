"""Two real processes: what they must agree on, and what each of them may meet alone."""

import traceback
from contextlib import nullcontext

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from helpers.searched import batch, searched, state_of

from mmdms.errors import ConfigError, SearchWarning, StructureError
from mmdms.mutators.agreement import _checksums


def step(model, mutator, optimizer, index, rank, factor=1.0):
    mutator.set_progress(index / 20)
    optimizer.zero_grad()
    x, y = batch(2 * index + rank)
    if factor is None:  # a batch of this process that uses no mask
        sum(p.square().sum() for p in model.parameters()).backward()
    else:
        (F.cross_entropy(model(x), y) * factor).backward()
    optimizer.step()


def fresh(**kwargs):
    model, mutator = searched(check_ranks_every=1, **kwargs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    mutator.attach(optimizer)
    return model, mutator, optimizer


def tampered(rank, change):
    """What the step after ``change``, on process 1 alone, says."""
    parts = fresh()
    for index in range(2):
        step(*parts, index, rank)
    if rank == 1:
        change(parts[1])
    try:
        step(*parts, 2, rank)
    except StructureError as error:
        return str(error)
    return 'nothing'


def swap(mutator):
    first = mutator.importance[:2].clone()
    assert first[0] != first[1]
    mutator.importance[:2] = first.flip(0)


def lower(mutator):
    mutator.keep_ratio[-1] = torch.nextafter(mutator.keep_ratio[-1], torch.tensor(0.0))


def lower_all(mutator):
    mutator.keep_ratio.mul_(0.5)


def settle(rank):
    """Another order of the first unit's channels before the structure is fixed, looked at nowhere between.

    Not another keep ratio: this network has one structure that is nearest to the budget, whatever was searched.
    """
    parts = fresh()
    parts[1].check_ranks_every = 1000
    step(*parts, 10, rank)
    if rank == 1:
        parts[1].importance[:12] = -parts[1].importance[:12]
    try:
        parts[1].set_progress(0.8)
    except StructureError as error:
        return str(error)
    return 'nothing'


def stepped(rank, factors):
    """State before and after a step in which the processes' losses have these factors."""
    parts = fresh()
    for index in range(2):
        step(*parts, index, rank)
    before = state_of(parts[1])
    with pytest.warns(SearchWarning, match='no gradient reached') if not any(factors) else nullcontext():
        step(*parts, 2, rank, factors[rank])
    return before, state_of(parts[1])


def work(rank, folder):
    try:
        torch.set_num_threads(1)
        torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
        found = {change.__name__: tampered(rank, change) for change in (swap, lower, lower_all)}
        found['settle'] = settle(rank)
        for name, factors in dict(nan=[1.0, float('nan')], without=[1.0, None], both_without=[None, None]).items():
            found[name] = stepped(rank, factors)
        torch.distributed.destroy_process_group()
    except Exception:  # the parent prints it
        found = {'error': traceback.format_exc()}
    torch.save(found, f'{folder}/{rank}.pth')


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    torch.multiprocessing.start_processes(work, (str(folder),), nprocs=2, start_method='fork')
    both = [torch.load(folder / f'{rank}.pth', weights_only=False) for rank in range(2)]
    for one in both:
        assert 'error' not in one, one['error']
    return both


@pytest.mark.parametrize(
    ('name', 'unit', 'what'),
    [
        ('lower', '{last}', 'its keep ratio'),
        ('swap', '{first}', 'its importance'),
        ('settle', '{first}', 'its importance and its structure as fixed'),
    ],
)
def test_who_parts_is_named(found, name, unit, what):
    units = [unit.name for unit in searched()[1].space.units]
    unit = unit.format(first=units[0], last=units[-1])
    for rank, said in enumerate(found):
        assert f'unit {unit!r} differs in {what}' in said[name]
        assert f'(said by process {rank} of 2); go on from the last checkpoint with --resume' in said[name]


def test_all_units_that_part_are_counted(found):
    others = len(searched()[1].space.units) - 1
    assert f', and {others} other units differ' in found[0]['lower_all']
    assert 'other units' not in found[0]['lower']


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_nan_on_one_process_stops_neither_structure(found):
    for one in found:
        assert same(*one['nan'])


def test_a_process_without_gradient_counts_as_zero(found):
    (before, after), (_, other) = (one['without'] for one in found)
    assert same(after, other) and not same(before, after)


def test_no_process_has_a_gradient(found):
    for one in found:
        assert same(*one['both_without'])


def test_checksums_by_hand():
    unit = torch.tensor([0, 0, 1])
    assert _checksums(torch.tensor([True, False, True]), unit, 2).tolist() == [1, 5]
    assert _checksums(torch.tensor([7, 9]), unit, 2).tolist() == [7, 9]
    one = 0x3F800000  # the bits of 1.0 in float32
    assert _checksums(torch.tensor([1.0, 0.0, 1.0]), unit, 2).tolist() == [one, 5 * one]
    assert _checksums(torch.tensor([0.0, 1.0], dtype=torch.float64), unit, 2).tolist() == [0, 0x3FF0000000000000]
    # Zeros of both signs differ in their bits, and so would everything that is divided by them.
    assert _checksums(torch.tensor([0.0, -0.0]), unit, 2).tolist()[1] != 0


@pytest.mark.parametrize('value', [-1, 0.5, True, 'often'])
def test_bad_interval(value):
    with pytest.raises(ConfigError, match='mutator.check_ranks_every must be a number of steps, or 0 for never'):
        searched(check_ranks_every=value)
