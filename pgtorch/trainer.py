"""The loop: collect -> weigh -> loss -> backward -> step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv
from torch import Tensor

from pgtorch import metrics, pictures
from pgtorch.config import TrainConfig
from pgtorch.gradient_check import check_gradient
from pgtorch.losses import policy_gradient_loss
from pgtorch.manual_gradient import has_derivation
from pgtorch.optimizers import OPTIMIZERS
from pgtorch.policies import BiasPolicy, Policy
from pgtorch.rollout import RolloutCollector
from pgtorch.run_folder import create_run_folder


class Trainer:
    """Trains a policy by policy gradients, one `update` after another; writes nothing.

    Args:
        config: Settings of the run.
        policy: What to train; None makes the lesson's `BiasPolicy`.

    Raises:
        TypeError, ValueError, gymnasium.error.Error: Where environment, policy and settings do not fit.
    """

    def __init__(self, config: TrainConfig, policy: Policy | None = None) -> None:
        torch.set_num_threads(config.num_threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.env = gym.make_vec(config.env_id, num_envs=config.num_envs, **config.env_kwargs)
        self.policy = policy or make_policy(self.env)
        if config.check_gradient and not has_derivation(self.policy):
            raise TypeError(
                f"check_gradient must be 0 for {type(self.policy).__name__}: there is no derivation by hand for it, "
                "only for BiasPolicy and MLPPolicy"
            )
        self.optimizer = OPTIMIZERS[config.optimizer](self.policy.parameters(), config.learning_rate)
        self.collector = RolloutCollector(self.env, config.num_steps, config.seed)
        self.num_updates = 0
        self.num_env_steps = 0

    def update(self) -> dict[str, float]:
        """One training step.

        Returns:
            What is to be logged of it, by tag.

        Raises:
            GradientMismatchError: Where autograd's gradient is not the manual one.
        """
        rollout = self.collector.collect(self.policy)
        observation, action = rollout.rows(rollout.observation), rollout.rows(rollout.action)  # [B, ...]
        multiplier = rollout.rows(rollout.reward)  # [B]
        log_prob, entropy = self.policy.evaluate(observation, action)  # [B], [B]
        loss = policy_gradient_loss(log_prob, multiplier)

        self.policy.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.num_updates += 1
        self.num_env_steps += len(multiplier)
        logged = self._gradient_metrics(observation, action, multiplier)
        self.optimizer.step()

        logged["policy/entropy"] = entropy.mean().item()
        logged["loss/policy_gradient"] = loss.item()
        return metrics.policy_metrics(self.policy) | logged | self._episode_metrics()

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def _gradient_metrics(self, observation: Tensor, action: Tensor, multiplier: Tensor) -> dict[str, float]:
        norms = [
            torch.linalg.vector_norm(parameter.grad).item()
            for parameter in self.policy.parameters()
            if parameter.grad is not None
        ]
        logged = {"gradient/norm": math.hypot(*norms)}
        every = self.config.check_gradient
        if every and self.num_updates % every == 0:
            logged |= check_gradient(self.policy, observation, action, multiplier, self.num_env_steps)
        return logged

    def _episode_metrics(self) -> dict[str, float]:
        ended = self.collector.episodes.take()
        if ended is None:
            return {}
        returns, lengths = ended
        return {
            "rollout/episode_return": float(returns.sum()) / len(returns),
            "rollout/episode_length": float(lengths.sum()) / len(lengths),
        }


def make_policy(env: VectorEnv[Any, Any, Any]) -> Policy:
    """The policy that fits an environment.

    Args:
        env: A vector environment.

    Raises:
        TypeError: Where no policy fits; the message names the spaces.
    """
    observation_space, action_space = env.single_observation_space, env.single_action_space
    if observation_space.shape == (1,) and action_space == Discrete(2):
        return BiasPolicy()
    raise TypeError(
        "BiasPolicy takes observations of shape [1] and Discrete(2) actions; "
        f"{env.spec.id if env.spec else env} has {observation_space} and {action_space}"
    )


class SetupError(ValueError):
    """What was asked for cannot be done. Nothing has been written."""


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind."""

    policy: Policy  # the trained module
    run_dir: Path  # the run's folder: config.json, metrics.jsonl, TensorBoard events, pictures
    num_updates: int
    num_env_steps: int
    summary: dict[str, float]  # see `metrics.summarise`


Callback = Callable[[int, Mapping[str, float]], None]


def train(
    config: TrainConfig | None = None, policy: Policy | None = None, callback: Callback | None = None
) -> TrainResult:
    """Train a policy and write the run down.

    Args:
        config: Settings; None is the lesson.
        policy: What to train; None makes the one that fits the environment.
        callback: Called after each update with its number and metrics, for a progress bar for instance.

    Returns:
        The policy and where its run lies.

    Raises:
        SetupError: Where environment, policy, settings and folder do not fit; nothing has been written then.
        GradientMismatchError: Where autograd's gradient is not the manual one.
    """
    config = config or TrainConfig()
    with _setting_up():
        trainer = Trainer(config, policy)
    with closing(trainer):
        with _setting_up():
            run_dir = create_run_folder(config)
        with metrics.MetricsWriter(run_dir) as writer:
            for update in range(1, config.num_updates + 1):
                logged = trainer.update()
                writer.write(update, trainer.num_env_steps, logged)
                if callback is not None:
                    callback(update, logged)
            writer.flush()
            lines = metrics.read_metrics(run_dir)
            if config.pictures:
                for tag, picture in pictures.draw(run_dir, lines).items():
                    writer.write_picture(tag, picture, trainer.num_env_steps)
    summary = metrics.summarise(lines)
    return TrainResult(trainer.policy, run_dir, trainer.num_updates, trainer.num_env_steps, summary)


@contextmanager
def _setting_up() -> Iterator[None]:
    """Whatever goes wrong before the first step is a `SetupError`."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, gym.error.Error) as error:
        raise SetupError(str(error)) from error
