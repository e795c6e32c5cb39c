"""Rows about whole updates: against the reference, and about the rows of a rollout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import gymnasium as gym
import torch

from pgtorch.config import LESSON, TUNED, TrainConfig
from pgtorch.distributions import as_global_stream
from pgtorch.networks import MLPPolicy
from pgtorch.proof.measures import in_float64
from pgtorch.proof.table import Row
from pgtorch.proof.twin import LIMIT, side_by_side, twin_of
from pgtorch.proof.walk import WALK, Walk
from pgtorch.rollout import RolloutCollector
from pgtorch.trainer import Trainer

FEW_STEPS = {"num_envs": 5, "num_steps": 8, "num_epochs": 2, "num_minibatches": 4}  # hundreds make much of rounding
ONE_STEP = {"num_epochs": 1, "num_minibatches": 1, "learning_rate": 3e-3, "value_learning_rate": 1e-2}
SMALL = {"num_envs": 3, "num_steps": 7, "num_updates": 4, "hidden_sizes": (5, 4), **ONE_STEP}
VARIANTS: dict[str, dict[str, Any]] = {
    "one gradient step": {},
    "next-step autoreset": {"env_kwargs": {"mode": "next_step"}},
    "disabled autoreset": {"env_kwargs": {"mode": "disabled"}},
    "reward, sgd": {"multiplier": "reward", "baseline": "none", "optimizer": "sgd", "learning_rate": 0.1},
    "return minus mean": {"multiplier": "return", "baseline": "mean", "standardize": False},
    "to-go, value baseline": {"multiplier": "reward-to-go", "standardize": False},
    "passes and minibatches": {"num_epochs": 3, "num_minibatches": 4, "clip_range": 0.02, "learning_rate": 0.02},
    "entropy, MultiDiscrete": {"entropy_coefficient": 0.1, "env_kwargs": {"actions": "multi-discrete"}},
    "entropy, MultiBinary": {"entropy_coefficient": 0.1, "env_kwargs": {"actions": "multi-binary"}},
    "entropy, Box": {"entropy_coefficient": 0.1, "env_kwargs": {"actions": "box"}, "num_epochs": 2},
    "Discrete observations": {"env_kwargs": {"observations": "discrete"}, "normalize_observations": False},
    "relu": {"activation": "relu"},
    "elu, Box": {"activation": "elu", "env_kwargs": {"actions": "box"}},
    "raw, no decay or clip": {
        "normalize_observations": False,
        "normalize_rewards": False,
        "learning_rate_schedule": "constant",
        "max_gradient_norm": None,
    },
    "value weight, one rate": {
        "value_coefficient": 2.0,
        "value_learning_rate": None,
        "gae_lambda": 0.5,
        "optimizer": "sgd",  # which, unlike Adam, sees how long a gradient is
        "learning_rate": 0.01,
        "max_gradient_norm": None,
    },
}


def update_rows(*, seed: int) -> Iterator[Row]:
    """Whole updates against the reference: of the lesson, of each tuned environment, and of settings of all kinds.

    Args:
        seed: Of all random numbers.
    """
    yield reference_row("Update, Restaurant-v0", TrainConfig(LESSON, seed=seed, vectorization="sync"), num_updates=20)
    for env_id in [*TUNED, "MountainCarContinuous-v0", "Acrobot-v1", "FrozenLake-v1"]:
        shorter: dict[str, Any] = {} if env_id in TUNED else FEW_STEPS  # of the general settings
        config = TrainConfig(env_id, seed=seed, vectorization="sync", **shorter)
        yield reference_row(f"Update, {env_id}", config, num_updates=2)
    for name in VARIANTS:
        yield variant_row(name, seed=seed)


def variant_row(name: str, *, seed: int) -> Row:
    """The row of one of `VARIANTS`."""
    config = walk_config(seed=seed, **VARIANTS[name])
    return reference_row(f"Update, {name}", config, num_updates=config.num_updates)


def walk_config(**settings: Any) -> TrainConfig:
    """A small configuration of `Walk-v0`."""
    return TrainConfig(WALK, **{**SMALL, "check_gradient": 0, **settings})


def reference_row(subject: str, config: TrainConfig, *, num_updates: int) -> Row:
    """A trainer in float64 beside the reference, in equal environments and with the same random numbers.

    Args:
        subject: What the row is about.
        config: Its settings; `vectorization` must be "sync", but for `Walk-v0`.
        num_updates: How many updates to compare.
    """
    with in_float64(), closing(Trainer(config)) as trainer:
        _spread(trainer)
        envs, mode = scalar_envs(config)
        largest, where = 0.0, ""
        for k, (difference, name) in enumerate(side_by_side(trainer, twin_of(trainer, envs, mode), num_updates)):
            if not difference <= largest:
                largest, where = difference, f", largest at {name} after {k + 1}"
        for env in envs:
            env.close()
    note = f"{num_updates} updates, everything learned and logged{where}"
    return Row(subject, "training against the reference", largest, limit=LIMIT, unit="relative", note=note)


def scalar_envs(config: TrainConfig) -> tuple[list[gym.Env[Any, Any]], str]:
    """The environments of a configuration one by one, and how they begin new episodes."""
    if config.env_id != WALK:
        return [gym.make(config.env_id, **config.env_kwargs) for _ in range(config.num_envs)], "next_step"
    settings: Mapping[str, Any] = {name: value for name, value in config.env_kwargs.items() if name != "mode"}
    return [Walk(**settings) for _ in range(config.num_envs)], config.env_kwargs.get("mode", "same_step")


@torch.no_grad()
def _spread(trainer: Trainer) -> None:
    """Move a network's parameters away from their start, at which biases are 0 and all actions equally likely."""
    if not isinstance(trainer.policy, MLPPolicy):
        return
    generator = torch.Generator().manual_seed(trainer.config.seed)
    for module in filter(None, (trainer.policy, trainer.value_function)):
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def rollout_rows(subject: str, *, seed: int) -> Iterator[Row]:
    """CartPole-v1 pays 1 a step, and 0 in the extra steps in which it resets itself: those must not become rows.

    Args:
        subject: What the rows are about.
        seed: Of all random numbers.
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
