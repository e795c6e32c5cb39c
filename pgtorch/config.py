"""Every setting of a run, with its unit, its range and the reason for its default; and the tuned ones."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

OptimizerName = Literal["sgd", "adam"]
PolicyName = Literal["bias", "mlp"]
MultiplierName = Literal["reward", "return", "reward-to-go", "gae"]
BaselineName = Literal["none", "mean", "value"]
VectorizationName = Literal["native", "sync", "async"]

MOST_ROWS = 2**27  # of a rollout: a few gigabytes
MOST_FLOAT = 3e38  # what float32 can hold

LESSON = "restaurant_env:Restaurant-v0"

# What suits an environment that nobody tuned for: many environments at once, advantages, everything on a scale of 1.
GENERAL: dict[str, Any] = {
    "policy": "mlp",
    "optimizer": "adam",
    "learning_rate": 3e-3,
    "value_learning_rate": 1e-2,
    "learning_rate_decay": True,
    "num_envs": 16,
    "num_steps": 32,
    "num_updates": 1000,
    "multiplier": "gae",
    "baseline": "value",
    "discount": 0.99,
    "standardize": True,
    "max_gradient_norm": 0.5,
    "normalize_observations": True,
    "normalize_rewards": True,
    "check_gradient": 20,
    "checkpoint_every": 100,
}

# By environment id, without the module in front: what differs from GENERAL. The lesson is the class's own defaults.
# CartPole-v1 and Acrobot-v1 play half a million steps, Pendulum-v1 a million.
TUNED: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"hidden_sizes": (32, 32), "num_envs": 64, "num_steps": 16, "num_updates": 488},
    "Acrobot-v1": {  # with one step a rollout it settled at -82, whatever else was changed
        "value_learning_rate": 3e-3,
        "num_steps": 64,
        "num_updates": 488,
        "num_epochs": 4,
        "num_minibatches": 8,
    },
    "Pendulum-v1": {
        "hidden_sizes": (32, 32),
        "learning_rate": 2e-3,
        "num_envs": 4,
        "num_updates": 7812,
        "discount": 0.97,
        "normalize_observations": False,
    },
    "FrozenLake-v1": {"normalize_observations": False, "entropy_coefficient": 0.01},
}


def settings_for(env_id: str) -> dict[str, Any]:
    """The settings that an environment id changes from the lesson's."""
    name = env_id.rpartition(":")[2]
    return {} if name == LESSON.rpartition(":")[2] else {**GENERAL, **TUNED.get(name, {})}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Defaults depend on `env_id`: the lesson's stand below, others in the tables above. What is given overrides them.

    Raises:
        TypeError, ValueError: At construction, where a setting is not of its type or outside its range.
    """

    env_id: str = LESSON
    """Gymnasium id; `module:Id-v0` imports the module that registers it. The other defaults follow it."""

    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as JSON. Restaurant-v0 has large_portion_probability ([0.15, 0.80]),
    hungry_above (0.5), reward_scheme ("binary" or "graded") and reward_scale (1.0): '{"reward_scheme": "graded"}'."""

    seed: int = 0
    """Seed of policy and environments, at least 0: the same seed, the same numbers."""

    num_updates: int = 2000
    """Rollouts, each with one gradient step or more; at least 1. The lesson's bias is at home after about 170."""

    target_return: float | None = None
    """Stop when the mean return of the last 100 episodes reaches this; none plays all updates."""

    policy: PolicyName = "bias"
    """bias: the lesson's one parameter; mlp: a network of tanh layers."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden layer, of policy and value function alike; none makes them linear."""

    optimizer: OptimizerName = "sgd"
    """sgd or adam; the lesson subtracts learning rate x gradient, which is sgd."""

    learning_rate: float = 1.0
    """Step size of the optimizer, above 0."""

    value_learning_rate: float | None = None
    """Step size for the value function, above 0; none takes the policy's. A faster one mostly helps."""

    learning_rate_decay: bool = False
    """Let the learning rates fall in a straight line, to 0 after the last update."""

    num_envs: int = 1
    """Environments played at once, at least 1."""

    num_steps: int = 1
    """Steps played in each environment between two updates, at least 1."""

    num_epochs: int = 1
    """Passes over each rollout, at least 1; more learn more from each environment step, and take longer."""

    num_minibatches: int = 1
    """Parts that each pass is cut into at random, with a gradient step each; at least 1, and no more than rows."""

    clip_range: float = 0.2
    """Several steps a rollout drive no action further whose probability has changed by this share; above 0."""

    multiplier: MultiplierName = "reward"
    """What multiplies log pi: reward, return, reward-to-go or gae (generalized advantage estimation)."""

    baseline: BaselineName = "none"
    """What is taken off the multiplier: none, the batch's mean, or a learned value (gae always takes the value)."""

    discount: float = 1.0
    """How much a reward counts a step later, gamma in [0, 1]."""

    gae_lambda: float = 0.95
    """Lambda of gae, in [0, 1]: the lower, the more the learned values are trusted; 1 is unbiased."""

    standardize: bool = False
    """Divide multipliers by their standard deviation and take off their mean, batch by batch."""

    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus, at least 0; keeps a policy from making up its mind too soon."""

    value_coefficient: float = 0.5
    """Weight of the value function's squared error in the loss, at least 0."""

    max_gradient_norm: float | None = None
    """Shorten the gradients of policy and value function, each by itself, to this norm, above 0; none leaves them."""

    normalize_observations: bool = False
    """Bring observations to mean 0 and deviation 1, by running statistics."""

    normalize_rewards: bool = False
    """Bring discounted returns to deviation 1, by running statistics; logged returns stay the environment's."""

    vectorization: VectorizationName = "native"
    """native: the environment's own vector class, sync where it has none; sync; async, a process each."""

    check_gradient: int = 1
    """Compare autograd's gradient with the manual one every so many updates, at each of their gradient steps; 0: never.
    A difference stops the run."""

    num_threads: int = 1
    """Torch threads, at least 1; more make small networks slower."""

    run_dir: Path | None = None
    """The run's own folder; without it a fresh one is made under runs/."""

    checkpoint_every: int = 500
    """Save everything that --resume needs every so many updates, and at the end; 0: at the end only."""

    pictures: bool = True
    """Draw the pictures at the end of the run."""

    def __post_init__(self) -> None:  # noqa: PLR0912 -- a table of checks
        """Check every setting, before anything is made of it."""
        object.__setattr__(self, "hidden_sizes", _sizes(self.hidden_sizes))
        object.__setattr__(self, "run_dir", _folder(self.run_dir))
        for name, most in (
            ("num_updates", 2**53),
            ("num_envs", MOST_ROWS),
            ("num_steps", MOST_ROWS),
            ("num_threads", 1024),
            ("num_epochs", 10_000),
            ("num_minibatches", MOST_ROWS),
        ):
            _require_integer(name, getattr(self, name), 1, most)
        if self.num_envs * self.num_steps > MOST_ROWS:
            rows = f"{self.num_envs} * {self.num_steps}"
            raise ValueError(f"num_envs * num_steps must be at most {MOST_ROWS} rows an update, got {rows}")
        _require_integer("seed", self.seed, 0, 2**63 - 1)
        for name in ("check_gradient", "checkpoint_every"):
            _require_integer(name, getattr(self, name), 0)
        for setting in fields(self):
            if setting.type == "bool":
                _require_type(setting.name, getattr(self, setting.name), bool)
        if self.standardize and self.num_envs * self.num_steps < 2:  # noqa: PLR2004
            raise ValueError("standardize needs num_envs * num_steps of at least 2: one number has no deviation")
        _require_type("env_id", self.env_id, str)
        _require_type("env_kwargs", self.env_kwargs, dict)
        _require_json("env_kwargs", self.env_kwargs)
        _require_number("learning_rate", self.learning_rate, above=0)
        for name in ("discount", "gae_lambda"):
            _require_number(name, getattr(self, name), low=0, high=1)
        for name in ("entropy_coefficient", "value_coefficient"):
            _require_number(name, getattr(self, name), low=0)
        _require_number("clip_range", self.clip_range, above=0)
        for name in ("max_gradient_norm", "value_learning_rate"):
            if getattr(self, name) is not None:
                _require_number(name, getattr(self, name), above=0)
        if self.target_return is not None:
            _require_number("target_return", self.target_return)
        for setting in fields(self):
            if str(setting.type).startswith("float") and getattr(self, setting.name) is not None:
                object.__setattr__(self, setting.name, float(getattr(self, setting.name)))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        return {
            **values,
            "hidden_sizes": list(self.hidden_sizes),
            "run_dir": None if self.run_dir is None else str(self.run_dir),
        }


CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": get_args(OptimizerName),
    "policy": get_args(PolicyName),
    "multiplier": get_args(MultiplierName),
    "baseline": get_args(BaselineName),
    "vectorization": get_args(VectorizationName),
}


def _defaults_by_environment(generated: Callable[..., None]) -> Callable[..., None]:
    """The dataclass's own __init__, with the defaults of the environment that it is given."""

    @functools.wraps(generated)
    def init(self: TrainConfig, env_id: str = LESSON, **settings: Any) -> None:
        defaults = settings_for(env_id) if isinstance(env_id, str) else {}
        generated(self, env_id, **{**defaults, **settings})

    return init


TrainConfig.__init__ = _defaults_by_environment(TrainConfig.__init__)  # type: ignore[method-assign]


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"hidden_sizes must be a sequence of integers, got {value!r}")
    for size in value:
        _require_integer("hidden_sizes", size, 1)
    return tuple(value)


def _folder(value: Any) -> Path | None:
    if value is None:
        return None
    _require_type("run_dir", value, str | Path)
    if not str(value):
        raise ValueError("run_dir must name a folder, got an empty string")
    return Path(value)


def _require_json(name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be what JSON can hold, got {value!r}") from error


def _require_type(name: str, value: Any, kind: Any) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {getattr(kind, '__name__', 'path')}, got {value!r}")


def _require_integer(name: str, value: Any, low: int, high: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not low <= value <= high:
        limits = f"at least {low}" + (f" and at most {high}" if high < math.inf else "")
        raise ValueError(f"{name} must be {limits}, got {value}")


def _require_number(
    name: str, value: Any, *, above: float = -math.inf, low: float = -math.inf, high: float = MOST_FLOAT
) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (above < value <= high and low <= value):  # refuses NaN as well
        limits = [f"above {above:g}"] * (above > -math.inf) + [f"at least {low:g}"] * (low > -math.inf)
        limits += [f"at most {high:g}"] * (high < MOST_FLOAT or value > high)
        raise ValueError(f"{name} must be a finite number {' and '.join(limits)}".rstrip() + f", got {value}")
