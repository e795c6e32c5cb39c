"""Policies: tensors in, an action distribution out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.nn import functional

from pgtorch.distributions import ActionDistribution, Categorical, DiagonalNormal, MultiBernoulli, MultiCategorical
from pgtorch.environment.spaces import SUPPORTED


class Policy(nn.Module):
    """What the trainer asks of a policy. A subclass needs `distribution`; the rest follows from it.

    B rows at a time. Observations come as rows of D floating numbers, [B, D]: flattened as Gymnasium does, a
    `Discrete` one as one-hot. Actions are [B, *action_shape] as the environment has them.
    """

    def distribution(self, observation: Tensor) -> ActionDistribution:
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
        return self.distribution(observation).sample()

    @torch.no_grad()
    def mode(self, observation: Tensor) -> Tensor:
        """The likeliest actions, [B, *action_shape], without gradient."""
        return self.distribution(observation).mode


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
        if observation.shape[-1:] != (1,):
            raise ValueError(f"observation must have shape [..., 1] (hunger), got {list(observation.shape)}")
        return self.weight * observation.squeeze(-1) + self.bias

    def distribution(self, observation: Tensor) -> ActionDistribution:
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
        # The binary cross-entropy of a guess is -log P(place); from the logit, it is finite where P rounds to 0.
        log_prob = -functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
        entropy = functional.binary_cross_entropy_with_logits(logit, torch.sigmoid(logit), reduction="none")
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

    @torch.no_grad()
    def mode(self, observation: Tensor) -> Tensor:
        """The likelier place, int64 [...]; Squatch where both are as likely."""
        logit: Tensor = self(observation)
        return (logit > 0).long()


class MLPPolicy(Policy):
    """A network of tanh layers whose last layer gives the parameters of the action distribution.

    | Action space | Last layer | Distribution |
    |---|---|---|
    | `Discrete(n)` | n logits | categorical |
    | `MultiDiscrete([n_1, ...])` | n_1 + ... logits | independent categoricals |
    | `MultiBinary(k)` | k logits | independent Bernoullis |
    | `Box`, k numbers | k means | diagonal normal; its log standard deviation is a parameter of its own |

    Args:
        observation_space: Any space that Gymnasium can flatten to a fixed number D of values.
        action_space: One of the above.
        hidden_sizes: Units of each hidden layer; none makes the policy linear, for `Discrete` observations a table.

    Raises:
        TypeError: Where a space is not supported.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        hidden_sizes: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        if not observation_space.is_np_flattenable:
            raise TypeError(f"observation space must be {SUPPORTED}, got {observation_space}")
        self.observation_space = observation_space
        self.action_space = action_space
        num_outputs = count_outputs(action_space)
        sizes = [spaces.flatdim(observation_space), *hidden_sizes, num_outputs]
        self.layers = make_layers(sizes, last_gain=0.01)
        if isinstance(action_space, spaces.Box):
            self.log_std = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, observation: Tensor) -> Tensor:
        """Parameters of the distribution: logits or means.

        Args:
            observation: [B, *observation_shape], or flattened as Gymnasium does, [B, D].

        Returns:
            [B, outputs of the last layer].
        """
        return feed_forward(self.layers, self.features(observation))

    def features(self, observation: Tensor) -> Tensor:
        """Observations as rows of numbers, [B, D]; a `Discrete` one, [B], becomes one-hot."""
        if isinstance(self.observation_space, spaces.Discrete) and not observation.is_floating_point():
            index = observation - int(self.observation_space.start)
            observation = functional.one_hot(index, int(self.observation_space.n))
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        return observation.flatten(1).to(first.weight.dtype)

    def distribution(self, observation: Tensor) -> ActionDistribution:
        """The distribution of the actions."""
        parameters, space = self(observation), self.action_space
        if isinstance(space, spaces.Discrete):
            return Categorical(parameters, int(space.start))
        if isinstance(space, spaces.MultiDiscrete):
            return MultiCategorical(parameters, space.nvec.tolist(), space.start.tolist())
        if isinstance(space, spaces.MultiBinary):
            return MultiBernoulli(parameters)
        return DiagonalNormal(parameters, self.log_std)


def count_outputs(action_space: spaces.Space[Any]) -> int:
    """How many numbers describe the distribution of an action."""
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        return int(action_space.nvec.sum())
    if isinstance(action_space, spaces.MultiBinary) and len(action_space.shape) == 1:
        return int(action_space.shape[0])
    if isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        return int(action_space.shape[0])
    raise TypeError(
        f"action space must be Discrete, or MultiDiscrete, MultiBinary or Box in one dimension, got {action_space}"
    )


def make_layers(sizes: Sequence[int], last_gain: float) -> nn.ModuleList:
    """Linear layers from each size to the next: orthogonal weights, zero biases.

    A small gain of the last layer starts a policy near uniform, and values near 0.
    """
    layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else math.sqrt(2))
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(layers)


def feed_forward(layers: nn.ModuleList, features: Tensor) -> Tensor:
    """Linear layers with a tanh between each two: [B, D] to [B, outputs]."""
    first, *rest = layers
    output: Tensor = first(features)
    for layer in rest:
        output = layer(torch.tanh(output))
    return output


class ValueFunction(nn.Module):
    """A network of tanh layers for the value of an observation: the discounted return that is expected from it on.

    Args:
        observation_space: As for `MLPPolicy`.
        hidden_sizes: Units of each hidden layer.
    """

    def __init__(self, observation_space: spaces.Space[Any], hidden_sizes: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.layers = make_layers([spaces.flatdim(observation_space), *hidden_sizes, 1], last_gain=1.0)

    def forward(self, observation: Tensor) -> Tensor:
        """Values [B] of flattened observations [B, D]."""
        return feed_forward(self.layers, observation).squeeze(-1)
