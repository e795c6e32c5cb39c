"""Play T steps in N environments and keep what happened.

Legend: T steps, N environments, B = valid rows among the T * N, in order of step and then environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from pgtorch.policies import Policy


@dataclass
class Rollout:
    """What happened in T steps of N environments.

    A row is filler where the environment spent the step on resetting itself (autoreset mode NEXT_STEP): its action was
    ignored and its reward is no reward, so it must never reach a loss.
    """

    observation: Tensor  # float32 [T, N, *observation_shape], what the policy saw
    action: Tensor  # [T, N, *action_shape], what it did
    reward: Tensor  # float32 [T, N]
    terminated: Tensor  # bool [T, N]: the episode ended by its own rules
    truncated: Tensor  # bool [T, N]: it was cut off, by a time limit for instance
    valid: Tensor  # bool [T, N]: False on filler rows

    def __post_init__(self) -> None:
        """Look once whether there is filler at all; mostly there is none."""
        self._all_valid = bool(self.valid.all())

    def rows(self, values: Tensor) -> Tensor:
        """The valid rows of [T, N, ...] values, in order of step and then environment: [B, ...]."""
        flat = values.flatten(0, 1)
        return flat if self._all_valid else flat[self.valid.flatten()]


class EpisodeStatistics:
    """Undiscounted return and length of each episode, counted once, when it ends.

    Args:
        num_envs: N.
    """

    def __init__(self, num_envs: int) -> None:
        self._return = np.zeros(num_envs)  # [N], of the episodes under way
        self._length = np.zeros(num_envs, np.int64)  # [N]
        self._finished: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []

    def record(self, reward: NDArray[Any], valid: NDArray[np.bool_], ended: NDArray[np.bool_]) -> None:
        """Count one step of every environment; each argument is [N]."""
        self._return += reward * valid
        self._length += valid
        if ended.any():
            self._finished.append((self._return[ended], self._length[ended]))
            self._return[ended] = 0.0
            self._length[ended] = 0

    def take(self) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
        """Returns and lengths [episodes] of those that ended since the last call; None where there are none."""
        finished, self._finished = self._finished, []
        if len(finished) <= 1:
            return finished[0] if finished else None
        returns, lengths = zip(*finished, strict=True)
        return np.concatenate(returns), np.concatenate(lengths)


class RolloutCollector:
    """Steps a vector environment with a policy, into storage that is allocated once and used again.

    Args:
        env: Any `gymnasium.vector.VectorEnv` whose observations are a `Box` and whose actions are `Discrete`, in any
            autoreset mode.
        num_steps: T, at least 1.
        seed: For the environment's first and only seeded reset.

    Raises:
        TypeError: Where a space is not supported.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], num_steps: int, seed: int) -> None:
        observation_space, action_space = env.single_observation_space, env.single_action_space
        if not isinstance(observation_space, gym.spaces.Box):
            raise TypeError(f"observation space must be a Box, got {observation_space}")
        if not isinstance(action_space, gym.spaces.Discrete):
            raise TypeError(f"action space must be Discrete, got {action_space}")
        shape = (num_steps, env.num_envs)
        self.env = env
        self.episodes = EpisodeStatistics(env.num_envs)
        self._tensors = {
            "observation": torch.zeros((*shape, *observation_space.shape)),
            "action": torch.zeros(shape, dtype=torch.int64),
            "reward": torch.zeros(shape),
            "terminated": torch.zeros(shape, dtype=torch.bool),
            "truncated": torch.zeros(shape, dtype=torch.bool),
            "valid": torch.ones(shape, dtype=torch.bool),
        }
        self._arrays = {name: tensor.numpy() for name, tensor in self._tensors.items()}  # the same memory
        self._mode: AutoresetMode = env.metadata["autoreset_mode"]
        self._resetting = np.zeros(env.num_envs, np.bool_)  # [N]: whose next step is filler
        self._observation, _ = env.reset(seed=seed)  # [N, *observation_shape]

    def collect(self, policy: Policy) -> Rollout:
        """Play T steps.

        Args:
            policy: Draws the actions.

        Returns:
            A rollout, every field [T, N, ...], with at least one valid row in each step; `self.rollout` as well. Its
            tensors are overwritten by the next call.
        """
        for t in range(len(self._arrays["reward"])):
            self._step(t, policy)
        self.rollout = Rollout(**self._tensors)
        return self.rollout

    def _step(self, t: int, policy: Policy) -> None:
        if self._mode is AutoresetMode.NEXT_STEP and self._resetting.all():
            # Nothing but filler would come: let it pass, so that every rollout has rows to learn from.
            self._observation = self.env.step(self._arrays["action"][t])[0]
            self._resetting[:] = False
        arrays = self._arrays
        arrays["valid"][t] = ~self._resetting
        arrays["observation"][t] = self._observation
        action = policy.sample(self._tensors["observation"][t]).numpy()
        self._observation, reward, terminated, truncated, _ = self.env.step(action)
        arrays["action"][t] = action
        arrays["reward"][t] = reward
        arrays["terminated"][t] = terminated
        arrays["truncated"][t] = truncated
        ended = terminated | truncated
        self.episodes.record(reward, arrays["valid"][t], ended)
        if self._mode is AutoresetMode.NEXT_STEP:
            self._resetting = ended
        elif self._mode is AutoresetMode.DISABLED and ended.any():
            self._observation, _ = self.env.reset(options={"reset_mask": ended})
