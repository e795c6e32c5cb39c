"""What `check_vector_env` does with values: compare, describe, overwrite, and see whether they keep to their form."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


def same(value: Any, other: Any, tolerance: float = 0.0) -> bool:
    """Whether nested values are equal, up to an absolute and relative tolerance; NaN equals NaN, dtypes may differ."""
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(same(value[key], other[key], tolerance) for key in value)
    if isinstance(value, tuple | list):
        return len(value) == len(other) and all(same(*pair, tolerance) for pair in zip(value, other, strict=True))
    first, second = np.asarray(value), np.asarray(other)
    if first.dtype == object and first.shape:
        return first.shape == second.shape and same(list(first.flat), list(second.flat), tolerance)
    if first.dtype.kind in "biufc" and second.dtype.kind in "biufc":
        if tolerance:
            close = first.shape == second.shape and np.allclose(first, second, tolerance, tolerance, equal_nan=True)
            return bool(close)
        return np.array_equal(first, second) or np.array_equal(first, second, equal_nan=True)  # the first is faster
    kind: Any = type(value)
    return kind.__eq__ is object.__eq__ or bool(np.all(first == second))  # a plain object equals no copy of itself


def info_problem(infos: Any, num_envs: int, *, nested: bool = False) -> str:
    """What breaks Gymnasium's convention for the infos of a vector environment; an empty string if nothing does."""
    if not isinstance(infos, dict):
        return f"{text(infos)}, no dict"
    for key, value in infos.items():
        shape = getattr(value, "shape", ())
        if str(key).startswith("_") and key[1:] in infos:
            if shape != (num_envs,) or value.dtype != np.bool_:
                return f"the mask {key} {text(value)}"
        elif f"_{key}" not in infos and not nested:  # Gymnasium's own wrappers leave masks out of nested dicts
            return f"{key} without a mask _{key}"
        elif isinstance(value, dict):
            problem = info_problem(value, num_envs, nested=True)
            if problem:
                return f"{key}: {problem}"
        elif shape[:1] != (num_envs,) and key != "final_obs":  # that one may be a Tuple's batch
            return f"{key} {text(value)}"
    return ""


def text(value: Any) -> str:
    """The beginning of a value, for a message."""
    return " ".join(f"{value!r:.100}".split())


def row_of(batch: Any, index: int) -> Any:
    """One environment's observation: of an array of objects, or of a batch in the space's own form."""
    if isinstance(batch, dict):
        return {key: row_of(part, index) for key, part in batch.items()}
    return tuple(row_of(part, index) for part in batch) if isinstance(batch, tuple) else batch[index]


def to_numpy(value: Any) -> Any:
    """The same value in NumPy, for `Space.contains`, which warns of other arrays."""
    if isinstance(value, dict):
        return {key: to_numpy(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(to_numpy, value)) if type(value) is tuple else value
    return np.asarray(value) if hasattr(value, "__array__") else value


def lies_in(space: gym.Space[Any], value: Any, *, exact: bool) -> bool:
    """Whether a value, in NumPy, lies in a space; `exact`: with the space's dtype, where `contains` would cast it."""
    if isinstance(space, spaces.Dict):
        parts = value.keys() == space.keys() if isinstance(value, dict) else False
        return parts and all(lies_in(space[key], value[key], exact=exact) for key in space)
    if isinstance(space, spaces.Tuple):
        parts = isinstance(value, tuple) and len(value) == len(space)
        return parts and all(lies_in(*pair, exact=exact) for pair in zip(space, value, strict=True))
    if isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        dtype = getattr(value, "dtype", None)
        return dtype is not None and (dtype == space.dtype or not exact) and bool(space.contains(value))
    return bool(space.contains(value))


def kind_of(value: Any) -> str:
    """Dtype and shape of an array, or the type of anything else, for a message."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def overwrite(value: Any) -> None:
    """Change every number of nested arrays, in place."""
    if isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            overwrite(part)
    elif isinstance(value, np.ndarray) and value.flags.writeable:
        if value.dtype == object:
            overwrite(list(value.flat))
        elif value.dtype.kind == "b":
            np.logical_not(value, out=value)
        elif value.dtype.kind in "iufc":
            np.add(value, 1, out=value, casting="unsafe")
