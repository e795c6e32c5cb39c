"""Networks: policies and value functions, fully connected, with convolutions if they see images; policies by name."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Generator, Tensor, nn
from torch.nn import functional

from pgtorch.config import TrainConfig
from pgtorch.device import device_of
from pgtorch.distributions import ActionDistribution, head_of
from pgtorch.environment.build import import_named
from pgtorch.environment.spaces import SUPPORTED
from pgtorch.images import Convolutions, image_shape
from pgtorch.policies import BiasPolicy, Policy

# Between two layers. Each has its derivative in `manual_gradient.py`.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": functional.elu,
}


class MLPPolicy(Policy):
    """A network whose last layer gives the parameters of the action distribution.

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
        activation: Of the hidden layers: "tanh", "relu" or "elu".

    Raises:
        TypeError: If a space is not supported.
        ValueError: If the activation is none of these.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        if not observation_space.is_np_flattenable:
            raise TypeError(f"observation space must be {SUPPORTED}, got {observation_space}")
        self.observation_space = observation_space
        self.action_space = action_space
        self.num_outputs = head_of(action_space).size(action_space)
        sizes = [spaces.flatdim(observation_space), *hidden_sizes, self.num_outputs]
        self.layers = make_layers(sizes, last_gain=0.01)
        self.activation = require_activation(activation)
        self.log_std = nn.Parameter(torch.zeros(self.num_outputs)) if isinstance(action_space, spaces.Box) else None

    def forward(self, observation: Tensor) -> Tensor:
        """Parameters of the distribution, logits or means.

        Args:
            observation: [B, *observation_shape], or flattened as Gymnasium does, [B, D].

        Returns:
            [B, outputs of the last layer].
        """
        return feed_forward(self.layers, self.features(observation), self.activation)

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


class CNNPolicy(Policy):
    """A policy for images: convolutions, then an `MLPPolicy` on their features.

    Args:
        observation_space: A space of images: see `pgtorch.images`.
        action_space: As for `MLPPolicy`.
        hidden_sizes: Units of each layer between the convolutions and the output.
        activation: Of these layers.
        pixel_scale: What pixels are multiplied by.

    Raises:
        TypeError: If a space is not supported.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        hidden_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        pixel_scale: float = 1 / 255,
    ) -> None:
        super().__init__()
        self.convolutions = Convolutions(observation_space, pixel_scale)
        self.head = MLPPolicy(self.convolutions.output_space, action_space, hidden_sizes, activation)

    def forward(self, observation: Tensor) -> Tensor:
        """Parameters of the distribution, [B, outputs of the last layer], for images [B, *shape] or rows [B, D]."""
        parameters: Tensor = self.head(self.convolutions(observation))
        return parameters

    def distribution(self, observation: Tensor) -> ActionDistribution:
        """The distribution of the actions."""
        return self.head.distribution(self.convolutions(observation))

    def noise(self, num_steps: int, num_rows: int, generator: Generator) -> Tensor:
        """Noise for `sample`, [T, B, outputs of the last layer]."""
        return self.head.noise(num_steps, num_rows, generator)


class ValueFunction(nn.Module):
    """A network for the value of an observation: the expected discounted return from there on.

    Args:
        observation_space: As for `MLPPolicy`.
        hidden_sizes: Units of each hidden layer.
        activation: As for `MLPPolicy`.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], hidden_sizes: Sequence[int] = (64, 64), activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.layers = make_layers([spaces.flatdim(observation_space), *hidden_sizes, 1], last_gain=1.0)
        self.activation = require_activation(activation)

    def forward(self, observation: Tensor) -> Tensor:
        """Values [B] of flattened observations [B, D]."""
        return feed_forward(self.layers, observation, self.activation).squeeze(-1)


class CNNValueFunction(nn.Module):
    """A value function for images: convolutions of its own, then a `ValueFunction` on their features.

    Args:
        observation_space: As for `CNNPolicy`.
        hidden_sizes: Units of each layer between the convolutions and the value.
        activation: Of these layers.
        pixel_scale: What pixels are multiplied by.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], hidden_sizes: Sequence[int], activation: str, pixel_scale: float
    ) -> None:
        super().__init__()
        self.convolutions = Convolutions(observation_space, pixel_scale)
        self.head = ValueFunction(self.convolutions.output_space, hidden_sizes, activation)

    def forward(self, observation: Tensor) -> Tensor:
        """Values [B] of flattened observations [B, D]."""
        value: Tensor = self.head(self.convolutions(observation))
        return value


class OwnValueFunction(nn.Module):
    """The `value` method of a policy as a value function without parameters of its own: they are the policy's.

    Args:
        policy: A policy with a method value(observation), from [B, D] to [B].
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._policy = (policy,)  # in a tuple, so that it is not a part of this module

    def forward(self, observation: Tensor) -> Tensor:
        """Values [B] of flattened observations [B, D]."""
        value: Tensor = self._policy[0].value(observation)  # type: ignore[operator]
        return value


def make_layers(sizes: Sequence[int], last_gain: float) -> nn.ModuleList:
    """Linear layers from each size to the next: orthogonal weights, zero biases.

    With a small gain of the last layer, a policy starts near uniform and values near 0.
    """
    layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else math.sqrt(2))
        nn.init.zeros_(layer.bias)
    return nn.ModuleList(layers)


def feed_forward(layers: nn.ModuleList, features: Tensor, activation: str = "tanh") -> Tensor:
    """Linear layers with an activation between them: [B, D] to [B, outputs]."""
    activate = ACTIVATIONS[activation]
    for i, layer in enumerate(layers):
        assert isinstance(layer, nn.Linear)
        features = functional.linear(activate(features) if i else features, layer.weight, layer.bias)
    return features


def require_activation(name: str) -> str:
    """The name, if it is one of `ACTIVATIONS`; raises `ValueError` if not."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return name


def make_policy(
    name: str,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str = "tanh",
    *,
    weight: float = 20.0,
    start_bias: float = 0.0,
    kwargs: Mapping[str, Any] | None = None,
    normalized: bool = False,
) -> Policy:
    """Make a policy by name.

    Args:
        name: "bias", "mlp", "cnn", "auto" ("cnn" if the observations are images, else "mlp"), or "module:Class" for a
            subclass of `Policy` in an importable module. Such a class is given both spaces if its constructor has
            arguments without defaults that `kwargs` does not name.
        observation_space: Of one observation.
        action_space: Of one action.
        hidden_sizes: Of an "mlp" or a "cnn".
        activation: Of these layers.
        weight: Of "bias", fixed.
        start_bias: Of "bias", where it starts.
        kwargs: Keyword arguments of such a class.
        normalized: Whether observations are normalized; otherwise a "cnn" scales pixels to [0, 1].

    Raises:
        TypeError: If the policy does not fit the spaces, or is not a `Policy`; the message names them.
        ValueError: If the name or the activation is none of the above.
        ImportError, AttributeError: If there is no such module or class.
    """
    if name == "auto":
        name = "mlp" if image_shape(observation_space) is None else "cnn"
    if name == "mlp":
        return MLPPolicy(observation_space, action_space, hidden_sizes, activation)
    if name == "cnn":
        scale = _pixel_scale(observation_space, normalized)
        return CNNPolicy(observation_space, action_space, hidden_sizes, activation, scale)
    if name == "bias":
        if observation_space.shape == (1,) and action_space == spaces.Discrete(2):
            return BiasPolicy(weight, start_bias)
        raise TypeError(
            "policy 'bias' takes observations of shape [1] and Discrete(2) actions, but the environment has "
            f"{observation_space} and {action_space}"
        )
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"policy must be bias, mlp, cnn, auto or module:Class, got {name!r}")
    made = getattr(import_named(module), attribute)
    if not (isinstance(made, type) and issubclass(made, Policy)):
        raise TypeError(f"policy must be a subclass of pgtorch.Policy, got {name}")
    settings = dict(kwargs or {})
    arguments = [a for a in inspect.signature(made).parameters.values() if a.name not in settings]
    needs_spaces = any(a.default is a.empty and a.kind <= a.POSITIONAL_OR_KEYWORD for a in arguments)
    policy: Policy = made(observation_space, action_space, **settings) if needs_spaces else made(**settings)
    return policy


def policy_of(config: TrainConfig, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Policy:
    """The policy that the settings name; raises what `make_policy` raises."""
    return make_policy(
        config.policy,
        observation_space,
        action_space,
        config.hidden_sizes,
        config.activation,
        weight=config.weight,
        start_bias=config.start_bias,
        kwargs=config.policy_kwargs,
        normalized=config.normalize_observations,
    )


def value_function_of(
    config: TrainConfig, policy: Policy, observation_space: spaces.Space[Any]
) -> ValueFunction | CNNValueFunction | OwnValueFunction | None:
    """The value function that goes with a policy, on its device: its own, if it has one; None if none is needed."""
    if not (config.multiplier == "gae" or config.baseline == "value"):
        return None
    if callable(getattr(policy, "value", None)):
        return OwnValueFunction(policy)
    device = device_of(policy)
    if image_shape(observation_space) is None or isinstance(policy, MLPPolicy):
        return ValueFunction(observation_space, config.hidden_sizes, config.activation).to(device)
    scale = _pixel_scale(observation_space, config.normalize_observations)
    return CNNValueFunction(observation_space, config.hidden_sizes, config.activation, scale).to(device)


def _pixel_scale(observation_space: spaces.Space[Any], normalized: bool) -> float:
    if normalized or not isinstance(observation_space, spaces.Box):
        return 1.0
    return 1.0 / max(float(observation_space.high.max()), 1.0)


def require_fit(
    policy: Policy,
    num_envs: int,
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    value_function: nn.Module | None = None,
) -> None:
    """Call a policy and its value function once, to find out whether they fit before anything is written.

    Raises:
        TypeError: If a call fails, or what it returns does not fit.
    """
    observation = torch.zeros(num_envs, spaces.flatdim(observation_space), device=device_of(policy))
    name = type(policy).__name__
    try:
        action = policy.sample(observation, Generator())
        distribution = policy.distribution(observation)
        log_prob, entropy = distribution.log_prob(action), distribution.entropy()
        value = log_prob if value_function is None else value_function(observation)
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
    if value.shape != wanted[:1]:
        raise TypeError(f"{name}.value must return shape {list(wanted[:1])}, got {list(value.shape)}")
