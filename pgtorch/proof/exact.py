"""Expected gradients without sampling, by linear equations. All in float64.

J  expected (discounted) return      pi(a|s)  probability of action a in state s, [S, A]
S  number of states                  A  number of actions
V  value of a state, [S]             Q  value of an action in a state, [S, A]
d  discounted visits of a state, [S]: the sum over t of gamma^t P(s_t = s)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from gymnasium import Env
from torch import Tensor

Outcome = tuple[float, int, float, bool]  # probability, next state, reward, terminated


@dataclass(frozen=True)
class FiniteMDP:
    """A decision process with S states and A actions, as a table of outcomes.

    Attributes:
        outcomes: `outcomes[s][a]` lists what can follow action a in state s, as (probability, next state, reward,
            terminated).
        start: Probability of each state at the start, float64 [S].
        discount: gamma in [0, 1]. At 1 every policy in use must end its episodes, or there must be a horizon.
    """

    outcomes: Sequence[Sequence[Sequence[Outcome]]]
    start: Tensor = field(repr=False)
    discount: float = 1.0

    def __post_init__(self) -> None:
        """Check the table.

        Raises:
            ValueError: If probabilities do not sum to 1, rows differ in length, a next state does not exist, a reward
                is not finite, or start or discount do not fit.
        """
        if self.start.shape != (len(self.outcomes),) or not _are_probabilities(self.start.tolist()):
            raise ValueError(f"start must be {len(self.outcomes)} probabilities that sum to 1, got {self.start}")
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount must be in [0, 1], got {self.discount}")
        for s, actions in enumerate(self.outcomes):
            if len(actions) != len(self.outcomes[0]):
                raise ValueError(
                    f"outcomes[{s}] must have {len(self.outcomes[0])} actions like the first, got {len(actions)}"
                )
            for a, outcomes in enumerate(actions):
                chances = [outcome[0] for outcome in outcomes]
                if not _are_probabilities(chances):
                    raise ValueError(f"outcomes[{s}][{a}] must have probabilities that sum to 1, got {chances}")
                for _, following, reward, _ in outcomes:
                    if not 0 <= following < len(self.outcomes) or not math.isfinite(reward):
                        raise ValueError(
                            f"outcomes[{s}][{a}] must lead to a state below {len(self.outcomes)} with a finite reward, "
                            f"got state {following}, reward {reward}"
                        )

    @classmethod
    def from_gymnasium(cls, env: Env[Any, Any], discount: float = 1.0) -> FiniteMDP:
        """Read the table of one of Gymnasium's toy-text environments: `env.unwrapped.P` and `initial_state_distrib`.

        Raises:
            TypeError: If the environment lacks such a table.
        """
        table, start = getattr(env.unwrapped, "P", None), getattr(env.unwrapped, "initial_state_distrib", None)
        if table is None or start is None:
            name = env.spec.id if env.spec else type(env.unwrapped).__name__
            raise TypeError(f"{name} has no transition table (env.unwrapped.P and initial_state_distrib)")
        outcomes = [
            [[(float(p), int(n), float(r), bool(d)) for p, n, r, d in table[s][a]] for a in sorted(table[s])]
            for s in sorted(table)
        ]
        return cls(outcomes, torch.as_tensor(start, dtype=torch.float64), discount)

    @cached_property
    def transition(self) -> Tensor:
        """P(s' | s, a) of the steps that do not terminate, [S, A, S]; the rest of each sum to 1 terminates."""
        result = torch.zeros(len(self.outcomes), len(self.outcomes[0]), len(self.outcomes), dtype=torch.float64)
        for s, a, (probability, following, _, terminated) in self._entries():
            result[s, a, following] += 0.0 if terminated else probability
        return result

    @cached_property
    def reward(self) -> Tensor:
        """Expected reward of an action in a state, [S, A]."""
        result = torch.zeros(len(self.outcomes), len(self.outcomes[0]), dtype=torch.float64)
        for s, a, (probability, _, reward, _) in self._entries():
            result[s, a] += probability * reward
        return result

    def _entries(self) -> Iterator[tuple[int, int, Outcome]]:
        for s, actions in enumerate(self.outcomes):
            for a, outcomes in enumerate(actions):
                for outcome in outcomes:
                    yield s, a, outcome


def state_values(mdp: FiniteMDP, probability: Tensor) -> Tensor:
    """V, the solution of V = r_pi + gamma P_pi V.

    Args:
        mdp: The process.
        probability: pi(a|s), float64 [S, A].

    Returns:
        float64 [S].
    """
    move, reward = _under(mdp, probability)
    value: Tensor = torch.linalg.solve(torch.eye(len(reward), dtype=torch.float64) - mdp.discount * move, reward)
    return value


def expected_return(mdp: FiniteMDP, probability: Tensor, horizon: int | None = None) -> Tensor:
    """J: the start distribution's mean of V, or of the value of `horizon` steps; a scalar."""
    if horizon is None:
        return torch.dot(mdp.start, state_values(mdp, probability))
    move, reward = _under(mdp, probability)
    value = torch.zeros_like(reward)
    for _ in range(horizon):
        value = reward + mdp.discount * move @ value
    result: Tensor = torch.dot(mdp.start, value)
    return result


def expected_gradient(
    mdp: FiniteMDP,
    probability: Tensor,
    horizon: int | None = None,
    *,
    discounted_states: bool = True,
    after: Tensor | None = None,
) -> Tensor:
    """dJ/dpi(a|s) = d(s) Q(s, a): the policy gradient theorem. The chain rule does the rest for any parameters.

    For a table of softmax logits: dJ/dz(s, a) = d(s) pi(a|s) (Q(s, a) - V(s)); see `softmax_gradient`.

    Args:
        mdp: The process.
        probability: pi(a|s), float64 [S, A].
        horizon: Steps after which an episode is cut off; None for no limit.
        after: What a state is worth where the horizon cuts, float64 [S], as a constant; None for nothing.
        discounted_states: False leaves gamma^t out of d, as practice does. That is no longer the gradient of J.

    Returns:
        float64 [S, A].

    Source: Sutton et al. (2000), theorem 1.
    """
    weight = mdp.discount if discounted_states else 1.0
    move, reward = _under(mdp, probability)
    if horizon is None:
        identity = torch.eye(len(reward), dtype=torch.float64)
        value = torch.linalg.solve(identity - mdp.discount * move, reward)
        visits = torch.linalg.solve((identity - weight * move).T, mdp.start)
        result: Tensor = visits[:, None] * (mdp.reward + mdp.discount * mdp.transition @ value)
        return result
    values = [torch.zeros_like(reward) if after is None else after]  # with 0, 1, 2, ... steps to go
    for _ in range(horizon - 1):
        values.append(reward + mdp.discount * move @ values[-1])
    visits, result = mdp.start, torch.zeros_like(mdp.reward)
    for value in reversed(values):
        result = result + visits[:, None] * (mdp.reward + mdp.discount * mdp.transition @ value)
        visits = weight * visits @ move
    return result


def softmax_gradient(mdp: FiniteMDP, probability: Tensor, horizon: int | None = None) -> Tensor:
    """dJ/dz for a table of logits z with pi = softmax(z), [S, A]."""
    by_probability = expected_gradient(mdp, probability, horizon)
    return probability * (by_probability - (probability * by_probability).sum(1, keepdim=True))


def _under(mdp: FiniteMDP, probability: Tensor) -> tuple[Tensor, Tensor]:
    """Transitions [S, S] and rewards [S] under the policy."""
    return torch.einsum("sa,san->sn", probability, mdp.transition), (probability * mdp.reward).sum(1)


def _are_probabilities(values: Sequence[float]) -> bool:
    """Whether all numbers are at least 0 and sum to 1. With a NaN they do not."""
    return all(value >= 0 for value in values) and abs(sum(values) - 1) <= 1e-9  # noqa: PLR2004
