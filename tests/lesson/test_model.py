"""The closed form against sums over hunger, slopes and search."""

import math

import gymnasium as gym
import numpy as np
import pytest

from pgtorch.lesson.model import RestaurantModel, model_of
from pgtorch.policies import BiasPolicy

MODELS = [
    RestaurantModel(),
    RestaurantModel(large_portion_probability=(0.0, 1.0), reward_scale=2.0),
    RestaurantModel(weight=7.0, hungry_above=0.3, reward_scheme="graded", large_portion_probability=(0.4, 0.6)),
    RestaurantModel(weight=-5.0, hungry_above=0.9, reward_scheme="graded"),
    RestaurantModel(weight=0.0, hungry_above=0.2),
    RestaurantModel(weight=3.0, hungry_above=0.0),
    RestaurantModel(weight=-20.0),
    RestaurantModel(large_portion_probability=(0.8, 0.15), hungry_above=0.9),
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


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_with_a_large_weight_the_optimum_is_where_hunger_begins(threshold):
    model = RestaurantModel(weight=100.0, hungry_above=threshold)
    assert model.optimal_bias() == pytest.approx(-100 * threshold, abs=0.1)


def test_no_overflow_at_a_huge_bias():
    """Kills `1 / (1 + exp(-z))` for every z, and `log(1 + exp(z))`: both overflow."""
    for bias in (-1e3, 1e3):
        assert math.isfinite(RestaurantModel().expected_reward(bias))
        assert RestaurantModel().gradient(bias) == 0


def test_the_model_of_an_environment_has_its_settings():
    settings = {"large_portion_probability": (0.2, 0.7), "hungry_above": 0.25, "reward_scale": 3.0}
    env = gym.make("restaurant_env:Restaurant-v0", reward_scheme="graded", **settings)
    assert model_of(BiasPolicy(weight=7.0), env) == RestaurantModel(7.0, [0.2, 0.7], 0.25, "graded", 3.0)


def test_only_the_lesson_has_a_model():
    class Other(BiasPolicy):
        """It may compute something else."""

    restaurant, frozen_lake = gym.make("restaurant_env:Restaurant-v0"), gym.make("FrozenLake-v1")
    assert model_of(Other(), restaurant) is None
    assert model_of(BiasPolicy(), frozen_lake) is None
    assert model_of(BiasPolicy(), restaurant) == RestaurantModel(large_portion_probability=[0.15, 0.8])
