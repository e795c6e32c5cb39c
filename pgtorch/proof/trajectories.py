"""Trajectories of a finite MDP: all of them with their probabilities, or a sample.

T  steps of the longest trajectory      N  number of trajectories      S, A, pi(a|s) as in `exact.py`
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pgtorch.proof.exact import FiniteMDP

MOST_CELLS = 20_000_000  # trajectories times states: their one-hot states take eight bytes each


@dataclass(frozen=True)
class Trajectories:
    """N episodes side by side, as in a rollout: [T, N], filler after an episode's end."""

    probability: Tensor  # float64 [N]; 1/N each in a sample
    state: Tensor  # int64 [T, N]
    action: Tensor  # int64 [T, N]
    reward: Tensor  # float64 [T, N]
    following: Tensor  # int64 [T, N], the state that the step led to
    terminated: Tensor  # bool [T, N]
    truncated: Tensor  # bool [T, N], at the horizon
    valid: Tensor  # bool [T, N]


class TooManyTrajectoriesError(ValueError):
    """There are more trajectories than can be enumerated."""


def enumerate_trajectories(mdp: FiniteMDP, probability: Tensor, horizon: int) -> Trajectories:
    """Every possible trajectory of at most `horizon` steps, with its probability.

    The mean of anything over them, weighted by probability, is its expectation: no sampling, no false alarms.

    Args:
        mdp: The process; there are up to S (A times outcomes)^horizon trajectories.
        probability: pi(a|s), float64 [S, A].
        horizon: T, at least 1.

    Raises:
        TooManyTrajectoriesError: If they do not fit in memory.
        ValueError: If the horizon is below 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    chances = probability.tolist()
    paths: list[tuple[float, int, list[tuple[int, int, float, int, bool]]]]
    paths = [(p, s, []) for s, p in enumerate(mdp.start.tolist()) if p > 0]
    for _ in range(horizon):
        longer = []
        for p, s, steps in paths:
            if steps and steps[-1][-1]:  # terminated
                longer.append((p, s, steps))
                continue
            for a, outcomes in enumerate(mdp.outcomes[s]):
                for chance, following, reward, terminated in outcomes:
                    if chance > 0 and chances[s][a] > 0:
                        step = (s, a, reward, following, terminated)
                        longer.append((p * chances[s][a] * chance, following, [*steps, step]))
        paths = longer
        if len(paths) * len(mdp.outcomes) > MOST_CELLS:
            raise TooManyTrajectoriesError(
                f"{len(paths):,} trajectories or more of {horizon} steps in {len(mdp.outcomes)} states are too many"
            )
    filler = (0, 0, 0.0, 0, False)
    rows = [[*steps, *[filler] * (horizon - len(steps))] for _, _, steps in paths]
    lengths = torch.tensor([len(steps) for _, _, steps in paths])
    kinds = (torch.int64, torch.int64, torch.float64, torch.int64, torch.bool)
    columns = [
        torch.tensor([[step[i] for step in steps] for steps in rows], dtype=kind).T for i, kind in enumerate(kinds)
    ]  # each [T, N]
    return _trajectories(torch.tensor([p for p, _, _ in paths], dtype=torch.float64), columns, lengths)


def sample_trajectories(
    mdp: FiniteMDP, probability: Tensor, *, num_episodes: int, horizon: int, generator: Generator
) -> Trajectories:
    """Sample episodes from the table, all at once.

    Args:
        mdp: The process.
        probability: pi(a|s), float64 [S, A].
        num_episodes: N.
        horizon: Steps after which an episode is cut off, T.
        generator: The source of the draws.
    """
    most = max(len(outcomes) for actions in mdp.outcomes for outcomes in actions)
    padded = [
        [[*outcomes, *[(0.0, 0, 0.0, False)] * (most - len(outcomes))] for outcomes in row] for row in mdp.outcomes
    ]
    chance, following, reward, terminated = (  # each [S, A, most]
        torch.tensor([[[outcome[i] for outcome in outcomes] for outcomes in row] for row in padded], dtype=kind)
        for i, kind in enumerate((torch.float64, torch.int64, torch.float64, torch.bool))
    )
    state = torch.multinomial(mdp.start, num_episodes, replacement=True, generator=generator)
    running = torch.ones(num_episodes, dtype=torch.bool)
    lengths = torch.zeros(num_episodes, dtype=torch.int64)
    columns: list[tuple[Tensor, ...]] = []
    for _ in range(horizon):
        action = torch.multinomial(probability[state], 1, generator=generator).squeeze(1)
        which = torch.multinomial(chance[state, action], 1, generator=generator).squeeze(1)
        ended = terminated[state, action, which] & running
        after = following[state, action, which]
        columns.append((state, action, reward[state, action, which] * running, after, ended))
        lengths += running
        state, running = after, running & ~ended
    equal = torch.full((num_episodes,), 1 / num_episodes, dtype=torch.float64)
    return _trajectories(equal, [torch.stack(column) for column in zip(*columns, strict=True)], lengths)


def _trajectories(probability: Tensor, columns: list[Tensor], lengths: Tensor) -> Trajectories:
    state, action, reward, following, terminated = columns
    valid = torch.arange(len(state))[:, None] < lengths
    truncated = torch.zeros_like(valid)
    truncated[-1] = valid[-1] & ~terminated[-1]
    return Trajectories(probability, state, action, reward, following, terminated, truncated, valid)
