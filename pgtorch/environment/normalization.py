"""Scales observations and rewards to about 1 by running statistics.

The statistics are updated between rollouts, never within one: one policy plays a whole rollout. The scale of rewards
includes the rollout that they come from, so that even the first rollout is scaled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

CLIP = 10.0  # beyond it normalized values are outliers, not information
EPSILON = 1e-8  # added to a variance, which may be 0


class RunningMoments:
    """Mean and variance of everything seen so far, merged batch by batch.

    Args:
        size: Of each row.

    Source: Chan, Golub and LeVeque (1979), the parallel update.
    """

    def __init__(self, size: int) -> None:
        self.count = 0.0
        self.mean = np.zeros(size)
        self.variance = np.ones(size)

    def update(self, rows: NDArray[np.floating]) -> None:
        """Add rows [B, size]."""
        count = self.count + len(rows)
        mean, variance = rows.mean(axis=0, dtype=np.float64), rows.var(axis=0, dtype=np.float64)
        shift = mean - self.mean
        share = len(rows) / count
        between = shift**2 * share * (1 - share)
        self.variance = self.variance * (1 - share) + variance * share + between
        self.mean = self.mean + shift * share
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        """Count, mean and variance, as plain types and tensors."""
        return {
            "count": self.count,
            "mean": torch.from_numpy(self.mean.copy()),
            "variance": torch.from_numpy(self.variance.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.count = state["count"]
        self.mean, self.variance = state["mean"].numpy().copy(), state["variance"].numpy().copy()


class ObservationNormalizer:
    """(observation - mean) / standard deviation, clipped to [-10, 10].

    Args:
        size: D, of each flattened observation.
    """

    def __init__(self, size: int) -> None:
        self.moments = RunningMoments(size)

    def __call__(self, observation: NDArray[np.floating]) -> NDArray[np.floating]:
        """Normalize rows [N, D] by the statistics so far."""
        scaled = (observation - self.moments.mean) / np.sqrt(self.moments.variance + EPSILON)
        return np.clip(scaled, -CLIP, CLIP)

    def state_dict(self) -> dict[str, Any]:
        """Its statistics, as plain types and tensors."""
        return self.moments.state_dict()

    def load_state_dict(self, state: dict[str, Any], *, mid_episode: bool) -> None:
        """Restore what `state_dict` returned."""
        self.moments.load_state_dict(state)


class RewardNormalizer:
    """Reward / standard deviation of the discounted return so far, clipped to [-10, 10]; signs are kept.

    Args:
        num_envs: N.
        discount: gamma.
    """

    def __init__(self, num_envs: int, discount: float) -> None:
        self.moments = RunningMoments(1)
        self.discount = discount
        self.discounted = np.zeros(num_envs)  # return of the episodes in progress, [N]

    def __call__(self, reward: NDArray[np.floating]) -> NDArray[np.floating]:
        """Normalize rewards of any shape by the statistics so far."""
        scale = float(np.sqrt(self.moments.variance[0] + EPSILON))
        normalized: NDArray[np.floating] = np.clip(reward / scale, -CLIP, CLIP)
        return normalized

    def update(self, reward: NDArray[np.floating], *, ended: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        """Add a rollout, each [T, N]."""
        returns = np.empty(reward.shape)
        for t in range(len(reward)):
            self.discounted = np.where(valid[t], self.discount * self.discounted + reward[t], self.discounted)
            returns[t] = self.discounted
            self.discounted = np.where(ended[t], 0.0, self.discounted)
        self.moments.update(returns[valid][:, None])

    def state_dict(self) -> dict[str, Any]:
        """Its statistics and the returns of the episodes in progress, as plain types and tensors."""
        return {**self.moments.state_dict(), "discounted": torch.from_numpy(self.discounted.copy())}

    def load_state_dict(self, state: dict[str, Any], *, mid_episode: bool) -> None:
        """Restore what `state_dict` returned; without `mid_episode` new episodes have begun."""
        self.moments.load_state_dict(state)
        if mid_episode:
            self.discounted = state["discounted"].numpy().copy()
