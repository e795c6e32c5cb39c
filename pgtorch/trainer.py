"""One update, as the lesson tells it: guess, weigh, loss, derive, check, step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from torch.nn import functional

from pgtorch.config import ONE_HOT_RATE, OTHER_RATE, TrainConfig
from pgtorch.device import in_numbers, moving, resolve, sent
from pgtorch.distributions import as_global_stream
from pgtorch.environment.build import make_vector_env
from pgtorch.environment.normalization import ObservationNormalizer, RewardNormalizer
from pgtorch.environment.spaces import is_one_hot
from pgtorch.gradient_check import check_gradient, check_period, largest_differences
from pgtorch.losses import importance_weighted, policy_gradient_loss
from pgtorch.networks import policy_of, require_fit, value_function_of
from pgtorch.optimizers import finite_norm, make_optimizer, make_schedule
from pgtorch.policies import Policy
from pgtorch.returns import weigh
from pgtorch.rollout import Batch, Exchange, RolloutCollector, Shard


class Trainer:
    """Trains a policy by policy gradients, one `update` at a time. It writes nothing to disk.

    Args:
        config: Settings of the run.
        policy: What to train, moved to the run's device; None makes the policy that the settings name.
        exchange: Reaches the other processes that play shards of the environments; None if there are none.

    Attributes:
        generator: The source of initial weights, actions and minibatches.
        num_updates: Updates done so far.
        num_env_steps: Environment steps learned from so far.

    Raises:
        TypeError, ValueError, gymnasium.error.Error: If environment, policy and settings do not fit together.
    """

    def __init__(self, config: TrainConfig, policy: Policy | None = None, exchange: Exchange | None = None) -> None:
        self.config, num_shards = config, config.num_shards or 1
        self.device = resolve(config.device)
        self.generator = torch.Generator().manual_seed(config.seed)
        settings = {name: getattr(config, name) for name in ("env_kwargs", "vectorization", "step_timeout")}
        make_env = partial(make_vector_env, config.env_id, num_envs=config.num_envs // num_shards, **settings)
        hosted = range(num_shards) if exchange is None else exchange.hosted(num_shards)
        self.shards = [Shard(make_env, config.seed, number) for number in hosted]
        self.env = self.shards[0].env
        spaces = self.env.single_observation_space, self.env.single_action_space
        with as_global_stream(self.generator):
            self.policy = (policy or policy_of(config, *spaces)).to(self.device)
            self.value_function = value_function_of(config, self.policy, spaces[0])
        self.check_period = check_period(self.policy, config.check_gradient)
        require_fit(self.policy, config.num_envs, *spaces, self.value_function)
        learning_rate = config.learning_rate or (ONE_HOT_RATE if is_one_hot(spaces[0]) else OTHER_RATE)
        self.optimizers = {"policy": make_optimizer(config.optimizer, self.policy.parameters(), learning_rate)}
        if self.value_function is not None and any(True for _ in self.value_function.parameters()):
            rate = config.value_learning_rate or learning_rate
            self.optimizers["value"] = make_optimizer(config.optimizer, self.value_function.parameters(), rate)
        self.schedule = make_schedule(config.learning_rate_schedule)
        size = gym.spaces.flatdim(spaces[0])
        is_normalized = config.normalize_observations and not is_one_hot(spaces[0])
        self.collector = RolloutCollector(
            self.shards,
            num_steps=config.num_steps,
            device=self.device,
            num_shards=num_shards,
            exchange=exchange,
            normalize_observation=ObservationNormalizer(size) if is_normalized else None,
            normalize_reward=RewardNormalizer(config.num_envs, config.discount) if config.normalize_rewards else None,
        )
        self.num_updates = 0
        self.num_env_steps = 0

    def update(self) -> dict[str, float]:
        """Play one rollout and learn from it.

        Returns:
            Figures by tag: of the policy after the update, of its last gradient step, of the episodes that ended.

        Raises:
            GradientMismatchError: If autograd's gradient is not the manual one.
            NonFiniteError: If an observation, a reward or a gradient is not finite. Its step is not taken; earlier
                steps of the same update remain. On another device than the CPU, gradients are checked after all steps.
        """
        rollout = self.collector.collect(self.policy, self.generator)
        batch = weigh(rollout, moving(self.device, self.value_function), self.config).to(self.device)
        self.num_updates += 1
        self.num_env_steps += len(batch)
        steps = in_numbers([self._step(part) for part in self._parts(batch)], self.device)
        for step in steps if self.device.type != "cpu" else ():
            norm, loss = {"all": step["gradient/norm"]}, step["loss/policy_gradient"]
            finite_norm(norm, loss, self.num_updates, self.num_env_steps)
        figures = self.policy.figures() | steps[-1] | largest_differences(steps)
        return figures | self.collector.episodes.figures()

    def close(self) -> None:
        """Close the environments."""
        for shard in self.shards:
            shard.env.close()

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The rows of each gradient step: all of them once, or several passes in random parts."""
        config = self.config
        if config.num_epochs == config.num_minibatches == 1:
            yield batch
            return
        with torch.no_grad():
            old_log_prob = self.policy.log_prob(batch.observation, batch.action)
        batch = Batch(batch.observation, batch.action, batch.multiplier, batch.target, old_log_prob)
        orders = (torch.randperm(len(batch), generator=self.generator) for _ in range(config.num_epochs))
        for order in sent(orders, self.device):
            yield from batch[order].split(min(config.num_minibatches, len(batch)))

    def _step(self, batch: Batch) -> dict[str, Any]:
        """One gradient step; figures on another device than the CPU are tensors, since reading one means waiting."""
        config, figures = self.config, dict[str, Any]()
        figure = torch.Tensor.item if self.device.type == "cpu" else torch.Tensor.detach

        # Guess: how likely were the actions?
        distribution = self.policy.distribution(batch.observation)
        log_prob = distribution.log_prob(batch.action)  # [B]
        with torch.set_grad_enabled(bool(config.entropy_coefficient)):  # without a bonus its graph only wastes memory
            entropy = distribution.entropy().mean()
        figures["policy/entropy"] = figure(entropy)

        # Weigh: what came of them?
        multiplier = batch.multiplier
        if batch.old_log_prob is not None:
            multiplier = importance_weighted(
                multiplier, log_prob=log_prob, old_log_prob=batch.old_log_prob, clip_range=config.clip_range
            )

        # Loss
        loss = policy_loss = policy_gradient_loss(log_prob, multiplier)
        figures["loss/policy_gradient"] = figure(policy_loss)
        if self.value_function is not None and batch.target is not None:
            value_loss = functional.mse_loss(self.value_function(batch.observation), batch.target)
            figures["loss/value"] = figure(value_loss)
            loss = loss + config.value_coefficient * value_loss
        if config.entropy_coefficient:
            loss = loss - config.entropy_coefficient * entropy

        # Derive
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norms = {name: optimizer.gradient_norm() for name, optimizer in self.optimizers.items()}
        figures["gradient/norm"] = finite_norm(norms, loss, self.num_updates, self.num_env_steps)
        del distribution, log_prob, entropy, policy_loss, loss  # and the graph: the check needs as much memory again

        # Check: the same gradient by hand
        if self.check_period and self.num_updates % self.check_period == 0:
            figures |= check_gradient(
                self.policy,
                batch.observation,
                batch.action,
                multiplier,
                env_steps=self.num_env_steps,
                entropy_coefficient=config.entropy_coefficient,
            )

        # Step. Each gradient is clipped separately: the value function's is often much longer.
        factor = self.schedule((self.num_updates - 1) / config.num_updates)
        for name, optimizer in self.optimizers.items():
            if config.max_gradient_norm is not None:
                optimizer.clip(norms[name], max_norm=config.max_gradient_norm)
            optimizer.step(factor)
        return figures
