"""Checks autograd's gradient against the derivation by hand, during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pgtorch.device import CPU, device_of
from pgtorch.manual_gradient import gradient_magnitude, has_derivation, manual_gradient
from pgtorch.policies import BiasPolicy

LIMIT = 32.0  # how far apart the two may be, in units of u C; rounding alone has never reached 5
DIFFERENCE, DIFFERENCE_IN_UNITS = "gradient/absolute_difference", "gradient/difference_in_units_of_u_c"
UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


class GradientMismatchError(ArithmeticError):
    """Autograd and the manual derivation disagree; the message says where and by how much."""


def limit_for(policy: nn.Module) -> float:
    """How far apart the two gradients may be, in units of u C; 0 for the lesson's policy on the CPU, to the bit."""
    return 0.0 if isinstance(policy, BiasPolicy) and device_of(policy) == CPU else LIMIT


def check_period(policy: nn.Module, asked: int | None) -> int:
    """How many updates lie between two checks of a policy's gradient; 0: it is never checked.

    Args:
        policy: What is trained.
        asked: The setting `check_gradient`; None is 1 for a `BiasPolicy`, 20 for an `MLPPolicy`, and 0 for any other.

    Raises:
        TypeError: If a check is asked for, but there is no derivation by hand.
    """
    if not has_derivation(policy):
        if asked:
            raise TypeError(
                f"check_gradient must be 0 for {type(policy).__name__}: there is a derivation by hand for BiasPolicy "
                "and MLPPolicy only"
            )
        return 0
    return (1 if isinstance(policy, BiasPolicy) else 20) if asked is None else asked


def check_gradient(
    policy: nn.Module,
    observation: Tensor,
    action: Tensor,
    multiplier: Tensor,
    *,
    env_steps: int,
    entropy_coefficient: float = 0.0,
) -> dict[str, float]:
    """Compare autograd's gradient with the manual one.

    Args:
        policy: A policy that `manual_gradient` knows, after `backward`.
        observation: [B, *observation_shape].
        action: [B, *action_shape].
        multiplier: What each log-probability was multiplied by, [B].
        env_steps: Environment steps so far, for the message.
        entropy_coefficient: Weight of the entropy bonus in the loss.

    Returns:
        Figures by tag: the largest difference, absolute and in units of u C; and both gradients if each is one number.

    Raises:
        GradientMismatchError: If the two differ by more than 32 u C, or for a `BiasPolicy` on the CPU in any bit.
    """
    manual = manual_gradient(policy, observation, action, multiplier, entropy_coefficient)
    parameters = ((name, policy.get_parameter(name)) for name in manual)
    autograd = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in parameters
        if parameter.requires_grad  # a frozen one has a gradient by hand, but none by autograd
    }
    difference, units, worst = 0.0, 0.0, ""
    if not all(torch.equal(autograd[name], manual[name]) for name in autograd):
        difference = max((autograd[name] - manual[name]).abs().max().item() for name in autograd)
        magnitude = gradient_magnitude(policy, observation, action, multiplier, entropy_coefficient)
        magnitude = {name: magnitude[name] for name in autograd}
        units, worst = difference_in_units(autograd, manual, magnitude)
    if units > 0.0 and units > (LIMIT if entropy_coefficient else limit_for(policy)):
        raise GradientMismatchError(
            f"step {env_steps}, observation (hunger) {_show(observation)}, action {_show(action)}, multiplier (reward) "
            f"{_show(multiplier)}: gradient of {worst} by autograd {_show(autograd[worst])}, manual "
            f"{_show(manual[worst])}, {units:.3g} u C apart"
        )
    figures = {DIFFERENCE: difference, DIFFERENCE_IN_UNITS: units}
    if [gradient.numel() for gradient in autograd.values()] == [1]:
        (name,) = autograd
        figures |= {"gradient/autograd": autograd[name].item(), "gradient/manual": manual[name].item()}
    return figures


def largest_differences(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The largest of each difference that `check_gradient` found in several gradient steps, by tag."""
    if len(steps) == 1 or DIFFERENCE not in steps[0]:
        return {}
    return {tag: max(step[tag] for step in steps) for tag in (DIFFERENCE, DIFFERENCE_IN_UNITS)}


def difference_in_units(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], magnitude: Mapping[str, Tensor]
) -> tuple[float, str]:
    """Largest difference of two gradients in units of u C, and the name of its parameter.

    Args:
        one: A gradient by parameter name.
        other: Another.
        magnitude: C of each number, from `gradient_magnitude`.

    Returns:
        The largest |one - other| / (u C), infinite if a number is NaN; and its name. The smallest normal number is
        added to u C, so that an underflow does not count.
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
    """A single number as it is, a few as a list, many by the first few."""
    if tensor is None:
        return "none"
    values = tensor.flatten().tolist()
    if len(values) == 1:
        return repr(values[0])
    return str(values) if len(values) <= 4 else f"{values[:4]} and {len(values) - 4} more"  # noqa: PLR2004
