"""Measurements for the rows: autograd's gradient, slopes by finite differences, standard errors.

P is the number of parameters of a policy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn

from pgtorch.losses import policy_gradient_loss
from pgtorch.policies import Policy

STANDARD_ERRORS = 6.0  # by t with 63 degrees of freedom, a correct estimate is further off once in ten million times
Gradient = dict[str, Tensor]


def autograd_gradient(policy: Policy, observation: Tensor, action: Tensor, multiplier: Tensor) -> Gradient:
    """Autograd's gradient of `policy_gradient_loss` by parameter name; arguments as for `manual_gradient`."""
    loss = policy_gradient_loss(policy.log_prob(observation, action), multiplier)
    return gradient_of(policy, loss)


def gradient_of(policy: Policy, value: Tensor) -> Gradient:
    """Autograd's gradient of a scalar by parameter name; 0 for a parameter on which it does not depend."""
    parameters = learned(policy)
    if not value.requires_grad:
        return {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    gradients = torch.autograd.grad(value, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


def learned(policy: Policy) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


@contextmanager
def in_float64() -> Iterator[None]:
    """Make torch's default dtype float64, so that what is made meanwhile computes in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def flat(gradient: Gradient) -> Tensor:
    """The gradients of all parameters as one vector, [P]."""
    return torch.cat([part.flatten() for part in gradient.values()])


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Length of the difference of two vectors, [P] each, relative to the length of the exact one."""
    return float((found - exact).norm() / exact.norm())


def moved(policy: Policy, generator: Generator) -> Policy:
    """A copy with noise added to every parameter, so that nothing is right only because a parameter is 0."""
    policy = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in learned(policy).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator))
    return policy


def slope(policy: Policy, function: Callable[[], Tensor], direction: Tensor, step: float = 1e-3) -> Tensor:
    """Derivative of a function of the policy along a direction of its parameters, [P], by a five-point difference."""
    parameters = list(learned(policy).values())
    start = nn.utils.parameters_to_vector(parameters).detach()

    def at(distance: float) -> Tensor:
        nn.utils.vector_to_parameters(start + distance * direction, parameters)
        with torch.no_grad():
            return function()

    rise = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    nn.utils.vector_to_parameters(start, parameters)
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
