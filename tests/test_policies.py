import copy
import math
import random

import pytest
import torch
from gymnasium import spaces
from support import numpy_stream, seeded
from torch import nn
from torch.distributions import Bernoulli, Categorical

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


def test_a_logit_of_nan_stays_nan():
    """Kills a clamp or a nan_to_num in the forward pass."""
    assert BiasPolicy()(torch.full((1, 1), math.nan)).isnan().all()


@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (1, 0)])
def test_bias_policy_refuses_what_is_not_hunger(shape):
    with pytest.raises(ValueError, match=r"observation must have shape \[\.\.\., 1\] \(hunger\), got \["):
        BiasPolicy()(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 1), (1,), (), (2,)])
def test_bias_policy_refuses_actions_that_broadcast(shape):
    with pytest.raises(ValueError, match=r"action must have shape \[3\], got \["):
        BiasPolicy().log_prob(torch.zeros(3, 1), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_prob_and_entropy_are_those_of_torchs_bernoulli(dtype):
    policy = BiasPolicy(bias=-9.0).to(dtype)
    hunger = torch.rand(1000, 1, dtype=dtype, generator=seeded())
    action = policy.sample(hunger, seeded(1))
    distribution = policy.distribution(hunger)
    log_prob, entropy = distribution.log_prob(action), distribution.entropy()
    reference = Bernoulli(logits=policy(hunger))
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype is torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(log_prob, reference.log_prob(action.to(dtype)), **tolerance)
    torch.testing.assert_close(entropy, reference.entropy(), **tolerance)
    assert torch.equal(log_prob, policy.log_prob(hunger, action))
    p_norm = torch.sigmoid(20 * hunger - 9).squeeze(-1)
    torch.testing.assert_close(log_prob.exp(), torch.where(action == 1, p_norm, 1 - p_norm), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("logit", [17.0, 89.0, 1e3, 1e4])
@pytest.mark.parametrize(("sign", "wrong_action"), [(1.0, 0), (-1.0, 1)])
def test_a_saturated_policy_stays_finite_and_can_recover(logit, sign, wrong_action):
    policy = BiasPolicy(weight=0.0, bias=sign * logit)
    log_prob = policy.log_prob(torch.zeros(1, 1), torch.tensor([wrong_action]))
    assert log_prob.item() == pytest.approx(-logit, rel=1e-6)
    log_prob.backward()
    assert policy.bias.grad.item() == pytest.approx(-sign, rel=1e-6)  # the full derivative, not one that has vanished
    distribution = policy.distribution(torch.zeros(1, 1))
    right = distribution.log_prob(torch.tensor([1 - wrong_action]))
    assert all(math.isfinite(value.item()) for value in (right, distribution.entropy()))


@pytest.mark.parametrize(
    ("draw", "place"), [(0.0, 0), (0.2, 0), (0.4999, 0), (0.5, 1), (0.5001, 1), (0.9, 1), (1 - 2**-24, 1)]
)
def test_the_lessons_draws_pick_the_lessons_places(draw, place):
    """Without hunger and bias the line is split in the middle: 0.2 is Squatch and 0.9 is Norm, as in the lesson."""
    assert BiasPolicy().sample(torch.zeros(1, 1), torch.tensor([draw])).tolist() == [place]


def test_sample_splits_the_line_at_p_squatch():
    """Of the line from 0 to 1 the first P(Squatch) is Squatch, the rest Norm."""
    policy, hunger = BiasPolicy(bias=-8.0), torch.linspace(0, 1, 500).unsqueeze(-1)
    draw = torch.rand(500, generator=seeded(3))
    action = policy.sample(hunger, draw)
    assert action.dtype == torch.int64
    assert torch.equal(action, (draw >= 1 - torch.sigmoid(20 * hunger.squeeze(-1) - 8)).long())


def test_sample_follows_the_probabilities():
    n, policy = 200_000, BiasPolicy(weight=0.0, bias=-1.0)
    frequency = policy.sample(torch.zeros(n, 1), seeded()).double().mean().item()
    p = 1 / (1 + math.exp(1.0))
    assert abs(frequency - p) < 5 * math.sqrt(p * (1 - p) / n)  # 5 standard errors, 0.5 %


def test_a_rare_place_is_still_drawn_as_often_as_it_should_be():
    """P(Norm) = 1/8,104; kills draws in half precision, and a probability that is clamped away from 0."""
    n, p = 4_000_000, 1 / (1 + math.exp(9))
    sample = BiasPolicy(weight=0.0, bias=-9.0).sample(torch.zeros(n, 1), seeded())
    assert abs(sample.double().mean().item() - p) < 5 * math.sqrt(p / n)


def test_sample_mode_and_log_prob_number_places_alike():
    hungry = torch.tensor([[1.0]])
    policy = BiasPolicy(bias=-10.0)
    assert policy.sample(hungry, seeded()).item() == policy.mode(hungry).item() == 1
    assert policy.log_prob(hungry, torch.tensor([1])).item() > -1e-4
    assert policy.mode(torch.zeros(1, 1)).item() == 0


@pytest.mark.parametrize("make", [BiasPolicy, lambda: MLPPolicy(spaces.Box(0, 1, (1,)), spaces.Box(-1, 1, (2,)))])
def test_sample_and_mode_leave_no_graph(make):
    """The mode of a normal distribution is its mean, which has one."""
    policy = make()
    assert not policy.sample(torch.zeros(2, 1), seeded()).requires_grad
    assert not policy.mode(torch.zeros(2, 1)).requires_grad


def test_noise_of_the_bias_policy_is_the_lessons_draws():
    """Drawn for a whole rollout at once, uniform in [0, 1), [B] for each step: the same numbers as step by step."""
    at_once = torch.stack(list(BiasPolicy().noise(30, 40, seeded(5))))
    generator = seeded(5)
    assert torch.equal(at_once, torch.stack([torch.rand(40, generator=generator) for _ in range(30)]))
    assert 0 <= at_once.min() < 0.01
    assert 0.99 < at_once.max() < 1


def test_a_generator_gives_the_same_actions_as_the_noise_drawn_from_it():
    policy, hunger, generator = BiasPolicy(bias=-9.0), torch.rand(40, 1, generator=seeded()), seeded(5)
    at_once = [policy.sample(hunger, noise) for noise in policy.noise(30, 40, seeded(5))]
    step_by_step = [policy.sample(hunger, generator) for _ in range(30)]
    assert torch.equal(torch.stack(at_once), torch.stack(step_by_step))


def test_bias_policy_shows_its_bias_and_p_norm():
    policy = BiasPolicy(bias=-9.0)
    figures = policy.figures()
    tags = ["policy/bias", "policy/p_norm/hunger_0.0", "policy/p_norm/hunger_0.5", "policy/p_norm/hunger_1.0"]
    assert list(figures) == tags
    assert list(figures.values()) == pytest.approx([-9.0, *(1 / (1 + math.exp(-z)) for z in (-9, 1, 11))], rel=1e-6)
    assert all(type(value) is float for value in figures.values())


def test_p_norm_is_the_policys_own_also_of_a_subclass():
    class Steeper(BiasPolicy):
        def forward(self, observation):
            return 2 * super().forward(observation)

    figures = Steeper(bias=-9.0).figures()
    assert figures["policy/p_norm/hunger_0.5"] == pytest.approx(1 / (1 + math.exp(-2)))


def test_bias_policy_survives_copy_and_state_dict():
    policy = BiasPolicy(weight=5.0, bias=-2.0)
    other = BiasPolicy()
    other.load_state_dict(copy.deepcopy(policy).state_dict())
    assert (other.weight.item(), other.bias.item()) == (5.0, -2.0)


class TwoLogits(Policy):
    """A policy of a user's own: nothing but a distribution, one of torch's."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def distribution(self, observation):
        return Categorical(logits=self.layer(observation))


class Dropped(TwoLogits):
    """One that also draws while it computes its distribution."""

    def distribution(self, observation):
        return Categorical(logits=nn.functional.dropout(self.layer(observation), 0.5))


def test_a_subclass_needs_only_a_distribution():
    policy, hunger = TwoLogits(), torch.rand(6, 1)
    action = policy.sample(hunger, seeded())
    assert torch.equal(policy.log_prob(hunger, action), policy.distribution(hunger).log_prob(action))
    assert torch.equal(policy.mode(hunger), policy.distribution(hunger).probs.argmax(-1))
    assert policy.figures() == {}
    with pytest.raises(NotImplementedError, match="Policy must define distribution"):
        Policy().sample(hunger, seeded())


@pytest.mark.parametrize("kind", [BiasPolicy, TwoLogits, Dropped])
def test_sampling_repeats_with_the_seed_and_leaves_the_global_streams_alone(kind):
    """Whatever state the global streams are in: they are neither read nor moved."""
    policy, hunger = kind(), torch.rand(50, 1, generator=seeded())

    def sample(outside):
        torch.manual_seed(outside)
        before = torch.get_rng_state(), numpy_stream(), random.getstate()
        generator = seeded(7)
        drawn = [policy.sample(hunger, noise).tolist() for noise in policy.noise(4, 50, generator)]
        drawn.append(policy.sample(hunger, generator).tolist())
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (numpy_stream(), random.getstate()) == before[1:]
        assert len({str(actions) for actions in drawn}) == 5  # each step draws numbers of its own
        return drawn

    assert sample(outside=1) == sample(outside=2)


def test_a_policy_without_a_generator_or_noise_is_an_error():
    """Randomness is an argument without a default."""
    with pytest.raises(TypeError, match="noise"):
        BiasPolicy().sample(torch.zeros(1, 1))
