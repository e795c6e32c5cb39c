"""Episode statistics: each episode's return and length, counted once."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class EpisodeStatistics:
    """Undiscounted return and length of each episode, counted once, when it ends.

    Args:
        num_envs: N.

    Attributes:
        recent: Returns of the last 100 episodes that ended, oldest first; within one step, ordered by environment.
    """

    def __init__(self, num_envs: int) -> None:
        self.recent: deque[float] = deque(maxlen=100)
        self.total = np.zeros(num_envs)  # [N], of the episodes in progress
        self.length = np.zeros(num_envs, np.int32)  # [N]
        self._start_over()

    def record(self, reward: NDArray[Any], *, valid: NDArray[np.bool_], ended: NDArray[np.bool_]) -> None:
        """Count one step of every environment.

        Args:
            reward: As the environment paid it, [N].
            valid: False on filler rows, [N].
            ended: The episode ended with this step, [N].
        """
        all_valid = np.count_nonzero(valid) == len(valid)  # valid.all() takes three times as long
        self.total += reward if all_valid else reward * valid
        self.length += valid
        count = int(np.count_nonzero(ended))
        if not count:
            return
        who: Any = slice(None) if count == len(ended) else ended  # a slice is much faster
        totals = self.total[who]
        self.recent.extend(totals[-100:].tolist())
        self._sum_of_totals += float(np.add.reduce(totals))  # as totals.sum(), in half the time
        self._sum_of_lengths += int(np.add.reduce(self.length[who]))
        self._count += count
        self.total[who] = 0.0
        self.length[who] = 0

    def figures(self) -> dict[str, float]:
        """Mean return and length of the episodes that ended since the last call, by tag; nothing if none ended."""
        if not self._count:
            return {}
        figures = {
            "rollout/episode_return": self._sum_of_totals / self._count,
            "rollout/episode_length": self._sum_of_lengths / self._count,
        }
        self._start_over()
        return figures

    def state_dict(self) -> dict[str, Any]:
        """What the next rollout depends on, as plain types and tensors; all copies."""
        return {
            "recent": list(self.recent),
            "total": torch.from_numpy(self.total.copy()),
            "length": torch.from_numpy(self.length.copy()),
        }

    def load_state_dict(self, state: dict[str, Any], *, mid_episode: bool) -> None:
        """Restore what `state_dict` returned; without `mid_episode` new episodes have begun."""
        self.recent.clear()
        self.recent.extend(state["recent"])
        if mid_episode:
            self.total, self.length = state["total"].numpy().copy(), state["length"].numpy().copy()

    def _start_over(self) -> None:
        self._sum_of_totals, self._sum_of_lengths, self._count = 0.0, 0, 0
