"""Rows about what a gradient step learns from: the rows of a rollout."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import torch

from pgtorch.distributions import as_global_stream
from pgtorch.networks import MLPPolicy
from pgtorch.proof.table import Row
from pgtorch.rollout import RolloutCollector


def rollout_rows(subject: str, *, seed: int) -> Iterator[Row]:
    """CartPole-v1 pays 1 a step, and 0 in the extra steps in which it resets itself: those must not become rows.

    Args:
        subject: What the rows are about.
        seed: Of everything that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    env = gym.make_vec("CartPole-v1", num_envs=16)
    with as_global_stream(generator):
        policy = MLPPolicy(env.single_observation_space, env.single_action_space, ())
    collector = RolloutCollector(env, num_steps=128, seed=seed)
    rollout = collector.collect(policy, generator)
    env.close()
    rewards = rollout.rows(rollout.reward)
    note = f"{len(rewards):,} rows"
    filler = float((rewards == 0).sum())
    yield Row(subject, "filler among the rows", filler, limit=0.0, unit="rows", note=note)
    ended = collector.episodes.figures()
    wrong = abs(ended["rollout/episode_return"] - ended["rollout/episode_length"])  # at 1 a step they are equal
    yield Row(subject, "return against length of episodes", wrong, limit=0.0, unit="absolute", note=note)
