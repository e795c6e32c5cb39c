"""What the rows measure with: autograd's gradient, slopes by finite differences, standard errors.

P is the number of parameters of a policy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from pgtorch.losses import policy_gradient_loss
from pgtorch.policies import Policy

STANDARD_ERRORS = 5.0  # a correct estimate is further off once in two million times
Gradient = dict[str, Tensor]


def autograd_gradient(policy: Policy, observation: Tensor, action: Tensor, multiplier: Tensor) -> Gradient:
    """Autograd's gradient of `policy_gradient_loss` by parameter name; arguments as for `manual_gradient`."""
    loss = policy_gradient_loss(policy.log_prob(observation, action), multiplier)
    gradients = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    named = zip(policy.named_parameters(), gradients, strict=True)
    return {name: torch.zeros_like(p) if gradient is None else gradient for (name, p), gradient in named}


def flat(gradient: Gradient) -> Tensor:
    """The gradients of all parameters as one vector, [P]."""
    return torch.cat([part.flatten() for part in gradient.values()])


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Length of the difference of two vectors, [P] each, in lengths of the exact one."""
    return float((found - exact).norm() / exact.norm())


def moved(policy: Policy, generator: Generator) -> Policy:
    """A copy with noise added to every parameter, so that nothing is right only because a parameter is 0."""
    policy = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator))
    return policy


def slope(policy: Policy, function: Callable[[], Tensor], direction: Tensor, step: float = 1e-3) -> Tensor:
    """Derivative of a function of the policy along a direction of its parameters, [P], by a five-point difference."""
    start = torch.nn.utils.parameters_to_vector(policy.parameters()).detach()

    def at(distance: float) -> Tensor:
        torch.nn.utils.vector_to_parameters(start + distance * direction, policy.parameters())
        with torch.no_grad():
            return function()

    rise = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    torch.nn.utils.vector_to_parameters(start, policy.parameters())
    return rise


def z_score(batches: Tensor, *, exact: Tensor) -> float:
    """How many standard errors the mean of batches, [n, P], is from the exact numbers, [P]. The worst view counts.

    The views are: along the exact vector, along eight random directions, and each number that changes in at least half
    of the batches. If a number hardly ever changes, n batches are too few to estimate its standard error.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(8, len(exact), dtype=exact.dtype, generator=generator)
    changing = (batches != batches[0]).double().mean(0) >= 0.5  # noqa: PLR2004
    views = torch.cat([exact.unsqueeze(0), directions, torch.eye(len(exact), dtype=exact.dtype)[changing]])  # [V, P]
    seen, wanted = batches @ views.T, views @ exact  # [n, V], [V]
    error = seen.std(0) / math.sqrt(len(batches))
    rounding = 1e-12 * (batches.abs().mean(0) + exact.abs()) @ views.T.abs()  # of views whose standard error is 0
    distance = ((seen.mean(0) - wanted).abs() - rounding).clamp(min=0)
    return torch.where(distance == 0, 0.0, distance / error).max().item()
