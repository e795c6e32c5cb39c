import pytest
import torch

from pgtorch import policy_gradient_loss


def test_is_minus_the_mean_of_log_prob_times_multiplier():
    log_prob = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    loss = policy_gradient_loss(log_prob, torch.tensor([1.0, -3.0, 0.5]))
    assert loss.item() == pytest.approx(-(-1.0 + 6.0 - 2.0) / 3)
    loss.backward()
    assert log_prob.grad.tolist() == pytest.approx([-1 / 3, 1.0, -0.5 / 3])


def test_descending_it_makes_a_rewarded_action_likelier():
    log_prob = torch.tensor([-1.0], requires_grad=True)
    policy_gradient_loss(log_prob, torch.tensor([1.0])).backward()
    assert log_prob.grad.item() < 0  # a step against the gradient raises the log-probability


def test_no_gradient_reaches_the_multiplier():
    weight = torch.tensor(2.0, requires_grad=True)
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    policy_gradient_loss(log_prob, weight * torch.ones(2)).backward()
    assert weight.grad is None
    assert log_prob.grad is not None


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (1,), (), (2,), (3, 3)])
def test_refuses_shapes_that_broadcast(shape):
    with pytest.raises(ValueError, match=r"equal shapes, got \[3\] and \["):
        policy_gradient_loss(torch.zeros(3), torch.ones(shape))


def test_refuses_nothing():
    with pytest.raises(ValueError, match="at least one sample, got none"):
        policy_gradient_loss(torch.zeros(0), torch.zeros(0))
