"""Expected gradients without sampling: in closed form, by linear equations, and by enumeration. All in float64.

J  expected (discounted) return      pi(a|s)  probability of action a in state s, [S, A]
S  number of states                  A  number of actions
V  value of a state, [S]             Q  value of an action in a state, [S, A]
d  discounted visits of a state, [S]: the sum over t of gamma^t P(s_t = s)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from gymnasium import Env
from torch import Tensor

# Any finite MDP, by linear equations

MOST_CELLS = 20_000_000  # trajectories times states: their one-hot states take eight bytes each
Outcome = tuple[float, int, float, bool]  # probability, next state, reward, terminated


def _are_probabilities(values: Sequence[float]) -> bool:
    """Whether numbers are at least 0 and sum to 1; none of them is NaN then."""
    return all(value >= 0 for value in values) and abs(sum(values) - 1) <= 1e-9  # noqa: PLR2004


@dataclass(frozen=True)
class FiniteMDP:
    """A decision process with S states and A actions, as a table of outcomes.

    Attributes:
        outcomes: `outcomes[s][a]` lists what may come of action a in state s, (probability, next state, reward,
            terminated).
        start: Probability of each state at the start, float64 [S].
        discount: gamma in [0, 1]; 1 only where every policy in use ends its episodes, or with a horizon.
    """

    outcomes: Sequence[Sequence[Sequence[Outcome]]]
    start: Tensor = field(repr=False)
    discount: float = 1.0

    def __post_init__(self) -> None:
        """Check the table.

        Raises:
            ValueError: Where a probability is missing, or start or discount do not fit.
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
                            f"outcomes[{s}][{a}] must lead to a state below {len(self.outcomes)} for a finite reward, "
                            f"got state {following}, reward {reward}"
                        )

    @classmethod
    def from_gymnasium(cls, env: Env[Any, Any], discount: float = 1.0) -> FiniteMDP:
        """Read the table that Gymnasium's toy-text environments carry: `env.unwrapped.P` and `initial_state_distrib`.

        Raises:
            TypeError: Where the environment has none.
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
        """P(s' | s, a) without those that terminate: what is missing to 1 has ended. [S, A, S]."""
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

    def _entries(self) -> list[tuple[int, int, Outcome]]:
        return [
            (s, a, outcome)
            for s, actions in enumerate(self.outcomes)
            for a, outcomes in enumerate(actions)
            for outcome in outcomes
        ]


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
    mdp: FiniteMDP, probability: Tensor, horizon: int | None = None, *, discounted_states: bool = True
) -> Tensor:
    """dJ/dpi(a|s) = d(s) Q(s, a): the policy gradient theorem. The chain rule does the rest for any parameters.

    For a table of softmax logits: dJ/dz(s, a) = d(s) pi(a|s) (Q(s, a) - V(s)); see `softmax_gradient`.

    Args:
        mdp: The process.
        probability: pi(a|s), float64 [S, A].
        horizon: Steps after which an episode is cut off, its future then worth nothing; None for no limit.
        discounted_states: False leaves gamma^t out of d, as practice does: no longer the gradient of J.

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
    values = [torch.zeros_like(reward)]  # of the last steps: 0, 1, 2, ... to go
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
    """Transitions [S, S] and rewards [S] when the policy chooses."""
    return torch.einsum("sa,san->sn", probability, mdp.transition), (probability * mdp.reward).sum(1)


# Trajectories: all of them, or a sample


@dataclass(frozen=True)
class Trajectories:
    """N episodes side by side, as a rollout has them: [T, N], filler after an episode's end."""

    probability: Tensor  # float64 [N]; of a sample, 1/N each
    state: Tensor  # int64 [T, N]
    action: Tensor  # int64 [T, N]
    reward: Tensor  # float64 [T, N]
    terminated: Tensor  # bool [T, N]
    truncated: Tensor  # bool [T, N]: at the horizon
    valid: Tensor  # bool [T, N]


class TooManyTrajectoriesError(ValueError):
    """There are more trajectories than can be enumerated."""


def enumerate_trajectories(mdp: FiniteMDP, probability: Tensor, horizon: int) -> Trajectories:
    """Every trajectory of at most `horizon` steps that can happen, each with its probability.

    The mean of anything over them, weighted so, is its expectation: no sampling, no false alarm.

    Args:
        mdp: The process; there are up to S (A times outcomes)^horizon trajectories.
        probability: pi(a|s), float64 [S, A].
        horizon: T, at least 1.

    Raises:
        TooManyTrajectoriesError: Where they and the states are too many to hold.
        ValueError: Where the horizon is below 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    chances = probability.tolist()
    paths: list[tuple[float, int, list[tuple[int, int, float, bool]]]]
    paths = [(p, s, []) for s, p in enumerate(mdp.start.tolist()) if p > 0]
    for _ in range(horizon):
        longer = []
        for p, s, steps in paths:
            if steps and steps[-1][3]:
                longer.append((p, s, steps))
                continue
            for a, outcomes in enumerate(mdp.outcomes[s]):
                for chance, following, reward, terminated in outcomes:
                    if chance > 0 and chances[s][a] > 0:
                        step = (s, a, reward, terminated)
                        longer.append((p * chances[s][a] * chance, following, [*steps, step]))
        paths = longer
        if len(paths) * len(mdp.outcomes) > MOST_CELLS:
            raise TooManyTrajectoriesError(
                f"{len(paths):,} trajectories or more of {horizon} steps in {len(mdp.outcomes)} states are too many"
            )
    filler = (0, 0, 0.0, False)
    rows = [[*steps, *[filler] * (horizon - len(steps))] for _, _, steps in paths]
    lengths = torch.tensor([len(steps) for _, _, steps in paths])
    kinds = (torch.int64, torch.int64, torch.float64, torch.bool)
    columns = [
        torch.tensor([[step[i] for step in steps] for steps in rows], dtype=kind).T for i, kind in enumerate(kinds)
    ]  # each [T, N]
    return _trajectories(torch.tensor([p for p, _, _ in paths], dtype=torch.float64), columns, lengths)


def sample_trajectories(
    mdp: FiniteMDP, probability: Tensor, num_episodes: int, horizon: int, generator: torch.Generator
) -> Trajectories:
    """Play episodes by the table, all at once.

    Args:
        mdp: The process.
        probability: pi(a|s), float64 [S, A].
        num_episodes: N.
        horizon: Steps after which an episode is cut off, T.
        generator: Where the draws come from.
    """
    most = max(len(outcomes) for actions in mdp.outcomes for outcomes in actions)
    padded = [
        [[*outcomes, *[(0.0, 0, 0.0, False)] * (most - len(outcomes))] for outcomes in row] for row in mdp.outcomes
    ]
    chance, following, gain, final = (
        torch.tensor([[[outcome[i] for outcome in outcomes] for outcomes in row] for row in padded], dtype=kind)
        for i, kind in enumerate((torch.float64, torch.int64, torch.float64, torch.bool))
    )
    now = torch.multinomial(mdp.start, num_episodes, replacement=True, generator=generator)
    running = torch.ones(num_episodes, dtype=torch.bool)
    lengths = torch.zeros(num_episodes, dtype=torch.int64)
    columns: list[tuple[Tensor, ...]] = []
    for _ in range(horizon):
        action = torch.multinomial(probability[now], 1, generator=generator).squeeze(1)
        which = torch.multinomial(chance[now, action], 1, generator=generator).squeeze(1)
        ended = final[now, action, which] & running
        columns.append((now, action, gain[now, action, which] * running, ended))
        lengths += running
        now, running = following[now, action, which], running & ~ended
    share = torch.full((num_episodes,), 1 / num_episodes, dtype=torch.float64)
    return _trajectories(share, [torch.stack(column) for column in zip(*columns, strict=True)], lengths)


def _trajectories(probability: Tensor, columns: list[Tensor], lengths: Tensor) -> Trajectories:
    state, action, reward, terminated = columns
    valid = torch.arange(len(state))[:, None] < lengths
    truncated = torch.zeros_like(valid)
    truncated[-1] = valid[-1] & ~terminated[-1]
    return Trajectories(probability, state, action, reward, terminated, truncated, valid)
