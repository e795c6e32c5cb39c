"""Plays fresh episodes with a policy that no longer learns."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from pgtorch.environment.normalization import ObservationNormalizer
from pgtorch.policies import Policy
from pgtorch.environment.spaces import clipper, flattener


def play_episodes(
    policy: Policy,
    env_id: str,
    num_episodes: int,
    *,
    greedy: bool,
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
    max_steps: int = 10_000,
    normalize_observation: ObservationNormalizer | None = None,
) -> NDArray[np.float64]:
    """Returns of fresh episodes, one in each of as many environments, so that short ones do not count more often.

    The generators of torch are left as they were.

    Args:
        policy: Who plays.
        env_id: Gymnasium id.
        num_episodes: How many, at least 1.
        greedy: Take the likeliest action; else draw.
        seed: Of environments and draws.
        env_kwargs: Settings of the environment.
        max_steps: Longest that an episode is followed: not every environment has a time limit.
        normalize_observation: As in training; it does not move here.

    Returns:
        The sum of rewards of each episode, float64 [num_episodes].

    Raises:
        ValueError: Where no episode is asked for.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes must be at least 1, got {num_episodes}")
    env = gym.make_vec(env_id, num_envs=num_episodes, **(env_kwargs or {}))
    flatten, clip = flattener(env.single_observation_space), clipper(env.single_action_space)
    observation, _ = env.reset(seed=seed)
    total, playing = np.zeros(num_episodes), np.ones(num_episodes, np.bool_)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(max_steps):
            if not playing.any():
                break
            seen = flatten(observation, num_episodes)
            if normalize_observation is not None:
                seen = normalize_observation(seen)
            rows = torch.as_tensor(seen, dtype=torch.float32)
            action = policy.mode(rows) if greedy else policy.sample(rows)
            observation, reward, terminated, truncated, _ = env.step(clip(action.numpy()))
            total += reward * playing
            ended = terminated | truncated
            playing &= ~ended
            if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
                observation, _ = env.reset(options={"reset_mask": ended})
    env.close()
    return total


def watch(
    policy: Policy,
    env: gym.Env[Any, Any],
    *,
    seed: int = 0,
    normalize_observation: ObservationNormalizer | None = None,
    episodes: int = 10,
    steps: int = 500,
) -> None:
    """Play the likeliest actions in a single environment that shows itself, and close it.

    Args:
        policy: Who plays.
        env: Made with a render mode, or recording itself.
        seed: Of its first reset.
        normalize_observation: As in training.
        episodes: Play at most so many.
        steps: And at most so many steps in all.
    """
    flatten, clip = flattener(env.observation_space), clipper(env.action_space)
    observation, _ = env.reset(seed=seed)
    with closing(env), torch.no_grad():
        for _ in range(steps):
            seen = flatten(gym.vector.utils.concatenate(*_batch_of_one(env.observation_space, observation)), 1)
            if normalize_observation is not None:
                seen = normalize_observation(seen)
            action = clip(policy.mode(torch.as_tensor(seen, dtype=torch.float32)).numpy())[0]
            observation, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                episodes -= 1
                if not episodes:
                    return
                observation, _ = env.reset()


def _batch_of_one(space: gym.Space[Any], observation: Any) -> tuple[gym.Space[Any], list[Any], Any]:
    return space, [observation], gym.vector.utils.create_empty_array(space, 1)


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean, by the percentiles of 10,000 resampled means.

    Source: Efron (1979).
    """
    generator = np.random.default_rng(seed)
    means = [generator.choice(values, len(values)).mean() for _ in range(10_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
