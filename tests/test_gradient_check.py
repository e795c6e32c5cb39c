import pytest
import torch

import pgtorch.gradient_check
from pgtorch import BiasPolicy, GradientMismatchError, manual_gradient, policy_gradient_loss
from pgtorch.gradient_check import check_gradient


def visits(count=1):
    """A policy after backward, and what its loss was made of."""
    torch.manual_seed(0)
    policy, hunger = BiasPolicy(bias=-9.0), torch.rand(count, 1)
    action, reward = policy.sample(hunger), torch.randn(count)
    policy_gradient_loss(policy.log_prob(hunger, action), reward).backward()
    return policy, hunger, action, reward


def test_gives_both_numbers_and_their_difference():
    policy, *visit = visits()
    logged = check_gradient(policy, *visit, step=1)
    assert logged == {
        "gradient/autograd": policy.bias.grad.item(),
        "gradient/manual": manual_gradient(policy, *visit)["bias"].item(),
        "gradient/absolute_difference": 0.0,
    }


def test_stops_at_one_bit():
    policy, hunger, action, reward = visits()
    right = policy.bias.grad.clone()
    policy.bias.grad = torch.nextafter(right, torch.tensor(torch.inf))
    with pytest.raises(GradientMismatchError) as caught:
        check_gradient(policy, hunger, action, reward, step=7)
    message = str(caught.value)
    for number in (policy.bias.grad, right, hunger, action, reward):
        assert repr(number.item()) in message
    assert all(word in message for word in ("step 7", "autograd", "manual", "hunger", "action", "reward"))


@pytest.mark.parametrize("gradient", [None, torch.tensor(torch.nan), torch.tensor(torch.inf)])
def test_stops_at_no_gradient_and_at_what_is_no_number(gradient):
    policy, *visit = visits()
    policy.bias.grad = gradient
    with pytest.raises(GradientMismatchError, match=r"step 1, .*gradient of bias by autograd"):
        check_gradient(policy, *visit, step=1)


@pytest.mark.parametrize(
    "fault",
    [
        lambda gradient: -gradient,
        lambda gradient: gradient * 1.00001,
        lambda gradient: gradient * 2,
        torch.zeros_like,
    ],
)
def test_stops_at_a_wrong_derivation(monkeypatch, fault):
    def wrong(*arguments):
        return {"bias": fault(manual_gradient(*arguments)["bias"])}

    policy, *visit = visits()
    monkeypatch.setattr(pgtorch.gradient_check, "manual_gradient", wrong)
    with pytest.raises(GradientMismatchError):
        check_gradient(policy, *visit, step=1)


def test_shows_the_first_of_many_visits():
    policy, *visit = visits(count=100)
    policy.bias.grad = policy.bias.grad + 1
    with pytest.raises(GradientMismatchError, match="and 96 more"):
        check_gradient(policy, *visit, step=100)
