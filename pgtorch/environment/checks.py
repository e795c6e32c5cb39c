"""Checks that what an environment returns fits its spaces and is finite. Errors name the environment and the step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

MOST = float(np.finfo(np.float32).max)
TOLERANCE = 1e-3  # relative and absolute: how far rounding may exceed a bound


class ContractError(ValueError):
    """An environment returned what its spaces do not allow; the message names step, environment and field."""


class NonFiniteError(ArithmeticError):
    """A number is not finite; the message names where it came from and when."""


def require_finite(values: NDArray[Any], field: str, step: int) -> None:
    """Raise `NonFiniteError` if values [N, ...] of a step are not all finite in single precision."""
    if values.size == 0:
        return
    if values.itemsize >= np.float32().itemsize and np.vdot(values, values) <= MOST:  # one pass; false for NaN
        return
    if float(values.max()) <= MOST and float(values.min()) >= -MOST:
        return
    where = np.argwhere(~(np.abs(values) <= np.float64(MOST)))[0].tolist()  # float16 cannot hold it
    inner = f" at index {where[1:]}" if where[1:] else ""
    raise NonFiniteError(
        f"{field} must be finite, got {values[tuple(where)]}{inner}, of environment {where[0]} at step {step}"
    )


def fits(space: gym.Space[Any], value: Any, batch: tuple[int, ...] = ()) -> bool:
    """Whether an observation, or a batch of them, has its space's shapes and types, and only choices that exist.

    `ObservationBounds` checks the bounds of a `Box`.
    """
    if isinstance(space, spaces.Box):
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        return (
            shape == (*batch, *space.shape)
            and isinstance(dtype, np.dtype)
            and (dtype == space.dtype or np.can_cast(dtype, space.dtype, "same_kind"))
        )
    if isinstance(space, spaces.Dict):
        return isinstance(value, dict) and all(key in value and fits(space[key], value[key], batch) for key in space)
    if isinstance(space, spaces.Tuple):
        parts = list(zip(space, value, strict=False)) if isinstance(value, tuple | list) else []
        return len(parts) == len(space) == len(value) and all(fits(part, item, batch) for part, item in parts)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        number = np.asarray(value)
        if number.shape != (*batch, *(space.shape or ())) or number.dtype.kind not in "iub":
            return False
        low = 0 if isinstance(space, spaces.MultiBinary) else space.start
        size: Any = 2 if isinstance(space, spaces.MultiBinary) else getattr(space, "nvec", getattr(space, "n", 0))
        return bool(((number >= low) & (number < low + size)).all())
    return bool(space.contains(value))


def describe(value: Any) -> str:
    """A value and its type, for a message."""
    return " ".join(f"{type(value).__name__} {value!r:.60}".split())


def _describe_observation(value: Any) -> str:
    """Its type, its shape and how it begins."""
    try:
        shape = np.shape(value)
    except ValueError:  # a ragged list
        shape = ()
    return " ".join(f"{getattr(value, 'dtype', type(value).__name__)} {shape}: {value!r:.60}".split())


def require_batch(space: gym.Space[Any], value: Any, num_envs: int, step: int) -> None:
    """Raise `ContractError` if what a vector environment returned is not a batch of N observations."""
    if not fits(space, value, (num_envs,)):
        raise ContractError(
            f"observation must be a batch of {num_envs} in {space}, got {_describe_observation(value)}, at step {step}"
        )


class ObservationBounds:
    """The bounds of a space, flattened to D numbers.

    Many environments declare them too narrow: LunarLander-v3 and BipedalWalker-v3 leave theirs. An observation that is
    outside by less than the width of the space gives a warning, once; one further outside is an error. If a bound is
    infinite, 1 + |the other bound| counts as the width.

    Args:
        space: Of one observation.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        flat = spaces.flatten_space(space)
        assert isinstance(flat, spaces.Box)
        self._space = flat
        self._low = flat.low - TOLERANCE * (1 + abs(flat.low))
        self._high = flat.high + TOLERANCE * (1 + abs(flat.high))
        low, high = flat.low.astype(float), flat.high.astype(float)
        width = high - low
        self._lowest = low - np.where(np.isfinite(width), width, 1 + abs(low))
        self._highest = high + np.where(np.isfinite(width), width, 1 + abs(high))
        self._has_warned = False

    def require(self, observations: NDArray[Any], first_step: int) -> None:
        """Raise `ContractError` if observations [T, N, D] are far outside the space; warn if they are a little."""
        inside = (observations >= self._low) & (observations <= self._high)
        if np.count_nonzero(inside) == inside.size:
            return
        near = (observations >= self._lowest) & (observations <= self._highest)
        is_far = np.count_nonzero(near) < near.size
        if self._has_warned and not is_far:
            return
        t, environment, index = np.argwhere(~(near if is_far else inside))[0].tolist()
        found = (
            f"observation must be in [{self._space.low[index]:g}, {self._space.high[index]:g}] at index {index}, "
            f"got {observations[t, environment, index]}, of environment {environment} at step {first_step + t}"
        )
        if is_far:
            raise ContractError(found)
        self._has_warned = True
        warnings.warn(f"{found}; the run goes on, since that is close", stacklevel=2)


def require_fields(num_envs: int, step: int, reward: Any, terminated: Any, truncated: Any) -> None:
    """Raise `ContractError` if the other fields of a vector environment's step are not arrays [N] of the right kind."""
    for field, value, kinds in (
        ("reward", reward, "iufb"),
        ("terminated", terminated, "b"),
        ("truncated", truncated, "b"),
    ):
        shape = getattr(value, "shape", None)
        if shape != (num_envs,):
            found = describe(value) if shape is None else f"shape {list(shape)}"
            raise ContractError(f"{field} must be an array of shape [{num_envs}], got {found}, at step {step}")
        if value.dtype.kind not in kinds:
            what = "numbers" if field == "reward" else "bools"
            raise ContractError(f"{field} must be an array of {what}, got {value.dtype}, at step {step}")


class TupleContract(gym.Wrapper[Any, Any, Any, Any]):
    """Checks how many values a single environment returns. It is the innermost wrapper, since others unpack them."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The wrapped reset, checked."""
        observation, info = self._checked(self.env.reset(seed=seed, options=options), "(observation, info)")
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """The wrapped step, checked."""
        expected = "(observation, reward, terminated, truncated, info)"
        observation, reward, terminated, truncated, info = self._checked(self.env.step(action), expected)
        return observation, reward, terminated, truncated, info

    def _checked(self, returned: Any, expected: str) -> tuple[Any, ...]:
        if not isinstance(returned, tuple) or len(returned) != expected.count(",") + 1:
            raise ContractError(f"the returned value must be a tuple {expected}, got {describe(returned)}")
        return returned


class StepContract(gym.Wrapper[Any, Any, Any, Any]):
    """Checks what a single environment returns, before a vector environment converts it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        outer, inner = None, env
        while isinstance(inner, gym.Wrapper):
            outer, inner = inner, inner.env
        if outer is None:
            env = TupleContract(env)
        else:
            outer.env = TupleContract(inner)
        super().__init__(env)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The wrapped reset, checked."""
        with self._naming("reset"):
            observation, info = self.env.reset(seed=seed, options=options)
        self._require_observation(observation, "reset")
        self._require(isinstance(info, dict), "info", "a dict", info, "reset")
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """The wrapped step, checked."""
        self._steps += 1
        now = f"step {self._steps}"
        with self._naming(now):
            observation, reward, terminated, truncated, info = self.env.step(action)
        self._require_observation(observation, now)
        self._require(_is_number(reward), "reward", "a number", reward, now)
        self._require(_is_bool(terminated), "terminated", "a bool", terminated, now)
        self._require(_is_bool(truncated), "truncated", "a bool", truncated, now)
        self._require(isinstance(info, dict), "info", "a dict", info, now)
        return observation, reward, terminated, truncated, info

    def _require_observation(self, observation: Any, moment: str) -> None:
        if not fits(self.observation_space, observation):
            found = _describe_observation(observation)
            raise ContractError(
                f"observation must be in {self.observation_space}, got {found}, of {self._name()} at {moment}"
            )

    def _require(self, fine: bool, field: str, expected: str, found: Any, moment: str) -> None:
        if not fine:
            raise ContractError(f"{field} must be {expected}, got {describe(found)}, of {self._name()} at {moment}")

    @contextmanager
    def _naming(self, moment: str) -> Iterator[None]:
        try:
            yield
        except ContractError as error:
            raise ContractError(f"{error}, of {self._name()} at {moment}") from None
        except Exception as error:
            error.add_note(f"raised by {self._name()} at {moment}")
            raise
        except SystemExit as error:
            raise ContractError(f"sys.exit({error.code!r}) was called by {self._name()} at {moment}") from error

    def _name(self) -> str:
        return self.spec.id if self.spec else type(self.unwrapped).__name__


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return isinstance(value, int | float | np.integer | np.floating) and not (
        isinstance(value, int) and abs(value) > MOST  # beyond what a float can hold
    )


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or (
        isinstance(value, np.ndarray) and value.shape == () and value.dtype == bool
    )
