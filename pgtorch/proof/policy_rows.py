"""Rows of `scripts/verify.py` about a policy by itself: its gradient, its probabilities, its samples."""

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
from torch import Tensor

from pgtorch.gradient_check import LIMIT, difference_in_units
from pgtorch.losses import policy_gradient_loss
from pgtorch.manual_gradient import gradient_magnitude, has_derivation, manual_gradient
from pgtorch.policies import BiasPolicy, Policy

STANDARD_ERRORS = 5.0  # a correct estimate is further off once in two million times
MOST_ACTIONS = 1_000  # beyond, the actions of a space are not listed one by one

Gradient = dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """One line of the verifier's table. It passes where value <= limit; without a value it was skipped."""

    subject: str
    check: str
    value: float | None = None
    limit: float = math.inf
    unit: str = ""
    note: str = ""
    known_bias: bool = False  # the value is the size of a bias that the docstring owns up to

    @property
    def status(self) -> str:
        """PASS, FAIL, SKIP, or BIAS for a bias that is known and shown."""
        if self.value is None:
            return "SKIP"
        if self.known_bias:
            return "BIAS"
        return "PASS" if self.value <= self.limit else "FAIL"


def policy_rows(
    subject: str, policy: Policy, observation_space: gym.Space[Any], action_space: gym.Space[Any], seed: int
) -> Iterator[Row]:
    """What can be checked of any policy without its environment.

    Args:
        subject: What the rows are about.
        policy: The policy; it is copied, its parameters are moved about, and it stays as it was.
        observation_space: Where its observations come from.
        action_space: Where its actions belong.
        seed: Of everything that is drawn.
    """
    torch.manual_seed(seed)
    policy = moved(policy)
    precise = copy.deepcopy(policy).double()
    asked = subject, precise, observation_space
    checks: list[tuple[str, Callable[[], Row]]] = [
        ("autograd against manual, float32", lambda: _autograd_against_manual(subject, policy, observation_space)),
        ("autograd against manual, float64", lambda: _autograd_against_manual(*asked)),
        ("autograd against finite differences", lambda: _finite_differences(*asked)),
        ("gradient into the multiplier", lambda: _multiplier_is_a_constant(*asked)),
        ("shapes that broadcast and are accepted", lambda: _broadcast_is_refused(*asked)),
        ("samples outside the action space", lambda: _samples_in_space(*asked, action_space)),
        ("probabilities sum to 1", lambda: _sum_of_probabilities(*asked, action_space)),
        ("samples against log-probability", lambda: _mean_score(*asked)),
        ("samples against entropy", lambda: _mean_surprise(*asked)),
    ]
    for check, row in checks:
        try:
            yield row()
        except (RuntimeError, ValueError, TypeError, IndexError) as error:  # a policy that cannot even be asked
            yield Row(subject, check, math.inf, 0.0, "", f"{type(error).__name__}: {' '.join(str(error).split())}")


def moved(policy: Policy) -> Policy:
    """A copy with every parameter moved by noise, so that nothing is right only because it is 0."""
    policy = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


# A policy by itself


def autograd_gradient(policy: Policy, observation: Tensor, action: Tensor, multiplier: Tensor) -> Gradient:
    """Autograd's gradient of `policy_gradient_loss`, by parameter name."""
    loss = policy_gradient_loss(policy.log_prob(observation, action), multiplier)
    gradients = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    named = zip(policy.named_parameters(), gradients, strict=True)
    return {name: torch.zeros_like(p) if gradient is None else gradient for (name, p), gradient in named}


def _autograd_against_manual(subject: str, policy: Policy, space: gym.Space[Any]) -> Row:
    dtype = next(policy.parameters()).dtype
    check = f"autograd against manual, {str(dtype).removeprefix('torch.')}"
    if not has_derivation(policy):
        return Row(subject, check, note=f"there is no derivation by hand for {type(policy).__name__}")
    worst = 0.0
    for count in (1, 3, 64, 1024):
        batch = _batch(policy, space, count)
        manual, magnitude = manual_gradient(policy, *batch), gradient_magnitude(policy, *batch)
        worst = max(worst, difference_in_units(autograd_gradient(policy, *batch), manual, magnitude)[0])
    limit = 0.0 if isinstance(policy, BiasPolicy) else LIMIT
    return Row(subject, check, worst, limit, "u C", "batches of 1, 3, 64 and 1,024")


def _finite_differences(subject: str, policy: Policy, space: gym.Space[Any]) -> Row:
    batch = _batch(policy, space, 32)
    gradient = flat(autograd_gradient(policy, *batch))

    def loss() -> Tensor:
        return policy_gradient_loss(policy.log_prob(*batch[:2]), batch[2])

    directions = [gradient / gradient.norm(), *torch.nn.functional.normalize(torch.randn(8, len(gradient)).double())]
    slopes = torch.stack([slope(policy, loss, direction) for direction in directions])
    error = ((slopes - torch.stack(directions) @ gradient).abs().max() / gradient.norm()).item()
    note = "float64, along the gradient and 8 random directions"
    return Row(subject, "autograd against finite differences", error, 1e-7, "relative", note)


def _multiplier_is_a_constant(subject: str, policy: Policy, space: gym.Space[Any]) -> Row:
    """A multiplier may depend on parameters, as an advantage does on a critic: the loss must give it no gradient."""
    observation, action, multiplier = _batch(policy, space, 32)
    multiplier.requires_grad_()
    loss = policy_gradient_loss(policy.log_prob(observation, action), multiplier)
    (leak,) = torch.autograd.grad(loss, [multiplier], allow_unused=True)
    return Row(subject, "gradient into the multiplier", 0.0 if leak is None else leak.norm().item(), 0.0, "absolute")


def _broadcast_is_refused(subject: str, policy: Policy, space: gym.Space[Any]) -> Row:
    """[B] times [B, 1] would give [B, B], whose gradient is that of the mean reward."""
    observation, action, multiplier = _batch(policy, space, 3)
    accepted = 0
    for shape in ((3, 1), (1, 3), (1,), ()):
        try:
            policy_gradient_loss(policy.log_prob(observation, action), multiplier[0].expand(shape))
        except ValueError:
            continue
        accepted += 1
    return Row(subject, "shapes that broadcast and are accepted", float(accepted), 0.0, "shapes")


def _samples_in_space(subject: str, policy: Policy, space: gym.Space[Any], action_space: gym.Space[Any]) -> Row:
    """A sample of a `Box` may lie outside: it is clipped for the environment."""
    check = "samples outside the action space"
    if isinstance(action_space, spaces.Box):
        return Row(subject, check, note="a Box takes any number: it is clipped for the environment")
    drawn = policy.sample(_observations(space, 1000, torch.float64)).numpy().astype(action_space.dtype)
    outside = sum(not action_space.contains(action) for action in drawn)
    return Row(subject, check, float(outside), 0.0, "of 1,000")


def _sum_of_probabilities(subject: str, policy: Policy, space: gym.Space[Any], action_space: gym.Space[Any]) -> Row:
    check, observation = "probabilities sum to 1", _observations(space, 16, torch.float64)
    actions = _all_actions(action_space)
    if actions is None:
        return Row(subject, check, note="the action space is not finite, or too large to list")
    with torch.no_grad():
        total = sum(policy.log_prob(observation, action.expand(16, *action.shape)).exp() for action in actions)
    return Row(
        subject, check, (torch.as_tensor(total) - 1).abs().max().item(), 1e-12, "absolute", f"{len(actions)} actions"
    )


SAMPLES, BATCHES = 20_000, 64  # rows of a batch, and how many


def _mean_score(subject: str, policy: Policy, space: gym.Space[Any]) -> Row:
    """Where samples come from pi, the mean of grad log pi is 0."""
    observation, found = _uncertain_observations(policy, space), []
    for _ in range(BATCHES):
        log_prob = policy.log_prob(observation, policy.sample(observation))
        gradients = torch.autograd.grad(log_prob.mean(), list(policy.parameters()), allow_unused=True)
        found.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]))
    z = z_score(torch.stack(found), torch.zeros_like(found[0]))
    note = f"mean score is 0, n = {len(observation) * BATCHES:,}"
    return Row(subject, "samples against log-probability", z, STANDARD_ERRORS, "standard errors", note)


def _mean_surprise(subject: str, policy: Policy, space: gym.Space[Any]) -> Row:
    """Where samples come from pi, the mean of -log pi is its entropy."""
    observation = _uncertain_observations(policy, space)
    with torch.no_grad():
        entropy = policy.evaluate(observation, policy.sample(observation))[1].mean().reshape(1)
        found = [-policy.log_prob(observation, policy.sample(observation)).mean().reshape(1) for _ in range(BATCHES)]
    z = z_score(torch.stack(found), entropy)
    note = f"mean of -log pi, n = {len(observation) * BATCHES:,}"
    return Row(subject, "samples against entropy", z, STANDARD_ERRORS, "standard errors", note)


def _uncertain_observations(policy: Policy, space: gym.Space[Any]) -> Tensor:
    """16 observations where the policy is least certain, many times over: saturated, it hides its sampler's faults."""
    states = _observations(space, 1024, torch.float64)
    with torch.no_grad():
        likely = policy.evaluate(states, policy.sample(states))[1].argsort(descending=True)
    return states[likely[:16]].repeat_interleave(SAMPLES // 16, dim=0)


def _batch(policy: Policy, space: gym.Space[Any], count: int) -> tuple[Tensor, Tensor, Tensor]:
    dtype = next(policy.parameters()).dtype
    observation = _observations(space, count, dtype)
    return observation, policy.sample(observation), torch.randn(count, dtype=dtype)


def _observations(space: gym.Space[Any], count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random observations, [count, ...]: uniform where the space is bounded, normal where not, flat where not a Box."""
    if isinstance(space, spaces.Box):
        low, high = torch.as_tensor(space.low).to(dtype), torch.as_tensor(space.high).to(dtype)
        uniform = low + torch.rand(count, *space.shape, dtype=dtype) * (high - low)
        bounded = torch.as_tensor(space.bounded_below & space.bounded_above) & (high - low < 1e6)  # noqa: PLR2004
        return torch.where(bounded, uniform, torch.randn(count, *space.shape, dtype=dtype))
    space.seed(int(torch.randint(2**31, ())))
    rows = [np.asarray(spaces.flatten(space, space.sample())) for _ in range(count)]
    return torch.as_tensor(np.stack(rows)).to(dtype)


def _all_actions(space: gym.Space[Any]) -> Tensor | None:
    """Every action of a finite space, [A, *action_shape]; None where it is not finite, or too large to list."""
    if isinstance(space, spaces.Discrete):
        return torch.arange(int(space.start), int(space.start + space.n)) if space.n <= MOST_ACTIONS else None
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.prod() <= MOST_ACTIONS:
        choices = [range(start, start + n) for start, n in zip(space.start.tolist(), space.nvec.tolist(), strict=True)]
    elif isinstance(space, spaces.MultiBinary) and 2 ** int(np.prod(space.shape)) <= MOST_ACTIONS:
        choices = [range(2)] * int(np.prod(space.shape))
    else:
        return None
    return torch.tensor(list(itertools.product(*choices)))


def slope(policy: Policy, function: Callable[[], Tensor], direction: Tensor, step: float = 1e-3) -> Tensor:
    """Derivative of a function of the policy along a direction of its parameters, by a five-point difference."""
    start = torch.nn.utils.parameters_to_vector(policy.parameters()).detach()

    def at(distance: float) -> Tensor:
        torch.nn.utils.vector_to_parameters(start + distance * direction, policy.parameters())
        with torch.no_grad():
            return function()

    rise = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    torch.nn.utils.vector_to_parameters(start, policy.parameters())
    return rise


def flat(gradient: Gradient) -> Tensor:
    """All parameters' gradients as one vector, [P]."""
    return torch.cat([part.flatten() for part in gradient.values()])


def z_score(batches: Tensor, exact: Tensor) -> float:
    """How many standard errors the mean of batches, [n, P], is from the exact numbers, [P].

    Taken along the exact vector, eight random directions, and each number that moves in at least half of the batches:
    of one that hardly ever moves the standard error is not known yet. The worst of them counts.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(8, len(exact), dtype=exact.dtype, generator=generator)
    moving = (batches != batches[0]).double().mean(0) >= 0.5  # noqa: PLR2004
    views = torch.cat([exact.unsqueeze(0), directions, torch.eye(len(exact), dtype=exact.dtype)[moving]])  # [views, P]
    seen, wanted = batches @ views.T, views @ exact
    error = seen.std(0) / math.sqrt(len(batches))
    resolution = (
        1e-12 * (batches.abs().mean(0) + exact.abs()) @ views.T.abs()
    )  # what never moves may differ by rounding
    distance = ((seen.mean(0) - wanted).abs() - resolution).clamp(min=0)
    return torch.where(distance == 0, 0.0, distance / error).max().item()
