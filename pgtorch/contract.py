"""What an environment owes: each step as its spaces say, in finite numbers. Whoever breaks it is named."""

from __future__ import annotations

import math
import multiprocessing
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

STEP_SECONDS = 60.0  # longest that a worker may take for one step
TOLERANCE = 1e-3  # of a bound, and beside it: rounding is no breach


class ContractError(ValueError):
    """An environment gave what its spaces do not allow; the message names step, environment and field."""


class NonFiniteError(ArithmeticError):
    """A number that is not finite turned up; the message names step, environment and field."""


def require_finite(values: NDArray[Any], field: str, step: int) -> None:
    """Raise `NonFiniteError` where values [N, ...] of a step are not all finite."""
    if math.isfinite(values.sum()):  # the sum of numbers of which one is not finite is not finite
        return
    places = np.argwhere(~np.isfinite(values))
    if len(places):
        where = places[0].tolist()
        inner = f" at index {where[1:]}" if where[1:] else ""
        raise NonFiniteError(
            f"{field} must be finite, got {values[tuple(where)]}{inner}, of environment {where[0]} at step {step}"
        )


class ObservationBounds:
    """The bounds of a space, flattened to D numbers, with a little room for rounding.

    Args:
        space: Of one observation.
    """

    def __init__(self, space: gym.Space[Any]) -> None:
        flat = spaces.flatten_space(space)
        assert isinstance(flat, spaces.Box)
        self._space = flat
        self._low = flat.low - TOLERANCE * (1 + abs(flat.low))
        self._high = flat.high + TOLERANCE * (1 + abs(flat.high))

    def require(self, observations: NDArray[Any], first_step: int) -> None:
        """Raise `ContractError` where observations [T, N, D] leave the space."""
        inside = (observations >= self._low) & (observations <= self._high)
        if not inside.all():
            t, environment, index = np.argwhere(~inside)[0].tolist()
            low, high = self._space.low[index], self._space.high[index]
            raise ContractError(
                f"observation must be in [{low:g}, {high:g}] at index {index}, "
                f"got {observations[t, environment, index]}, of environment {environment} at step {first_step + t}"
            )


def require_shapes(num_envs: int, step: int, **fields: Any) -> None:
    """Raise `ContractError` where a field of a vector environment's step is no array of N."""
    for field, value in fields.items():
        shape = getattr(value, "shape", None)
        if shape != (num_envs,):
            found = type(value).__name__ if shape is None else f"shape {list(shape)}"
            raise ContractError(f"{field} must be an array of shape [{num_envs}], got {found}, at step {step}")


class StepTimeout(gym.vector.VectorWrapper):
    """Does not wait for ever for environments in other processes: one that died or hangs ends the run, and itself."""

    env: gym.vector.AsyncVectorEnv

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._lost = False

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """A step, answered by every worker in time.

        Raises:
            ConnectionError, TimeoutError: Where one died, or gave no answer within `STEP_SECONDS`.
        """
        try:
            self.env.step_async(actions)
            return self.env.step_wait(timeout=STEP_SECONDS)
        except multiprocessing.TimeoutError as error:
            self._lost = True
            raise TimeoutError(f"a worker gave no answer to a step within {STEP_SECONDS:g} s") from error
        except (EOFError, ConnectionError) as error:
            self._lost = True
            raise ConnectionError(f"a worker process of the environment died ({type(error).__name__})") from error

    def close(self, **kwargs: Any) -> None:
        """End the workers; by force where one of them was lost."""
        if not self._lost:
            self.env.close(**kwargs)
            return
        for process in self.env.processes:
            process.kill()
            process.join()
        self.env.closed = True


class StepContract(gym.Wrapper[Any, Any, Any, Any]):
    """Checks each step of a single environment, before a vector of them makes something else of it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._steps = 0

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """The wrapped step, checked."""
        self._steps += 1
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            error.add_note(
                f"raised by {self._name()} at step {self._steps}, which must give (observation, reward, terminated, "
                "truncated, info)"
            )
            raise
        self._require_observation(observation)
        self._require("reward", reward, (int, float, np.integer, np.floating), "number")
        self._require("terminated", terminated, (bool, np.bool_), "bool")
        self._require("truncated", truncated, (bool, np.bool_), "bool")
        return observation, reward, terminated, truncated, info

    def _require(self, field: str, value: Any, kinds: tuple[type, ...], expected: str) -> None:
        if not isinstance(value, kinds) and not (isinstance(value, np.ndarray) and value.ndim == 0):
            raise ContractError(
                f"{field} must be a {expected}, got {type(value).__name__} {value!r:.60}, "
                f"of {self._name()} at step {self._steps}"
            )

    def _require_observation(self, observation: Any) -> None:
        """Shapes and types here; whether a `Box` is kept within, all environments at once, later."""
        space = self.observation_space
        if isinstance(space, spaces.Box):
            dtype = getattr(observation, "dtype", None)
            fits = getattr(observation, "shape", None) == space.shape and np.can_cast(
                np.dtype(dtype), space.dtype, "same_kind"
            )
        else:
            fits = space.contains(observation)
        if not fits:
            found = f"{getattr(observation, 'dtype', type(observation).__name__)} {np.shape(observation)}"
            raise ContractError(
                f"observation must be in {space}, got {found}: {observation!r:.60}, "
                f"of {self._name()} at step {self._steps}"
            )

    def _name(self) -> str:
        return self.spec.id if self.spec else type(self.unwrapped).__name__
