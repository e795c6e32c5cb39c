"""Action distributions, one for each kind of action space: log-probability, entropy and samples of B rows at once.

They do what `torch.distributions` does, in a third of the time: no argument checks, no broadcasting, and a sample by
the Gumbel trick. The tests hold them equal to `torch.distributions`. Actions are taken and given as the environment
has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class ActionDistribution(Protocol):
    """What a policy's `distribution` gives; any `torch.distributions.Distribution` of batch shape [B] has it too."""

    def log_prob(self, action: Tensor, /) -> Tensor:
        """Log-probability (or log-density) [B] of actions [B, *action_shape]."""

    def entropy(self) -> Tensor:
        """Entropy in nats, [B]."""

    def sample(self) -> Tensor:
        """One action a row, [B, *action_shape]."""

    @property
    def mode(self) -> Tensor:
        """The likeliest action of each row, [B, *action_shape]."""


class Categorical:
    """One of n choices: `Discrete`.

    Args:
        logits: [B, n], log-probabilities up to a constant of each row.
        start: The number of the first choice.
    """

    def __init__(self, logits: Tensor, start: int = 0) -> None:
        self.logits = logits
        self.start = start

    @cached_property
    def log_probs(self) -> Tensor:
        """Log-probability of each choice, [B, n]."""
        return functional.log_softmax(self.logits, dim=-1)

    @property
    def probs(self) -> Tensor:
        """Probability of each choice, [B, n]."""
        return self.log_probs.exp()

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability [B] of integer actions [B]."""
        if action.shape != self.logits.shape[:-1]:
            raise ValueError(f"action must have shape {list(self.logits.shape[:-1])}, got {list(action.shape)}")
        return self.log_probs.gather(-1, (action - self.start).unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """-sum p log p, [B]; a choice of probability 0 adds nothing."""
        return -(self.probs * self.log_probs.clamp(min=torch.finfo(self.logits.dtype).min)).sum(-1)

    def sample(self) -> Tensor:
        """Integer actions, [B]: the arg max of log p minus the log of an exponential draw (the Gumbel trick)."""
        exponential = torch.empty_like(self.logits).exponential_()
        return (self.logits - exponential.log_()).argmax(-1) + self.start

    @property
    def mode(self) -> Tensor:
        """The likeliest actions, [B]."""
        return self.logits.argmax(-1) + self.start


class MultiCategorical:
    """Several independent choices: `MultiDiscrete`.

    Args:
        logits: [B, n_1 + ... + n_k].
        sizes: n_1, ..., n_k.
        starts: The number of the first choice of each.
    """

    def __init__(self, logits: Tensor, sizes: Sequence[int], starts: Sequence[int]) -> None:
        groups = zip(torch.split(logits, list(sizes), dim=-1), starts, strict=True)
        self.choices = [Categorical(group, start) for group, start in groups]

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability [B] of integer actions [B, k]."""
        if action.shape[-1] != len(self.choices):
            raise ValueError(f"action must have shape [..., {len(self.choices)}], got {list(action.shape)}")
        parts = [choice.log_prob(part) for choice, part in zip(self.choices, action.unbind(-1), strict=True)]
        return torch.stack(parts).sum(0)

    def entropy(self) -> Tensor:
        """The sum of the choices' entropies, [B]."""
        return torch.stack([choice.entropy() for choice in self.choices]).sum(0)

    def sample(self) -> Tensor:
        """Integer actions, [B, k]."""
        return torch.stack([choice.sample() for choice in self.choices], dim=-1)

    @property
    def mode(self) -> Tensor:
        """The likeliest actions, [B, k]."""
        return torch.stack([choice.mode for choice in self.choices], dim=-1)


class MultiBernoulli:
    """k independent yes-or-no choices: `MultiBinary`.

    Args:
        logits: [B, k], of "yes" (1).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability [B] of actions [B, k] of 0 and 1."""
        target = action.to(self.logits.dtype)
        return -functional.binary_cross_entropy_with_logits(self.logits, target, reduction="none").sum(-1)

    def entropy(self) -> Tensor:
        """The sum of the choices' entropies, [B]."""
        return (functional.softplus(self.logits) - self.logits * torch.sigmoid(self.logits)).sum(-1)

    def sample(self) -> Tensor:
        """Actions, int8 [B, k]."""
        return (torch.rand_like(self.logits) < torch.sigmoid(self.logits)).to(torch.int8)

    @property
    def mode(self) -> Tensor:
        """The likeliest actions, int8 [B, k]."""
        return (self.logits > 0).to(torch.int8)


class DiagonalNormal:
    """k real numbers, each normal and independent of the others: `Box`.

    Args:
        mean: [B, k].
        log_std: Log standard deviation, [k].
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density [B] of actions [B, k]."""
        if action.shape != self.mean.shape:
            raise ValueError(f"action must have shape {list(self.mean.shape)}, got {list(action.shape)}")
        standard = (action - self.mean) / self.log_std.exp()
        return (-0.5 * standard.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """[B], the same for every mean."""
        one = self.log_std.sum() + 0.5 * self.log_std.numel() * math.log(2 * math.pi * math.e)
        return one.expand(self.mean.shape[:-1])

    def sample(self) -> Tensor:
        """Actions, [B, k]."""
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean)

    @property
    def mode(self) -> Tensor:
        """The likeliest actions, [B, k]."""
        return self.mean
