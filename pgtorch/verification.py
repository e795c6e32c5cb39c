"""Checks of a gradient against another way of finding it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgtorch.manual_gradient import manual_gradient


class GradientMismatchError(ArithmeticError):
    """Autograd and the manual derivation disagree; the message says where and by how much."""


def check_gradient(
    policy: nn.Module, observation: Tensor, action: Tensor, multiplier: Tensor, step: int
) -> dict[str, float]:
    """Compare the gradient that autograd left in the parameters with the manual one, bit by bit.

    Args:
        policy: A policy that `manual_gradient` knows, after `backward`.
        observation: [B, *observation_shape].
        action: [B, *action_shape].
        multiplier: What each log-probability was multiplied by, [B].
        step: Environment steps so far, for the message.

    Returns:
        What is to be logged of it: both gradients where there is but one number, and their largest difference.

    Raises:
        GradientMismatchError: Where the two differ in any bit.
    """
    manual = manual_gradient(policy, observation, action, multiplier)
    logged = {"gradient/absolute_difference": 0.0}
    for name, parameter in policy.named_parameters():
        by_autograd, by_hand = parameter.grad, manual[name]
        if by_autograd is None or not torch.equal(by_autograd, by_hand):
            raise GradientMismatchError(
                f"step {step}, observation (hunger) {_show(observation)}, action {_show(action)}, multiplier (reward) "
                f"{_show(multiplier)}: gradient of {name} by autograd {_show(by_autograd)}, manual {_show(by_hand)}"
            )
        difference = (by_autograd - by_hand).abs().max().item()
        logged["gradient/absolute_difference"] = max(logged["gradient/absolute_difference"], difference)
        if by_hand.ndim == 0:  # one number, as in the lesson: show both
            logged |= {"gradient/autograd": by_autograd.item(), "gradient/manual": by_hand.item()}
    return logged


def _show(tensor: Tensor | None) -> str:
    """A number as such, a few numbers as a list, many by the first of them."""
    if tensor is None:
        return "none"
    values = tensor.flatten().tolist()
    if len(values) == 1:
        return repr(values[0])
    return str(values) if len(values) <= 4 else f"{values[:4]} and {len(values) - 4} more"  # noqa: PLR2004
