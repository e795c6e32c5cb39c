"""The gradient of `policy_gradient_loss` by hand: the chain rule, one named factor a line.

Nothing here knows of autograd or of the loss, so that each can be checked against the other.

    h  hunger               w  fixed weight         b  bias
    z  logit, w h + b       P  P(Norm), sigmoid(z)  a  action, 1 for Norm and 0 for Squatch
    CE cross-entropy of the guess, -log P(place | h), "as if the guess were right"
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pgtorch.policies import BiasPolicy


def manual_gradient(policy: nn.Module, observation: Tensor, action: Tensor, multiplier: Tensor) -> dict[str, Tensor]:
    """Gradient of -mean(log pi(action | observation) * multiplier) in the policy's parameters, derived by hand.

    Args:
        policy: A `BiasPolicy`.
        observation: [B, *observation_shape].
        action: As the environment has it, [B].
        multiplier: What each log-probability is multiplied by, [B].

    Returns:
        One tensor for each of `policy.named_parameters()`, under its name and of its shape, without graph.

    Raises:
        TypeError: Where no derivation exists for this class of policy.
        ValueError: Where action and multiplier are not both [B].

    Source: the lesson ("Mathematical Details"), its three factors.
    """
    if type(policy) is not BiasPolicy:
        raise TypeError(f"manual_gradient knows the derivation for BiasPolicy, got {type(policy).__name__}")
    if not action.shape == multiplier.shape == observation.shape[:1]:
        raise ValueError(
            "action and multiplier must have shape [B] like the observations' first dimension, got action "
            f"{list(action.shape)}, multiplier {list(multiplier.shape)}, observation {list(observation.shape)}"
        )
    return _bias_policy_gradient(policy, observation, action, multiplier)


def _bias_policy_gradient(policy: BiasPolicy, h: Tensor, a: Tensor, multiplier: Tensor) -> dict[str, Tensor]:
    w, b = policy.weight, policy.bias.detach()
    z = w * h.squeeze(-1) + b  # [B]
    p_norm = torch.sigmoid(z)  # [B]
    # The lesson's first two factors belong together, since P cancels:
    #     Norm:     dCE/dP * dP/dz = -1/P    * P(1-P) = -(1-P) = P - 1
    #     Squatch:  dCE/dP * dP/dz = 1/(1-P) * P(1-P) =    P   = P - 0
    # Cancelled on paper, they stay exact where P rounds to 0 or 1 and the two factors would give infinity times 0.
    dce_dz = p_norm - a  # [B]
    dz_db = 1.0
    # The mean over B visits: each one counts 1/B, times what came of it.
    dloss_dce = multiplier * (1.0 / len(multiplier))  # [B]
    return {"bias": (dce_dz * dloss_dce * dz_db).sum()}
