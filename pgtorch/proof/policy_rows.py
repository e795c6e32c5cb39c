"""Rows about a policy by itself, without its environment: its gradient, its probabilities, its samples."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Generator, Tensor

from pgtorch.gradient_check import difference_in_units, limit_for
from pgtorch.losses import importance_weighted, policy_gradient_loss
from pgtorch.manual_gradient import gradient_magnitude, has_derivation, manual_gradient
from pgtorch.policies import Policy
from pgtorch.proof.measures import (
    STANDARD_ERRORS,
    autograd_gradient,
    directions_along,
    flat,
    gradient_of,
    learned,
    moved,
    relative_error,
    slopes,
    z_score,
)
from pgtorch.proof.table import Row

MOST_ACTIONS = 1_000  # a larger action space is not enumerated
SHORTEST = 1e-5  # a gradient shorter than that is compared with this length: slopes are rounded
SAMPLES, BATCHES = 20_000, 64  # rows of a batch, and number of batches
LEAST_SMOOTH = 0.5  # of the rows, in each direction
MOST_NUMBERS = 2**22  # of a batch: with larger observations, such as images, it has fewer rows


def policy_rows(
    subject: str,
    policy: Policy,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    *,
    seed: int,
    only: str | None = None,
) -> Iterator[Row]:
    """The checks that apply to any policy.

    Args:
        subject: What the rows are about.
        policy: The policy. Copies of it are checked; it is not changed.
        observation_space: Where its observations come from.
        action_space: Where its actions belong.
        seed: Of all random numbers.
        only: The one check to make; None makes all.
    """
    generator = torch.Generator().manual_seed(seed)
    single = moved(policy, generator)
    double = copy.deepcopy(single).double()
    checks: list[tuple[str, Policy, Callable[[_Case], Row]]] = [
        ("autograd against manual, float32", single, _autograd_against_manual),
        ("autograd against manual, float64", double, _autograd_against_manual),
        ("autograd against finite differences", double, _finite_differences),
        ("entropy against finite differences", double, _entropy_gradient),
        ("clipped objective by autograd", double, _clipped_objective),
        ("gradient into the multiplier", double, _multiplier_is_a_constant),
        ("shapes that broadcast and are accepted", double, _broadcast_is_refused),
        ("samples outside the action space", double, _samples_in_space),
        ("probabilities sum to 1", double, _sum_of_probabilities),
        ("samples against log-probability", double, _mean_score),
        ("samples against entropy", double, _mean_surprise),
        ("samples against joint probability", double, _joint_moments),
        ("independence of rows", double, _independent_rows),
        ("independence of draws", double, _independent_draws),
        ("repeated random numbers", single, _resolution),
        ("rows by themselves and again", double, _rows_alone),
        ("likelier than the mode", double, _mode_is_a_maximum),
    ]
    for check, asked, measure in checks:
        if only not in (None, check):
            continue
        case = _Case(subject, check, asked, observation_space, action_space, generator)
        try:
            yield measure(case)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # the policy cannot even be called
            yield case.row(math.inf, limit=0.0, note=f"{type(error).__name__}: {' '.join(str(error).split())}")


@dataclass(frozen=True)
class _Case:
    """What one row is about, and how to draw inputs for it."""

    subject: str
    check: str
    policy: Policy
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    generator: Generator

    def row(self, value: float | None, *, limit: float = math.inf, unit: str = "", note: str = "") -> Row:
        return Row(self.subject, self.check, value, limit=limit, unit=unit, note=note)

    def dtype(self) -> torch.dtype:
        return next(self.policy.parameters()).dtype

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self.dtype(), generator=self.generator)

    def observations(self, count: int) -> Tensor:
        """Uniform if the space is a bounded Box, normal if it is unbounded; else samples. Flattened, [count, D]."""
        space = self.observation_space
        if isinstance(space, spaces.Box):
            low, high = torch.as_tensor(space.low).to(self.dtype()), torch.as_tensor(space.high).to(self.dtype())
            uniform = torch.rand(count, *space.shape, dtype=self.dtype(), generator=self.generator)
            bounded = torch.as_tensor(space.bounded_below & space.bounded_above) & (high - low < 1e6)  # noqa: PLR2004
            return torch.where(bounded, low + uniform * (high - low), self.normal(count, *space.shape)).reshape(
                count, -1
            )
        space = copy.deepcopy(space)  # the caller's keeps its own generator
        space.seed(int(torch.randint(2**31, (), generator=self.generator)))
        rows = [np.asarray(spaces.flatten(space, space.sample())) for _ in range(count)]
        return torch.as_tensor(np.stack(rows)).to(self.dtype())

    def rows(self, most: int, least: int) -> int:
        """How many rows a batch has: as many as fit, between the two."""
        return max(least, min(most, MOST_NUMBERS // spaces.flatdim(self.observation_space)))

    def uncertain_observations(self) -> Tensor:
        """16 of 1,024 observations, each repeated in neighboring rows.

        8 are of the largest entropy, 8 spread over those where no action is certain. A certain policy hides a fault of
        sampling, and one that is nearly uniform hides a wrong temperature.
        """
        observation = self.observations(self.rows(1024, 64))
        with torch.no_grad():
            entropy = self.policy.distribution(observation).entropy()
        ranked = observation[entropy.argsort(descending=True)]
        if not isinstance(self.action_space, spaces.Box):  # whose entropy may be negative
            ranked = ranked[: max(16, int((entropy > entropy.max() / 20).sum()))]
        spread = torch.linspace(8, len(ranked) - 1, 8).long()
        return torch.cat([ranked[:8], ranked[spread]]).repeat_interleave(self.rows(SAMPLES, 320) // 16, dim=0)

    def sample(self, observation: Tensor) -> Tensor:
        return self.policy.sample(observation, self.generator)

    def batch(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Observations, actions and multipliers."""
        observation = self.observations(count)
        return observation, self.sample(observation), self.normal(count)


def _autograd_against_manual(case: _Case) -> Row:
    policy = case.policy
    if not has_derivation(policy):
        return case.row(None, note=f"there is no derivation by hand for {type(policy).__name__}")
    worst = 0.0
    for count in (1, 3, 64, 1024):
        batch = case.batch(count)
        manual, magnitude = manual_gradient(policy, *batch), gradient_magnitude(policy, *batch)
        magnitude = {name: magnitude[name] for name in learned(policy)}
        worst = max(worst, difference_in_units(autograd_gradient(policy, *batch), manual, magnitude)[0])
    return case.row(worst, limit=limit_for(policy), unit="u C", note="batches of 1, 3, 64 and 1,024")


def _finite_differences(case: _Case) -> Row:
    observation, action, multiplier = case.batch(32)
    return _slopes_row(case, lambda: -case.policy.log_prob(observation, action) * multiplier)


def _entropy_gradient(case: _Case) -> Row:
    observation = case.observations(32)
    return _slopes_row(case, lambda: case.policy.distribution(observation).entropy())


def _slopes_row(case: _Case, values: Callable[[], Tensor]) -> Row:
    """Autograd's gradient of a mean of values, [B], against its slopes: in each direction, of rows without a kink."""
    policy, count = case.policy, len(values())
    gradient = gradient_of(policy, values().mean())
    whole, directions = flat(gradient), directions_along(gradient, case.generator)
    scale = max(whole.norm().item(), SHORTEST)
    rises, smooth = slopes(policy, values, directions, scale=scale)  # [V, B] each
    found = [
        whole if rows.all() else flat(gradient_of(policy, values()[rows].sum() / count)) for rows in smooth
    ]  # [P] each
    wanted = torch.where(smooth, rises, 0.0).sum(1) / count  # [V]
    error = ((torch.stack(found) * directions).sum(1) - wanted).abs().max().item() / max(
        scale, wanted.abs().max().item()
    )
    note = f"float64, {len(directions)} directions, {smooth.double().mean():.0%} of the slopes without a kink"
    if smooth.double().mean(1).min() < LEAST_SMOOTH:
        error, note = math.inf, f"{note}: too few; is the policy differentiable, and computed in float64?"
    return case.row(error, limit=1e-7, unit="relative", note=note)


def _clipped_objective(case: _Case) -> Row:
    """PPO's mean(min(ratio A, clip(ratio) A)) by autograd, log ratios up to 3, against the weighted multipliers."""
    observation, action, advantage = case.batch(256)
    log_prob = case.policy.log_prob(observation, action)
    shift = 6 * torch.rand(len(advantage), dtype=log_prob.dtype, generator=case.generator) - 3
    old_log_prob = log_prob.detach() - shift * (torch.arange(len(advantage)) % 8 / 7)
    ratio, clip_range = (log_prob - old_log_prob).exp(), 0.2
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    exact = flat(gradient_of(case.policy, -torch.minimum(ratio * advantage, clipped * advantage).mean()))
    weighted = importance_weighted(advantage, log_prob=log_prob, old_log_prob=old_log_prob, clip_range=clip_range)
    found = flat(autograd_gradient(case.policy, observation, action, weighted))
    return case.row(relative_error(found, exact), limit=1e-9, unit="relative", note="clip range 0.2")


def _multiplier_is_a_constant(case: _Case) -> Row:
    """A multiplier may depend on parameters, as an advantage depends on a critic's; the loss must not train them."""
    observation, action, multiplier = case.batch(32)
    multiplier.requires_grad_()
    loss = policy_gradient_loss(case.policy.log_prob(observation, action), multiplier)
    (leak,) = torch.autograd.grad(loss, [multiplier], allow_unused=True)
    return case.row(0.0 if leak is None else leak.norm().item(), limit=0.0, unit="absolute")


def _broadcast_is_refused(case: _Case) -> Row:
    """[B] times [B, 1] would give [B, B], whose gradient is that of the mean reward."""
    observation, action, multiplier = case.batch(3)
    accepted = 0
    for shape in ((3, 1), (1, 3), (1,), ()):
        try:
            policy_gradient_loss(case.policy.log_prob(observation, action), multiplier[0].expand(shape))
        except ValueError:
            continue
        accepted += 1
    return case.row(float(accepted), limit=0.0, unit="shapes")


def _samples_in_space(case: _Case) -> Row:
    if isinstance(case.action_space, spaces.Box):
        return case.row(None, note="samples may lie outside a Box: they are clipped for the environment")
    drawn = case.sample(case.observations(1000)).numpy().astype(case.action_space.dtype)
    outside = sum(not case.action_space.contains(action) for action in drawn)
    return case.row(float(outside), limit=0.0, unit="of 1,000")


def _sum_of_probabilities(case: _Case) -> Row:
    actions = _all_actions(case.action_space)
    if isinstance(case.action_space, spaces.Box) and case.action_space.shape in ((1,), (2,)):
        return _density_row(case)
    if actions is None:
        return case.row(None, note="the action space is not finite, or too large to list")
    observation = case.observations(16)
    with torch.no_grad():
        probability = [case.policy.log_prob(observation, a.expand(16, *a.shape)).exp() for a in actions]  # [16] each
    error = (torch.stack(probability).sum(0) - 1).abs().max().item()
    return case.row(error, limit=1e-12, unit="absolute", note=f"{len(actions)} actions")


def _density_row(case: _Case) -> Row:
    """The integral of a density over one or two numbers, by midpoints, from the least to the largest sample."""
    observation, worst, size = case.observations(4), 0.0, case.rows(SAMPLES, 320)
    for row in observation:
        draws = [case.sample(row.expand(size, *row.shape)).double() for _ in range(max(1, 5000 // size))]
        drawn = torch.cat(draws)
        low, width = drawn.min(0).values, drawn.max(0).values - drawn.min(0).values
        count = case.rows(4000, 400) if len(low) == 1 else math.isqrt(case.rows(160_000, 1600))
        at = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        grid = low + width * torch.cartesian_prod(*[at] * len(low)).reshape(-1, len(low))
        with torch.no_grad():
            density = case.policy.log_prob(row.expand(len(grid), *row.shape), grid).exp().nan_to_num(0.0)
        worst = max(worst, abs((density.sum() * (width / count).prod()).item() - 1))
    return case.row(worst, limit=0.01, unit="absolute", note="density, by quadrature")


def _mean_score(case: _Case) -> Row:
    """If samples come from pi, the mean of grad log pi is 0."""
    observation, found = case.uncertain_observations(), []
    for _ in range(BATCHES):
        log_prob = case.policy.log_prob(observation, case.sample(observation))
        found.append(flat(gradient_of(case.policy, log_prob.mean())))
    z = z_score(torch.stack(found), exact=torch.zeros_like(found[0]))
    note = f"mean score is 0, n = {len(observation) * BATCHES:,}"
    return case.row(z, limit=STANDARD_ERRORS, unit="standard errors", note=note)


def _mean_surprise(case: _Case) -> Row:
    """If samples come from pi, the mean of -log pi is the entropy."""
    policy, observation = case.policy, case.uncertain_observations()
    with torch.no_grad():
        entropy = policy.distribution(observation).entropy().mean()
        found = [-policy.log_prob(observation, case.sample(observation)).mean() for _ in range(BATCHES)]
    z = z_score(torch.stack(found).unsqueeze(1), exact=entropy.unsqueeze(0))
    note = f"mean of -log pi, n = {len(observation) * BATCHES:,}"
    return case.row(z, limit=STANDARD_ERRORS, unit="standard errors", note=note)


def _joint_moments(case: _Case) -> Row:
    """Products of two components of an action, each around its mean: what they are in the samples and what by pi.

    For a Box by Stein's identity instead: the mean of f d log pi / da_i + df / da_i is 0 for any f that vanishes where
    a_i leaves its support. It holds for densities with kinks and with bounds.
    """
    actions, observation = _all_actions(case.action_space), case.uncertain_observations()
    found, size = [], len(observation) // 16
    few = observation[::size]
    if actions is not None:
        values = actions.reshape(len(actions), -1).double()
        pairs = torch.triu_indices(values.shape[1], values.shape[1])
        with torch.no_grad():
            probability = torch.stack([case.policy.log_prob(few, a.expand(16, *a.shape)).exp() for a in actions], 1)
        mean = probability @ values  # [16, k]
        centered = values - mean[:, None]  # [16, A, k]
        exact = (probability[..., None] * centered[..., pairs[0]] * centered[..., pairs[1]]).sum(1)  # [16, pairs]
        for _ in range(BATCHES):
            drawn = case.sample(observation).reshape(len(observation), -1).double()
            drawn = drawn - mean.repeat_interleave(size, dim=0)
            products = (drawn[:, pairs[0]] * drawn[:, pairs[1]]).reshape(16, -1, len(pairs[0])).mean(1)
            found.append((products - exact).flatten())
    elif isinstance(case.action_space, spaces.Box):
        drawn = case.sample(observation).reshape(16, size, -1)
        middle = drawn.median(1, keepdim=True).values  # [16, 1, k]
        reach = torch.minimum(drawn.amax(1, keepdim=True) - middle, middle - drawn.amin(1, keepdim=True)).clamp(
            min=1e-9
        )
        mix = case.normal(drawn.shape[2], drawn.shape[2])
        for _ in range(BATCHES):
            action = case.sample(observation).requires_grad_()
            log_prob = case.policy.log_prob(observation, action).sum()
            (score,) = torch.autograd.grad(log_prob, action, materialize_grads=True)
            at = (action.detach().reshape(16, size, -1) - middle) / reach
            inside = (1 - at.square()).clamp(min=0)  # f_i = inside_i^3 sum_j mix_ij tanh(at_j)
            mixed = at.tanh() @ mix.T
            slope = -6 * at * inside.square() * mixed + inside**3 * mix.diagonal() * (1 - at.tanh().square())
            product = inside**3 * mixed * score.reshape(at.shape)
            found.append(torch.where(inside > 0, product + slope / reach, 0.0).mean((0, 1)))
    else:
        return case.row(None, note="the action space is too large to list")
    z = z_score(torch.stack(found), exact=torch.zeros_like(found[0]))
    return case.row(z, limit=STANDARD_ERRORS, unit="standard errors", note=f"n = {len(observation) * BATCHES:,}")


def _surprises(case: _Case) -> Tensor:
    """-log pi - H of samples, [BATCHES, B]: its mean is 0 for each of them."""
    policy, observation = case.policy, case.uncertain_observations()
    noise = policy.noise(BATCHES, len(observation), case.generator)
    with torch.no_grad():
        entropy = policy.distribution(observation).entropy()
        drawn = [-policy.log_prob(observation, policy.sample(observation, noise[t])) for t in range(BATCHES)]
    return torch.stack(drawn) - entropy


def _independent_rows(case: _Case) -> Row:
    """The variance of a batch's mean is that of a row over B, unless rows share their random numbers."""
    surprise = _surprises(case)
    if not surprise.var() > SHORTEST:
        return case.row(None, note="nothing surprises")
    ratio = (surprise.mean(1).var() * surprise.shape[1] / surprise.var(0).mean()).item()
    note = f"{BATCHES} batches of {surprise.shape[1]:,}"
    return case.row(max(ratio, 1 / ratio), limit=4.0, unit="ratio", note=f"variances, {note}")


def _independent_draws(case: _Case) -> Row:
    """The mean product of a row's surprise and the one before is 0, unless steps share their random numbers."""
    surprise = _surprises(case)
    products = (surprise[1:] * surprise[:-1]).mean(1, keepdim=True)
    z = z_score(products, exact=torch.zeros(1, dtype=products.dtype))
    return case.row(z, limit=STANDARD_ERRORS, unit="standard errors", note=f"n = {surprise.numel():,}")


def _resolution(case: _Case) -> Row:
    """Random numbers of few bits draw some actions too often and others never."""
    noise = case.policy.noise(4, SAMPLES, case.generator)
    if not isinstance(noise, Tensor):
        return case.row(None, note="drawn by the distribution itself")
    repeated = 1 - len(torch.unique(noise)) / noise.numel()
    return case.row(repeated, limit=0.05, unit="of all", note=f"{noise.numel():,} numbers of {noise.dtype}")


def _rows_alone(case: _Case) -> Row:
    """A row's log pi depends on that row alone, and is the same when it is asked for again."""
    observation, action, _ = case.batch(32)
    with torch.no_grad():
        together = case.policy.log_prob(observation, action)
        alone = torch.cat([case.policy.log_prob(observation[i : i + 1], action[i : i + 1]) for i in range(32)])
        again = case.policy.log_prob(observation, action)
    error = max((together - alone).abs().max().item(), (together - again).abs().max().item())
    return case.row(error, limit=1e-9, unit="absolute", note="32 rows, in one batch, one by one, and again")


def _mode_is_a_maximum(case: _Case) -> Row:
    observation = case.observations(16).repeat_interleave(64, dim=0)
    try:
        mode = case.policy.mode(observation)
    except NotImplementedError:  # torch's own distributions need not have one
        return case.row(None, note="the distribution has no mode")
    with torch.no_grad():
        best = case.policy.log_prob(observation, mode)
        drawn = case.policy.log_prob(observation, case.sample(observation))
    above = (drawn - best).clamp(min=0).max().item()
    repeated = mode.double().reshape(16, 64, -1)  # of equal observations
    is_random = (repeated - repeated[:, :1]).abs().max() > 1e-9  # noqa: PLR2004
    return case.row(math.inf if is_random else above, limit=1e-9, unit="absolute", note="1,024 samples")


def _all_actions(space: gym.Space[Any]) -> Tensor | None:
    """Every action of a finite space, [A, *action_shape]; None if it is not finite, or too large to list."""
    if isinstance(space, spaces.Discrete):
        return torch.arange(int(space.start), int(space.start + space.n)) if space.n <= MOST_ACTIONS else None
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.prod() <= MOST_ACTIONS:
        choices = [range(start, start + n) for start, n in zip(space.start.tolist(), space.nvec.tolist(), strict=True)]
    elif isinstance(space, spaces.MultiBinary) and 2 ** int(np.prod(space.shape)) <= MOST_ACTIONS:
        choices = [range(2)] * int(np.prod(space.shape))
    else:
        return None
    return torch.tensor(list(itertools.product(*choices)))
