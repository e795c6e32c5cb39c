import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from pgtorch import BiasPolicy, MLPPolicy
from pgtorch.record.evaluation import bootstrap_interval, play_episodes

RESTAURANT = "restaurant_env:Restaurant-v0"


@pytest.mark.parametrize("mode", [mode.value for mode in AutoresetMode])
def test_mean_return_is_the_exact_one_in_every_mode(mode):
    """n = 20,000 visits, 5 standard errors: 0.56 when drawing at the optimum, 0.65 when always right."""
    for greedy, expected in ((False, 0.5599), (True, 0.65)):
        returns = play_episodes(
            BiasPolicy(bias=-10.0), RESTAURANT, 20_000, greedy=greedy, env_kwargs={"autoreset_mode": mode}
        )
        assert returns.shape == (20_000,)
        assert abs(returns.mean() - expected) < 5 * returns.std() / np.sqrt(20_000)


def test_one_episode_an_environment_counts():
    """CartPole-v1 pays 1 a step: pushing one way falls after about ten; what comes after the fall is not counted."""
    policy = MLPPolicy(gym.make("CartPole-v1").observation_space, spaces.Discrete(2), ())
    policy.layers[0].bias.data.copy_(torch.tensor([0.0, 50.0]))
    returns = play_episodes(policy, "CartPole-v1", 50, greedy=True)
    assert returns.min() >= 8
    assert returns.max() <= 11


def test_same_seed_same_episodes_and_nothing_else_is_moved():
    state = torch.random.get_rng_state()
    policy = BiasPolicy(bias=-10.0)
    first, second = (play_episodes(policy, RESTAURANT, 500, greedy=False, seed=3) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, play_episodes(policy, RESTAURANT, 500, greedy=False, seed=4))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_interval_covers_the_mean_and_has_the_right_width():
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert bootstrap_interval(np.full(10, 3.0)) == (3.0, 3.0)


def test_no_episodes_is_refused():
    with pytest.raises(ValueError, match="num_episodes must be at least 1, got 0"):
        play_episodes(BiasPolicy(), RESTAURANT, 0, greedy=True)


def test_an_episode_without_end_is_followed_for_so_long_only():
    """CliffWalking-v1 has no time limit, and this policy walks against the wall for ever."""

    class North(BiasPolicy):
        def mode(self, observation):
            return torch.zeros(len(observation), dtype=torch.int64)

    returns = play_episodes(North(), "CliffWalking-v1", 3, greedy=True, max_steps=40)
    assert returns.tolist() == [-40.0] * 3
