import ast
import inspect
import math
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from support import seeded
from torch import nn

from pgtorch import BiasPolicy, MLPPolicy, manual_gradient, policy_gradient_loss
from pgtorch.distributions import as_global_stream
from pgtorch.gradient_check import difference_in_units
from pgtorch.manual_gradient import gradient_magnitude, has_derivation
from pgtorch.networks import ACTIVATIONS


def by_autograd(policy, observation, action, multiplier):
    policy.zero_grad()
    policy_gradient_loss(policy.log_prob(observation, action), multiplier).backward()
    return policy.bias.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_autograd_to_the_last_bit(dtype):
    """4,000 random visits in each precision, logits from 0 to 1e4."""
    generator = seeded()
    n = 4_000
    size = 10 ** (4 * torch.rand(n, generator=generator, dtype=dtype))
    biases = size * torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    hunger = torch.rand(n, 1, 1, generator=generator, dtype=dtype)
    actions = torch.randint(0, 2, (n, 1), generator=generator)
    rewards = torch.randint(0, 4, (n, 1), generator=generator).to(dtype)
    rewards = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=dtype)[rewards.long()]
    policy = BiasPolicy().to(dtype)
    for visit in zip(biases, hunger, actions, rewards, strict=True):
        policy.bias.data.copy_(visit[0])
        assert torch.equal(by_autograd(policy, *visit[1:]), manual_gradient(policy, *visit[1:])["bias"]), visit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64, 1000, 65_536])
def test_equals_autograd_for_any_batch(batch, dtype):
    generator, policy = seeded(batch), BiasPolicy(bias=-9.0).to(dtype)
    hunger = torch.rand(batch, 1, dtype=dtype, generator=generator)
    multiplier = torch.randn(batch, dtype=dtype, generator=generator)
    action = policy.sample(hunger, generator)
    manual = manual_gradient(policy, hunger, action, multiplier)["bias"]
    assert torch.equal(by_autograd(policy, hunger, action, multiplier), manual)
    assert manual.shape == ()


BOX = spaces.Box(-1, 1, (3,))
SPACES = [
    spaces.Discrete(5, start=2),
    spaces.MultiDiscrete([3, 2, 4], start=[1, 0, -2]),
    spaces.MultiBinary(4),
    spaces.Box(-1.0, 1.0, (3,)),
]


def random_network(seed, action_space, dtype, activation="tanh"):
    """A network of random sizes with large and small weights, and a batch of 1 to 1,024 rows."""
    rng, generator = np.random.default_rng(seed), seeded(seed)
    inputs, hidden = int(rng.integers(1, 20)), rng.integers(1, 65, size=rng.integers(0, 4)).tolist()
    with as_global_stream(generator):
        policy = MLPPolicy(spaces.Box(-1.0, 1.0, (inputs,)), action_space, hidden, activation).to(dtype)
        for parameter in policy.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 10 ** rng.uniform(-2, 0.5)).clamp_(-3, 3)
        observation = torch.randn(int(2 ** rng.uniform(0, 10)), inputs, dtype=dtype)
        multiplier = torch.randn(len(observation), dtype=dtype)
    return policy, observation, policy.sample(observation, generator), multiplier


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("action_space", SPACES, ids=lambda space: type(space).__name__)
def test_equals_autograd_for_networks(action_space, dtype, activation):
    """25 random networks each; the worst number of all parameters within 32 u C."""
    for seed in range(25):
        policy, *batch = random_network(seed, action_space, dtype, activation)
        policy_gradient_loss(policy.log_prob(*batch[:2]), batch[2]).backward()
        autograd = {name: parameter.grad for name, parameter in policy.named_parameters()}
        manual = manual_gradient(policy, *batch)
        assert list(manual) == list(autograd)
        units, worst = difference_in_units(autograd, manual, gradient_magnitude(policy, *batch))
        assert units <= 32, (seed, worst)
        if activation != "relu" or len(batch[0]) > 1:  # in one row all units of a layer may be off
            assert all(gradient.abs().max() > 0 for gradient in manual.values())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_of_activations_at_and_around_0(activation):
    """At 0 relu has none: there PyTorch takes 0, and so does the derivation. The last layer passes z on as it is."""
    policy = MLPPolicy(spaces.Box(-9, 9, (1,)), spaces.Box(-9, 9, (1,)), (1,), activation).double()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    for z in (-2.0, -1e-9, 0.0, 1e-9, 2.0):
        arguments = torch.tensor([[z]]).double(), torch.tensor([[5.0]]).double(), torch.ones(1).double()
        (by_autograd,) = torch.autograd.grad(
            policy_gradient_loss(policy.log_prob(*arguments[:2]), arguments[2]), [policy.layers[0].bias]
        )
        by_hand = manual_gradient(policy, *arguments)["layers.0.bias"]
        torch.testing.assert_close(by_hand, by_autograd, rtol=1e-14, atol=1e-15)
        assert activation != "relu" or (by_hand.item() != 0) == (z > 0)


def test_magnitude_bounds_the_gradient():
    for seed, action_space in enumerate(SPACES * len(ACTIVATIONS)):
        activation = list(ACTIVATIONS)[seed % len(ACTIVATIONS)]
        policy, *batch = random_network(seed, action_space, torch.float64, activation)
        manual, magnitude = manual_gradient(policy, *batch), gradient_magnitude(policy, *batch)
        assert all((magnitude[name] >= manual[name].abs() * (1 - 1e-12)).all() for name in manual)


def test_is_the_lessons_derivative():
    """Norm: -(1 - P) times the reward; Squatch: P times the reward."""
    policy = BiasPolicy(bias=-0.5).double()
    p_norm = torch.sigmoid(policy.bias).item()
    for action, derivative in [(1, -(1 - p_norm)), (0, p_norm)]:
        for reward in (1.0, -1.0, 2.0, -2.0):
            gradient = manual_gradient(
                policy, torch.zeros(1, 1).double(), torch.tensor([action]), torch.tensor([reward]).double()
            )
            assert gradient["bias"].item() == pytest.approx(reward * derivative, rel=1e-15)


def test_is_the_mean_over_the_batch():
    policy = BiasPolicy(bias=-3.0).double()
    hunger, action = torch.tensor([[0.1], [0.2], [0.9]]).double(), torch.tensor([0, 1, 1])
    reward = torch.tensor([1.0, -1.0, 2.0]).double()
    each = [manual_gradient(policy, hunger[i : i + 1], action[i : i + 1], reward[i : i + 1])["bias"] for i in range(3)]
    whole = manual_gradient(policy, hunger, action, reward)["bias"]
    assert whole.item() == pytest.approx(sum(each).item() / 3, rel=1e-14)


def test_agrees_with_a_finite_difference():
    generator, policy = seeded(1), BiasPolicy(bias=-9.0).double()
    hunger, multiplier = torch.rand(50, 1, generator=generator).double(), torch.randn(50, generator=generator).double()
    action = policy.sample(hunger, generator)
    manual = manual_gradient(policy, hunger, action, multiplier)["bias"].item()

    def loss(bias):
        policy.bias.data.fill_(bias)
        return policy_gradient_loss(policy.log_prob(hunger, action), multiplier).item()

    assert manual == pytest.approx((loss(-9.0 + 1e-5) - loss(-9.0 - 1e-5)) / 2e-5, rel=1e-7)


def test_uses_no_autograd():
    """In inference mode autograd cannot be used at all; and none of its names stands in the module."""
    policy = BiasPolicy()
    arguments = torch.rand(4, 1), torch.tensor([0, 1, 1, 0]), torch.randn(4)
    outside = manual_gradient(policy, *arguments)["bias"]
    with torch.inference_mode():
        inside = manual_gradient(policy, *arguments)["bias"]
    assert torch.equal(inside, outside)
    assert not outside.requires_grad
    assert policy.bias.grad is None

    tree = ast.parse(inspect.getsource(sys.modules["pgtorch.manual_gradient"]))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    forbidden = {"autograd", "backward", "grad", "func", "enable_grad", "inference_mode", "log_prob", "distribution"}
    assert not (names | attributes) & forbidden
    assert not any(word in module for module in modules for word in ("autograd", "losses", "func", "importlib"))


def test_leaves_no_graph():
    policy = MLPPolicy(BOX, spaces.Box(-1, 1, (2,)))
    observation = torch.rand(4, 3)
    gradient = manual_gradient(policy, observation, policy.sample(observation, seeded()), torch.ones(4))
    assert not any(part.requires_grad for part in gradient.values())


def test_the_lessons_magnitude_by_hand():
    """The mean of (P + 1) times 3, for Norm at z = 2 - 1, and of P + 0 times 1, for Squatch at z = 0 - 1."""
    policy, hunger = BiasPolicy(weight=2.0, bias=-1.0).double(), torch.tensor([[1.0], [0.0]]).double()
    magnitude = gradient_magnitude(policy, hunger, torch.tensor([1, 0]), torch.tensor([-3.0, 1.0]).double())
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))
    assert magnitude["bias"].item() == pytest.approx(((p + 1) * 3 + q) / 2, rel=1e-14)


def test_a_subclass_of_a_network_has_no_derivation():
    """It may compute something else; kills isinstance in place of the class itself."""

    class Mine(MLPPolicy):
        pass

    assert has_derivation(MLPPolicy(BOX, spaces.Discrete(2)))
    assert not has_derivation(Mine(BOX, spaces.Discrete(2)))


def test_refuses_what_it_has_no_derivation_for():
    with pytest.raises(TypeError, match="knows the derivation for BiasPolicy and MLPPolicy, got Linear"):
        manual_gradient(nn.Linear(1, 1), torch.zeros(1, 1), torch.zeros(1), torch.ones(1))

    class Changed(BiasPolicy):
        """A subclass may compute something else."""

    with pytest.raises(TypeError, match="got Changed"):
        manual_gradient(Changed(), torch.zeros(1, 1), torch.zeros(1), torch.ones(1))


@pytest.mark.parametrize(("action", "multiplier"), [((3, 1), (3,)), ((3,), (3, 1)), ((2,), (3,)), ((3,), ())])
def test_refuses_shapes_that_do_not_fit(action, multiplier):
    with pytest.raises(ValueError, match=r"must have (the same first dimension B|shape \[B\]), "):
        manual_gradient(BiasPolicy(), torch.zeros(3, 1), torch.zeros(action), torch.ones(multiplier))


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_refuses_other_numbers_of_rows(rows):
    """Of each argument in turn; kills a check of some of them only: the rest would broadcast."""
    for other in range(3):
        observation, action, multiplier = (rows if place == other else 3 for place in range(3))
        with pytest.raises(ValueError, match="must have the same first dimension B"):
            manual_gradient(BiasPolicy(), torch.zeros(observation, 1), torch.zeros(action), torch.ones(multiplier))


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 1)])
def test_refuses_what_is_not_hunger(shape):
    with pytest.raises(ValueError, match=r"observation must have shape \[B, 1\] \(hunger\), got"):
        manual_gradient(BiasPolicy(), torch.zeros(shape), torch.zeros(3), torch.ones(3))
