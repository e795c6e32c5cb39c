"""The loss in one line: -log pi times a multiplier."""

from __future__ import annotations

import torch
from torch import Tensor


def policy_gradient_loss(log_prob: Tensor, multiplier: Tensor) -> Tensor:
    """A loss whose *gradient* is the policy-gradient estimate; its value means nothing.

        loss = -mean(log_prob * multiplier),    d loss / d theta = -mean(multiplier * d log pi / d theta)

    The multiplier (a reward, a return, an advantage) is a constant: no gradient flows into it. For the lesson's policy
    `manual_gradient` matches autograd to the last bit; reordering the operations here would break that.

    Args:
        log_prob: log pi(action | observation) of each sample, [B], with gradient.
        multiplier: What each log-probability is multiplied by, [B].

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If the shapes differ ([B] times [B, 1] would silently give [B, B]), or there is no sample.

    Source: Williams (1992), "Simple statistical gradient-following algorithms", section 4; the lesson's "reward times
    derivative".
    """
    if log_prob.shape != multiplier.shape:
        raise ValueError(
            f"log_prob and multiplier must have equal shapes, got {list(log_prob.shape)} and {list(multiplier.shape)}"
        )
    if log_prob.numel() == 0:
        raise ValueError("log_prob must hold at least one sample, got none")
    return (log_prob * -multiplier.detach()).mean()


def importance_weighted(multiplier: Tensor, *, log_prob: Tensor, old_log_prob: Tensor, clip_range: float) -> Tensor:
    """Multipliers for a policy that has moved since it acted: each times how much likelier its action has become.

        ratio = pi(action | observation) / pi_old(action | observation)
        multiplier * ratio,    but 0 if the step would push it further from 1: above 1 + clip_range with a positive
                               multiplier, below 1 - clip_range with a negative one

    The derivative of the ratio is the ratio times that of log pi. So `policy_gradient_loss` of these multipliers has
    the gradient of PPO's clipped objective, mean(min(ratio * A, clip(ratio) * A)). If nothing is clipped, the
    expectation over the old policy's actions equals that over the new policy's; the states remain the old policy's.

    Args:
        multiplier: What each log-probability would be multiplied by had the policy not moved, [B].
        log_prob: log pi(action | observation) now, [B]; no gradient flows into the result.
        old_log_prob: The same when the action was drawn, [B].
        clip_range: How far a ratio may be pushed from 1, above 0.

    Returns:
        [B], without gradient.

    Raises:
        ValueError: If the shapes differ.

    Source: Schulman et al. (2017), "Proximal policy optimization algorithms", equation 7.
    """
    if not multiplier.shape == log_prob.shape == old_log_prob.shape:
        shapes = [list(tensor.shape) for tensor in (multiplier, log_prob, old_log_prob)]
        raise ValueError(f"multiplier, log_prob and old_log_prob must have equal shapes, got {shapes}")
    ratio = (log_prob.detach() - old_log_prob).exp()
    too_far = torch.where(multiplier > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
    return torch.where(too_far | (multiplier == 0), 0.0, multiplier * ratio)  # 0 at an infinite ratio too
