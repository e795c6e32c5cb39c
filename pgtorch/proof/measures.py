"""Measurements for the rows: autograd's gradient, slopes by finite differences, standard errors.

P is the number of parameters of a policy, V that of directions in which they are moved.
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
STEPS = (1e-3, 1e-4, 1e-5)  # of finite differences; the next one only where there is a kink within the one before
SMOOTH = 1e-8  # a slope whose one-sided views differ by more than this is not known well enough to judge a gradient
Gradient = dict[str, Tensor]

# Derivatives at 0 of the cubics through four neighbors of the points -3, ..., 3, from those on the left to those on the
# right. The two in the middle average to the five-point difference.
CUBICS = torch.tensor(
    [
        [-2, 9, -18, 11, 0, 0, 0],
        [0, 1, -6, 3, 2, 0, 0],
        [0, 0, -2, -3, 6, -1, 0],
        [0, 0, 0, -11, 18, -9, 2],
    ],
    dtype=torch.float64,
).div_(6)


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
    """A copy with noise added to every parameter, so that nothing is right only because a parameter is 0.

    The noise has a standard deviation of 0.3, and less in layers of more than 16 inputs, whose outputs it would swamp.
    """
    policy = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in learned(policy).values():
            inputs = parameter[0].numel() if parameter.ndim > 1 else 1
            deviation = 0.3 * min(1.0, math.sqrt(16 / inputs))
            parameter.add_(deviation * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator))
    return policy


def directions_along(gradient: Gradient, generator: Generator) -> Tensor:
    """Directions of length 1 to compare a gradient in, [V, P]: along it, along each parameter's part of it, random."""
    whole = flat(gradient)
    parts, sizes = [], [part.numel() for part in gradient.values()]
    for chosen in range(len(sizes)):
        mask = torch.cat([torch.full((n,), float(i == chosen), dtype=whole.dtype) for i, n in enumerate(sizes)])
        parts.append(whole * mask)
    noise = torch.randn(8, len(whole), dtype=whole.dtype, generator=generator)
    candidates = torch.stack([whole, *parts, *noise])
    return torch.nn.functional.normalize(candidates[candidates.any(dim=1)])


def slopes(
    policy: Policy, function: Callable[[], Tensor], directions: Tensor, *, scale: float
) -> tuple[Tensor, Tensor]:
    """Derivatives of a function of the policy along directions of its parameters, by finite differences.

    Where the function has a kink, as a ReLU network has, a difference across it is not a derivative. A kink shows in
    the values themselves: the views from the left and from the right differ. Such a slope is taken again with shorter
    steps, and what remains is marked. Autograd's gradient has no say in this.

    Args:
        policy: Its parameters are moved, and put back.
        function: Gives numbers of any shape [...], such as one for each row; slopes are judged number by number.
        directions: [V, P].
        scale: Length of the gradient; views may differ by a hundred millionth of it, and by what rounding explains.

    Returns:
        The slopes, and whether each is smooth, [V, ...] each. A slope that is not finite counts as smooth: it is wrong.
    """
    found, smooth = [], []
    for direction in directions:
        rise, is_smooth = _slope(policy, function, direction, STEPS[0], scale)
        for step in STEPS[1:]:
            if is_smooth.all():
                break
            finer, is_finer_smooth = _slope(policy, function, direction, step, scale)
            rise = torch.where(is_smooth, rise, finer)
            is_smooth = is_smooth | is_finer_smooth
        found.append(rise)
        smooth.append(is_smooth)
    return torch.stack(found), torch.stack(smooth)


def _slope(
    policy: Policy, function: Callable[[], Tensor], direction: Tensor, step: float, scale: float
) -> tuple[Tensor, Tensor]:
    """A five-point difference, and whether the cubics on the left and on the right have that slope as well."""
    parameters = list(learned(policy).values())
    start = nn.utils.parameters_to_vector(parameters).detach()

    def at(distance: float) -> Tensor:
        nn.utils.vector_to_parameters(start + distance * direction, parameters)
        with torch.no_grad():
            return function()

    values = torch.stack([at(step * point) for point in range(-3, 4)])
    nn.utils.vector_to_parameters(start, parameters)
    views = torch.tensordot(CUBICS.to(values.dtype), values, dims=1) / step  # [4, ...]
    spread = views.amax(0) - views.amin(0)
    rounding = 32 * torch.finfo(values.dtype).eps * values.abs().amax(0) / step
    return views[1:3].mean(0), ~(spread > SMOOTH * scale + rounding)  # NaN is not a kink


def z_score(batches: Tensor, *, exact: Tensor) -> float:
    """How many standard errors the mean of batches, [n, P], is from the exact numbers, [P]. The worst view counts.

    The views are: along the exact vector, along eight random directions, and each number that changes in at least half
    of the batches; 10,000 of these at most. If a number hardly ever changes, n batches are too few to estimate its
    standard error.
    """
    generator = torch.Generator().manual_seed(0)
    directions = torch.cat([exact.unsqueeze(0), torch.randn(8, len(exact), dtype=exact.dtype, generator=generator)])
    changing = ((batches != batches[0]).double().mean(0) >= 0.5).nonzero().squeeze(1)  # noqa: PLR2004
    changing = changing[:: 1 + len(changing) // 10_000]

    def views(vectors: Tensor, along: Tensor) -> Tensor:  # [..., P] to [..., V]
        return torch.cat([vectors @ along.T, vectors[..., changing]], dim=-1)

    seen, wanted = views(batches, directions), views(exact, directions)  # [n, V], [V]
    error = seen.std(0) / math.sqrt(len(batches))
    magnitude = batches.abs().mean(0) + exact.abs()
    rounding = 1e-12 * views(magnitude, directions.abs()).clamp(min=magnitude.max().item())  # of what is 0 on paper
    distance = ((seen.mean(0) - wanted).abs() - rounding).clamp(min=0)
    return torch.where(distance == 0, 0.0, distance / error).max().item()
