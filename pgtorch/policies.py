"""Policies: observations in, an action distribution out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from pgtorch.distributions import ActionDistribution, Bernoulli, as_global_stream, uniform


class Policy(nn.Module):
    """The policy interface of the trainer. A subclass defines `distribution`; the rest follows from it.

    Observations are B rows of D floating-point numbers, [B, D], flattened as Gymnasium does, `Discrete` ones as
    one-hot. Actions are [B, *action_shape], in the environment's format.

    If a subclass defines `value(observation)`, from [B, D] to [B], that is the value function; its parameters are the
    policy's, learned by the policy's optimizer.
    """

    def distribution(self, observation: Tensor) -> ActionDistribution:
        """The distribution of the actions, batch shape [B], differentiable in the parameters."""
        raise NotImplementedError(f"{type(self).__name__} must define distribution(observation)")

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """Log pi(action | observation), [B], with gradient."""
        return self.distribution(observation).log_prob(action)

    def noise(self, num_steps: int, num_rows: int, generator: Generator) -> Tensor | Sequence[Generator]:
        """The random numbers for a whole rollout: per step, what `sample` takes for B = num_rows observations.

        By default the generator itself at each step, which suits any distribution. A subclass that knows what its
        distribution needs can draw it all at once.
        """
        return [generator] * num_steps

    @torch.no_grad()
    def sample(self, observation: Tensor, noise: Tensor | Generator) -> Tensor:
        """Actions drawn from the policy, [B, *action_shape], without gradient.

        Args:
            observation: [B, D].
            noise: The random numbers, one item of `noise(...)`; or a generator to draw them from.
        """
        if isinstance(noise, Generator):
            (noise,) = self.noise(1, len(observation), noise)
            noise = noise.to(observation.device) if isinstance(noise, Tensor) else noise
        if isinstance(noise, Tensor):
            return self.distribution(observation).sample(noise)
        with as_global_stream(noise, observation.device):  # torch's own distributions take no generator
            return self.distribution(observation).sample()

    @torch.no_grad()
    def mode(self, observation: Tensor) -> Tensor:
        """The likeliest actions, [B, *action_shape], without gradient."""
        return self.distribution(observation).mode

    def figures(self) -> dict[str, float]:
        """What the policy logs about itself after each update, by tag."""
        return {}


class BiasPolicy(Policy):
    """The lesson's network: one input, one fixed weight, one bias to learn.

        z = weight * hunger + bias,    P(Norm) = sigmoid(z),    P(Squatch) = 1 - P(Norm)

    One logit and a Bernoulli rather than two logits and a softmax, so that the derivation by hand gives autograd's
    gradient to the last bit. Reordering the operations here, in `losses.py` or in `manual_gradient.py` breaks that.

    Args:
        weight: The fixed weight w, a buffer.
        bias: The initial bias b, a scalar parameter.

    Source: StatQuest, "Reinforcement Learning with Neural Networks: Mathematical Details" (2025).
    """

    weight: Tensor

    def __init__(self, weight: float = 20.0, bias: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(float(weight)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, observation: Tensor) -> Tensor:
        """The logit z of Norm, [B], for hunger in [0, 1], [B, 1].

        Raises:
            ValueError: If the last dimension is not 1.
        """
        if observation.shape[-1:] != (1,):
            raise ValueError(f"observation must have shape [..., 1] (hunger), got {list(observation.shape)}")
        return self.weight * observation.squeeze(-1) + self.bias

    def distribution(self, observation: Tensor) -> Bernoulli:
        """0 is Squatch, 1 is Norm."""
        return Bernoulli(self(observation))

    def noise(self, num_steps: int, num_rows: int, generator: Generator) -> Tensor:
        """The lesson's draws u in [0, 1), [T, B]: below P(Squatch) is Squatch, the rest is Norm."""
        return uniform((num_steps, num_rows), generator)

    def figures(self) -> dict[str, float]:
        """The bias, and P(Norm) when not hungry, halfway and very hungry."""
        p_norm = torch.sigmoid(self(HUNGERS.to(self.bias.device))).cpu().tolist()
        tags = ("policy/p_norm/hunger_0.0", "policy/p_norm/hunger_0.5", "policy/p_norm/hunger_1.0")
        return {"policy/bias": self.bias.item(), **dict(zip(tags, p_norm, strict=True))}


HUNGERS = torch.tensor([[0.0], [0.5], [1.0]])
