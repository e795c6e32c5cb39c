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


def policy_rows(subject: str, policy: Policy, observation_space: gym.Space[Any], seed: int) -> Iterator[Row]:
    """What can be checked of any policy without its environment.

    Args:
        subject: What the rows are about.
        policy: The policy; it is copied, its parameters are moved about, and it stays as it was.
        observation_space: Where its observations come from.
        seed: Of everything that is drawn.
    """
    torch.manual_seed(seed)
    policy = moved(policy)
    for dtype in (torch.float32, torch.float64):
        yield _autograd_against_manual(subject, copy.deepcopy(policy).to(dtype), observation_space)
    policy = policy.double()
    yield _autograd_against_finite_differences(subject, policy, observation_space)
    yield _multiplier_is_a_constant(subject, policy, observation_space)
    yield _broadcast_is_refused(subject, policy, observation_space)
    yield _probabilities_sum_to_one(subject, policy, observation_space)
    yield from _samples_against_log_prob(subject, policy, observation_space)


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


def _autograd_against_finite_differences(subject: str, policy: Policy, space: gym.Space[Any]) -> Row:
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


def _probabilities_sum_to_one(subject: str, policy: Policy, space: gym.Space[Any]) -> Row:
    check, observation = "probabilities sum to 1", _observations(space, 16, torch.float64)
    actions = _all_actions(policy, observation)
    if actions is None:
        return Row(subject, check, note="the action space is not finite, or too large to list")
    with torch.no_grad():
        total = sum(policy.log_prob(observation, action.expand(16, *action.shape)).exp() for action in actions)
    return Row(
        subject, check, (torch.as_tensor(total) - 1).abs().max().item(), 1e-12, "absolute", f"{len(actions)} actions"
    )


def _samples_against_log_prob(subject: str, policy: Policy, space: gym.Space[Any]) -> Iterator[Row]:
    """Where samples come from pi, the mean of grad log pi is 0, and that of -log pi is the entropy."""
    scores, surprises, rows, batches = [], [], 20_000, 64
    states = _observations(space, 1024, torch.float64)
    likely = policy.evaluate(states, policy.sample(states))[1].argsort(descending=True)
    states = states[likely[:16]]  # where the policy is least certain: a saturated one shows no fault of its sampler
    observation = states.repeat_interleave(rows // len(states), dim=0)
    rows = len(observation)
    entropy = policy.evaluate(states, policy.sample(states))[1].detach().mean().reshape(1)
    for _ in range(batches):
        action = policy.sample(observation)
        log_prob = policy.log_prob(observation, action)
        gradients = torch.autograd.grad(log_prob.mean(), list(policy.parameters()), allow_unused=True)
        scores.append(torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]))
        surprises.append(-log_prob.detach().mean().reshape(1))
    note = f"n = {rows * batches:,}"
    z = z_score(torch.stack(scores), torch.zeros_like(scores[0]))
    yield Row(
        subject, "samples against log-probability", z, STANDARD_ERRORS, "standard errors", f"mean score is 0, {note}"
    )
    z = z_score(torch.stack(surprises), entropy)
    yield Row(subject, "samples against entropy", z, STANDARD_ERRORS, "standard errors", f"mean of -log pi, {note}")


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


def _all_actions(policy: Policy, observation: Tensor) -> Tensor | None:
    """Every action of a finite space, [A, *action_shape]; the space is told from the policy, or from its samples."""
    space = getattr(policy, "action_space", None)
    if isinstance(policy, BiasPolicy):
        space = spaces.Discrete(2)
    if isinstance(space, spaces.Discrete):
        choices = [range(int(space.start), int(space.start + space.n))]
    elif isinstance(space, spaces.MultiDiscrete) and space.nvec.prod() <= MOST_ACTIONS:
        choices = [range(start, start + n) for start, n in zip(space.start.tolist(), space.nvec.tolist(), strict=True)]
    elif isinstance(space, spaces.MultiBinary) and 2 ** policy.sample(observation).shape[-1] <= MOST_ACTIONS:
        choices = [range(2)] * policy.sample(observation).shape[-1]
    else:
        return None
    actions = torch.tensor(list(itertools.product(*choices)))
    return actions.squeeze(-1) if isinstance(space, spaces.Discrete) else actions


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
