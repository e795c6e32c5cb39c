"""Plays fresh episodes with a trained policy."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from torch import Generator

from pgtorch.environment.build import make_vector_env
from pgtorch.environment.streams import own_streams
from pgtorch.record.trained_run import TrainedRun

MOST_EPISODES = 1_000_000


def evaluate(run: TrainedRun, episodes: int = 100, *, seed: int = 1_000_000, max_steps: int = 10_000) -> dict[str, Any]:
    """Mean return of fresh episodes, once with drawn actions and once with the likeliest ones.

    Args:
        run: From `train`, `resume` or `load_run`.
        episodes: To play each way, in [1, 1,000,000].
        seed: Of environments and draws; not the training seed.
        max_steps: Steps after which an episode is cut off, at least 1.

    Returns:
        `env_id`, `num_updates` of the policy, `episodes`; `sampled` and `greedy`, each with `mean_return` and its 95 %
        `interval`; and `figures`, from `Policy.figures`.

    Raises:
        ValueError: If `episodes` or `max_steps` is out of range.
    """
    found: dict[str, Any] = {"env_id": run.config.env_id, "num_updates": run.num_updates, "episodes": episodes}
    for name, greedy in (("sampled", False), ("greedy", True)):
        returns = play_episodes(run, episodes, greedy=greedy, seed=seed, max_steps=max_steps)
        found[name] = {"mean_return": float(returns.mean()), "interval": bootstrap_interval(returns)}
    return {**found, "figures": run.policy.figures()}


def play_episodes(
    run: TrainedRun, num_episodes: int, *, greedy: bool, seed: int = 0, max_steps: int = 10_000
) -> NDArray[np.float64]:
    """Returns of fresh episodes, one per environment: otherwise short episodes would count more often.

    Args:
        run: A trained policy with its settings.
        num_episodes: In [1, 1,000,000].
        greedy: Take the likeliest action; otherwise draw.
        seed: Of environments and draws.
        max_steps: Steps after which an episode is cut off, at least 1: not every environment has a time limit.

    Returns:
        The sum of rewards of each episode, float64 [num_episodes].

    Raises:
        ValueError: If `num_episodes` or `max_steps` is out of range.
    """
    if not 1 <= num_episodes <= MOST_EPISODES:
        raise ValueError(f"num_episodes must be at least 1 and at most {MOST_EPISODES}, got {num_episodes}")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    generator = Generator().manual_seed(seed)
    total, playing = np.zeros(num_episodes), np.ones(num_episodes, np.bool_)
    kwargs = run.config.env_kwargs
    with (
        own_streams(seed),
        closing(make_vector_env(run.config.env_id, num_envs=num_episodes, env_kwargs=kwargs)) as env,
    ):
        observation, _ = env.reset(seed=seed)
        for _ in range(max_steps):
            action = run.predict(observation, greedy, generator)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += reward * playing
            ended = terminated | truncated
            playing &= ~ended
            if not playing.any():
                break
            if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
                observation, _ = env.reset(options={"reset_mask": ended})
    return total


def watch(run: TrainedRun, env: gym.Env[Any, Any], *, seed: int = 0, episodes: int = 10, steps: int = 500) -> None:
    """Play the likeliest actions in a single environment that shows or records itself, and close it.

    Args:
        run: A trained policy with its settings.
        env: Made with a render mode.
        seed: Of its first reset.
        episodes: Most episodes to play.
        steps: Most steps to play in all.
    """
    with closing(env):
        observation, _ = env.reset(seed=seed)
        for _ in range(steps):
            observation, _, terminated, truncated, _ = env.step(run.predict(observation))
            if terminated or truncated:
                episodes -= 1
                if not episodes:
                    return
                observation, _ = env.reset()


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean, by the percentiles of 10,000 resampled means.

    Source: Efron (1979).
    """
    generator = np.random.default_rng(seed)
    means = [generator.choice(values, len(values)).mean() for _ in range(10_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
