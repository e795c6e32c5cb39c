"""Gradient descent with PyTorch's own functional steps.

Why not `torch.optim.SGD(...)`: constructing any `torch.optim.Optimizer` imports `torch._dynamo` (800 modules), which
takes as long as the whole lesson. The arithmetic is the same: the tests check that the results equal those of
`torch.optim` bit for bit. Any other PyTorch optimizer is used as it is, at that price.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pgtorch.environment.build import import_named
from pgtorch.environment.checks import NonFiniteError


class Optimizer:
    """The optimizer interface of the trainer. A subclass defines `step`, and `state_dict` if it has state.

    Args:
        parameters: What to update; those without a gradient are skipped.
        learning_rate: Step size, above 0.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def gradient_norm(self) -> float | Tensor:
        """Euclidean norm of all gradients together; not finite if one of them is not.

        On another device than the CPU it is a tensor there: nothing waits for its value.
        """
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if gradients and gradients[0].device.type != "cpu":
            norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            return norm
        return math.hypot(*(torch.linalg.vector_norm(gradient).item() for gradient in gradients))

    def clip(self, norm: float | Tensor, *, max_norm: float) -> None:
        """Scale gradients of this norm, from `gradient_norm`, down to `max_norm`; shorter ones are unchanged."""
        if isinstance(norm, Tensor):
            factor: float | Tensor = (max_norm / norm).clamp(max=1.0)
        elif norm > max_norm:
            factor = max_norm / norm
        else:
            return
        torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], factor)

    def step(self, factor: float = 1.0) -> None:
        """Update each parameter by its gradient, at the learning rate times this factor."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """Its state, by name: the tensors themselves, not copies."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])

    def expected_state(self, found: Collection[str]) -> dict[str, Tensor]:
        """What a loaded state with these names must look like: names, shapes and dtypes."""
        return self.state_dict()


class SGD(Optimizer):
    """theta <- theta - learning_rate * gradient."""

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """Update each parameter by its gradient, at the learning rate times this factor."""
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-self.learning_rate * factor)


class Adam(Optimizer):
    """Adam with PyTorch's default settings, in one fused call.

    Args:
        parameters: What to update; those without a gradient are skipped.
        learning_rate: Step size, above 0.

    Source: Kingma and Ba (2015), algorithm 1.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        super().__init__(parameters, learning_rate)
        self.mean = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.mean_square = [torch.zeros_like(parameter) for parameter in self.parameters]
        device = self.parameters[0].device if self.parameters else None
        self._steps = torch.zeros(len(self.parameters), device=device)  # as one tensor, so that one addition counts all
        self.steps = list(self._steps.unbind())

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """Update each parameter by its gradient, at the learning rate times this factor."""
        columns: list[list[Any]] = [self.parameters, self.mean, self.mean_square, self.steps]
        moved = [parameter.grad is not None for parameter in self.parameters]
        if all(moved):
            self._steps += 1.0
        elif any(moved):
            columns = [list(itertools.compress(column, moved)) for column in columns]
            torch._foreach_add_(columns[-1], 1.0)
        else:
            return
        parameters, means, mean_squares, steps = columns
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._fused_adam_(
            parameters,
            gradients,
            means,
            mean_squares,
            [],
            steps,
            lr=self.learning_rate * factor,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Running means of gradients and their squares, and the number of steps, for each parameter."""
        slots = {"mean": self.mean, "mean_square": self.mean_square, "steps": self.steps}
        return {f"{name}.{i}": tensor for name, tensors in slots.items() for i, tensor in enumerate(tensors)}


class TorchOptimizer(Optimizer):
    """Any class of `torch.optim` with its default settings, such as `torch.optim.RMSprop`.

    Args:
        parameters: What to update; those without a gradient are skipped.
        learning_rate: Step size, above 0.
        name: Name of the class in `torch.optim`.

    Raises:
        ValueError: If there is no such class, or its step needs more than gradients, as LBFGS does.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, name: str) -> None:
        super().__init__(parameters, learning_rate)
        made = getattr(torch.optim, name, None)
        if not (isinstance(made, type) and issubclass(made, torch.optim.Optimizer)):
            raise ValueError(  # noqa: TRY004 -- the name is wrong, not its type
                f"optimizer must be sgd, adam or a class of torch.optim, got 'torch.optim.{name}'"
            )
        try:
            self._expected = _state_of(_stepped(made, self.parameters))
            self._optimizer = made(self.parameters, lr=learning_rate)  # type: ignore[call-arg]
        except (TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"optimizer torch.optim.{name} cannot be used: {error}") from error

    def step(self, factor: float = 1.0) -> None:
        """Update each parameter by its gradient, at the learning rate times this factor."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * factor
        self._optimizer.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Its state for each parameter; empty before the first step."""
        return _state_of(self._optimizer)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._optimizer.state.clear()
        for name, tensor in state.items():
            slot, _, index = name.rpartition(".")
            where = self._expected[name].device  # some keep the number of steps on the CPU
            self._optimizer.state[self.parameters[int(index)]][slot] = tensor.to(where, copy=True)

    def expected_state(self, found: Collection[str]) -> dict[str, Tensor]:
        """What a state with these names must look like: all slots of each parameter updated so far."""
        moved = {name.rpartition(".")[2] for name in found}
        return {name: tensor for name, tensor in self._expected.items() if name.rpartition(".")[2] in moved}


def _stepped(made: type[torch.optim.Optimizer], parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer that has taken one step on copies: before that, it has no state."""
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
    for parameter in copies:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = made(copies, lr=1.0)  # type: ignore[call-arg]
    optimizer.step()
    return optimizer


def _state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    parameters = optimizer.param_groups[0]["params"]
    return {
        f"{name}.{index}": value
        for index, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def finite_norm(norms: Mapping[str, Any], loss: Tensor | float, update: int, env_steps: int) -> Any:
    """The norm of the policy's gradients, if those of all optimizers are finite; the rest is for the message.

    Tensors on another device are not read. Then the result is a tensor as well, and not finite if one of them is not.

    Raises:
        NonFiniteError: If a norm is not finite.
    """
    policy = norms.get("policy")
    if isinstance(policy, Tensor):
        return policy + 0.0 * sum(norms.values())
    if not all(map(math.isfinite, norms.values())):
        raise NonFiniteError(
            f"update {update}, step {env_steps}: the norms of the gradients must be finite, got {norms} at loss "
            f"{torch.as_tensor(loss).item()}; is learning_rate too high?"
        )
    return policy


Schedule = Callable[[float], float]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda _: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,
}


def make_schedule(name: str) -> Schedule:
    """What a setting names: how the learning rates change during a run.

    Args:
        name: "constant", "linear", "cosine", or "module:function" in an importable module.

    Returns:
        A function from the fraction of the updates done, in [0, 1), to a factor of the learning rates.

    Raises:
        TypeError, ValueError: If there is no such schedule, or at 0 it does not return a number of at least 0.
        ImportError, AttributeError: If there is no such module or function.
    """
    if name in SCHEDULES:
        return SCHEDULES[name]
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"learning_rate_schedule must be {', '.join(SCHEDULES)} or module:function, got {name!r}")
    schedule: Schedule = getattr(import_named(module), attribute)
    first = schedule(0.0)
    if not (isinstance(first, int | float) and 0 <= first < math.inf):
        raise TypeError(f"learning_rate_schedule {name} must return a number of at least 0, got {first!r:.100} at 0.0")
    return schedule


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], learning_rate: float) -> Optimizer:
    """The optimizer that a setting names: "sgd", "adam", or "torch.optim.X".

    Raises:
        ValueError: If no optimizer has that name.
    """
    own: dict[str, Callable[[Iterable[nn.Parameter], float], Optimizer]] = {"sgd": SGD, "adam": Adam}
    if name in own:
        return own[name](parameters, learning_rate)
    prefix, _, kind = name.rpartition(".")
    if prefix != "torch.optim":
        raise ValueError(f"optimizer must be sgd, adam or a class of torch.optim, got {name!r}")
    return TorchOptimizer(parameters, learning_rate, kind)
