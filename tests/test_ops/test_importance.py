import torch

from mmdms.ops.importance import moving_average, taylor_importance


def test_taylor_importance_by_hand():
    found = taylor_importance(torch.tensor([0.5, 1.0, 0.0]), torch.tensor([4.0, -3.0, 9.0]))
    assert found.tolist() == [4.0, 9.0, 0.0]


def test_taylor_importance_is_the_squared_loss_change_of_a_linear_loss():
    slope = torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64)
    mask = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64, requires_grad=True)
    (mask * slope).sum().backward()
    for i in range(3):
        without = mask.detach().clone()
        without[i] = 0
        change = ((without - mask.detach()) * slope).sum()
        torch.testing.assert_close(taylor_importance(mask.detach(), mask.grad)[i], change**2)


def test_moving_average_by_hand():
    average = torch.tensor([1.0, 0.0])
    for value in ([3.0, 8.0], [3.0, 0.0]):
        average = moving_average(average, torch.tensor(value), 0.5)
    # (1 + 3) / 2 = 2, (2 + 3) / 2 = 2.5; (0 + 8) / 2 = 4, (4 + 0) / 2 = 2.
    assert average.tolist() == [2.5, 2.0]
