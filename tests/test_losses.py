import pytest
import torch

from pgtorch import policy_gradient_loss
from pgtorch.losses import importance_weighted


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


@pytest.mark.parametrize(
    ("multiplier", "ratio", "expected"),
    [
        (2.0, 1.0, 2.0),  # the policy that played
        (2.0, 1.1, 2.2),
        (2.0, 1.3, 0.0),  # far enough along what was good
        (2.0, 0.5, 1.0),  # moved away from what was good: back to it
        (-2.0, 0.9, -1.8),
        (-2.0, 0.7, 0.0),  # far enough from what was bad
        (-2.0, 1.5, -3.0),
        (0.0, 5.0, 0.0),
    ],
)
def test_weights_by_hand(multiplier, ratio, expected):
    played = torch.tensor([0.4]).log()
    found = importance_weighted(torch.tensor([multiplier]), played + torch.tensor([ratio]).log(), played, 0.2)
    assert found.item() == pytest.approx(expected)


def test_importance_weighted_it_has_the_gradient_of_ppos_objective():
    generator = torch.Generator().manual_seed(0)
    advantage, played = (torch.randn(1000, generator=generator, dtype=torch.float64) for _ in range(2))
    log_prob = (played + 0.4 * torch.randn(1000, generator=generator, dtype=torch.float64)).requires_grad_()
    policy_gradient_loss(log_prob, importance_weighted(advantage, log_prob, played, 0.2)).backward()
    found, log_prob.grad = log_prob.grad, None
    ratio = (log_prob - played).exp()
    torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean().neg().backward()  # as the paper has it
    assert torch.allclose(found, log_prob.grad, rtol=1e-12, atol=0)
    assert 100 < (found == 0).sum() < 900


def test_what_weighs_nothing_weighs_nothing_at_an_infinite_ratio():
    assert importance_weighted(torch.zeros(1), torch.tensor([100.0]), torch.zeros(1), 0.2).item() == 0


def test_no_gradient_reaches_the_weights():
    log_prob = torch.tensor([-1.0], requires_grad=True)
    assert not importance_weighted(torch.ones(1), log_prob, torch.zeros(1), 0.2).requires_grad


def test_weights_refuse_shapes_that_broadcast():
    with pytest.raises(ValueError, match=r"equal shapes, got \[\[3\], \[3\], \[3, 1\]\]"):
        importance_weighted(torch.ones(3), torch.zeros(3), torch.zeros(3, 1), 0.2)
