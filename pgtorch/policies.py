"""Policies: tensors in, an action distribution out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution
from torch.nn import functional


class Policy(nn.Module):
    """What the trainer asks of a policy. A subclass needs `distribution`; the rest follows from it.

    B rows at a time: observations are [B, *observation_shape], actions [B, *action_shape] as the environment has them.
    """

    def distribution(self, observation: Tensor) -> Distribution:
        """The distribution of the actions, batch shape [B], differentiable in the parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define distribution(observation)")

    def evaluate(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log pi(action | observation) and the entropy of pi(. | observation) in nats, both [B], with gradient."""
        distribution = self.distribution(observation)
        return distribution.log_prob(action), distribution.entropy()

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """Log pi(action | observation), [B], with gradient."""
        return self.evaluate(observation, action)[0]

    @torch.no_grad()
    def sample(self, observation: Tensor) -> Tensor:
        """Actions drawn from the policy, [B, *action_shape], without gradient."""
        sample: Tensor = self.distribution(observation).sample()
        return sample


class BiasPolicy(Policy):
    """The lesson's network: one input, one fixed weight, one bias to learn.

        z = weight * hunger + bias,    P(Norm) = sigmoid(z),    P(Squatch) = 1 - P(Norm)

    One logit and a Bernoulli rather than two logits and a softmax: so the manual derivation gives autograd's
    gradient to the last bit.

    Args:
        weight: The fixed weight w, a buffer.
        bias: Where the bias b starts, a scalar parameter.

    Source: StatQuest, "Reinforcement Learning with Neural Networks: Mathematical Details" (2025).
    """

    weight: Tensor

    def __init__(self, weight: float = 20.0, bias: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(float(weight)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, observation: Tensor) -> Tensor:
        """Logit of Norm.

        Args:
            observation: Hunger in [0, 1], [..., 1].

        Returns:
            z, [...]; sigmoid(z) is P(Norm).

        Raises:
            ValueError: Where the last dimension is not 1.
        """
        if observation.ndim == 0 or observation.shape[-1] != 1:
            raise ValueError(f"observation must have shape [..., 1] (hunger), got {list(observation.shape)}")
        return self.weight * observation.squeeze(-1) + self.bias

    def distribution(self, observation: Tensor) -> Distribution:
        """Bernoulli over {0: Squatch, 1: Norm}, batch shape [...]."""
        return Bernoulli(logits=self(observation), validate_args=False)

    def evaluate(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log P(action | hunger) and entropy: what `distribution` would give, from one logit without building it.

        Args:
            observation: Hunger, [..., 1].
            action: 0 (Squatch) or 1 (Norm), [...].

        Returns:
            log P, at most 0 and finite at any logit, and the entropy in nats; both [...].

        Raises:
            ValueError: Where the shapes do not fit.
        """
        logit = self(observation)
        if action.shape != logit.shape:
            raise ValueError(f"action must have shape {list(logit.shape)} like the logits, got {list(action.shape)}")
        target = action.to(logit.dtype)
        log_prob = -functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
        entropy = functional.softplus(logit) - logit * torch.sigmoid(logit)
        return log_prob, entropy

    @torch.no_grad()
    def sample(self, observation: Tensor) -> Tensor:
        """Draw places as the lesson does: of the line from 0 to 1, the first P(Squatch) is Squatch, the rest Norm.

        Args:
            observation: Hunger, [..., 1].

        Returns:
            int64 [...], 0 or 1.
        """
        p_squatch = torch.sigmoid(-self(observation))
        return (torch.rand_like(p_squatch) >= p_squatch).long()
