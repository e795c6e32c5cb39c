"""pgtorch/Walk-v0: a random walk with every kind of end, space and autoreset mode, to compare implementations in."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

WALK = "pgtorch/Walk-v0"
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "box": spaces.Box(-30.0, 30.0, (3,)),
    "discrete": spaces.Discrete(7, start=-3),
    "multi-discrete": spaces.MultiDiscrete([7, 4], start=[-3, 0]),
}
ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3, start=1),
    "multi-discrete": spaces.MultiDiscrete([2, 3, 3], start=[0, 1, -1]),
    "multi-binary": spaces.MultiBinary(2),
    "box": spaces.Box(-1.0, 1.0, (2,)),
}
SCALES = np.array([1.0, 2.0, 0.2])  # small enough that no tanh is saturated: 1 - tanh^2 would be all rounding
OFFSETS = np.array([0.0, 2.0, -0.5])


class Walk(gym.Env[Any, Any]):
    """Three numbers that drift with the action. Each environment walks by its own seed.

    Args:
        observations: A key of `OBSERVATIONS`.
        actions: A key of `ACTIONS`.
        ends: How likely a step terminates the episode, cuts it off, or does both.
    """

    def __init__(
        self, observations: str = "box", actions: str = "discrete", ends: tuple[float, float, float] = (0.1, 0.1, 0.05)
    ) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[observations], ACTIONS[actions]
        self._edges = np.cumsum(ends)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start near the origin."""
        super().reset(seed=seed)
        self._at = self.np_random.normal(size=3)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Walk; the reward depends on the action and on where it was taken."""
        push = float(
            np.asarray(action, np.float64) @ [1.0, -0.5, 0.3][: np.size(action)] if np.ndim(action) else action
        )
        reward = push * self._at[0] - 0.1 * push**2 + 0.3 * float(self.np_random.normal())
        self._at = 0.8 * self._at + 0.3 * self.np_random.normal(size=3) + [0.1 * push, -0.1 * push, 0.05]
        terminated, truncated, both = self.np_random.random() < self._edges
        ends_so, is_cut = bool(terminated or (both and not truncated)), bool(both and not terminated)
        return self._observation(), reward, ends_so, is_cut, {}

    def _observation(self) -> Any:
        if isinstance(self.observation_space, spaces.Box):
            seen: NDArray[np.float32] = np.clip(SCALES * self._at + OFFSETS, -30, 30).astype(np.float32)
            return seen
        cell = int(np.clip(np.rint(2 * self._at[0]), -3, 3))
        if isinstance(self.observation_space, spaces.Discrete):
            return cell
        return np.array([cell, int(np.clip(2 + self._at[1], 0, 3))])


def make_walks(num_envs: int, mode: str = "same_step", **settings: Any) -> SyncVectorEnv:
    """Several walks in an autoreset mode: "same_step", "next_step" or "disabled"."""
    return SyncVectorEnv([lambda: Walk(**settings)] * num_envs, autoreset_mode=AutoresetMode[mode.upper()])


gym.register(WALK, entry_point=f"{__name__}:Walk", vector_entry_point=f"{__name__}:make_walks")
