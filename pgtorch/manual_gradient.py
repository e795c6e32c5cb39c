"""The gradient of `policy_gradient_loss` by hand: the chain rule, one named factor per line.

Nothing here uses autograd or the loss, so that each can be checked against the other. For the lesson's policy the two
agree in every bit; reordering the operations here, in `losses.py` or in `policies.py` breaks that.

    h  hunger               w  fixed weight         b  bias
    z  logit, w h + b       P  P(Norm), sigmoid(z)  a  action, 1 for Norm and 0 for Squatch
    CE cross-entropy of the guess, -log P(place | h), "as if the guess were right"

and for networks, with B rows, layers of sizes D = n_0, n_1, ..., n_L:

    x_l  input of layer l, [B, n_l]       z_l  its output, W_l x_l + b_l, [B, n_l+1]
    phi  the activation: x_l+1 = phi(z_l)
    mu, sigma  mean and standard deviation of a normal distribution
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from pgtorch.networks import ACTIVATIONS, MLPPolicy
from pgtorch.policies import BiasPolicy


class _Arithmetic(NamedTuple):
    """How terms are taken and subtracted: signed, or in absolute value for a bound on rounding errors."""

    term: Callable[[Tensor], Tensor]
    minus: Callable[[Tensor, Tensor], Tensor]


_SIGNED = _Arithmetic(term=lambda x: x, minus=lambda x, y: x - y)
_ABSOLUTE = _Arithmetic(term=torch.abs, minus=lambda x, y: x.abs() + y.abs())


def manual_gradient(
    policy: nn.Module, observation: Tensor, action: Tensor, multiplier: Tensor, entropy_coefficient: float = 0.0
) -> dict[str, Tensor]:
    """Gradient of -mean(log pi * multiplier + entropy_coefficient * entropy) in the parameters, derived by hand.

    Args:
        policy: A `BiasPolicy`, or an `MLPPolicy` with any action space.
        observation: [B, *observation_shape].
        action: In the environment's format, [B, *action_shape].
        multiplier: What each log-probability is multiplied by, [B].
        entropy_coefficient: Weight of the entropy bonus, at least 0.

    Returns:
        One tensor for each of `policy.named_parameters()`, by its name and of its shape, without graph.

    Raises:
        TypeError: If no derivation exists for this class of policy.
        ValueError: If observation, action and multiplier do not have the same number B of rows.

    Source: the lesson ("Mathematical Details"), its three factors; for layers, Rumelhart, Hinton and Williams (1986).
    """
    return _gradient(policy, observation, action, multiplier, entropy_coefficient, _SIGNED)


def gradient_magnitude(
    policy: nn.Module, observation: Tensor, action: Tensor, multiplier: Tensor, entropy_coefficient: float = 0.0
) -> dict[str, Tensor]:
    """C: the same derivation with the absolute value of every term, so that nothing cancels.

    Rounding puts a computed gradient off by a few u C, where u is 2^-24 in float32 and 2^-53 in float64; a gradient
    that is off by more is wrong. Arguments and errors are those of `manual_gradient`.
    """
    return _gradient(policy, observation, action, multiplier, entropy_coefficient, _ABSOLUTE)


def has_derivation(policy: nn.Module) -> bool:
    """Whether `manual_gradient` knows this exact class of policy; a subclass may compute something else."""
    return type(policy) in (BiasPolicy, MLPPolicy)


def _gradient(
    policy: nn.Module, observation: Tensor, action: Tensor, multiplier: Tensor, bonus: float, arithmetic: _Arithmetic
) -> dict[str, Tensor]:
    if not has_derivation(policy):
        raise TypeError(
            f"manual_gradient knows the derivation for BiasPolicy and MLPPolicy, got {type(policy).__name__}"
        )
    if multiplier.ndim != 1 or not multiplier.shape[:1] == action.shape[:1] == observation.shape[:1]:
        raise ValueError(
            "observation, action and multiplier must have the same first dimension B, and multiplier no other, got "
            f"observation {list(observation.shape)}, action {list(action.shape)}, multiplier {list(multiplier.shape)}"
        )
    if isinstance(policy, MLPPolicy):
        return _mlp_policy_gradient(policy, observation, action, multiplier, bonus, arithmetic)
    if action.ndim != 1:
        raise ValueError(f"action must have shape [B], got {list(action.shape)}")
    if observation.shape[1:] != (1,):
        raise ValueError(f"observation must have shape [B, 1] (hunger), got {list(observation.shape)}")
    assert isinstance(policy, BiasPolicy)
    lesson = bias_policy_gradient if arithmetic is _SIGNED else _bias_policy_magnitude
    gradient = lesson(policy, observation, action, multiplier)
    if bonus:
        h, w, b = observation.squeeze(1), policy.weight, policy.bias.detach()
        z = arithmetic.minus(w * h, -b)
        gradient["bias"] = gradient["bias"] + bonus * _bernoulli_entropy(z, torch.sigmoid(w * h + b)).mean()
    return gradient


def bias_policy_gradient(policy: BiasPolicy, h: Tensor, a: Tensor, multiplier: Tensor) -> dict[str, Tensor]:
    """The lesson, line by line; every name is [B] but the last. With L learners beside each other each is [B, L]."""
    w, b = policy.weight, policy.bias.detach()
    z = w * h.squeeze(-1) + b
    p_norm = torch.sigmoid(z)
    # dCE/dP = -1/P for Norm, 1/(1-P) for Squatch
    # dP/dz  = P(1-P)
    # The two are one line of code: on paper, P cancels between them; in floating point their product would be infinity
    # times 0 if P rounds to 0 or 1. What is left is -(1-P) = P - 1 for Norm, and P = P - 0 for Squatch.
    dce_dz = p_norm - a
    dz_db = 1.0
    derivative = dce_dz * dz_db  # as if the guess were right
    updated_derivative = derivative * (multiplier * (1.0 / len(multiplier)))  # times the reward; each visit counts 1/B
    return {"bias": updated_derivative.sum(0)}


def _bias_policy_magnitude(policy: BiasPolicy, h: Tensor, a: Tensor, multiplier: Tensor) -> dict[str, Tensor]:
    p_norm = torch.sigmoid(policy.weight * h.squeeze(1) + policy.bias.detach())
    return {"bias": ((p_norm + a) * multiplier.abs()).mean()}


def _mlp_policy_gradient(
    policy: MLPPolicy, observation: Tensor, action: Tensor, multiplier: Tensor, bonus: float, arithmetic: _Arithmetic
) -> dict[str, Tensor]:
    # Forward, keeping the input of each layer.
    weights = [policy.get_parameter(f"layers.{layer}.weight").detach() for layer in range(len(policy.layers))]
    biases = [policy.get_parameter(f"layers.{layer}.bias").detach() for layer in range(len(policy.layers))]
    inputs = [policy.features(observation)]  # x_0, [B, D]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        inputs.append(ACTIVATIONS[policy.activation](functional.linear(inputs[-1], weight, bias)))  # x_l+1 = phi(z_l)
    parameters = functional.linear(inputs[-1], weights[-1], biases[-1])  # of the last layer: logits or means

    # The head: how the loss changes with the output of the last layer.
    dloss_dce = arithmetic.term(multiplier)[:, None] * (1.0 / len(multiplier))  # [B, 1]
    gradient: dict[str, Tensor] = {}
    if isinstance(policy.action_space, spaces.Box):
        log_std = policy.get_parameter("log_std").detach()
        dce_dz, dce_dlog_std = _normal_head(parameters, log_std, action, arithmetic)
        gradient["log_std"] = (dce_dlog_std * dloss_dce).sum(0)
    else:
        dce_dz = _DISCRETE_HEADS[type(policy.action_space)](policy.action_space, parameters, action, arithmetic)
    dloss_dz = dce_dz * dloss_dce  # [B, outputs]
    if bonus and isinstance(policy.action_space, spaces.Box):  # H = sum of log sigma + constant, whatever the means
        gradient["log_std"] = arithmetic.minus(gradient["log_std"], torch.full_like(log_std, bonus))
    elif bonus:
        slope = _minus_entropy_slope(policy.action_space, parameters, arithmetic)
        dloss_dz = dloss_dz + slope * (bonus / len(multiplier))

    # The layers, from the last to the first.
    for layer in reversed(range(len(weights))):
        dz_dweight, dz_dinput = arithmetic.term(inputs[layer]), arithmetic.term(weights[layer])
        gradient[f"layers.{layer}.weight"] = dloss_dz.T @ dz_dweight  # sum over B: [n_l+1, n_l]
        gradient[f"layers.{layer}.bias"] = dloss_dz.sum(0)  # dz/db = 1: [n_l+1]
        dloss_dinput = dloss_dz @ dz_dinput  # sum over the units that the input feeds: [B, n_l]
        dphi_dz = _SLOPES[policy.activation](inputs[layer], arithmetic)
        dloss_dz = dloss_dinput * dphi_dz  # of the previous layer
    return {name: gradient[name] for name, _ in policy.named_parameters()}


def _tanh_slope(x: Tensor, arithmetic: _Arithmetic) -> Tensor:
    return arithmetic.minus(torch.ones_like(x), x.square())  # 1 - tanh(z)^2


def _relu_slope(x: Tensor, _arithmetic: _Arithmetic) -> Tensor:
    return (x > 0).to(x.dtype)  # 1 or 0; at z = 0, where there is none, 0 as in PyTorch


def _elu_slope(x: Tensor, arithmetic: _Arithmetic) -> Tensor:
    return torch.where(x > 0, 1.0, arithmetic.minus(x, -torch.ones_like(x)))  # below 0, x = e^z - 1, so e^z = x + 1


def _categorical_head(space: spaces.Discrete, logits: Tensor, action: Tensor, arithmetic: _Arithmetic) -> Tensor:
    """Softmax: -log p_a = log(sum of e^z) - z_a, so dCE/dz_i = p_i - 1 for the chosen i, and p_i otherwise."""
    return _softmax_minus_one_hot(logits, action - int(space.start), arithmetic)


def _multi_categorical_head(
    space: spaces.MultiDiscrete, logits: Tensor, action: Tensor, arithmetic: _Arithmetic
) -> Tensor:
    """Independent choices: log-probabilities add, so the logits of each choice depend on that choice only."""
    groups = torch.split(logits, space.nvec.tolist(), dim=1)
    chosen = (action - torch.as_tensor(space.start, device=action.device)).unbind(1)
    parts = [_softmax_minus_one_hot(group, index, arithmetic) for group, index in zip(groups, chosen, strict=True)]
    return torch.cat(parts, dim=1)


def _multi_bernoulli_head(
    _space: spaces.MultiBinary, logits: Tensor, action: Tensor, arithmetic: _Arithmetic
) -> Tensor:
    """Independent yes-or-no choices: each gives the lesson's P - a."""
    return arithmetic.minus(torch.sigmoid(logits), action.to(logits.dtype))


def _normal_head(mu: Tensor, log_std: Tensor, action: Tensor, arithmetic: _Arithmetic) -> tuple[Tensor, Tensor]:
    """The derivatives of -log p = (a - mu)^2 / (2 sigma^2) + log sigma + log(2 pi) / 2: by mu, and by log sigma."""
    sigma = log_std.exp()  # [k]
    deviation = arithmetic.minus(action, mu)  # [B, k]
    dce_dmu = arithmetic.minus(torch.zeros_like(mu), deviation / sigma.square())  # -(a - mu) / sigma^2
    dce_dlog_std = arithmetic.minus(torch.ones_like(mu), (deviation / sigma).square())  # 1 - (a - mu)^2 / sigma^2
    return dce_dmu, dce_dlog_std


def _minus_entropy_slope(space: spaces.Space[Any], logits: Tensor, arithmetic: _Arithmetic) -> Tensor:
    """-dH/dz of each choice, [B, outputs]. H = -sum p log p and dp_i/dz_j = p_i ([i = j] - p_j)."""
    if isinstance(space, spaces.MultiBinary):
        return _bernoulli_entropy(arithmetic.term(logits), torch.sigmoid(logits))
    sizes = space.nvec.tolist() if isinstance(space, spaces.MultiDiscrete) else [logits.shape[1]]
    slopes = []
    for group in torch.split(logits, sizes, dim=1):
        log_p = functional.log_softmax(group, dim=1)
        p = log_p.exp()
        dnegative_dp = arithmetic.minus(log_p, -torch.ones_like(log_p))  # d(p log p)/dp = log p + 1
        slopes.append(arithmetic.minus(p * dnegative_dp, p * (p * dnegative_dp).sum(1, keepdim=True)))
    return torch.cat(slopes, dim=1)


def _bernoulli_entropy(z: Tensor, p: Tensor) -> Tensor:
    """-dH/dz of one yes-or-no choice: dH/dp = log((1-p)/p) = -z, times dp/dz = p(1-p)."""
    return z * p * (1 - p)


def _softmax_minus_one_hot(logits: Tensor, index: Tensor, arithmetic: _Arithmetic) -> Tensor:
    one_hot = functional.one_hot(index, logits.shape[1]).to(logits.dtype)
    p = functional.log_softmax(logits, dim=1).exp()  # via log p, as in the loss: e^z itself may overflow
    return arithmetic.minus(p, one_hot)


# The derivative of each activation, from its value x = phi(z).
_SLOPES: dict[str, Callable[[Tensor, _Arithmetic], Tensor]] = {
    "tanh": _tanh_slope,
    "relu": _relu_slope,
    "elu": _elu_slope,
}
_DISCRETE_HEADS: dict[type, Callable[..., Tensor]] = {
    spaces.Discrete: _categorical_head,
    spaces.MultiDiscrete: _multi_categorical_head,
    spaces.MultiBinary: _multi_bernoulli_head,
}
