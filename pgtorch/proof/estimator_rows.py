"""Rows about what multiplies log pi: the expectation of each estimator, by enumeration, against the exact gradient.

S, A, pi(a|s), T and N as in `exact.py` and `trajectories.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from pgtorch import returns
from pgtorch.gradient_check import difference_in_units
from pgtorch.losses import importance_weighted
from pgtorch.manual_gradient import gradient_magnitude, has_derivation
from pgtorch.policies import Policy
from pgtorch.proof.exact import FiniteMDP, expected_gradient, expected_return, state_values
from pgtorch.proof.measures import (
    STANDARD_ERRORS,
    Gradient,
    autograd_gradient,
    directions_along,
    flat,
    learned,
    moved,
    relative_error,
    slopes,
    z_score,
)
from pgtorch.proof.table import Row
from pgtorch.proof.trajectories import (
    TooManyTrajectoriesError,
    Trajectories,
    enumerate_trajectories,
    sample_trajectories,
)

ENUMERATION_LIMIT = 64.0  # in u C
MOST_PARAMETERS = 500  # that are moved one by one
LEAST_SMOOTH = 0.5  # of the slopes
HORIZON = 3  # of enumerated trajectories
BATCHES = 100  # of sampled ones

Multiplier = Callable[[Trajectories], Tensor]  # [T, N]


def mdp_rows(subject: str, policy: Policy, mdp: FiniteMDP, *, horizon: int, episodes: int, seed: int) -> Iterator[Row]:
    """A policy in a finite MDP against the solution of its linear equations.

    Args:
        subject: What the rows are about.
        policy: Takes one-hot states [B, S], acts in `Discrete(A)`.
        mdp: The process.
        horizon: Steps after which sampled episodes are cut off.
        episodes: How many are sampled.
        seed: Of all random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    policy = moved(policy, generator).double()
    yield _exact_against_finite_differences(subject, policy, mdp)
    # Enumerated trajectories are short: start them everywhere except in states that end at once or never change.
    live = torch.tensor(
        [
            any(not terminated or following != s for outcomes in actions for _, following, _, terminated in outcomes)
            for s, actions in enumerate(mdp.outcomes)
        ]
    )
    everywhere = FiniteMDP(mdp.outcomes, live.double() / live.sum(), mdp.discount)
    try:
        yield from _estimators(subject, policy, everywhere, generator)
    except TooManyTrajectoriesError as error:
        yield Row(subject, "expectations against exact", note=str(error))
    yield _sampled_against_exact(subject, policy, mdp, horizon=horizon, episodes=episodes, generator=generator)


def unbiased_estimators(values: Tensor, *, discount: float) -> dict[str, Multiplier]:
    """The multipliers of log pi that leave the gradient of the discounted objective unbiased.

    Args:
        values: A baseline for each state, [S].
        discount: gamma.
    """

    def weight(played: Trajectories) -> Tensor:
        return returns.discount_weight(**_flags(played), discount=discount)

    def to_go(played: Trajectories) -> Tensor:
        return _reward_to_go(played, discount)

    return {
        "reward": lambda played: played.reward,
        "return": lambda played: returns.episode_return(played.reward, **_flags(played), discount=discount),
        "reward-to-go": lambda played: weight(played) * to_go(played),
        "constant baseline": lambda played: weight(played) * (to_go(played) - 3.0),
        "value baseline": lambda played: weight(played) * (to_go(played) - values[played.state]),
        "GAE, lambda 1": lambda played: weight(played) * _advantage(played, values, discount=discount, gae_lambda=1.0),
    }


def biased_estimators(values: Tensor, *, discount: float) -> dict[str, Multiplier]:
    """Multipliers used in practice although they are biased; arguments as in `unbiased_estimators`."""

    def weight(played: Trajectories) -> Tensor:
        return returns.discount_weight(**_flags(played), discount=discount)

    return {
        "GAE, lambda 0.95, wrong values": lambda played: (
            weight(played) * _advantage(played, values, discount=discount, gae_lambda=0.95)
        ),
        "undiscounted state weighting": lambda played: _reward_to_go(played, discount),
    }


def _flags(played: Trajectories) -> dict[str, Tensor]:
    """The horizon counts as a termination: in a process of that length, nothing follows."""
    ended = played.terminated | played.truncated
    return {"terminated": ended, "truncated": torch.zeros_like(ended), "valid": played.valid}


def _reward_to_go(played: Trajectories, discount: float) -> Tensor:
    nothing = torch.zeros_like(played.reward)
    return returns.reward_to_go(played.reward, **_flags(played), next_value=nothing, discount=discount)


def _advantage(played: Trajectories, values: Tensor, *, discount: float, gae_lambda: float) -> Tensor:
    value = values[played.state]
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    return returns.generalized_advantage(
        played.reward, value=value, next_value=following, **_flags(played), discount=discount, gae_lambda=gae_lambda
    )


def _estimators(subject: str, policy: Policy, mdp: FiniteMDP, generator: Generator) -> Iterator[Row]:
    """The expectation of each multiplier against the exact gradient."""
    values = torch.randn(len(mdp.outcomes), dtype=torch.float64, generator=generator)  # any baseline is unbiased
    exact, exact_step = _exact(policy, mdp, HORIZON), _exact(policy, mdp, 1)
    probability = _probability(policy, mdp).detach()
    for name, multiplier in unbiased_estimators(values, discount=mdp.discount).items():
        horizon, wanted = (1, exact_step) if name == "reward" else (HORIZON, exact)
        played = enumerate_trajectories(mdp, probability, horizon)
        yield _expectation(subject, policy, mdp, played, name, multiplier(played), wanted)
    yield from _with_cuts(subject, policy, mdp)
    old = _probability(moved(policy, generator), mdp).detach()  # of the policy that acts while another one learns
    played = enumerate_trajectories(mdp, old, 1)
    log_prob, old_log_prob = (p[played.state, played.action].log() for p in (probability, old))
    reweighted = importance_weighted(played.reward, log_prob=log_prob, old_log_prob=old_log_prob, clip_range=math.inf)
    yield _expectation(subject, policy, mdp, played, "reward, importance-weighted", reweighted, exact_step)
    played = enumerate_trajectories(mdp, probability, HORIZON)
    written_out = _biased_written_out(values, discount=mdp.discount)
    for name, multiplier in biased_estimators(values, discount=mdp.discount).items():
        found, again = (_estimate(policy, mdp, played, m(played))[0] for m in (multiplier, written_out[name]))
        yield from _bias(subject, name, found, again, exact)
    last = torch.arange(len(mdp.outcomes)) >= len(mdp.outcomes) - 8  # a few states are enough for pairs of them
    few = FiniteMDP(mdp.outcomes, (mdp.start * last) / (mdp.start * last).sum(), mdp.discount)
    played = enumerate_trajectories(few, probability, 1)
    for name, transform, of_two in (
        ("mean", returns.subtract_mean, lambda one, other: (one - other) / 2),
        ("mean and deviation", returns.standardize, lambda one, other: torch.sign(one - other) / math.sqrt(2)),
    ):
        one, other = played.reward[0][:, None], played.reward[0][None]
        by_hand = (of_two(one, other) @ played.probability).reshape(1, -1)
        pair = (_in_pairs(played, transform), by_hand)
        found, again = (_estimate(policy, mdp, played, multiplier)[0] for multiplier in pair)
        yield from _bias(subject, f"{name} of a batch of 2 removed", found, again, _exact(policy, few, 1))


def _with_cuts(subject: str, policy: Policy, mdp: FiniteMDP) -> Iterator[Row]:
    """Episodes cut off at the horizon, whose future is worth the exact V of the state where they are cut."""
    probability = _probability(policy, mdp).detach()
    values = state_values(mdp, probability)
    wanted, played = _exact(policy, mdp, HORIZON, values), enumerate_trajectories(mdp, probability, HORIZON)
    common: dict[str, Any] = {
        "terminated": played.terminated,
        "truncated": played.truncated,
        "valid": played.valid,
        "next_value": values[played.following],
        "discount": mdp.discount,
    }
    weight = returns.discount_weight(
        terminated=played.terminated, truncated=played.truncated, valid=played.valid, discount=mdp.discount
    )
    advantage = returns.generalized_advantage(played.reward, value=values[played.state], gae_lambda=0.95, **common)
    for name, multiplier in (
        ("reward-to-go, cut off", returns.reward_to_go(played.reward, **common)),
        ("GAE, exact values, cut off", advantage),  # with exact values any lambda is unbiased
    ):
        yield _expectation(subject, policy, mdp, played, name, weight * multiplier, wanted)


def _expectation(
    subject: str, policy: Policy, mdp: FiniteMDP, played: Trajectories, name: str, multiplier: Tensor, exact: Gradient
) -> Row:
    found, magnitude = _estimate(policy, mdp, played, multiplier)
    if magnitude is None:
        value, limit, unit = relative_error(flat(found), flat(exact)), 1e-9, "relative"
    else:
        value, limit, unit = difference_in_units(found, exact, magnitude)[0], ENUMERATION_LIMIT, "u C"
    check, steps = f"expectation against exact: {name}", len(played.reward)
    note = f"{len(played.probability):,} trajectories of at most {steps} step{'s' * (steps > 1)}"
    return Row(subject, check, value, limit=limit, unit=unit, note=note)


def _bias(subject: str, name: str, found: Gradient, again: Gradient, exact: Gradient) -> Iterator[Row]:
    """The size of a bias; and the same expectation by another formula, since a size alone hides a wrong one."""
    size, note = relative_error(flat(found), flat(exact)), "documented, not a fault"
    yield Row(subject, f"bias of: {name}", size, unit="relative", known_bias=True, note=note)
    error = relative_error(flat(found), flat(again))
    yield Row(subject, f"written out: {name}", error, limit=1e-9, unit="relative", note="the same expectation")


def _biased_written_out(values: Tensor, *, discount: float) -> dict[str, Multiplier]:
    """`biased_estimators` as sums over the steps that follow, without recursion."""

    def sums(step: Tensor, factor: float) -> Tensor:
        num_steps = len(step)
        return torch.stack(
            [sum((factor ** (k - t) * step[k] for k in range(t, num_steps)), 0 * step[t]) for t in range(num_steps)]
        )

    def advantage(played: Trajectories) -> Tensor:
        value = values[played.state] * played.valid
        following = torch.cat([value[1:], torch.zeros_like(value[:1])])  # 0 after the end, where nothing is valid
        delta = (played.reward + discount * following - value) * played.valid
        age = torch.arange(len(delta)).double()[:, None]  # an episode's first step is the trajectory's
        return discount**age * sums(delta, discount * 0.95) * played.valid

    return {
        "GAE, lambda 0.95, wrong values": advantage,
        "undiscounted state weighting": lambda played: sums(played.reward * played.valid, discount) * played.valid,
    }


def _in_pairs(played: Trajectories, transform: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """One-step rewards transformed in a batch of two: each averaged over all values of the other, [1, N]."""
    both = torch.ones(1, 2, dtype=torch.bool)
    averages = []
    for reward in played.reward[0]:
        pairs = [transform(torch.stack([reward, other]).reshape(1, 2), both)[0, 0] for other in played.reward[0]]
        averages.append(torch.dot(played.probability, torch.stack(pairs)))
    return torch.stack(averages).reshape(1, -1)


def _estimate(
    policy: Policy, mdp: FiniteMDP, played: Trajectories, multiplier: Tensor
) -> tuple[Gradient, Gradient | None]:
    """Expected (or mean) gradient of J by the loss that training uses, and its C if there is a derivation."""
    keep = played.valid.flatten()
    observation = torch.eye(len(mdp.outcomes), dtype=torch.float64)[played.state.flatten()[keep]]
    action = played.action.flatten()[keep]
    weighted = (multiplier * played.probability).flatten()[keep] * keep.sum()  # the loss averages over rows
    gradient = {name: -part for name, part in autograd_gradient(policy, observation, action, weighted).items()}
    return gradient, gradient_magnitude(policy, observation, action, weighted) if has_derivation(policy) else None


def _probability(policy: Policy, mdp: FiniteMDP) -> Tensor:
    """pi(a|s) of every state and action, [S, A], with gradient."""
    num_states, num_actions = mdp.reward.shape
    states = torch.eye(num_states, dtype=torch.float64)
    actions = [torch.full((num_states,), action) for action in range(num_actions)]
    return torch.stack([policy.log_prob(states, action).exp() for action in actions], dim=1)


def _exact(policy: Policy, mdp: FiniteMDP, horizon: int | None, after: Tensor | None = None) -> Gradient:
    """The exact gradient of J: the policy gradient theorem, and the chain rule from pi(a|s) to the parameters."""
    probability = _probability(policy, mdp)
    by_probability = expected_gradient(mdp, probability.detach(), horizon, after=after)
    parameters = learned(policy)
    gradients = torch.autograd.grad(probability, list(parameters.values()), by_probability, materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


def _exact_against_finite_differences(subject: str, policy: Policy, mdp: FiniteMDP) -> Row:
    gradient = _exact(policy, mdp, None)
    whole = flat(gradient)

    def value() -> Tensor:
        return expected_return(mdp, _probability(policy, mdp))

    one_by_one = len(whole) <= MOST_PARAMETERS
    directions = (
        torch.eye(len(whole)).double() if one_by_one else directions_along(gradient, Generator().manual_seed(0))
    )
    scale = (whole.abs().max() if one_by_one else whole.norm()).item()
    rises, smooth = slopes(policy, value, directions, scale=scale)
    error = (torch.where(smooth, rises - directions @ whole, 0.0).abs().max() / scale).item()
    moved_along = f"{len(whole)} parameters one by one" if one_by_one else f"{len(directions)} directions"
    check, note = "exact against finite differences", f"linear equations, {moved_along}"
    if not smooth.all():
        note += f", {smooth.double().mean():.0%} of the slopes without a kink"
    if smooth.double().mean() < LEAST_SMOOTH:
        error, note = math.inf, f"{note}: too few"
    return Row(subject, check, error, limit=1e-7, unit="relative", note=note)


def _sampled_against_exact(
    subject: str, policy: Policy, mdp: FiniteMDP, *, horizon: int, episodes: int, generator: Generator
) -> Row:
    """REINFORCE with reward-to-go on sampled episodes, in batches."""
    check, count = "sampled mean against exact", episodes // BATCHES
    zeros = torch.zeros(len(mdp.outcomes), dtype=torch.float64)
    multiplier = unbiased_estimators(zeros, discount=mdp.discount)["reward-to-go"]
    probability, found = _probability(policy, mdp).detach(), []
    for _ in range(BATCHES):
        played = sample_trajectories(mdp, probability, num_episodes=count, horizon=horizon, generator=generator)
        found.append(flat(_estimate(policy, mdp, played, multiplier(played))[0]))
    batches = torch.stack(found)  # [BATCHES, parameters]
    silent = int((batches == 0).all(dim=1).sum())
    if silent > BATCHES // 10:  # the mean is not yet normally distributed
        note = f"too few episodes: {silent} of {BATCHES} batches saw no reward; raise --episodes"
        return Row(subject, check, note=note)
    z = z_score(batches, exact=flat(_exact(policy, mdp, horizon)))
    note = f"n = {BATCHES * count:,} episodes of at most {horizon} steps"
    return Row(subject, check, z, limit=STANDARD_ERRORS, unit="standard errors", note=note)
