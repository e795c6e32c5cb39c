"""Action distributions, one for each kind of action space: log-probability, entropy and samples of B rows at once.

They do what `torch.distributions` does, in a third of the time: no argument checks, no broadcasting. Their random
numbers are an argument: `sample` draws nothing, it turns noise into actions. Actions have the environment's format.

`HEADS` is the one table of action spaces. A new space needs a distribution here, a derivation by hand in
`manual_gradient.py`, and a conversion for the environment in `environment/spaces.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Generator, Tensor
from torch.nn import functional


class ActionDistribution(Protocol):
    """What a policy's `distribution` returns; any `torch.distributions.Distribution` of batch shape [B] fits too."""

    def log_prob(self, action: Tensor, /) -> Tensor:
        """Log-probability (or log-density) [B] of actions [B, *action_shape]."""

    def entropy(self) -> Tensor:
        """Entropy in nats, [B]."""

    @property
    def sample(self) -> Callable[..., Tensor]:
        """A function that returns an action for each row, [B, *action_shape]; in this module it takes noise."""

    @property
    def mode(self) -> Tensor:
        """The likeliest action of each row, [B, *action_shape]."""


class Bernoulli:
    """0 or 1: the lesson's two places.

    Args:
        logit: z of 1, any shape; P(1) = sigmoid(z).
    """

    def __init__(self, logit: Tensor) -> None:
        self.logit = logit

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of actions 0 or 1, of the logit's shape: at most 0, and finite at any logit.

        Raises:
            ValueError: If the shapes differ.
        """
        if action.shape != self.logit.shape:
            raise ValueError(f"action must have shape {list(self.logit.shape)}, got {list(action.shape)}")
        # The binary cross-entropy of a guess is -log P(action). From the logit it is finite even where P rounds to 0,
        # and autograd's derivative is P - action, the same bits as the derivation by hand.
        return -torch.binary_cross_entropy_with_logits(self.logit, action.to(self.logit.dtype))

    def entropy(self) -> Tensor:
        """-sum p log p, of the logit's shape."""
        return torch.binary_cross_entropy_with_logits(self.logit, torch.sigmoid(self.logit))

    def sample(self, noise: Tensor) -> Tensor:
        """Actions, int64: 0 if the draw is below P(0), else 1.

        Args:
            noise: Uniform draws in [0, 1), of the logit's shape.
        """
        return (noise >= torch.sigmoid(-self.logit)).long()

    @property
    def mode(self) -> Tensor:
        """The likelier action, int64; 0 if both are equally likely."""
        return (self.logit > 0).long()


class MultiBernoulli:
    """k independent yes-or-no choices: `MultiBinary`.

    Args:
        logits: [B, k], of "yes" (1).
    """

    def __init__(self, logits: Tensor) -> None:
        self.choices = Bernoulli(logits)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability [B] of actions [B, k] of 0 and 1."""
        return self.choices.log_prob(action).sum(-1)

    def entropy(self) -> Tensor:
        """The sum of the choices' entropies, [B]."""
        return self.choices.entropy().sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Actions, int8 [B, k], from uniform noise in [0, 1), [B, k]."""
        return self.choices.sample(noise).to(torch.int8)

    @property
    def mode(self) -> Tensor:
        """The likeliest actions, int8 [B, k]."""
        return self.choices.mode.to(torch.int8)


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
        """Log-probability [B] of integer actions [B].

        Raises:
            ValueError: If the shapes do not fit.
        """
        if action.shape != self.logits.shape[:-1]:
            raise ValueError(f"action must have shape {list(self.logits.shape[:-1])}, got {list(action.shape)}")
        return self.log_probs.gather(-1, (action - self.start).unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """-sum p log p, [B]; a choice of probability 0 adds nothing."""
        return -(self.probs * self.log_probs.clamp(min=torch.finfo(self.logits.dtype).min)).sum(-1)

    def sample(self, noise: Tensor) -> Tensor:
        """Integer actions, [B]: the arg max of log p plus Gumbel noise, [B, n]."""
        return (self.logits + noise).argmax(-1) + self.start

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
        self.sizes = list(sizes)
        groups = zip(torch.split(logits, self.sizes, dim=-1), starts, strict=True)
        self.choices = [Categorical(group, start) for group, start in groups]

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability [B] of integer actions [B, k].

        Raises:
            ValueError: If the shapes do not fit.
        """
        if action.shape[-1] != len(self.choices):
            raise ValueError(f"action must have shape [..., {len(self.choices)}], got {list(action.shape)}")
        parts = [choice.log_prob(part) for choice, part in zip(self.choices, action.unbind(-1), strict=True)]
        return torch.stack(parts).sum(0)

    def entropy(self) -> Tensor:
        """The sum of the choices' entropies, [B]."""
        return torch.stack([choice.entropy() for choice in self.choices]).sum(0)

    def sample(self, noise: Tensor) -> Tensor:
        """Integer actions, [B, k], from Gumbel noise, [B, n_1 + ... + n_k]."""
        parts = zip(self.choices, torch.split(noise, self.sizes, dim=-1), strict=True)
        return torch.stack([choice.sample(part) for choice, part in parts], dim=-1)

    @property
    def mode(self) -> Tensor:
        """The likeliest actions, [B, k]."""
        return torch.stack([choice.mode for choice in self.choices], dim=-1)


class DiagonalNormal:
    """k independent normal numbers: `Box`.

    Args:
        mean: [B, k].
        log_std: Log standard deviation, [k].
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density [B] of actions [B, k].

        Raises:
            ValueError: If the shapes differ.
        """
        if action.shape != self.mean.shape:
            raise ValueError(f"action must have shape {list(self.mean.shape)}, got {list(action.shape)}")
        standard = (action - self.mean) / self.log_std.exp()
        return (-0.5 * standard.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, [B]; it does not depend on the mean."""
        one = self.log_std.sum() + 0.5 * self.log_std.numel() * math.log(2 * math.pi * math.e)
        return one.expand(self.mean.shape[:-1])

    def sample(self, noise: Tensor) -> Tensor:
        """Actions, [B, k], from standard normal noise, [B, k]."""
        return self.mean + self.log_std.exp() * noise

    @property
    def mode(self) -> Tensor:
        """The likeliest actions, [B, k]."""
        return self.mean


# Noise: what `sample` turns into actions


def uniform(shape: Sequence[int], generator: Generator) -> Tensor:
    """Float32 in [0, 1), for the Bernoullis."""
    return torch.rand(*shape, generator=generator)  # faster than with a tuple


def gumbel(shape: Sequence[int], generator: Generator) -> Tensor:
    """Minus the log of exponential numbers, float32, for the categoricals.

    Source: the Gumbel-max trick; Maddison, Tarlow and Minka (2014), "A* sampling", section 2.
    """
    return torch.empty(*shape).exponential_(generator=generator).log_().neg_()


def normal(shape: Sequence[int], generator: Generator) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.randn(*shape, generator=generator)


@contextmanager
def as_global_stream(generator: Generator, device: torch.device | None = None) -> Iterator[None]:
    """Make everything that draws from torch's global stream draw from `generator`; the global stream is unchanged.

    For code that takes no generator: `torch.distributions`, dropout, the initial weights of a module.

    Args:
        generator: On the CPU.
        device: Where it is drawn; None is the CPU. The global stream of another device gets a seed from `generator`.
    """
    if device is not None and device.type != "cpu":
        streams: Any = torch.get_device_module(device)
        outside = streams.get_rng_state()
        streams.manual_seed(int(torch.randint(2**63 - 1, (), generator=generator)))
        try:
            yield
        finally:
            streams.set_rng_state(outside)
        return
    if generator is torch.default_generator:  # the global stream itself
        yield
        return
    outside = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(outside)


class Head(NamedTuple):
    """How the last layer of a network describes the actions of one kind of space."""

    size: Callable[[Any], int]  # number of outputs of the layer
    distribution: Callable[[Any, Tensor, Any], ActionDistribution]  # of the space, those outputs, and log std or None
    noise: Callable[[Sequence[int], Generator], Tensor]  # for `sample`, of the shape of those outputs


HEADS: dict[type[spaces.Space[Any]], Head] = {
    spaces.Discrete: Head(
        lambda space: int(space.n), lambda space, logits, _: Categorical(logits, int(space.start)), gumbel
    ),
    spaces.MultiDiscrete: Head(
        lambda space: int(space.nvec.sum()),
        lambda space, logits, _: MultiCategorical(logits, space.nvec.tolist(), space.start.tolist()),
        gumbel,
    ),
    spaces.MultiBinary: Head(lambda space: int(space.shape[0]), lambda _, logits, __: MultiBernoulli(logits), uniform),
    spaces.Box: Head(lambda space: int(space.shape[0]), lambda _, mean, log_std: DiagonalNormal(mean, log_std), normal),
}


def head_of(action_space: spaces.Space[Any]) -> Head:
    """The row of `HEADS` for an action space.

    Raises:
        TypeError: If the space has no row, or is not one-dimensional.
    """
    for kind, head in HEADS.items():
        if isinstance(action_space, kind) and len(action_space.shape or ()) == (kind is not spaces.Discrete):
            return head
    raise TypeError(
        f"action space must be Discrete, or MultiDiscrete, MultiBinary or Box in one dimension, got {action_space}"
    )
