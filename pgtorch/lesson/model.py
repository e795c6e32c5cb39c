"""Restaurant-v0 and the lesson's policy as formulas: the exact mean reward, its gradient, the best bias. In float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gymnasium import Env

from pgtorch.config import LESSON, TrainConfig
from pgtorch.policies import BiasPolicy, Policy
from restaurant_env import RestaurantEnv
from restaurant_env.restaurant import SIGNIFICANT_DISTANCE

SETTINGS = {"large_portion_probability", "hungry_above", "reward_scheme", "reward_scale"}  # of the environment


@dataclass(frozen=True)
class RestaurantModel:
    """Restaurant-v0 and the lesson's policy as formulas; hunger h is uniform on [0, 1], P(h) = sigmoid(w h + b).

    The expected reward of going to place a is c(h) (2 q_a - 1). Here q_a is the probability of a large order, and c is
    +s above the threshold t and -s below it; graded rewards double c if h is more than 0.25 away from t. So c is
    constant on segments of h:

        J(b)  = sum over segments of c [(2 q_S - 1) (length - I) + (2 q_N - 1) I],    I = integral of P over the segment
        J'(b) = 2 (q_N - q_S) / w * sum over segments [x, y] of c [P(y) - P(x)],      since dP/db = dP/dh / w

    Attributes:
        weight: The policy's fixed weight w. The rest are the environment's settings.
        large_portion_probability: q of Squatch and of Norm.
        hungry_above: The threshold t.
        reward_scheme: "binary" or "graded".
        reward_scale: s.
    """

    weight: float = 20.0
    large_portion_probability: Sequence[float] = (0.15, 0.80)
    hungry_above: float = 0.5
    reward_scheme: str = "binary"
    reward_scale: float = 1.0

    @cached_property
    def segments(self) -> list[tuple[float, float, float]]:
        """(from, to, c) for each segment of hunger on which c is constant."""
        t, s = self.hungry_above, self.reward_scale
        cuts = [0.0, 1.0, t]
        if self.reward_scheme == "graded":
            cuts += [t - SIGNIFICANT_DISTANCE, t + SIGNIFICANT_DISTANCE]
        found = []
        for x, y in itertools.pairwise(sorted({min(max(cut, 0.0), 1.0) for cut in cuts})):
            middle = (x + y) / 2
            doubled = self.reward_scheme == "graded" and abs(middle - t) > SIGNIFICANT_DISTANCE
            found.append((x, y, (s if middle > t else -s) * (2 if doubled else 1)))
        return found

    def expected_reward(self, bias: float) -> float:
        """J(b), the mean reward of the sampled policy."""
        w, (q_squatch, q_norm) = self.weight, self.large_portion_probability
        total = 0.0
        for x, y, c in self.segments:
            integral = (y - x) * _sigmoid(bias) if w == 0 else (_softplus(w * y + bias) - _softplus(w * x + bias)) / w
            total += c * ((2 * q_squatch - 1) * (y - x - integral) + (2 * q_norm - 1) * integral)
        return total

    def gradient(self, bias: float) -> float:
        """dJ/db. The expected gradient of the loss is its negative."""
        w, (q_squatch, q_norm) = self.weight, self.large_portion_probability
        total = 0.0
        for x, y, c in self.segments:
            if w == 0:
                total += c * (y - x) * _sigmoid(bias) * _sigmoid(-bias)
            else:
                total += c * (_sigmoid(w * y + bias) - _sigmoid(w * x + bias)) / w
        return 2 * (q_norm - q_squatch) * total

    def optimal_bias(self) -> float:
        """The b that maximizes J, where dJ/db falls through 0; infinite if one place is best at every hunger."""
        reach = abs(self.weight) + 40.0  # beyond it P(Norm) is within exp(-40) of 0 or 1 at every hunger
        candidates = [-math.inf, math.inf]
        grid = [-reach + 2 * reach * i / 4000 for i in range(4001)]
        for low, high in itertools.pairwise(grid):
            if self.gradient(low) > 0 >= self.gradient(high):
                candidates.append(self._bisect(low, high))
        return max(candidates, key=lambda b: self.expected_reward(min(max(b, -reach), reach)))

    def _bisect(self, low: float, high: float) -> float:
        while (middle := (low + high) / 2) not in (low, high):
            if self.gradient(middle) > 0:
                low = middle
            else:
                high = middle
        return high


def model_of_run(config: TrainConfig, weight: float) -> RestaurantModel | None:
    """The closed form of a run whose policy has this weight; None if its environment is not the lesson's."""
    if config.env_id.rpartition(":")[2] != LESSON.rpartition(":")[2]:
        return None
    return RestaurantModel(weight, **{name: config.env_kwargs[name] for name in SETTINGS & config.env_kwargs.keys()})


def model_of(policy: Policy, env: Env[Any, Any]) -> RestaurantModel | None:
    """The closed form for a policy in an environment; None except for the lesson's own classes, not subclasses.

    Args:
        policy: Of any class.
        env: Of any class, wrapped or not; only the innermost environment counts.
    """
    restaurant = env.unwrapped
    if type(policy) is not BiasPolicy or type(restaurant) is not RestaurantEnv:
        return None
    settings = restaurant.settings
    return RestaurantModel(
        policy.weight.item(),
        settings.large_portion_probability.tolist(),
        settings.hungry_above,
        settings.reward_scheme,
        settings.reward_scale,
    )


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def _softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))
