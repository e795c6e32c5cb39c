"""Decides which rows a policy and an environment get, and lists everything that the project ships."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces

from pgtorch.config import LESSON
from pgtorch.distributions import as_global_stream
from pgtorch.lesson.model import RestaurantModel, model_of
from pgtorch.networks import MLPPolicy
from pgtorch.policies import BiasPolicy, Policy
from pgtorch.proof.estimator_rows import mdp_rows
from pgtorch.proof.evaluation_rows import evaluation_rows
from pgtorch.proof.exact import FiniteMDP
from pgtorch.proof.policy_rows import policy_rows
from pgtorch.proof.restaurant_rows import restaurant_rows
from pgtorch.proof.table import Row
from pgtorch.proof.update_rows import rollout_rows, update_rows


def shipped_rows(*, seed: int, episodes: int) -> Iterator[Row]:
    """The rows of everything that the project ships; arguments as in `rows`."""
    yield from rows(BiasPolicy(), LESSON, seed=seed, episodes=episodes)
    graded: dict[str, Any] = {"reward_scheme": "graded", "hungry_above": 0.3, "large_portion_probability": (0.3, 0.6)}
    model = RestaurantModel(7.0, **graded)
    yield from restaurant_rows("BiasPolicy, Restaurant-v0 graded", model, LESSON, env_kwargs=graded, seed=seed)
    yield from rollout_rows("Rollout, CartPole-v1", seed=seed)
    yield from update_rows(seed=seed)
    yield from evaluation_rows("Evaluation", seed=seed)
    box = spaces.Box(-1.0, 1.0, (5,))
    for space in (
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([3, 2, 4], start=[0, -2, 5]),
        spaces.MultiBinary(3),
        spaces.Box(-2.0, 2.0, (3,)),
    ):
        policy = _network(box, space, (5, 5), seed)  # layers of one size, which could be confused
        yield from policy_rows(f"MLPPolicy, {type(space).__name__}", policy, box, space, seed=seed)
    for activation in ("relu", "elu"):
        policy = _network(box, spaces.Discrete(3), (5, 5), seed, activation)
        yield from policy_rows(f"MLPPolicy, {activation}", policy, box, spaces.Discrete(3), seed=seed)
    for env_id in ("FrozenLake-v1", "CliffWalking-v1"):
        yield from rows(None, env_id, seed=seed, episodes=episodes)


def rows(policy: Policy | None, env_id: str, *, seed: int, episodes: int) -> Iterator[Row]:
    """All rows for a policy in an environment. What cannot be computed exactly is skipped; a note says why.

    Args:
        policy: What to check; None makes an `MLPPolicy` without hidden layers.
        env_id: Gymnasium id.
        seed: Of all random numbers.
        episodes: Number to sample if the exact gradient is known, at least 200.
    """
    with closing(gym.make(env_id)) as env:
        policy = policy or _network(env.observation_space, env.action_space, (), seed)
        subject = f"{type(policy).__name__}, {env_id.rpartition(':')[2]}"
        yield from policy_rows(subject, policy, env.observation_space, env.action_space, seed=seed)
        if model := model_of(policy, env):
            yield from restaurant_rows(subject, model, env_id, seed=seed)
            return
        try:
            mdp = FiniteMDP.from_gymnasium(env, discount=0.95)
        except TypeError as error:
            note = f"{error}; Restaurant-v0 has a closed form for BiasPolicy only"
            yield Row(subject, "expectation against exact", note=note)
            return
        limit = env.spec.max_episode_steps if env.spec else None
        yield from mdp_rows(subject, policy, mdp, horizon=min(limit or 50, 100), episodes=episodes, seed=seed)


def _network(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    hidden_sizes: tuple[int, ...],
    seed: int,
    activation: str = "tanh",
) -> MLPPolicy:
    with as_global_stream(torch.Generator().manual_seed(seed)):
        return MLPPolicy(observation_space, action_space, hidden_sizes, activation)
