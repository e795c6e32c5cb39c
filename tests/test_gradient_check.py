import math

import pytest
import torch
from gymnasium import spaces
from support import seeded

import pgtorch.gradient_check
from pgtorch import BiasPolicy, GradientMismatchError, MLPPolicy, manual_gradient, policy_gradient_loss
from pgtorch.distributions import as_global_stream
from pgtorch.gradient_check import LIMIT, UNIT_ROUNDOFF, check_gradient, difference_in_units, largest_differences


def visits(count=1):
    """A policy after backward, and what its loss was made of."""
    generator, policy = seeded(), BiasPolicy(bias=-9.0)
    hunger = torch.rand(count, 1, generator=generator)
    action, reward = policy.sample(hunger, generator), torch.randn(count, generator=generator)
    policy_gradient_loss(policy.log_prob(hunger, action), reward).backward()
    return policy, hunger, action, reward


def test_gives_both_numbers_and_their_difference():
    policy, *visit = visits()
    figures = check_gradient(policy, *visit, env_steps=1)
    assert figures == {
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
        check_gradient(policy, hunger, action, reward, env_steps=7)
    message = str(caught.value)
    for number in (policy.bias.grad, right, hunger, action, reward):
        assert repr(number.item()) in message
    assert all(word in message for word in ("step 7", "autograd", "manual", "hunger", "action", "reward"))


@pytest.mark.parametrize("gradient", [None, torch.tensor(torch.nan), torch.tensor(torch.inf)])
def test_stops_at_a_missing_gradient_and_at_one_that_is_not_finite(gradient):
    policy, *visit = visits()
    policy.bias.grad = gradient
    with pytest.raises(GradientMismatchError, match=r"step 1, .*gradient of bias by autograd"):
        check_gradient(policy, *visit, env_steps=1)


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
        check_gradient(policy, *visit, env_steps=1)


def test_shows_the_first_of_many_visits():
    policy, *visit = visits(count=100)
    policy.bias.grad = policy.bias.grad + 1
    with pytest.raises(GradientMismatchError, match="and 96 more"):
        check_gradient(policy, *visit, env_steps=100)


def network(dtype=torch.float32):
    generator = seeded()
    with as_global_stream(generator):
        policy = MLPPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(4)).to(dtype)
    observation = torch.randn(50, 3, dtype=dtype, generator=generator)
    action = policy.sample(observation, generator)
    multiplier = torch.randn(50, dtype=dtype, generator=generator)
    policy_gradient_loss(policy.log_prob(observation, action), multiplier).backward()
    return policy, observation, action, multiplier


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_may_differ_by_rounding(dtype):
    policy, *batch = network(dtype)
    figures = check_gradient(policy, *batch, env_steps=1)
    assert 0 < figures["gradient/difference_in_units_of_u_c"] < 8
    assert figures["gradient/absolute_difference"] > 0
    assert "gradient/manual" not in figures


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_may_not_differ_by_more(dtype):
    policy, *batch = network(dtype)
    policy.layers[1].weight.grad *= 1.0001 if dtype is torch.float32 else 1 + 1e-12
    with pytest.raises(GradientMismatchError, match=r"step 9, .*gradient of layers\.1\.weight .* u C apart"):
        check_gradient(policy, *batch, env_steps=9)


def test_a_parameter_without_gradient_counts_as_zero():
    policy, *batch = network()
    policy.layers[0].bias.grad = None
    with pytest.raises(GradientMismatchError, match=r"gradient of layers\.0\.bias"):
        check_gradient(policy, *batch, env_steps=1)


@pytest.mark.parametrize("size", [1e-36, 1e-40, 1e-44])
def test_what_underflows_is_no_difference(size):
    policy, observation, action, multiplier = network()
    policy.zero_grad()
    policy_gradient_loss(policy.log_prob(observation, action), size * multiplier).backward()
    check_gradient(policy, observation, action, size * multiplier, env_steps=1)


def test_the_difference_is_the_largest_of_all_parameters():
    """Kills a mean, and the difference of the first or the last parameter only."""
    policy, *batch = network()
    manual = manual_gradient(policy, *batch)
    expected = max((parameter.grad - manual[name]).abs().max().item() for name, parameter in policy.named_parameters())
    assert check_gradient(policy, *batch, env_steps=1)["gradient/absolute_difference"] == expected


def test_units_are_those_of_the_precision_and_the_worst_is_named():
    """Kills another limit, another unit roundoff, and a search that stops at the first parameter."""
    assert LIMIT == 32
    assert {torch.float32: 2.0**-24, torch.float64: 2.0**-53} == UNIT_ROUNDOFF
    one = {"a": torch.tensor([0, 0, 40 * 2.0**-53]).double(), "b": torch.tensor([0, 20 * 2.0**-53]).double()}
    zeros = {name: torch.zeros_like(values) for name, values in one.items()}
    magnitude = {name: torch.ones_like(values) for name, values in one.items()}
    assert difference_in_units(one, zeros, magnitude) == (40.0, "a")
    one["b"][0] = math.nan
    assert difference_in_units(one, zeros, magnitude) == (math.inf, "b")


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_large_logits_are_compared_as_well(scale):
    """Logits up to 1e7, whose exponentials overflow; kills a forward pass that clamps them."""
    generator = seeded()
    with as_global_stream(generator):
        policy = MLPPolicy(spaces.Box(-1, 1, (3,)), spaces.Discrete(3), ())
    policy.layers[0].weight.data.mul_(scale * 100)
    observation = 1e2 * torch.randn(50, 3, generator=generator)
    action, multiplier = policy.sample(observation, generator), torch.randn(50, generator=generator)
    policy_gradient_loss(policy.log_prob(observation, action), multiplier).backward()
    figures = check_gradient(policy, observation, action, multiplier, env_steps=1)
    assert math.isfinite(figures["gradient/difference_in_units_of_u_c"])
    torch.testing.assert_close(policy(observation), observation @ policy.layers[0].weight.T, rtol=1e-4, atol=1e-2)


SPACES = [
    spaces.Discrete(4, start=1),
    spaces.MultiDiscrete([3, 2, 3]),
    spaces.MultiBinary(3),
    spaces.Box(-1.0, 1.0, (2,)),
]


@pytest.mark.parametrize("space", [None, *SPACES], ids=str)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])  # of the logits: from near uniform to certain
def test_the_entropy_bonus_is_part_of_the_gradient(space, scale):
    generator = seeded()
    policy = BiasPolicy(bias=-10 * scale)
    if space is not None:
        with as_global_stream(generator):
            policy = MLPPolicy(spaces.Box(-1.0, 1.0, (3,)), space, (5,))
        for parameter in policy.layers.parameters():
            parameter.data.mul_(100 * scale if parameter is policy.layers[-1].weight else 1.0)
    observation = torch.rand(50, 1 if space is None else 3, generator=generator)
    action, multiplier = policy.sample(observation, generator), torch.randn(50, generator=generator)

    def check(bonus, told):
        policy.zero_grad()
        loss = policy_gradient_loss(policy.log_prob(observation, action), multiplier)
        (loss - bonus * policy.distribution(observation).entropy().mean()).backward()
        return check_gradient(policy, observation, action, multiplier, env_steps=1, entropy_coefficient=told)

    assert check(0.3, 0.3)["gradient/difference_in_units_of_u_c"] < LIMIT / 2
    for wrong in (-0.3, 0.0, 0.301) if scale <= 1 else ():  # a policy that is certain has no entropy to speak of
        with pytest.raises(GradientMismatchError):
            check(wrong, 0.3)


def test_a_frozen_parameter_is_left_out():
    policy, *batch = network()
    policy.layers[0].bias.requires_grad_(False)
    policy.layers[0].bias.grad = None
    check_gradient(policy, *batch, env_steps=1)


def test_the_largest_differences_of_several_steps():
    absolute, units = "gradient/absolute_difference", "gradient/difference_in_units_of_u_c"
    steps = [{absolute: 1.0, units: 5.0}, {absolute: 3.0, units: 1.0}, {absolute: 2.0, units: 2.0, "loss/value": 7.0}]
    assert largest_differences(steps) == {absolute: 3.0, units: 5.0}
    assert largest_differences([{"loss/value": 1.0}]) == {}
