"""Every setting of a run, with its unit, its range and the reason for its default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

OptimizerName = Literal["sgd", "adam"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run; the defaults are the lesson.

    Raises:
        TypeError, ValueError: At construction, where a setting is not of its type or outside its range.
    """

    env_id: str = "restaurant_env:Restaurant-v0"
    """Gymnasium id; `module:Id-v0` imports the module that registers it."""

    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as JSON: '{"reward_scheme": "graded"}'."""

    seed: int = 0
    """Seed of policy and environments, at least 0: the same seed, the same numbers."""

    num_updates: int = 2000
    """Gradient steps, at least 1; the lesson's bias is at home after about 170."""

    learning_rate: float = 1.0
    """Step size of the optimizer, above 0."""

    optimizer: OptimizerName = "sgd"
    """sgd or adam; the lesson subtracts learning rate x gradient, which is sgd."""

    num_envs: int = 1
    """Environments played at once, at least 1."""

    num_steps: int = 1
    """Steps played in each environment between two updates, at least 1."""

    check_gradient: int = 1
    """Compare autograd's gradient with the manual one every so many updates, 0: never; a difference stops the run."""

    num_threads: int = 1
    """Torch threads, at least 1; more make small networks slower."""

    run_dir: Path | None = None
    """The run's own folder; without it a fresh one is made under runs/."""

    pictures: bool = True
    """Draw the pictures at the end of the run."""

    def __post_init__(self) -> None:
        """Check every setting, before anything is made of it."""
        for name in ("num_updates", "num_envs", "num_steps", "num_threads"):
            _require_integer(name, getattr(self, name), 1)
        _require_integer("seed", self.seed, 0, 2**63 - 1)
        _require_integer("check_gradient", self.check_gradient, 0)
        _require_type("pictures", self.pictures, bool)
        _require_type("env_id", self.env_id, str)
        _require_type("env_kwargs", self.env_kwargs, dict)
        _require_above_zero("learning_rate", self.learning_rate)
        if self.optimizer not in get_args(OptimizerName):
            raise ValueError(f"optimizer must be one of {get_args(OptimizerName)}, got {self.optimizer!r}")
        if self.run_dir is not None:
            object.__setattr__(self, "run_dir", Path(self.run_dir))

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        return {**values, "run_dir": None if self.run_dir is None else str(self.run_dir)}


def _require_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {value!r}")


def _require_integer(name: str, value: Any, low: int, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not low <= value <= high:
        raise ValueError(
            f"{name} must be at least {low}" + (f" and at most {high}" if high < math.inf else "") + f", got {value}"
        )


def _require_above_zero(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value}")
