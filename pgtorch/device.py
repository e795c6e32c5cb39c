"""Where a run computes. Parameters, gradient steps and losses live on its device, the environments on the CPU.

Another device works on its own until the program reads a number from it, and so waits for it. An update reads the
actions of each step, then the values of the rollout, if there is a value function, and at its end its figures, all at
once. A policy may read more: torch.distributions does, to check its arguments. Advantages are computed on the CPU, in
float64, which not every device has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")
AVAILABLE: dict[str, Callable[[], bool]] = {  # what "auto" prefers comes first
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
}


def resolve(name: str) -> torch.device:
    """The device that a setting names.

    Args:
        name: "cpu", "cuda", "mps", or "auto" for the first of cuda, mps and cpu that is available.

    Raises:
        ValueError: If this machine, or this build of PyTorch, lacks it.
    """
    if name == "auto":
        name = next((other for other, is_available in AVAILABLE.items() if is_available()), "cpu")
    if name in AVAILABLE and not AVAILABLE[name]():
        raise ValueError(
            f"device must be available, but torch {torch.__version__} finds no {name} here; use cpu or auto"
        )
    return torch.device(name)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter is; the CPU if it has none."""
    for parameter in module.parameters():
        return parameter.device
    return CPU


def moving(device: torch.device, function: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor] | None:
    """The same function for arguments on the CPU; its results stay on the device."""
    if function is None or device.type == "cpu":
        return function
    return lambda rows: function(rows.to(device))


def sent(tensors: Iterable[Tensor], device: torch.device) -> Iterable[Tensor]:
    """Tensors of one shape, in one transfer; for the CPU one by one, each when it is needed."""
    return tensors if device.type == "cpu" else torch.stack(list(tensors)).to(device)


def fetched(vectors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Vectors from one device, on the CPU, in one transfer."""
    if vectors[0].device.type == "cpu":
        return vectors
    return torch.split(torch.cat(list(vectors)).cpu(), [len(vector) for vector in vectors])


def in_numbers(steps: list[dict[str, Any]], device: torch.device) -> list[dict[str, float]]:
    """The figures of gradient steps, of which some may be tensors on a device, as numbers, in one transfer."""
    if device.type == "cpu":
        return steps
    tensors = [value for figures in steps for value in figures.values() if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).cpu().tolist())
    return [
        {tag: next(numbers) if isinstance(value, Tensor) else value for tag, value in figures.items()}
        for figures in steps
    ]
