import copy
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical

from pgtorch import BiasPolicy, MLPPolicy, Policy


def test_bias_policy_starts_as_the_lesson_does():
    policy = BiasPolicy()
    assert dict(policy.named_parameters()).keys() == {"bias"}
    assert (policy.weight.item(), policy.bias.item()) == (20.0, 0.0)
    assert policy.bias.shape == ()
    assert not policy.weight.requires_grad


def test_logit_is_weight_times_hunger_plus_bias():
    policy = BiasPolicy(weight=3.0, bias=-1.0)
    assert policy(torch.tensor([[0.0], [0.5], [1.0]])).tolist() == [-1.0, 0.5, 2.0]
    assert policy(torch.zeros(4, 5, 1)).shape == (4, 5)


@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (1, 0)])
def test_bias_policy_refuses_what_is_not_hunger(shape):
    with pytest.raises(ValueError, match=r"observation must have shape \[\.\.\., 1\] \(hunger\), got \["):
        BiasPolicy()(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 1), (1,), (), (2,)])
def test_bias_policy_refuses_actions_that_broadcast(shape):
    with pytest.raises(ValueError, match=r"action must have shape \[3\] like the logits, got \["):
        BiasPolicy().log_prob(torch.zeros(3, 1), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_prob_and_entropy_are_those_of_the_distribution(dtype):
    torch.manual_seed(0)
    policy = BiasPolicy(bias=-9.0).to(dtype)
    hunger = torch.rand(1000, 1, dtype=dtype)
    action = policy.sample(hunger)
    log_prob, entropy = policy.evaluate(hunger, action)
    distribution = policy.distribution(hunger)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype is torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(log_prob, distribution.log_prob(action.to(dtype)), **tolerance)
    torch.testing.assert_close(entropy, distribution.entropy(), **tolerance)
    p_norm = torch.sigmoid(20 * hunger - 9).squeeze(-1)
    torch.testing.assert_close(log_prob.exp(), torch.where(action == 1, p_norm, 1 - p_norm), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("logit", [17.0, 89.0, 1e3, 1e4])
@pytest.mark.parametrize(("sign", "wrong_action"), [(1.0, 0), (-1.0, 1)])
def test_saturated_policy_stays_finite_and_can_recover(logit, sign, wrong_action):
    policy = BiasPolicy(weight=0.0, bias=sign * logit)
    log_prob = policy.log_prob(torch.zeros(1, 1), torch.tensor([wrong_action]))
    assert log_prob.item() == pytest.approx(-logit, rel=1e-6)
    log_prob.backward()
    assert policy.bias.grad.item() == pytest.approx(-sign, rel=1e-6)  # full size: certain and wrong is not for ever
    right = policy.evaluate(torch.zeros(1, 1), torch.tensor([1 - wrong_action]))
    assert all(math.isfinite(value.item()) for value in right)


def test_sample_splits_the_line_as_the_lesson_does():
    """Of the line from 0 to 1 the first P(Squatch) is Squatch, the rest Norm."""
    policy, hunger = BiasPolicy(bias=-8.0), torch.linspace(0, 1, 500).unsqueeze(-1)
    torch.manual_seed(3)
    action = policy.sample(hunger)
    torch.manual_seed(3)
    draw = torch.rand(500)
    assert action.dtype == torch.int64
    assert torch.equal(action, (draw >= 1 - torch.sigmoid(20 * hunger.squeeze(-1) - 8)).long())


def test_sample_follows_the_probabilities():
    torch.manual_seed(0)
    n, policy = 200_000, BiasPolicy(weight=0.0, bias=-1.0)
    frequency = policy.sample(torch.zeros(n, 1)).double().mean().item()
    p = 1 / (1 + math.exp(1.0))
    assert abs(frequency - p) < 5 * math.sqrt(p * (1 - p) / n)  # 5 standard errors, 0.5 %


def test_sample_and_log_prob_number_places_alike():
    hungry = torch.tensor([[1.0]])
    policy = BiasPolicy(bias=-10.0)
    assert policy.sample(hungry).item() == 1
    assert policy.log_prob(hungry, torch.tensor([1])).item() > -1e-4


def test_sample_leaves_no_graph():
    assert not BiasPolicy().sample(torch.zeros(2, 1)).requires_grad


def test_bias_policy_survives_copy_and_state_dict():
    policy = BiasPolicy(weight=5.0, bias=-2.0)
    other = BiasPolicy()
    other.load_state_dict(copy.deepcopy(policy).state_dict())
    assert (other.weight.item(), other.bias.item()) == (5.0, -2.0)


def test_a_subclass_needs_only_a_distribution():
    class TwoLogits(Policy):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 2)

        def distribution(self, observation):
            return Categorical(logits=self.layer(observation))

    policy, hunger = TwoLogits(), torch.rand(6, 1)
    action = policy.sample(hunger)
    assert torch.equal(policy.log_prob(hunger, action), policy.distribution(hunger).log_prob(action))
    assert policy.evaluate(hunger, action)[1].shape == (6,)
    with pytest.raises(NotImplementedError, match="Policy must define distribution"):
        Policy().sample(hunger)


BOX = spaces.Box(-1.0, 1.0, (4,))


@pytest.mark.parametrize(
    ("action_space", "shape", "outputs"),
    [
        (spaces.Discrete(3, start=-1), (), 3),
        (spaces.MultiDiscrete([2, 3], start=[0, 5]), (2,), 5),
        (spaces.MultiBinary(4), (4,), 4),
        (spaces.Box(-1.0, 1.0, (2,)), (2,), 2),
    ],
)
def test_network_acts_in_its_space(action_space, shape, outputs):
    torch.manual_seed(0)
    policy, observation = MLPPolicy(BOX, action_space), torch.randn(500, 4)
    assert policy(observation).shape == (500, outputs)
    action = policy.sample(observation)
    assert action.shape == (500, *shape)
    assert not action.requires_grad
    if not isinstance(action_space, spaces.Box):
        assert all(action_space.contains(row) for row in action.numpy().astype(action_space.dtype))
        assert len(np.unique(action.numpy(), axis=0)) == np.prod(getattr(action_space, "nvec", 16 if shape else 3))
    log_prob, entropy = policy.evaluate(observation, action)
    assert log_prob.shape == entropy.shape == (500,)
    log_prob.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_network_starts_near_uniform():
    torch.manual_seed(0)
    policy = MLPPolicy(BOX, spaces.Discrete(3))
    assert (policy.distribution(torch.randn(100, 4)).probs - 1 / 3).abs().max() < 0.02


def test_network_is_layers_of_tanh():
    policy = MLPPolicy(BOX, spaces.Discrete(3), hidden_sizes=(5,))
    (first, last), observation = policy.layers, torch.randn(7, 4)
    expected = torch.tanh(observation @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(policy(observation), expected)
    assert len(MLPPolicy(BOX, spaces.Discrete(3), hidden_sizes=()).layers) == 1


def test_discrete_observations_become_one_hot():
    policy = MLPPolicy(spaces.Discrete(6, start=10), spaces.Discrete(2), ())
    states = torch.arange(10, 16)
    assert torch.equal(policy.features(states), torch.eye(6))
    assert torch.equal(policy(states), policy(torch.eye(6)))


def test_observations_of_any_shape_are_flattened():
    policy = MLPPolicy(spaces.Box(0, 1, (2, 3)), spaces.Discrete(2))
    observation = torch.rand(5, 2, 3)
    assert torch.equal(policy(observation), policy(observation.flatten(1)))


@pytest.mark.parametrize("action_space", [spaces.Text(3), spaces.Graph(BOX, BOX), spaces.Box(-1.0, 1.0, (2, 2))])
def test_network_refuses_actions_it_cannot_draw(action_space):
    with pytest.raises(TypeError, match=rf"action space must be .* got {type(action_space).__name__}"):
        MLPPolicy(BOX, action_space)


@pytest.mark.parametrize("observation_space", [spaces.Graph(BOX, BOX), spaces.Sequence(BOX)])
def test_network_refuses_observations_it_cannot_flatten(observation_space):
    with pytest.raises(TypeError, match=rf"observation space must be Box, .* got {type(observation_space).__name__}"):
        MLPPolicy(observation_space, spaces.Discrete(2))
