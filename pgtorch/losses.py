"""The loss in one line: -log pi times what came of it."""

from __future__ import annotations

from torch import Tensor


def policy_gradient_loss(log_prob: Tensor, multiplier: Tensor) -> Tensor:
    """A loss whose *gradient* is the policy-gradient estimate; its value means nothing.

        loss = -mean(log_prob * multiplier),    d loss / d theta = -mean(multiplier * d log pi / d theta)

    The multiplier (a reward, a return, an advantage) is a constant: no gradient flows into it.

    Args:
        log_prob: log pi(action | observation) of each sample, [B], with gradient.
        multiplier: What each log-probability is multiplied by, [B].

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: Where the shapes differ ([B] times [B, 1] would silently give [B, B]) or nothing came.

    Source: Williams (1992), "Simple statistical gradient-following algorithms", section 4; the lesson's "reward times
    derivative".
    """
    if log_prob.shape != multiplier.shape:
        raise ValueError(
            f"log_prob and multiplier must have equal shapes, got {list(log_prob.shape)} and {list(multiplier.shape)}"
        )
    if log_prob.numel() == 0:
        raise ValueError("log_prob must hold at least one sample, got none")
    return -(log_prob * multiplier.detach()).mean()
