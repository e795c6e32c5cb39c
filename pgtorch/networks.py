"""Networks: a policy and a value function of tanh layers, and policies by name."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.nn import functional

from pgtorch.distributions import ActionDistribution, head_of
from pgtorch.environment.build import import_named
from pgtorch.environment.spaces import SUPPORTED
from pgtorch.policies import BiasPolicy, Policy


class MLPPolicy(Policy):
    """A network of tanh layers whose last layer gives the parameters of the action distribution.

    | Action space | Last layer | Distribution |
    |---|---|---|
    | `Discrete(n)` | n logits | categorical |
    | `MultiDiscrete([n_1, ...])` | n_1 + ... logits | independent categoricals |
    | `MultiBinary(k)` | k logits | independent Bernoullis |
    | `Box`, k numbers | k means | diagonal normal; its log standard deviation is a separate parameter |

    Args:
        observation_space: Any space that Gymnasium can flatten to a fixed number D of values.
        action_space: One of the above.
        hidden_sizes: Units of each hidden layer. With none the policy is linear: a table for `Discrete` observations.

    Raises:
        TypeError: If a space is not supported.
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
        self.num_outputs = head_of(action_space).size(action_space)
        sizes = [spaces.flatdim(observation_space), *hidden_sizes, self.num_outputs]
        self.layers = make_layers(sizes, last_gain=0.01)
        self.log_std = nn.Parameter(torch.zeros(self.num_outputs)) if isinstance(action_space, spaces.Box) else None

    def forward(self, observation: Tensor) -> Tensor:
        """Parameters of the distribution, logits or means.

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
        return head_of(self.action_space).distribution(self.action_space, self(observation), self.log_std)

    def noise(self, num_steps: int, num_rows: int, generator: Generator) -> Tensor:
        """Noise for `sample`, [T, B, outputs of the last layer]."""
        return head_of(self.action_space).noise((num_steps, num_rows, self.num_outputs), generator)


class ValueFunction(nn.Module):
    """A network of tanh layers for the value of an observation: the expected discounted return from there on.

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


def make_layers(sizes: Sequence[int], last_gain: float) -> nn.ModuleList:
    """Linear layers from each size to the next: orthogonal weights, zero biases.

    With a small gain of the last layer, a policy starts near uniform and values near 0.
    """
    layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else math.sqrt(2))
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(layers)


def feed_forward(layers: nn.ModuleList, features: Tensor) -> Tensor:
    """Linear layers with tanh between them: [B, D] to [B, outputs]."""
    first, *rest = layers
    output: Tensor = first(features)
    for layer in rest:
        output = layer(torch.tanh(output))
    return output


def make_policy(
    name: str,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    hidden_sizes: Sequence[int] = (64, 64),
) -> Policy:
    """Make a policy by name.

    Args:
        name: "bias", "mlp", or "module:Class" for a subclass of `Policy` in an importable module. Such a class is given
            both spaces if its constructor has arguments without defaults.
        observation_space: Of one observation.
        action_space: Of one action.
        hidden_sizes: Of an "mlp".

    Raises:
        TypeError: If the policy does not fit the spaces, or is not a `Policy`; the message names them.
        ValueError: If the name is none of the above.
        ImportError, AttributeError: If there is no such module or class.
    """
    if name == "mlp":
        return MLPPolicy(observation_space, action_space, hidden_sizes)
    if name == "bias":
        if observation_space.shape == (1,) and action_space == spaces.Discrete(2):
            return BiasPolicy()
        raise TypeError(
            "policy 'bias' takes observations of shape [1] and Discrete(2) actions, but the environment has "
            f"{observation_space} and {action_space}"
        )
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"policy must be bias, mlp or module:Class, got {name!r}")
    made = getattr(import_named(module), attribute)
    if not (isinstance(made, type) and issubclass(made, Policy)):
        raise TypeError(f"policy must be a subclass of pgtorch.Policy, got {name}")
    arguments = inspect.signature(made).parameters.values()
    needs_spaces = any(a.default is a.empty and a.kind <= a.POSITIONAL_OR_KEYWORD for a in arguments)
    policy: Policy = made(observation_space, action_space) if needs_spaces else made()
    return policy


def require_fit(
    policy: Policy, num_envs: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> None:
    """Call a policy once, to find out whether it fits its environment before anything is written.

    Raises:
        TypeError: If a call fails, or what it returns does not fit.
    """
    observation = torch.zeros(num_envs, spaces.flatdim(observation_space))
    name = type(policy).__name__
    try:
        action = policy.sample(observation, Generator())
        distribution = policy.distribution(observation)
        log_prob, entropy = distribution.log_prob(action), distribution.entropy()
    except Exception as error:
        raise TypeError(f"{name} fails on observations {list(observation.shape)}: {error}") from error
    shapes = {"action": action.shape, "log_prob": log_prob.shape, "entropy": entropy.shape}
    wanted = (num_envs, *(action_space.shape or ()))
    if shapes != {"action": wanted, "log_prob": wanted[:1], "entropy": wanted[:1]}:
        found = ", ".join(f"{field} {list(shape)}" for field, shape in shapes.items())
        raise TypeError(
            f"{name} must return actions {list(wanted)} with log_prob and entropy {list(wanted[:1])} "
            f"for observations {list(observation.shape)}, got {found}"
        )
    if not log_prob.requires_grad:
        raise TypeError(f"{name} has nothing to learn: log_prob has no gradient")
