"""Autograd's gradient against the manual one, while training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pgtorch.manual_gradient import gradient_magnitude, manual_gradient
from pgtorch.policies import BiasPolicy

# How far the two may be apart, in units of u C: rounding alone was never seen to reach 5. The lesson's one logit gives
# the same bits in both.
LIMIT = 32.0
UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


class GradientMismatchError(ArithmeticError):
    """Autograd and the manual derivation disagree; the message says where and by how much."""


def check_gradient(
    policy: nn.Module,
    observation: Tensor,
    action: Tensor,
    multiplier: Tensor,
    step: int,
    gradient: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Compare autograd's gradient with the manual one.

    Args:
        policy: A policy that `manual_gradient` knows, after `backward`.
        observation: [B, *observation_shape].
        action: [B, *action_shape].
        multiplier: What each log-probability was multiplied by, [B].
        step: Environment steps so far, for the message.
        gradient: Autograd's, by parameter name; None takes what `backward` left in the parameters.

    Returns:
        What is to be logged of it: the largest difference, absolute and in units of u C, and both gradients where there
        is but one number.

    Raises:
        GradientMismatchError: Where the two differ by more than 32 u C, or for a `BiasPolicy` in any bit.
    """
    manual = manual_gradient(policy, observation, action, multiplier)
    parameters = ((name, policy.get_parameter(name)) for name in manual)
    autograd = gradient or {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in parameters
        if parameter.requires_grad  # a frozen one has a gradient by hand, and none by autograd
    }
    difference, units, worst = 0.0, 0.0, ""
    if not all(torch.equal(autograd[name], manual[name]) for name in autograd):
        difference = max((autograd[name] - manual[name]).abs().max().item() for name in autograd)
        magnitude = gradient_magnitude(policy, observation, action, multiplier)
        magnitude = {name: magnitude[name] for name in autograd}
        units, worst = difference_in_units(autograd, manual, magnitude)
    if units > (0.0 if isinstance(policy, BiasPolicy) else LIMIT):
        raise GradientMismatchError(
            f"step {step}, observation (hunger) {_show(observation)}, action {_show(action)}, multiplier (reward) "
            f"{_show(multiplier)}: gradient of {worst} by autograd {_show(autograd[worst])}, manual "
            f"{_show(manual[worst])}, {units:.3g} u C apart"
        )
    logged = {"gradient/absolute_difference": difference, "gradient/difference_in_units_of_u_c": units}
    if isinstance(policy, BiasPolicy):
        logged |= {"gradient/autograd": autograd["bias"].item(), "gradient/manual": manual["bias"].item()}
    return logged


def difference_in_units(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], magnitude: Mapping[str, Tensor]
) -> tuple[float, str]:
    """Largest difference of two gradients in units of u C, and the parameter where it is.

    Args:
        one: A gradient by parameter name.
        other: Another.
        magnitude: C of each number, from `gradient_magnitude`.

    Returns:
        The largest |one - other| / (u C), infinite where a number is none; and its name. What underflows is no
        difference: to u C the smallest normal number is added.
    """
    largest, worst = -math.inf, ""
    for name, c in magnitude.items():
        difference = (one[name] - other[name]).abs()
        bound = UNIT_ROUNDOFF[c.dtype] * c + torch.finfo(c.dtype).tiny
        units = torch.where(difference == 0, 0.0, difference / bound).nan_to_num(nan=math.inf)
        if units.max().item() > largest:
            largest, worst = units.max().item(), name
    return largest, worst


def _show(tensor: Tensor | None) -> str:
    """A number as such, a few numbers as a list, many by the first of them."""
    if tensor is None:
        return "none"
    values = tensor.flatten().tolist()
    if len(values) == 1:
        return repr(values[0])
    return str(values) if len(values) <= 4 else f"{values[:4]} and {len(values) - 4} more"  # noqa: PLR2004
