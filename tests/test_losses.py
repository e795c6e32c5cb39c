import math

import pytest
import torch
from support import seeded

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


@pytest.mark.parametrize("size", [1e-8, 1e8])
def test_multipliers_of_any_size_pass_as_they_are(size):
    """Kills a multiplier or a log-probability that is clipped."""
    log_prob = torch.tensor([-1e4, -2.0], requires_grad=True)
    policy_gradient_loss(log_prob, torch.tensor([size, -size])).backward()
    assert log_prob.grad.tolist() == pytest.approx([-size / 2, size / 2], rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_multiplier_that_is_not_finite_is_not_hidden(bad):
    """Kills a nan_to_num: the trainer finds such a loss by its gradient."""
    assert not policy_gradient_loss(torch.tensor([-1.0, -2.0]), torch.tensor([bad, 1.0])).isfinite()


def weighted(multiplier, *, log_prob, old_log_prob, clip_range=0.2):
    return importance_weighted(multiplier, log_prob=log_prob, old_log_prob=old_log_prob, clip_range=clip_range)


@pytest.mark.parametrize(
    ("multiplier", "ratio", "expected"),
    [
        (2.0, 1.0, 2.0),  # the policy that acted
        (2.0, 1.1, 2.2),
        (2.0, 1.19, 2.38),
        (2.0, 1.21, 0.0),  # far enough along what was good
        (2.0, 0.5, 1.0),  # moved away from what was good: back to it
        (-2.0, 0.9, -1.8),
        (-2.0, 0.81, -1.62),
        (-2.0, 0.79, 0.0),  # far enough from what was bad
        (-2.0, 1.5, -3.0),
        (0.0, 5.0, 0.0),
    ],
)
def test_weights_by_hand(multiplier, ratio, expected):
    old = torch.tensor([0.4]).log()
    found = weighted(torch.tensor([multiplier]), log_prob=old + torch.tensor([ratio]).log(), old_log_prob=old)
    assert found.item() == pytest.approx(expected)


def test_with_these_weights_the_gradient_is_that_of_ppos_objective():
    generator = seeded()
    advantage, old = (torch.randn(1000, generator=generator, dtype=torch.float64) for _ in range(2))
    log_prob = (old + 0.4 * torch.randn(1000, generator=generator, dtype=torch.float64)).requires_grad_()
    policy_gradient_loss(log_prob, weighted(advantage, log_prob=log_prob, old_log_prob=old)).backward()
    found, log_prob.grad = log_prob.grad, None
    ratio = (log_prob - old).exp()
    torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean().neg().backward()  # as the paper has it
    assert torch.allclose(found, log_prob.grad, rtol=1e-12, atol=0)
    assert 100 < (found == 0).sum() < 900


def test_a_multiplier_of_zero_stays_zero_at_an_infinite_ratio():
    found = weighted(torch.zeros(1), log_prob=torch.tensor([100.0]), old_log_prob=torch.zeros(1))
    assert found.item() == 0


def test_no_gradient_reaches_the_weights():
    log_prob = torch.tensor([-1.0], requires_grad=True)
    assert not weighted(torch.ones(1), log_prob=log_prob, old_log_prob=torch.zeros(1)).requires_grad


def test_weights_change_no_argument():
    arguments = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -1.0])
    before = [argument.clone() for argument in arguments]
    weighted(arguments[0], log_prob=arguments[1], old_log_prob=arguments[2])
    assert all(torch.equal(*pair) for pair in zip(arguments, before, strict=True))


@pytest.mark.parametrize(("multiplier", "change"), [(2.0, 0.2), (-2.0, -0.2)])
def test_a_ratio_exactly_at_the_limit_still_counts(multiplier, change):
    ratio = torch.tensor([change]).exp()
    arguments = {"log_prob": torch.tensor([change]), "old_log_prob": torch.zeros(1)}
    found = weighted(torch.tensor([multiplier]), **arguments, clip_range=abs(ratio.item() - 1))
    assert found.item() == multiplier * ratio.item()


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (1,), (), (2,), (4,)])
def test_weights_refuse_shapes_that_broadcast(shape):
    """Each argument in turn has another shape."""
    for other in range(3):
        shapes = [shape if place == other else (3,) for place in range(3)]
        with pytest.raises(ValueError, match="must have equal shapes, got ") as caught:
            weighted(torch.ones(shapes[0]), log_prob=torch.zeros(shapes[1]), old_log_prob=torch.zeros(shapes[2]))
        assert str([list(each) for each in shapes]) in str(caught.value)


def test_log_probabilities_cannot_be_swapped_by_place():
    with pytest.raises(TypeError, match="positional"):
        importance_weighted(torch.ones(1), torch.zeros(1), torch.zeros(1), 0.2)
