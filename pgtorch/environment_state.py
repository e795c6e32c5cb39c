"""The state of any environment made of plain Python and NumPy: taken out as plain values and tensors, and put back.

An environment is walked attribute by attribute, through wrappers, vectors and helper objects. What cannot change while
it is played (spaces, functions, types) is left alone. Where anything else turns up, a physics engine's data for
instance, the environment is said to have no state that can be given: then a run cannot resume in mid-episode.
"""

from __future__ import annotations

import enum
import json
import types
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv

_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_CONSTANTS = (gym.Space, EnvSpec, type, types.ModuleType, enum.Enum, np.dtype, *_FUNCTIONS)
_SEQUENCES: dict[str, type[Any]] = {"list": list, "tuple": tuple, "deque": deque}
_PLAIN_SIZE = type("_Plain", (), {}).__basicsize__  # bytes; an object of more keeps something beside its attributes

Saved = tuple[str, Any]  # what kind of value it is, and the value as plain types and tensors


class UnknownStateError(TypeError):
    """An environment holds something whose state cannot be taken; the message names it."""


def take_state(env: Any) -> Saved:
    """Everything that may change in an environment, as plain types and tensors.

    Args:
        env: A `gymnasium.Env` or `gymnasium.vector.VectorEnv`, after its first reset.

    Raises:
        UnknownStateError: Where it holds anything else than plain values, arrays, generators and environments.
    """
    if isinstance(env.unwrapped, AsyncVectorEnv):
        raise UnknownStateError("its environments live in other processes")
    return _take(env, type(env).__name__, set())


def why_unknown(env: Any) -> str:
    """Why an environment cannot give its state; an empty string where it can."""
    try:
        take_state(env)
    except UnknownStateError as error:
        return f"{env.spec.id if env.spec else type(env).__name__} cannot give its state, {error}"
    return ""


def put_state(env: Any, saved: Saved) -> None:
    """Bring an environment of the same kind to a state that `take_state` gave.

    Args:
        env: Made by the same settings, after its first reset. Where an error is raised, it is as it was.
        saved: The state.

    Raises:
        ValueError: Where the state does not fit; the message names the attribute.
    """
    _require_fit(env, saved, type(env).__name__)
    _put(env, saved)


def _take(value: Any, where: str, seen: set[int]) -> Saved:  # noqa: PLR0911 -- a table of kinds
    if value is None or type(value) in (bool, int, float, str):
        return "value", value
    if isinstance(value, _CONSTANTS) or id(value) in seen:
        return "constant", None
    if isinstance(value, np.random.Generator):
        return "generator", json.dumps(value.bit_generator.state, default=np.ndarray.tolist)  # 128-bit integers
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return "scalar" if isinstance(value, np.generic) else "array", torch.from_numpy(np.array(value))
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "SU":
        return "text", [value.dtype.str, np.asarray(value).astype(np.str_).tolist()]
    for kind, sequence in _SEQUENCES.items():
        if type(value) is sequence:
            return kind, [_take(item, f"{where}[{i}]", seen) for i, item in enumerate(value)]
    if type(value) is dict and all(isinstance(key, str | int) for key in value):
        return "dict", {key: _take(item, f"{where}[{key!r}]", seen) for key, item in value.items()}
    if _is_plain(value):
        seen.add(id(value))
        return "object", {name: _take(item, f"{where}.{name}", seen) for name, item in vars(value).items()}
    raise UnknownStateError(f"{where} is a {type(value).__module__}.{type(value).__qualname__}")


def _is_plain(value: Any) -> bool:
    """Whether an object is nothing but its attributes."""
    return hasattr(value, "__dict__") and type(value).__basicsize__ == _PLAIN_SIZE


def _require_fit(current: Any, saved: Any, where: str) -> None:  # noqa: PLR0912 -- a table of kinds
    """Raise ValueError where `_put` could fail."""
    match saved:
        case ("object", dict(attributes)) if _is_plain(current):
            if attributes.keys() != vars(current).keys():
                raise ValueError(f"{where} has other attributes: {sorted(attributes.keys() ^ vars(current).keys())}")
            for name, item in attributes.items():
                _require_fit(vars(current)[name], item, f"{where}.{name}")
        case (("list" | "tuple" | "deque"), list(items)):
            for i, item in enumerate(items):
                _require_fit(_at(current, i), item, f"{where}[{i}]")
        case ("dict", dict(items)):
            for key, item in items.items():
                _require_fit(current.get(key) if isinstance(current, dict) else None, item, f"{where}[{key!r}]")
        case ("array", torch.Tensor() as tensor):
            if isinstance(current, np.ndarray) and current.shape != tuple(tensor.shape):
                raise ValueError(f"{where} should have shape {current.shape}, got {tuple(tensor.shape)}")
        case ("generator", str(state)) if isinstance(current, np.random.Generator):
            type(current.bit_generator)().state = json.loads(state)
        case ("text", [str(dtype), texts]):
            np.array(texts, dtype)
        case ("constant", None) | ("value", None | bool() | int() | float() | str()) | ("scalar", torch.Tensor()):
            pass
        case _:
            raise ValueError(f"{where} does not fit what was saved")


def _put(current: Any, saved: Saved) -> Any:  # noqa: PLR0911 -- a table of kinds
    """The value that takes the place of `current`; what has an identity keeps it and is changed inside."""
    kind, content = saved
    if kind == "object":
        for name, item in content.items():
            vars(current)[name] = _put(vars(current)[name], item)
    elif kind == "array":
        array = content.numpy()
        if not isinstance(current, np.ndarray) or current.dtype != array.dtype or not current.flags.writeable:
            return array.copy()
        current[...] = array
    elif kind == "generator":
        current.bit_generator.state = json.loads(content)
    elif kind == "dict":
        return {key: _put(current.get(key) if current else None, item) for key, item in content.items()}
    elif kind in _SEQUENCES:
        items = [_put(_at(current, i), item) for i, item in enumerate(content)]
        return deque(items, current.maxlen) if isinstance(current, deque) else _SEQUENCES[kind](items)
    elif kind == "scalar":
        return content.numpy()[()]
    elif kind == "text":
        return np.array(content[1], content[0])[()]
    elif kind == "value":
        return content
    return current


def _at(sequence: Any, index: int) -> Any:
    """An item of a sequence, None beyond its end."""
    return sequence[index] if isinstance(sequence, list | tuple | deque) and index < len(sequence) else None
