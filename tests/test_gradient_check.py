import pytest
import torch
from gymnasium import spaces

import pgtorch.gradient_check
from pgtorch import BiasPolicy, GradientMismatchError, MLPPolicy, manual_gradient, policy_gradient_loss
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
        "gradient/difference_in_units_of_u_c": 0.0,
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


def network(dtype=torch.float32):
    torch.manual_seed(0)
    policy = MLPPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(4)).to(dtype)
    observation = torch.randn(50, 3, dtype=dtype)
    action, multiplier = policy.sample(observation), torch.randn(50, dtype=dtype)
    policy_gradient_loss(policy.log_prob(observation, action), multiplier).backward()
    return policy, observation, action, multiplier


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_may_differ_by_rounding(dtype):
    policy, *batch = network(dtype)
    logged = check_gradient(policy, *batch, step=1)
    assert 0 < logged["gradient/difference_in_units_of_u_c"] < 8
    assert logged["gradient/absolute_difference"] > 0
    assert "gradient/manual" not in logged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_may_not_differ_by_more(dtype):
    policy, *batch = network(dtype)
    policy.layers[1].weight.grad *= 1.0001 if dtype is torch.float32 else 1 + 1e-12
    with pytest.raises(GradientMismatchError, match=r"step 9, .*gradient of layers\.1\.weight .* u C apart"):
        check_gradient(policy, *batch, step=9)


def test_a_parameter_without_gradient_counts_as_zero():
    policy, *batch = network()
    policy.layers[0].bias.grad = None
    with pytest.raises(GradientMismatchError, match=r"gradient of layers\.0\.bias"):
        check_gradient(policy, *batch, step=1)


@pytest.mark.parametrize("size", [1e-36, 1e-40, 1e-44])
def test_what_underflows_is_no_difference(size):
    policy, observation, action, multiplier = network()
    policy.zero_grad()
    policy_gradient_loss(policy.log_prob(observation, action), size * multiplier).backward()
    check_gradient(policy, observation, action, size * multiplier, step=1)
