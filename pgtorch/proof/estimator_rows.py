"""Rows about what multiplies log pi: the expectation of each estimator, by enumeration, against the exact gradient.

S, A, pi(a|s), T and N as in `exact.py` and `trajectories.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from pgtorch import returns
from pgtorch.gradient_check import difference_in_units
from pgtorch.losses import importance_weighted
from pgtorch.manual_gradient import gradient_magnitude, has_derivation
from pgtorch.policies import Policy
from pgtorch.proof.exact import FiniteMDP, expected_gradient, expected_return
from pgtorch.proof.measures import (
    STANDARD_ERRORS,
    Gradient,
    autograd_gradient,
    flat,
    moved,
    relative_error,
    slope,
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
        seed: Of everything that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    policy = moved(policy, generator).double()
    yield _exact_against_finite_differences(subject, policy, mdp)
    # Enumerated trajectories are short: start them everywhere but in states that end at once or never change.
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
    """What practice uses although it is biased; arguments as in `unbiased_estimators`."""

    def weight(played: Trajectories) -> Tensor:
        return returns.discount_weight(**_flags(played), discount=discount)

    return {
        "GAE, lambda 0.95, wrong values": lambda played: (
            weight(played) * _advantage(played, values, discount=discount, gae_lambda=0.95)
        ),
        "undiscounted state weighting": lambda played: _reward_to_go(played, discount),
    }


def _flags(played: Trajectories) -> dict[str, Tensor]:
    """The horizon counts as a termination: in a process that lasts so long, nothing follows."""
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
    old = _probability(moved(policy, generator), mdp).detach()  # of the policy that acts while another one learns
    played = enumerate_trajectories(mdp, old, 1)
    log_prob, old_log_prob = (p[played.state, played.action].log() for p in (probability, old))
    reweighted = importance_weighted(played.reward, log_prob=log_prob, old_log_prob=old_log_prob, clip_range=math.inf)
    yield _expectation(subject, policy, mdp, played, "reward, importance-weighted", reweighted, exact_step)
    played = enumerate_trajectories(mdp, probability, HORIZON)
    for name, multiplier in biased_estimators(values, discount=mdp.discount).items():
        yield _bias(subject, name, _estimate(policy, mdp, played, multiplier(played))[0], exact)
    last = torch.arange(len(mdp.outcomes)) >= len(mdp.outcomes) - 8  # a few states are enough for pairs of them
    few = FiniteMDP(mdp.outcomes, (mdp.start * last) / (mdp.start * last).sum(), mdp.discount)
    played = enumerate_trajectories(few, probability, 1)
    for name, transform in (("mean", returns.subtract_mean), ("mean and deviation", returns.standardize)):
        found, _ = _estimate(policy, mdp, played, _in_pairs(played, transform))
        yield _bias(subject, f"{name} of a batch of 2 taken out", found, _exact(policy, few, 1))


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


def _bias(subject: str, name: str, found: Gradient, exact: Gradient) -> Row:
    size, note = relative_error(flat(found), flat(exact)), "documented, not a fault"
    return Row(subject, f"bias of: {name}", size, unit="relative", known_bias=True, note=note)


def _in_pairs(played: Trajectories, transform: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """One-step rewards transformed as a batch of two: each one's mean over what the other can be, [1, N]."""
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
    weighted = (multiplier * played.probability).flatten()[keep] * keep.sum()  # the loss takes a mean over rows
    gradient = {name: -part for name, part in autograd_gradient(policy, observation, action, weighted).items()}
    return gradient, gradient_magnitude(policy, observation, action, weighted) if has_derivation(policy) else None


def _probability(policy: Policy, mdp: FiniteMDP) -> Tensor:
    """pi(a|s) of every state and action, [S, A], with gradient."""
    num_states, num_actions = mdp.reward.shape
    states = torch.eye(num_states, dtype=torch.float64)
    actions = [torch.full((num_states,), action) for action in range(num_actions)]
    return torch.stack([policy.log_prob(states, action).exp() for action in actions], dim=1)


def _exact(policy: Policy, mdp: FiniteMDP, horizon: int | None) -> Gradient:
    """The exact gradient of J: the policy gradient theorem, and the chain rule from pi(a|s) to the parameters."""
    probability = _probability(policy, mdp)
    by_probability = expected_gradient(mdp, probability.detach(), horizon)
    gradients = torch.autograd.grad(probability, list(policy.parameters()), by_probability)
    return dict(zip([name for name, _ in policy.named_parameters()], gradients, strict=True))


def _exact_against_finite_differences(subject: str, policy: Policy, mdp: FiniteMDP) -> Row:
    gradient = flat(_exact(policy, mdp, None))

    def value() -> Tensor:
        return expected_return(mdp, _probability(policy, mdp))

    slopes = torch.stack([slope(policy, value, direction) for direction in torch.eye(len(gradient)).double()])
    error = ((slopes - gradient).abs().max() / gradient.abs().max()).item()
    check, note = "exact against finite differences", f"linear equations, {len(gradient)} parameters one by one"
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
