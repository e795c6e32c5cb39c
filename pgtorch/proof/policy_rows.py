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
from pgtorch.losses import policy_gradient_loss
from pgtorch.manual_gradient import gradient_magnitude, has_derivation, manual_gradient
from pgtorch.policies import Policy
from pgtorch.proof.measures import STANDARD_ERRORS, autograd_gradient, flat, moved, slope, z_score
from pgtorch.proof.table import Row

MOST_ACTIONS = 1_000  # a larger action space is not listed action by action
SAMPLES, BATCHES = 20_000, 64  # rows of a batch, and how many


def policy_rows(
    subject: str, policy: Policy, observation_space: gym.Space[Any], action_space: gym.Space[Any], *, seed: int
) -> Iterator[Row]:
    """What can be checked of any policy.

    Args:
        subject: What the rows are about.
        policy: The policy. Its copies are checked; it stays as it was.
        observation_space: Where its observations come from.
        action_space: Where its actions belong.
        seed: Of everything that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    single = moved(policy, generator)
    double = copy.deepcopy(single).double()
    checks: list[tuple[str, Policy, Callable[[_Case], Row]]] = [
        ("autograd against manual, float32", single, _autograd_against_manual),
        ("autograd against manual, float64", double, _autograd_against_manual),
        ("autograd against finite differences", double, _finite_differences),
        ("gradient into the multiplier", double, _multiplier_is_a_constant),
        ("shapes that broadcast and are accepted", double, _broadcast_is_refused),
        ("samples outside the action space", double, _samples_in_space),
        ("probabilities sum to 1", double, _sum_of_probabilities),
        ("samples against log-probability", double, _mean_score),
        ("samples against entropy", double, _mean_surprise),
    ]
    for check, asked, measure in checks:
        case = _Case(subject, check, asked, observation_space, action_space, generator)
        try:
            yield measure(case)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # the policy cannot even be asked
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
        """Uniform if the space is a bounded Box, normal if it is unbounded, [count, *shape]; else flattened samples."""
        space = self.observation_space
        if isinstance(space, spaces.Box):
            low, high = torch.as_tensor(space.low).to(self.dtype()), torch.as_tensor(space.high).to(self.dtype())
            uniform = torch.rand(count, *space.shape, dtype=self.dtype(), generator=self.generator)
            bounded = torch.as_tensor(space.bounded_below & space.bounded_above) & (high - low < 1e6)  # noqa: PLR2004
            return torch.where(bounded, low + uniform * (high - low), self.normal(count, *space.shape))
        space = copy.deepcopy(space)  # the caller's keeps its own generator
        space.seed(int(torch.randint(2**31, (), generator=self.generator)))
        rows = [np.asarray(spaces.flatten(space, space.sample())) for _ in range(count)]
        return torch.as_tensor(np.stack(rows)).to(self.dtype())

    def uncertain_observations(self) -> Tensor:
        """The 16 of 1,024 observations with the largest entropy, repeated: a certain policy hides sampling faults."""
        observation = self.observations(1024)
        with torch.no_grad():
            entropy = self.policy.distribution(observation).entropy()
        return observation[entropy.argsort(descending=True)[:16]].repeat_interleave(SAMPLES // 16, dim=0)

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
        worst = max(worst, difference_in_units(autograd_gradient(policy, *batch), manual, magnitude)[0])
    return case.row(worst, limit=limit_for(policy), unit="u C", note="batches of 1, 3, 64 and 1,024")


def _finite_differences(case: _Case) -> Row:
    observation, action, multiplier = case.batch(32)
    gradient = flat(autograd_gradient(case.policy, observation, action, multiplier))

    def loss() -> Tensor:
        return policy_gradient_loss(case.policy.log_prob(observation, action), multiplier)

    directions = [gradient / gradient.norm(), *torch.nn.functional.normalize(case.normal(8, len(gradient)))]
    slopes = torch.stack([slope(case.policy, loss, direction) for direction in directions])
    error = ((slopes - torch.stack(directions) @ gradient).abs().max() / gradient.norm()).item()
    return case.row(error, limit=1e-7, unit="relative", note="float64, along the gradient and 8 random directions")


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
    if actions is None:
        return case.row(None, note="the action space is not finite, or too large to list")
    observation = case.observations(16)
    with torch.no_grad():
        probability = [case.policy.log_prob(observation, a.expand(16, *a.shape)).exp() for a in actions]  # [16] each
    error = (torch.stack(probability).sum(0) - 1).abs().max().item()
    return case.row(error, limit=1e-12, unit="absolute", note=f"{len(actions)} actions")


def _mean_score(case: _Case) -> Row:
    """If samples come from pi, the mean of grad log pi is 0."""
    observation, found = case.uncertain_observations(), []
    for _ in range(BATCHES):
        log_prob = case.policy.log_prob(observation, case.sample(observation))
        gradients = torch.autograd.grad(log_prob.mean(), list(case.policy.parameters()), allow_unused=True)
        found.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]))
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
