"""Processes small enough that every batch of their episodes can be enumerated: what `estimators.py` looks at.

T  steps of the longest episode    N  episodes in a batch    B  possible batches    S, A, V as in `exact.py`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pgtorch.proof.exact import FiniteMDP, Outcome, state_values
from pgtorch.proof.trajectories import enumerate_trajectories


class EpisodeBatch(NamedTuple):
    """N episodes side by side, with filler after the end of the shorter ones; what both functions get."""

    state: Tensor  # int64 [T, N]
    action: Tensor  # int64 [T, N]
    reward: Tensor  # float64 [T, N], 0 on filler; a completion is rewarded at its last token
    terminated: Tensor  # bool [T, N], the episode ended by its own rules
    truncated: Tensor  # bool [T, N], it was cut off: its future is worth `next_value`
    valid: Tensor  # bool [T, N], False on filler
    value: Tensor  # float64 [T, N], the critic's value of the state; 0 on filler
    next_value: Tensor  # float64 [T, N], of the state that the step led to; the exact V after a cut, 0 after an end
    group: Tensor  # int64 [N], episodes with one number began in one state: completions of one prompt
    greedy_return: Tensor  # float64 [N], expected discounted rewards of T steps of the likeliest actions
    discount: float  # gamma

    def rows(self, values: Tensor) -> Tensor:
        """The valid rows of [T, N] values, in order of step and then episode, [rows]."""
        return values[self.valid]


@dataclass(frozen=True)
class Process:
    """A small decision process, the policy that acts in it, and the batches that it gives.

    Attributes:
        name: A word for the table.
        outcomes: As in `FiniteMDP`.
        logits: Of the policy, float64 [S, A].
        starts: The state that each episode of a batch begins in, N of them.
        horizon: T. An episode that has not ended by then is cut off, and would go on in state 0.
    """

    name: str
    outcomes: Sequence[Sequence[Sequence[Outcome]]]
    logits: Tensor = field(repr=False)
    starts: tuple[int, ...]
    horizon: int

    def __post_init__(self) -> None:
        """Check where episodes go on after a cut.

        Raises:
            ValueError: If that is not state 0.
        """
        mdp = self.mdp(discount=1.0)
        visited = mdp.start
        for _ in range(self.horizon):
            visited = visited @ mdp.transition.sum(1)
        if visited[1:].any():
            wrong = (torch.nonzero(visited[1:]).flatten() + 1).tolist()
            raise ValueError(f"{self.name} must go on in state 0 after {self.horizon} steps, got states {wrong} too")

    def mdp(self, discount: float) -> FiniteMDP:
        """The table, with the start states of a batch."""
        start = functional.one_hot(torch.tensor(self.starts), len(self.outcomes)).double().mean(0)
        return FiniteMDP(self.outcomes, start, discount)


def _ends(reward: float) -> list[Outcome]:
    return [(1.0, 0, reward, True)]


def _goes(state: int, reward: float = 0.0) -> list[Outcome]:
    return [(1.0, state, reward, False)]


def _logits(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


EPISODES = Process(
    "episodes",  # of one, two or three steps
    [
        [_ends(1.0), _goes(1, 0.4)],
        [_ends(2.5), [(0.75, 2, -0.3, False), (0.25, 0, 0.9, True)]],
        [_ends(-0.7), _ends(3.1)],
    ],
    _logits((0.3, 0.8), (-0.2, 0.5), (0.6, -0.4)),
    starts=(0, 0, 0),
    horizon=3,
)
CUTS = Process(
    "cuts",  # of two steps each; then some episodes have ended, and the others are cut off and would begin again
    [
        [_goes(1, 0.5), _goes(2, -0.2)],
        [_ends(2.0), _goes(0, 0.3)],
        [_goes(0, 1.4), [(0.5, 0, 3.0, True), (0.5, 0, -1.0, False)]],
    ],
    _logits((0.5, -0.1), (0.2, 0.9), (-0.6, 0.1)),
    starts=(0, 0, 0),
    horizon=2,
)
TOKENS = Process(
    "tokens",  # a vocabulary of three, two prompts (states 0 and 2) with two completions each, of one or two tokens
    [
        [_ends(1.0), _ends(0.2), _goes(1)],
        [_ends(0.0), _ends(3.0), _ends(1.5)],
        [_ends(0.6), _ends(-0.4), _ends(2.2)],
    ],
    _logits((0.4, -0.3, 0.6), (0.1, -0.5, 0.3), (-0.2, 0.5, 0.0)),
    starts=(0, 0, 2, 2),
    horizon=2,
)
PROCESSES = (EPISODES, CUTS, TOKENS)


def objective(process: Process, probability: Tensor, *, discount: float) -> Tensor:
    """J, a scalar: the mean over the start states of the expected discounted return, gamma^T V after a cut.

    V is that of the process's own policy and passes no gradient on; `probability` is pi(a|s), float64 [S, A].
    """
    mdp = process.mdp(discount)
    after = state_values(mdp, process.logits.softmax(1))
    return torch.dot(mdp.start, value_of_steps(mdp, probability, process.horizon, after))


def value_of_steps(mdp: FiniteMDP, probability: Tensor, horizon: int, after: Tensor) -> Tensor:
    """Expected discounted rewards of `horizon` steps and then `after`, of each state, [S]."""
    for _ in range(horizon):
        after = (probability * (mdp.reward + mdp.discount * mdp.transition @ after)).sum(1)
    return after


def every_batch(process: Process, *, discount: float, critic_error: float = 0.0) -> tuple[EpisodeBatch, Tensor]:
    """All batches that a process can give.

    Args:
        process: The process.
        discount: gamma in [0, 1].
        critic_error: As for `verify_estimator`.

    Returns:
        The batches stacked, their tensors [B, T, N] and [B, N]; and the probability of each, float64 [B].
    """
    mdp, probability = process.mdp(discount), process.logits.softmax(1)
    firsts, begin = sorted(set(process.starts)), torch.eye(len(mdp.outcomes), dtype=torch.float64)
    parts = [enumerate_trajectories(replace(mdp, start=begin[s]), probability, process.horizon) for s in firsts]
    begins = torch.cat([torch.full_like(part.state[0], s) for s, part in zip(firsts, parts, strict=True)])
    which = torch.cartesian_prod(*(torch.nonzero(begins == s).flatten() for s in process.starts))  # [B, N]

    def column(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts], dim=-1)[..., which]

    names = ("state", "action", "reward", "terminated", "truncated", "valid")
    state, action, reward, terminated, truncated, valid = (column(name).movedim(0, 1) for name in names)
    values = state_values(mdp, probability)
    sign = 1.0 - 2.0 * (torch.arange(len(values)) % 2)
    value = torch.where(valid, (values + critic_error * sign)[state], 0.0)
    following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)  # 0 after an end: filler's value
    following = torch.where(truncated, values[0], following)
    group = torch.tensor([firsts.index(s) for s in process.starts])
    likeliest = functional.one_hot(process.logits.argmax(1), process.logits.shape[1]).double()
    greedy_return = value_of_steps(mdp, likeliest, process.horizon, torch.zeros_like(values))[list(process.starts)]
    fields = (state, action, reward, terminated, truncated, valid, value, following)
    everywhere = (group.expand_as(which), greedy_return.expand_as(which))
    return EpisodeBatch(*fields, *everywhere, discount), column("probability").prod(1)
