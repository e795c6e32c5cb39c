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
from torch.nn import functional

from pgtorch import metrics, pictures, returns
from pgtorch.checkpoint import save_policy
from pgtorch.config import TrainConfig
from pgtorch.gradient_check import check_gradient
from pgtorch.losses import policy_gradient_loss
from pgtorch.manual_gradient import has_derivation
from pgtorch.normalization import ObservationNormalizer, RewardNormalizer
from pgtorch.optimizers import OPTIMIZERS
from pgtorch.policies import BiasPolicy, MLPPolicy, Policy, ValueFunction
from pgtorch.rollout import Rollout, RolloutCollector
from pgtorch.run_folder import create_run_folder


class Trainer:
    """Trains a policy by policy gradients, one `update` after another; writes nothing.

    Args:
        config: Settings of the run.
        policy: What to train; None makes the one that the settings name.

    Raises:
        TypeError, ValueError, gymnasium.error.Error: Where environment, policy and settings do not fit.
    """

    def __init__(self, config: TrainConfig, policy: Policy | None = None) -> None:
        torch.set_num_threads(config.num_threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.env = make_env(config)
        space = self.env.single_observation_space
        self.policy = policy or make_policy(config, self.env)
        if config.check_gradient and not has_derivation(self.policy):
            raise TypeError(
                f"check_gradient must be 0 for {type(self.policy).__name__}: there is no derivation by hand for it, "
                "only for BiasPolicy and MLPPolicy"
            )
        learns_value = config.multiplier == "gae" or config.baseline == "value"
        self.value_function = ValueFunction(space, config.hidden_sizes) if learns_value else None
        self.parameters = [
            *self.policy.parameters(),
            *(self.value_function.parameters() if self.value_function else ()),
        ]
        self.optimizer = OPTIMIZERS[config.optimizer](self.parameters, config.learning_rate)
        self.collector = RolloutCollector(
            self.env,
            config.num_steps,
            config.seed,
            ObservationNormalizer(gym.spaces.flatdim(space)) if config.normalise_observations else None,
            RewardNormalizer(config.num_envs, config.discount) if config.normalise_rewards else None,
        )
        self.num_updates = 0
        self.num_env_steps = 0

    def update(self) -> dict[str, float]:
        """One training step.

        Returns:
            What is to be logged of it, by tag.

        Raises:
            GradientMismatchError: Where autograd's gradient is not the manual one.
        """
        config = self.config
        rollout = self.collector.collect(self.policy)
        observation, action = rollout.rows(rollout.observation), rollout.rows(rollout.action)  # [B, ...]
        multiplier, value_loss = self._weigh(rollout)  # [B], scalar
        log_prob, entropy = self.policy.evaluate(observation, action)  # [B], [B]
        policy_loss = policy_gradient_loss(log_prob, multiplier)
        loss = policy_loss
        if value_loss is not None:
            loss = loss + config.value_coefficient * value_loss
        if config.entropy_coefficient:
            loss = loss - config.entropy_coefficient * entropy.mean()

        for parameter in self.parameters:
            parameter.grad = None
        self.num_updates += 1
        self.num_env_steps += len(multiplier)
        check = config.check_gradient and self.num_updates % config.check_gradient == 0
        gradient = self._policy_gradient(policy_loss) if check and config.entropy_coefficient else None
        loss.backward()  # type: ignore[no-untyped-call]
        logged = {}
        if check:
            logged = check_gradient(self.policy, observation, action, multiplier, self.num_env_steps, gradient)
        logged["gradient/norm"] = self._shorten_gradient()
        self._step()

        logged["policy/entropy"] = entropy.mean().item()
        logged["loss/policy_gradient"] = policy_loss.item()
        if value_loss is not None:
            logged["loss/value"] = value_loss.item()
        return metrics.policy_metrics(self.policy) | logged | self._episode_metrics()

    def has_reached_target(self) -> bool:
        """Whether the mean return of the last 100 episodes is at the target, if there is one."""
        target, recent = self.config.target_return, self.collector.episodes.recent
        return target is not None and len(recent) == recent.maxlen and sum(recent) / len(recent) >= target

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def _weigh(self, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
        """What multiplies each valid row's log pi, [B], and the value function's loss where there is one."""
        config, reward, valid = self.config, rollout.reward, rollout.valid
        ends = rollout.terminated, rollout.truncated
        value = next_value = torch.zeros_like(reward)
        if self.value_function is not None:
            value, next_value = rollout.values(self.value_function)
        known = value.detach()
        if config.multiplier == "reward":
            multiplier = target = reward
        elif config.multiplier == "return":
            multiplier = target = returns.episode_return(reward, *ends, valid, config.discount)
        elif config.multiplier == "reward-to-go":
            multiplier = target = returns.reward_to_go(reward, *ends, next_value, valid, config.discount)
        else:
            multiplier = returns.generalized_advantage(
                reward, known, *ends, next_value, valid, config.discount, config.smoothing
            )
            target = multiplier + known
        if config.baseline == "value" and config.multiplier != "gae":  # which has taken it off already
            multiplier = multiplier - known
        if config.baseline == "mean":
            multiplier = returns.subtract_mean(multiplier, valid)
        if config.standardise:
            multiplier = returns.standardise(multiplier, valid)
        if self.value_function is None:
            return rollout.rows(multiplier), None
        return rollout.rows(multiplier), functional.mse_loss(rollout.rows(value), rollout.rows(target))

    def _policy_gradient(self, policy_loss: Tensor) -> dict[str, Tensor]:
        """Autograd's gradient of the policy loss alone, before an entropy bonus joins it."""
        names, parameters = zip(*self.policy.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(policy_loss, parameters, retain_graph=True), strict=True))

    def _shorten_gradient(self) -> float:
        """Cut the norm of the policy's gradient, and of the value function's, to the limit; gives the policy's before.

        Each by itself: the value's gradient is often much the longer, and would drown the policy's at random.
        """
        limit = self.config.max_gradient_norm
        if limit is None:
            gradients = [parameter.grad for parameter in self.policy.parameters() if parameter.grad is not None]
            return math.hypot(*(torch.linalg.vector_norm(gradient).item() for gradient in gradients))
        if self.value_function is not None:
            torch.nn.utils.clip_grad_norm_(self.value_function.parameters(), limit)
        return torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit).item()

    def _step(self) -> None:
        if self.config.learning_rate_decay:
            left = 1 - (self.num_updates - 1) / self.config.num_updates
            self.optimizer.learning_rate = self.config.learning_rate * left
        self.optimizer.step()

    def _episode_metrics(self) -> dict[str, float]:
        ended = self.collector.episodes.take()
        if ended is None:
            return {}
        totals, lengths = ended
        return {
            "rollout/episode_return": float(totals.sum()) / len(totals),
            "rollout/episode_length": float(lengths.sum()) / len(lengths),
        }


def make_env(config: TrainConfig) -> VectorEnv[Any, Any, Any]:
    """The vector environment of a run: native where there is one, unless the settings say otherwise."""
    mode = None if config.vectorization == "native" else config.vectorization
    return gym.make_vec(config.env_id, num_envs=config.num_envs, vectorization_mode=mode, **config.env_kwargs)


def make_policy(config: TrainConfig, env: VectorEnv[Any, Any, Any]) -> Policy:
    """The policy that the settings name.

    Args:
        config: Settings of the run.
        env: Its environment.

    Raises:
        TypeError: Where it does not fit the environment; the message names the spaces.
    """
    observation_space, action_space = env.single_observation_space, env.single_action_space
    if config.policy == "mlp":
        return MLPPolicy(observation_space, action_space, config.hidden_sizes)
    if observation_space.shape == (1,) and action_space == Discrete(2):
        return BiasPolicy()
    raise TypeError(
        f"policy 'bias' takes observations of shape [1] and Discrete(2) actions, but {config.env_id} has "
        f"{observation_space} and {action_space}"
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
    summary: dict[str, float]  # `metrics.summarise`, and the mean return of the last 100 episodes: `recent_return`


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
            while trainer.num_updates < config.num_updates and not trainer.has_reached_target():
                logged = trainer.update()
                writer.write(trainer.num_updates, trainer.num_env_steps, logged)
                if callback is not None:
                    callback(trainer.num_updates, logged)
            writer.flush()
            save_policy(run_dir, trainer.policy, trainer.collector.normalize_observation)
            lines = metrics.read_metrics(run_dir)
            if config.pictures:
                for tag, picture in pictures.draw(run_dir, lines).items():
                    writer.write_picture(tag, picture, trainer.num_env_steps)
    recent = trainer.collector.episodes.recent
    summary = metrics.summarise(lines) | ({"recent_return": sum(recent) / len(recent)} if recent else {})
    return TrainResult(trainer.policy, run_dir, trainer.num_updates, trainer.num_env_steps, summary)


@contextmanager
def _setting_up() -> Iterator[None]:
    """Whatever goes wrong before the first step is a `SetupError`."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, gym.error.Error) as error:
        raise SetupError(str(error)) from error
