"""Play T steps in N environments and keep what happened.

Legend: T steps, N environments, D numbers of a flattened observation, B = valid rows among the T * N, in order of step
and then environment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from pgtorch.environment.checks import ObservationBounds, require_batch, require_fields, require_finite
from pgtorch.environment.normalization import ObservationNormalizer, RewardNormalizer
from pgtorch.policies import Policy
from pgtorch.environment.spaces import clipper, flattener


@dataclass
class Rollout:
    """What happened in T steps of N environments.

    A row is filler where the environment spent the step on resetting itself (autoreset mode NEXT_STEP): its action was
    ignored and its reward is no reward, so it must never reach a loss.
    """

    observation: Tensor  # float32 [T + 1, N, D], what the policy saw, and after the last step what it will see
    action: Tensor  # [T, N, *action_shape], what it did
    reward: Tensor  # float32 [T, N]
    terminated: Tensor  # bool [T, N]: the episode ended by its own rules
    truncated: Tensor  # bool [T, N]: it was cut off, by a time limit for instance
    valid: Tensor  # bool [T, N]: False on filler rows
    cut: list[tuple[int, Tensor, Tensor]]  # (t, environments, their final observations), where the next row has another

    def __post_init__(self) -> None:
        """Look once whether there is filler at all; mostly there is none."""
        self._all_valid = np.count_nonzero(self.valid.numpy()) == self.valid.numel()

    def rows(self, values: Tensor) -> Tensor:
        """The valid rows of [T, N, ...] values, in order of step and then environment: [B, ...]."""
        flat = (values if len(values) == len(self.valid) else values[:-1]).flatten(0, 1)  # observations: one more
        return flat if self._all_valid else flat[self.valid.flatten()]

    @torch.no_grad()
    def values(self, value_function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The value of each observation, and of the one that the step led to, the *final* one where an episode ended.

        Args:
            value_function: [B, D] -> [B].

        Returns:
            Both [T, N], without gradient.
        """
        value = value_function(self.observation.flatten(0, 1)).reshape(self.observation.shape[:2])  # [T + 1, N]
        following = value[1:].clone()
        for t, environments, final in self.cut:
            following[t, environments] = value_function(final)
        return value[:-1], following


class EpisodeStatistics:
    """Undiscounted return and length of each episode, counted once, when it ends.

    Args:
        num_envs: N.

    Attributes:
        recent: Returns of the last 100 episodes that ended, oldest first; among those of one step, by environment.
    """

    def __init__(self, num_envs: int) -> None:
        self.recent: deque[float] = deque(maxlen=100)
        self.total = np.zeros(num_envs)  # [N], of the episodes under way
        self.length = np.zeros(num_envs, np.int32)  # [N]
        self._forget()

    def record(self, reward: NDArray[Any], valid: NDArray[np.bool_], ended: NDArray[np.bool_]) -> bool:
        """Count one step of every environment, each argument [N]; gives whether an episode ended."""
        all_valid = np.count_nonzero(valid) == len(valid)  # valid.all() takes three times as long
        self.total += reward if all_valid else reward * valid
        self.length += valid
        count = int(np.count_nonzero(ended))
        if not count:
            return False
        who: Any = slice(None) if count == len(ended) else ended  # a slice is the faster by far
        totals = self.total[who]
        self.recent.extend(totals[-100:].tolist())
        self._sum_of_totals += float(totals.sum())
        self._sum_of_lengths += int(self.length[who].sum())
        self._count += count
        self.total[who] = 0.0
        self.length[who] = 0
        return True

    def take(self) -> tuple[float, float] | None:
        """Mean return and mean length of the episodes that ended since the last call; None where there are none."""
        means = (self._sum_of_totals / self._count, self._sum_of_lengths / self._count) if self._count else None
        self._forget()
        return means

    def _forget(self) -> None:
        self._sum_of_totals, self._sum_of_lengths, self._count = 0.0, 0, 0


class RolloutCollector:
    """Steps a vector environment with a policy, into storage that is allocated once and used again.

    Args:
        env: Any `gymnasium.vector.VectorEnv` of supported spaces, in any autoreset mode.
        num_steps: T, at least 1.
        seed: For the environment's first and only seeded reset.
        normalize_observation: Scales flattened observations, [N, D]; None leaves them.
        normalize_reward: Scales rewards; None leaves them. Episode statistics count the environment's own.

    Raises:
        TypeError: Where a space is not supported.

    `collect` raises `ContractError` and `NonFiniteError` where the environment does not keep to its spaces.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        num_steps: int,
        seed: int,
        normalize_observation: ObservationNormalizer | None = None,
        normalize_reward: RewardNormalizer | None = None,
    ) -> None:
        self._flatten, self._clip = flattener(env.single_observation_space), clipper(env.single_action_space)
        shape, size = (num_steps, env.num_envs), spaces.flatdim(env.single_observation_space)
        self.env = env
        self.episodes = EpisodeStatistics(env.num_envs)
        self.normalize_observation, self.normalize_reward = normalize_observation, normalize_reward
        self._tensors = {
            "observation": torch.zeros(num_steps + 1, env.num_envs, size),
            "action": torch.zeros(
                (*shape, *(env.single_action_space.shape or ())), dtype=_dtype(env.single_action_space)
            ),
            "reward": torch.zeros(shape),
            "terminated": torch.zeros(shape, dtype=torch.bool),
            "truncated": torch.zeros(shape, dtype=torch.bool),
            "valid": torch.ones(shape, dtype=torch.bool),
        }
        self._seen_at = self._tensors["observation"].unbind()  # [N, D] each, of the same memory
        self._arrays = {name: tensor.numpy() for name, tensor in self._tensors.items()}  # the same memory
        self._raw = np.zeros((num_steps, env.num_envs, size), np.float32) if normalize_observation else None
        self._cut: list[tuple[int, Tensor, Tensor]] = []
        self._mode: AutoresetMode = env.metadata["autoreset_mode"]
        self._resetting = np.zeros(env.num_envs, np.bool_)  # [N]: whose next step is filler
        self._bounds = ObservationBounds(env.single_observation_space)
        self.steps_taken = 0  # taken in each environment
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Start a new episode in every environment; those under way are given up."""
        self._take(self.env.reset(seed=seed)[0])

    def collect(self, policy: Policy) -> Rollout:
        """Play T steps.

        Args:
            policy: Draws the actions.

        Returns:
            A rollout with at least one valid row in each step; `self.rollout` as well. Its tensors are overwritten by
            the next call.
        """
        arrays, self._cut = self._arrays, []
        for t in range(len(arrays["reward"])):
            self._step(t, policy)
        arrays["observation"][-1] = self._seen(self._observation)
        observed = arrays["observation"][:-1] if self._raw is None else self._raw
        self._bounds.require(observed, self.steps_taken - len(observed))
        self.rollout = Rollout(**self._tensors, cut=self._cut)
        self._learn_scales()
        return self.rollout

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next rollout depends on but policy, environment and generators; no part is shared."""
        under_way = {
            "observation": self._observation,
            "resetting": self._resetting,
            "total": self.episodes.total,
            "length": self.episodes.length,
        }
        state: dict[str, Any] = {name: torch.from_numpy(array.copy()) for name, array in under_way.items()}
        state |= {"recent": list(self.episodes.recent), "steps_taken": self.steps_taken}
        if self.normalize_observation is not None:
            state["observation_moments"] = self.normalize_observation.moments.state_dict()
        if self.normalize_reward is not None:
            state["reward_moments"] = self.normalize_reward.moments.state_dict()
            state["discounted"] = torch.from_numpy(self.normalize_reward.discounted.copy())
        return state

    def load_state_dict(self, state: dict[str, Any], *, mid_episode: bool) -> None:
        """Take over what `state_dict` gave; of the episodes under way only where the environment is in them too."""
        self.episodes.recent.clear()
        self.episodes.recent.extend(state["recent"])
        self.steps_taken = state["steps_taken"]
        if self.normalize_observation is not None:
            self.normalize_observation.moments.load_state_dict(state["observation_moments"])
        if self.normalize_reward is not None:
            self.normalize_reward.moments.load_state_dict(state["reward_moments"])
        if not mid_episode:
            self.episodes.total[:], self.episodes.length[:] = 0.0, 0
            return
        self._observation, self._resetting = state["observation"].numpy().copy(), state["resetting"].numpy().copy()
        self.episodes.total, self.episodes.length = state["total"].numpy().copy(), state["length"].numpy().copy()
        if self.normalize_reward is not None:
            self.normalize_reward.discounted = state["discounted"].numpy().copy()

    def _step(self, t: int, policy: Policy) -> None:
        arrays = self._arrays
        if self._mode is AutoresetMode.NEXT_STEP:
            arrays["valid"][t] = ~self._resetting
        arrays["observation"][t] = self._seen(self._observation)
        if self._raw is not None:
            self._raw[t] = self._observation
        action = policy.sample(self._seen_at[t]).numpy()
        self.steps_taken += 1
        observation, reward, terminated, truncated, infos = self.env.step(self._clip(action))
        require_fields(self.env.num_envs, self.steps_taken, reward, terminated, truncated)
        require_finite(reward, "reward", self.steps_taken)
        arrays["action"][t] = action
        arrays["reward"][t] = reward
        arrays["terminated"][t] = terminated
        arrays["truncated"][t] = truncated
        self._take(observation)
        ended = terminated | truncated
        if self.episodes.record(reward, arrays["valid"][t], ended):
            self._start_anew(t, infos, ended, truncated & ~terminated)
        elif self._mode is AutoresetMode.NEXT_STEP:
            self._resetting = ended

    def _start_anew(self, t: int, infos: dict[str, Any], ended: NDArray[np.bool_], cut: NDArray[np.bool_]) -> None:
        """See that new episodes follow the ended ones; keep the final observations of those that were cut off."""
        if self._mode is AutoresetMode.NEXT_STEP and not ended.all():
            self._resetting = ended  # the row of the next step holds the final observation, and is filler
            return
        if self._mode is AutoresetMode.SAME_STEP and not cut.any():
            return
        environments = np.flatnonzero(cut)
        if self._mode is AutoresetMode.SAME_STEP:
            final = np.concatenate([self._flatten(_one(infos["final_obs"], int(i)), 1) for i in environments])
        else:
            final = self._observation[environments]
        if self._mode is AutoresetMode.NEXT_STEP:  # nothing but filler would come: let it pass, so that there are rows
            observation = self.env.step(self._clip(self._arrays["action"][t]))[0]
            self._take(observation)
            self._resetting = np.zeros_like(ended)
        elif self._mode is AutoresetMode.DISABLED:
            self._take(self.env.reset(options={"reset_mask": ended})[0])
        if len(environments):
            require_finite(final, "final observation", self.steps_taken)
            seen = torch.as_tensor(self._seen(final), dtype=torch.float32)
            self._cut.append((t, torch.as_tensor(environments), seen))

    def _take(self, observation: Any) -> None:
        """Make an observation of all environments the present one: [N, D]."""
        require_batch(self.env.single_observation_space, observation, self.env.num_envs, self.steps_taken)
        self._observation = self._flatten(observation, self.env.num_envs)
        require_finite(self._observation, "observation", self.steps_taken)

    def _seen(self, observation: NDArray[Any]) -> NDArray[Any]:
        return observation if self.normalize_observation is None else self.normalize_observation(observation)

    def _learn_scales(self) -> None:
        """Let the rollout move the scales, and bring its rewards to them; observations were seen at those before."""
        arrays = self._arrays
        if self._raw is not None and self.normalize_observation is not None:
            self.normalize_observation.moments.update(self._raw[arrays["valid"]])
        if self.normalize_reward is not None:
            ended = arrays["terminated"] | arrays["truncated"]
            self.normalize_reward.update(arrays["reward"], ended, arrays["valid"])
            arrays["reward"][:] = self.normalize_reward(arrays["reward"])


def _one(batch: Any, index: int) -> Any:
    """One environment's observation of a batch; of a native environment, or of Gymnasium's objects in an array."""
    return {key: _one(part, index) for key, part in batch.items()} if isinstance(batch, dict) else batch[index]


def _dtype(action_space: Any) -> torch.dtype:
    """Of the actions that a policy gives."""
    if isinstance(action_space, spaces.Box):
        return torch.float32
    return torch.int8 if isinstance(action_space, spaces.MultiBinary) else torch.int64
