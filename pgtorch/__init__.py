"""pgtorch: policy gradients that you can read, check and trust.

The core, in reading order:
    policies         map an observation to a distribution of actions; the lesson's one bias
    losses           -mean(log pi * multiplier)
    manual_gradient  the same gradient by the chain rule, one factor per line
    trainer          one update: guess, weigh, loss, derive, check, step
    rollout          collects what the policy saw, did and got
    returns          what multiplies log pi: rewards, returns, advantages
    networks         policy and value function of fully connected layers, after convolutions if they see images

The core builds on distributions, images, optimizers, device, gradient_check, config (every setting) and limits (their
checks).
run is the outer loop around the trainer: `train` and `resume`, which write to disk.

The rooms:
    environment/     between the trainer and Gymnasium
    lesson/          the restaurants: closed forms, one visit step by step, the story
    record/          what a run writes: metrics, TensorBoard, checkpoints, pictures, evaluation
    proof/           every gradient found in two ways
    exercises/       ten functions to fill in, and the check that judges them
    scale/           many learners at once
    commands/        `pgtorch train`, `pgtorch evaluate`, ...

A public name loads its module on first use, so `import pgtorch` loads neither torch nor gymnasium.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in _MODULES, for type checkers and editors
    from pgtorch import environment as environment
    from pgtorch import proof as proof
    from pgtorch.config import TrainConfig as TrainConfig
    from pgtorch.environment.checks import ContractError as ContractError
    from pgtorch.environment.checks import NonFiniteError as NonFiniteError
    from pgtorch.gradient_check import GradientMismatchError as GradientMismatchError
    from pgtorch.losses import policy_gradient_loss as policy_gradient_loss
    from pgtorch.manual_gradient import manual_gradient as manual_gradient
    from pgtorch.networks import CNNPolicy as CNNPolicy
    from pgtorch.networks import MLPPolicy as MLPPolicy
    from pgtorch.policies import BiasPolicy as BiasPolicy
    from pgtorch.policies import Policy as Policy
    from pgtorch.record.checkpoint import CheckpointError as CheckpointError
    from pgtorch.record.evaluation import evaluate as evaluate
    from pgtorch.record.export import export as export
    from pgtorch.record.trained_run import load_run as load_run
    from pgtorch.rollout import Rollout as Rollout
    from pgtorch.rollout import RolloutCollector as RolloutCollector
    from pgtorch.run import Callback as Callback
    from pgtorch.run import SetupError as SetupError
    from pgtorch.run import TrainResult as TrainResult
    from pgtorch.run import resume as resume
    from pgtorch.run import train as train
    from pgtorch.trainer import Trainer as Trainer

    __version__: str

_MODULES = {
    "config": ("TrainConfig",),
    "environment.checks": ("ContractError", "NonFiniteError"),
    "gradient_check": ("GradientMismatchError",),
    "losses": ("policy_gradient_loss",),
    "manual_gradient": ("manual_gradient",),
    "networks": ("CNNPolicy", "MLPPolicy"),
    "policies": ("BiasPolicy", "Policy"),
    "record.checkpoint": ("CheckpointError",),
    "record.evaluation": ("evaluate",),
    "record.export": ("export",),
    "record.trained_run": ("load_run",),
    "rollout": ("Rollout", "RolloutCollector"),
    "run": ("Callback", "SetupError", "TrainResult", "resume", "train"),
    "trainer": ("Trainer",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_ROOMS = ("environment", "proof")
__all__ = ["__version__", *_MODULE_OF, *_ROOMS]  # noqa: PLE0604 -- all strings


def __getattr__(name: str) -> Any:
    """Load a public name or a room (PEP 562: called for names that are not loaded yet)."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 -- takes as long as starting Python

        return version(__name__)
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps the public function `manual_gradient` when Python stores the imported module under that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
