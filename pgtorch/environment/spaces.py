"""Turns observations of any space into rows of numbers, and actions into what an environment takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"


def flattener(space: gym.Space[Any]) -> Callable[[Any, int], NDArray[Any]]:
    """A function that flattens a batch of observations, as `gymnasium.spaces.flatten` does each of them.

    Args:
        space: The space of one observation.

    Returns:
        A function of (batch, N) that gives [N, gymnasium.spaces.flatdim(space)], without a loop over N.

    Raises:
        TypeError: If the space is not supported; the message names it.
    """
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return lambda batch, n: np.asarray(batch).reshape(n, -1)
    if isinstance(space, spaces.Discrete):
        choices = np.eye(int(space.n), dtype=np.float32)
        return lambda batch, n: choices[np.asarray(batch).reshape(n) - space.start]
    if isinstance(space, spaces.MultiDiscrete):
        parts = [np.eye(int(size), dtype=np.float32) for size in space.nvec.flat]
        starts = space.start.reshape(1, -1)

        def one_hot(batch: Any, n: int) -> NDArray[Any]:
            index = np.asarray(batch).reshape(n, -1) - starts
            return np.concatenate([part[index[:, i]] for i, part in enumerate(parts)], axis=1)

        return one_hot
    if isinstance(space, spaces.Dict | spaces.Tuple):
        keys: list[Any] = list(space.spaces) if isinstance(space, spaces.Dict) else list(range(len(space.spaces)))
        inner = [(key, flattener(space[key])) for key in keys]
        return lambda batch, n: np.concatenate([flatten(batch[key], n) for key, flatten in inner], axis=1)
    raise TypeError(f"observation space must be {SUPPORTED}, got {space}")


def is_one_hot(space: gym.Space[Any]) -> bool:
    """Whether flattened observations hold no numbers but 0 and 1: there is no Box in the space."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return all(map(is_one_hot, space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces))
    return not isinstance(space, spaces.Box)


def seed_spaces(env: Any, seed: int) -> None:
    """Seed the generators of all spaces in an environment, which would seed themselves from the operating system.

    Args:
        env: A `gymnasium.Env` or `gymnasium.vector.VectorEnv`. What it wraps and steps is included.
        seed: Of the first space; the others get the numbers after it.
    """
    for offset, space in enumerate(_spaces_in(env)):
        space.seed((seed + offset) % 2**31)


@contextmanager
def spaces_unchanged(env: Any) -> Iterator[None]:
    """Restore the generators of an environment's spaces at the end: several environments may share a class's spaces."""
    found = _spaces_in(env)
    for space in found:  # its parts are appended, and visited too
        parts = getattr(space, "spaces", ())
        found += parts.values() if isinstance(parts, dict) else parts
    before = [(space, space._np_random) for space in found]
    states = [None if generator is None else generator.bit_generator.state for _, generator in before]
    try:
        yield
    finally:
        for (space, generator), state in zip(before, states, strict=True):
            space._np_random = generator
            if generator is not None and state is not None:
                generator.bit_generator.state = state


def _spaces_in(env: Any) -> list[gym.Space[Any]]:
    """All spaces in an environment, once each; what it wraps and steps is included."""
    found: dict[int, gym.Space[Any]] = {}
    pending = [env]
    for layer in pending:
        held: dict[str, Any] = {}  # not by getattr: some make a space on access
        for namespace in (*map(vars, reversed(type(layer).__mro__)), vars(layer)):
            held |= namespace
        found |= {id(space): space for space in held.values() if isinstance(space, gym.Space)}
        pending += [inner for inner in (held.get("env"), *(held.get("envs") or ())) if inner is not None]
    return list(found.values())


def clipper(space: gym.Space[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A function that turns a policy's actions into what the environment takes: within a `Box`, of the space's dtype.

    The log-probability belongs to the policy's own action; the clipped one only goes to the environment.

    Raises:
        TypeError: If the space is not supported; the message names it.
    """
    if isinstance(space, spaces.Box):
        low, high, dtype = space.low, space.high, space.dtype
        return lambda action: np.clip(action, low, high).astype(dtype)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        dtype = space.dtype
        return lambda action: action.astype(dtype)  # a copy: the environment may change it
    raise TypeError(f"action space must be Discrete, MultiDiscrete, MultiBinary or Box, got {space}")
