"""Gradient descent by PyTorch's own functional steps.

Why not `torch.optim.SGD(...)`: constructing any `torch.optim.Optimizer` imports `torch._dynamo` (800 modules), which
takes as long as the whole lesson. The arithmetic is the same, function for function, and the tests hold the result to
be bit-equal to `torch.optim`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Optimizer(Protocol):
    """What the trainer asks of an optimizer."""

    parameters: list[nn.Parameter]
    learning_rate: float

    def step(self, share: float = 1.0) -> None:
        """Move each parameter along its gradient, at this share of the learning rate."""

    def state_dict(self) -> dict[str, Tensor]:
        """What it remembers from step to step, by name; the tensors themselves."""


class SGD:
    """theta <- theta - learning_rate * gradient.

    Args:
        parameters: What to move; those without a gradient stay.
        learning_rate: Step size, above 0.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate

    @torch.no_grad()
    def step(self, share: float = 1.0) -> None:
        """Move each parameter along its gradient, at this share of the learning rate."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-self.learning_rate * share)

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: plain gradient descent has no memory."""
        return {}


class Adam:
    """Adam with PyTorch's default settings, in one fused call.

    Args:
        parameters: What to move; those without a gradient stay.
        learning_rate: Step size, above 0.

    Source: Kingma and Ba (2015), algorithm 1.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.mean = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.mean_square = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = [torch.zeros(()) for _ in self.parameters]

    @torch.no_grad()
    def step(self, share: float = 1.0) -> None:
        """Move each parameter along its gradient, at this share of the learning rate."""
        state = zip(self.parameters, self.mean, self.mean_square, self.steps, strict=True)
        moved = [(parameter, parameter.grad, *rest) for parameter, *rest in state if parameter.grad is not None]
        if not moved:
            return
        parameters, gradients, means, mean_squares, steps = (list(column) for column in zip(*moved, strict=True))
        adam(
            parameters,
            gradients,
            means,
            mean_squares,
            [],
            steps,
            foreach=False,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate * share,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Running means of gradients and their squares, and the number of steps, for each parameter."""
        slots = {"mean": self.mean, "mean_square": self.mean_square, "steps": self.steps}
        return {f"{name}.{i}": tensor for name, tensors in slots.items() for i, tensor in enumerate(tensors)}


OPTIMIZERS: dict[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam}
