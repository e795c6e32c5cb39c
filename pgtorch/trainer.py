"""One update, as the lesson tells it: guess, weigh, loss, derive, check, step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import gymnasium as gym
import torch
from torch.nn import functional

from pgtorch.config import TrainConfig
from pgtorch.distributions import as_global_stream
from pgtorch.environment.build import make_vector_env
from pgtorch.environment.checks import NonFiniteError
from pgtorch.environment.normalization import ObservationNormalizer, RewardNormalizer
from pgtorch.environment.spaces import is_one_hot
from pgtorch.gradient_check import check_gradient, check_period, largest_differences
from pgtorch.losses import importance_weighted, policy_gradient_loss
from pgtorch.networks import policy_of, require_fit, value_function_of
from pgtorch.optimizers import make_optimizer, make_schedule
from pgtorch.policies import Policy
from pgtorch.returns import weigh
from pgtorch.rollout import Batch, Exchange, RolloutCollector, Shard


class Trainer:
    """Trains a policy by policy gradients, one `update` at a time. It writes nothing to disk.

    Args:
        config: Settings of the run.
        policy: What to train; None makes the policy that the settings name.
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
        self.generator = torch.Generator().manual_seed(config.seed)
        settings = {name: getattr(config, name) for name in ("env_kwargs", "vectorization", "step_timeout")}
        make_env = partial(make_vector_env, config.env_id, num_envs=config.num_envs // num_shards, **settings)
        hosted = range(num_shards) if exchange is None else exchange.hosted(num_shards)
        self.shards = [Shard(make_env, config.seed, number) for number in hosted]
        self.env = self.shards[0].env
        spaces = self.env.single_observation_space, self.env.single_action_space
        with as_global_stream(self.generator):
            self.policy = policy or policy_of(config, *spaces)
            self.value_function = value_function_of(config, self.policy, spaces[0])
        self.check_period = check_period(self.policy, config.check_gradient)
        require_fit(self.policy, config.num_envs, *spaces, self.value_function)
        self.optimizers = {"policy": make_optimizer(config.optimizer, self.policy.parameters(), config.learning_rate)}
        if self.value_function is not None and any(True for _ in self.value_function.parameters()):
            rate = config.value_learning_rate or config.learning_rate
            self.optimizers["value"] = make_optimizer(config.optimizer, self.value_function.parameters(), rate)
        self.schedule = make_schedule(config.learning_rate_schedule)
        size = gym.spaces.flatdim(spaces[0])
        is_normalized = config.normalize_observations and not is_one_hot(spaces[0])
        self.collector = RolloutCollector(
            self.shards,
            num_steps=config.num_steps,
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
                steps of the same update remain.
        """
        rollout = self.collector.collect(self.policy, self.generator)
        batch = weigh(rollout, self.value_function, self.config)
        self.num_updates += 1
        self.num_env_steps += len(batch)
        steps = [self._step(part) for part in self._parts(batch)]
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
        for _ in range(config.num_epochs):
            shuffled = batch[torch.randperm(len(batch), generator=self.generator)]
            yield from shuffled.split(min(config.num_minibatches, len(batch)))

    def _step(self, batch: Batch) -> dict[str, float]:
        """One gradient step."""
        config, figures = self.config, {}

        # Guess: how likely were the actions?
        distribution = self.policy.distribution(batch.observation)
        log_prob = distribution.log_prob(batch.action)  # [B]
        with torch.set_grad_enabled(bool(config.entropy_coefficient)):  # without a bonus its graph only wastes memory
            entropy = distribution.entropy().mean()
        figures["policy/entropy"] = entropy.item()

        # Weigh: what came of them?
        multiplier = batch.multiplier
        if batch.old_log_prob is not None:
            multiplier = importance_weighted(
                multiplier, log_prob=log_prob, old_log_prob=batch.old_log_prob, clip_range=config.clip_range
            )

        # Loss
        loss = policy_loss = policy_gradient_loss(log_prob, multiplier)
        figures["loss/policy_gradient"] = policy_loss.item()
        if self.value_function is not None and batch.target is not None:
            value_loss = functional.mse_loss(self.value_function(batch.observation), batch.target)
            figures["loss/value"] = value_loss.item()
            loss = loss + config.value_coefficient * value_loss
        if config.entropy_coefficient:
            loss = loss - config.entropy_coefficient * entropy

        # Derive
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norms = {name: optimizer.gradient_norm() for name, optimizer in self.optimizers.items()}
        if not all(map(math.isfinite, norms.values())):
            raise NonFiniteError(
                f"update {self.num_updates}, step {self.num_env_steps}: the norms of the gradients must be finite, "
                f"got {norms} at loss {loss.item()}; is learning_rate too high?"
            )
        figures["gradient/norm"] = norms["policy"]
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
