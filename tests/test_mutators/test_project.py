"""Keep ratios on a budget."""

import torch

from mmdms.mutators.budgets.projection import project_to_budget


def cost(ratio):
    """Half for a width, a quarter for each of two depths, in logarithms."""
    return torch.log((ratio * torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)).sum())


def project(ratios, target, movable=(1, 1, 1), floor=(0.1, 0.0, 0.0)):
    found = project_to_budget(
        torch.tensor(ratios),
        cost,
        float(torch.tensor(target).log()),
        torch.tensor(floor),
        torch.tensor(movable).float(),
    )
    return found, float(cost(found.double()).exp())


def test_each_moves_by_its_share_of_the_cost():
    found, reached = project([1.0, 1.0, 1.0], 0.5)
    assert abs(reached - 0.5) < 1e-3
    assert found[1] == found[2] > found[0]  # half of the cost hangs on the width


def test_depths_without_a_block_come_back_where_all_else_is_full():
    found, reached = project([1.0, 0.0, 0.0], 0.75)
    assert abs(reached - 0.75) < 1e-3
    assert found.tolist() == [1.0, 0.5, 0.5]


def test_they_wait_while_others_can_grow():
    found, reached = project([0.5, 0.0, 0.0], 0.4)
    assert abs(reached - 0.4) < 1e-3
    assert found.tolist()[1:] == [0.0, 0.0]


def test_they_stay_where_depth_may_not_move():
    found, _ = project([1.0, 0.0, 0.0], 0.75, movable=(1, 0, 0))
    assert found.tolist() == [1.0, 0.0, 0.0]
