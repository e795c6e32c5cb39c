import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from pgtorch.lesson.model import RestaurantModel
from pgtorch.proof.exact import (
    FiniteMDP,
    enumerate_trajectories,
    expected_gradient,
    expected_return,
    sample_trajectories,
    softmax_gradient,
    state_values,
)

MODELS = [
    RestaurantModel(),
    RestaurantModel(large_portion_probability=(0.0, 1.0), reward_scale=2.0),
    RestaurantModel(weight=7.0, hungry_above=0.3, reward_scheme="graded", large_portion_probability=(0.4, 0.6)),
    RestaurantModel(weight=-5.0, hungry_above=0.9, reward_scheme="graded"),
    RestaurantModel(weight=0.0, hungry_above=0.2),
    RestaurantModel(weight=3.0, hungry_above=0.0),
]


def test_the_lessons_numbers():
    assert RestaurantModel().optimal_bias() == pytest.approx(-10.0, abs=1e-12)
    assert RestaurantModel().expected_reward(-10.0) == pytest.approx(0.56, abs=5e-4)
    assert RestaurantModel(large_portion_probability=(0.0, 1.0)).gradient(0.0) == pytest.approx(-0.05, abs=1e-4)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("bias", [-12.0, -3.0, 0.0, 2.5])
def test_expected_reward_is_the_integral_over_hunger(model, bias):
    hunger = (np.arange(200_000) + 0.5) / 200_000
    p_norm = 1 / (1 + np.exp(-(model.weight * hunger + bias)))
    sign = np.where(hunger > model.hungry_above, 1.0, -1.0)
    if model.reward_scheme == "graded":
        sign = np.where(np.abs(hunger - model.hungry_above) > 0.25, 2 * sign, sign)
    q_squatch, q_norm = model.large_portion_probability
    reward = sign * model.reward_scale * ((1 - p_norm) * (2 * q_squatch - 1) + p_norm * (2 * q_norm - 1))
    assert model.expected_reward(bias) == pytest.approx(reward.mean(), abs=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("bias", [-12.0, -3.0, 0.0, 2.5])
def test_gradient_is_the_slope_of_the_expected_reward(model, bias):
    slope = (model.expected_reward(bias + 1e-5) - model.expected_reward(bias - 1e-5)) / 2e-5
    assert model.gradient(bias) == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_no_bias_is_better_than_the_optimal_one(model):
    best = model.optimal_bias()
    at_best = model.expected_reward(max(min(best, 200.0), -200.0))
    assert all(model.expected_reward(bias) <= at_best + 1e-12 for bias in np.linspace(-60, 60, 2001))
    if math.isfinite(best):
        assert abs(model.gradient(best)) < 1e-12


def test_optimum_learns_where_hunger_begins():
    for threshold in (0.3, 0.5, 0.7):
        assert RestaurantModel(weight=100.0, hungry_above=threshold).optimal_bias() == pytest.approx(
            -100 * threshold, abs=0.1
        )


def random_mdp(seed, num_states=4, num_actions=3, discount=0.9):
    rng = np.random.default_rng(seed)
    outcomes = []
    for _ in range(num_states):
        row = []
        for _ in range(num_actions):
            p = rng.dirichlet(np.ones(3))
            row.append(
                [(p[i], int(rng.integers(num_states)), float(rng.normal()), bool(rng.random() < 0.3)) for i in range(3)]
            )
        outcomes.append(row)
    return FiniteMDP(outcomes, torch.tensor(rng.dirichlet(np.ones(num_states))), discount)


def logits(mdp, seed=0):
    return torch.randn(mdp.reward.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slope_in_logits(mdp, z, horizon):
    result = torch.zeros_like(z)
    for s, a in itertools.product(*map(range, z.shape)):
        step = torch.zeros_like(z)
        step[s, a] = 1e-5
        up, down = (expected_return(mdp, torch.softmax(z + sign * step, 1), horizon) for sign in (1, -1))
        result[s, a] = (up - down) / 2e-5
    return result


@pytest.mark.parametrize("horizon", [None, 1, 7])
@pytest.mark.parametrize("seed", range(3))
def test_exact_gradient_is_the_slope_of_the_exact_return(seed, horizon):
    mdp = random_mdp(seed)
    z = logits(mdp)
    gradient = softmax_gradient(mdp, torch.softmax(z, 1), horizon)
    assert ((gradient - slope_in_logits(mdp, z, horizon)).abs().max() / gradient.abs().max()).item() < 1e-7


@pytest.mark.parametrize(("env_id", "discount"), [("FrozenLake-v1", 0.99), ("CliffWalking-v1", 0.99)])
def test_gymnasium_tables_work_as_they_come(env_id, discount):
    mdp = FiniteMDP.from_gymnasium(gym.make(env_id), discount)
    z = logits(mdp)
    gradient = softmax_gradient(mdp, torch.softmax(z, 1))
    assert ((gradient - slope_in_logits(mdp, z, None)).abs().max() / gradient.abs().max()).item() < 1e-7


def test_frozen_lake_is_solved_rightly():
    """Value iteration on the table gives the published optimum of the slippery 4x4 lake: 0.824 at discount 1."""
    mdp = FiniteMDP.from_gymnasium(gym.make("FrozenLake-v1"))
    value = torch.zeros(16).double()
    for _ in range(5000):
        action_value = mdp.reward + mdp.transition @ value
        value = action_value.max(1).values
    best = torch.nn.functional.one_hot(action_value.argmax(1), 4).double()
    assert state_values(FiniteMDP(mdp.outcomes, mdp.start, 0.999999), best)[0].item() == pytest.approx(0.8235, abs=1e-3)


def test_a_long_horizon_is_none():
    mdp = random_mdp(5)
    probability = torch.softmax(logits(mdp), 1)
    assert expected_return(mdp, probability, 400).item() == pytest.approx(
        expected_return(mdp, probability).item(), rel=1e-12
    )
    torch.testing.assert_close(
        expected_gradient(mdp, probability, 400), expected_gradient(mdp, probability), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_enumeration_is_complete(horizon):
    """Probabilities sum to 1, and the mean return over all trajectories is the exact one."""
    mdp = random_mdp(1, num_states=3, num_actions=2)
    probability = torch.softmax(logits(mdp), 1)
    played = enumerate_trajectories(mdp, probability, horizon)
    assert played.probability.sum().item() == pytest.approx(1.0, abs=1e-12)
    weight = mdp.discount ** torch.arange(horizon).double()[:, None]
    mean = ((weight * played.reward * played.valid).sum(0) * played.probability).sum().item()
    assert mean == pytest.approx(expected_return(mdp, probability, horizon).item(), abs=1e-12)
    ended = (played.terminated | played.truncated).sum(0)
    assert (ended == 1).all()  # every trajectory ends once
    assert torch.equal(played.valid.sum(0) - 1, (played.terminated | played.truncated).int().argmax(0))


def test_samples_have_the_exact_mean_return():
    mdp = random_mdp(2)
    probability = torch.softmax(logits(mdp), 1)
    n, horizon = 50_000, 30
    played = sample_trajectories(mdp, probability, n, horizon, torch.Generator().manual_seed(0))
    weight = mdp.discount ** torch.arange(horizon).double()[:, None]
    returns = (weight * played.reward * played.valid).sum(0)
    exact = expected_return(mdp, probability, horizon).item()
    assert abs(returns.mean().item() - exact) < 5 * returns.std().item() / math.sqrt(n)
    assert (played.valid.sum(0) >= 1).all()


def test_refuses_a_broken_table():
    good = random_mdp(0)
    with pytest.raises(ValueError, match=r"outcomes\[0\]\[0\] must have probabilities that sum to 1, got \[0.5\]"):
        FiniteMDP([[[(0.5, 0, 1.0, False)]]], torch.ones(1).double())
    with pytest.raises(ValueError, match="start must be 4 probabilities that sum to 1"):
        FiniteMDP(good.outcomes, torch.ones(4).double())
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\], got 1.5"):
        FiniteMDP(good.outcomes, good.start, 1.5)
    with pytest.raises(TypeError, match="has no transition table"):
        FiniteMDP.from_gymnasium(gym.make("CartPole-v1"))
