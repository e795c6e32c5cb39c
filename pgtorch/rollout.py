"""Play T steps in N environments and keep what happened.

Legend: T steps, N environments, D numbers of a flattened observation, B = valid rows among the T * N, ordered by step,
then by environment.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Generator, Tensor

from pgtorch.environment.autoreset import make_stepper
from pgtorch.environment.checks import ObservationBounds
from pgtorch.environment.episodes import EpisodeStatistics
from pgtorch.environment.normalization import ObservationNormalizer, RewardNormalizer
from pgtorch.policies import Policy


class Rollout(NamedTuple):
    """What happened in T steps of N environments; never changed once made.

    A row is filler if the environment spent the step on resetting itself (autoreset mode NEXT_STEP): its action was
    ignored and its reward means nothing, so it must never reach a loss.
    """

    observation: Tensor  # float32 [T + 1, N, D], what the policy saw, and after the last step what it will see
    action: Tensor  # [T, N, *action_shape], what it did
    reward: Tensor  # float32 [T, N], as the environment paid it
    scaled_reward: Tensor  # float32 [T, N], what is learned from: the same, unless rewards are normalized
    terminated: Tensor  # bool [T, N]: the episode ended by its own rules
    truncated: Tensor  # bool [T, N]: it was cut off, by a time limit for instance
    valid: Tensor  # bool [T, N]: False on filler rows
    final: list[tuple[int, Tensor, Tensor]]
    """(t, environments [C], their final observations [C, D]) of cut-off episodes that the next row no longer shows."""
    all_valid: bool  # there is no filler

    def rows(self, values: Tensor) -> Tensor:
        """The valid rows of [T, N, ...] values, ordered by step, then by environment: [B, ...]."""
        flat = values.flatten(0, 1)
        return flat if self.all_valid else flat[self.valid.flatten()]

    @torch.no_grad()
    def values(self, value_function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The value of each observation, and of the one that the step led to: the *final* one if the episode ended.

        Args:
            value_function: [B, D] -> [B].

        Returns:
            Both [T, N], without gradient.
        """
        value = value_function(self.observation.flatten(0, 1)).reshape(self.observation.shape[:2])  # [T + 1, N]
        following = value[1:].clone()
        for t, environments, final in self.final:
            following[t, environments] = value_function(final)
        return value[:-1], following


@dataclass(slots=True)
class Batch:
    """B rows of a rollout, as a gradient step uses them."""

    observation: Tensor  # [B, D]
    action: Tensor  # [B, *action_shape]
    multiplier: Tensor  # [B], of log pi
    target: Tensor | None = None  # [B], what the value function should return; None without one
    old_log_prob: Tensor | None = None  # [B], log pi when they were played; None with one step per rollout

    def __getitem__(self, rows: Tensor) -> Batch:
        """Some of the rows."""
        target, old_log_prob = (None if part is None else part[rows] for part in (self.target, self.old_log_prob))
        return Batch(self.observation[rows], self.action[rows], self.multiplier[rows], target, old_log_prob)

    def split(self, parts: int) -> Iterator[Batch]:
        """The rows in this many parts, in order, as equal as can be; no row is copied."""
        columns = self.observation, self.action, self.multiplier, self.target, self.old_log_prob
        split = (itertools.repeat(None) if column is None else column.tensor_split(parts) for column in columns)
        return itertools.starmap(Batch, zip(*split, strict=False))

    def __len__(self) -> int:
        """B."""
        return self.multiplier.shape[0]  # len() of a tensor takes longer


class RolloutCollector:
    """Steps a vector environment with a policy.

    Args:
        env: Any `gymnasium.vector.VectorEnv` of supported spaces, in any autoreset mode.
        num_steps: T, at least 1.
        seed: For the environment's first and only seeded reset.
        normalize_observation: Scales flattened observations, [N, D]; None leaves them.
        normalize_reward: Scales rewards; None leaves them. Episode statistics use the original rewards.

    Raises:
        TypeError: If a space is not supported.
        ContractError, NonFiniteError: If the environment violates its spaces; `collect` raises them too.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        num_steps: int,
        seed: int,
        normalize_observation: ObservationNormalizer | None = None,
        normalize_reward: RewardNormalizer | None = None,
    ) -> None:
        self.stepper = make_stepper(env)
        self.episodes = EpisodeStatistics(env.num_envs)
        self.normalize_observation, self.normalize_reward = normalize_observation, normalize_reward
        self.rollout: Rollout | None = None
        self._bounds = ObservationBounds(env.single_observation_space)
        self._shape = (num_steps, env.num_envs)
        self._size = spaces.flatdim(env.single_observation_space)
        self.stepper.reset(seed)

    def collect(self, policy: Policy, generator: Generator) -> Rollout:
        """Play T steps; the rollout is also kept as `self.rollout`.

        Args:
            policy: Chooses the actions.
            generator: The source of its random numbers, asked once for all steps.

        Returns:
            A rollout with at least one valid row in each step.
        """
        self.rollout = None  # frees the memory of the previous one
        (num_steps, num_envs), stepper = self._shape, self.stepper
        dtype = torch.empty(0).numpy().dtype  # float32, unless the host changed torch's default
        observation = np.empty((num_steps + 1, num_envs, self._size), dtype)
        raw = observation if self.normalize_observation is None else np.empty_like(observation)
        reward = np.empty(self._shape, dtype)
        terminated, truncated, valid = (np.empty(self._shape, np.bool_) for _ in range(3))
        seen = torch.from_numpy(observation)  # the same memory
        actions, final = [], []
        noise = policy.noise(num_steps, num_envs, generator)
        for t in range(num_steps):
            observation[t] = self._seen(stepper.observation)
            if raw is not observation:
                raw[t] = stepper.observation
            action = policy.sample(seen[t], noise[t]).numpy()
            actions.append(action)
            step = stepper.step(action)
            reward[t], terminated[t], truncated[t], valid[t] = step.reward, step.terminated, step.truncated, step.valid
            self.episodes.record(step.reward, valid=step.valid, ended=step.ended)
            if step.final is not None:
                who, last = step.final
                final.append((t, torch.from_numpy(who), torch.as_tensor(self._seen(last), dtype=seen.dtype)))
        observation[-1] = self._seen(stepper.observation)
        self._bounds.require(raw[:num_steps], stepper.steps_taken - num_steps)
        paid = scaled = torch.from_numpy(reward)
        if self.normalize_observation is not None:  # scales change between rollouts, never within one
            self.normalize_observation.moments.update(raw[:num_steps][valid])
        if self.normalize_reward is not None:
            self.normalize_reward.update(reward, ended=terminated | truncated, valid=valid)
            scaled = torch.from_numpy(self.normalize_reward(reward))
        self.rollout = Rollout(
            observation=seen,
            action=torch.from_numpy(np.array(actions)),
            reward=paid,
            scaled_reward=scaled,
            terminated=torch.from_numpy(terminated),
            truncated=torch.from_numpy(truncated),
            valid=torch.from_numpy(valid),
            final=final,
            all_valid=np.count_nonzero(valid) == valid.size,
        )
        return self.rollout

    def _seen(self, observation: NDArray[Any]) -> NDArray[Any]:
        return observation if self.normalize_observation is None else self.normalize_observation(observation)
