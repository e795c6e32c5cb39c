"""The state of an environment as text, and the way back.

Refused, with the place named, is what cannot be restored to the last bit: environments in other processes, data of C
libraries (a physics engine, an emulator), files, iterators, tensors, arrays of objects. A run with such an environment
resumes with new episodes.

Everything else is walked as a graph: attributes, containers, arrays and views of them, random generators, wrappers,
helper objects, spaces, and what functions enclose. What two names share, they share again afterwards. The environments
of a fresh run with the same settings are filled; other objects are made if it lacks them, without running their
constructors. A set keeps its items, but not always their order.

What lies in classes and globals is compared, not restored: a state is refused if a fresh environment has it otherwise.
"""

from __future__ import annotations

import json
import weakref
from typing import Any

from gymnasium.vector import AsyncVectorEnv

from pgtorch.environment.graph_reader import CannotContinueError, Reader
from pgtorch.environment.graph_writer import UnknownStateError, Writer, digests
from pgtorch.environment.outside import values_outside
from pgtorch.environment.tables import Tables

__all__ = ["CannotContinueError", "UnknownStateError", "put_state", "take_state", "why_unknown"]

_MALFORMED = (LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, ValueError, MemoryError)
_tables: weakref.WeakKeyDictionary[Any, Tables] = weakref.WeakKeyDictionary()  # a cache, checked at each use


def take_state(env: Any) -> str:
    """Everything that may change in an environment, as JSON.

    Args:
        env: A `gymnasium.Env` or `gymnasium.vector.VectorEnv`, after its first reset.

    Raises:
        UnknownStateError: If it holds something that cannot be restored.
    """
    if isinstance(env.unwrapped, AsyncVectorEnv):
        raise UnknownStateError("its environments live in other processes")
    tables = _tables.setdefault(env, Tables())
    while True:
        writer = Writer(tables)
        try:
            state = writer.write(env)
        finally:
            tables.forget_unused()
        if not tables.bar(writer.containers()):  # what it came to by another way must be written as one object
            return state


def why_unknown(env: Any) -> str:
    """Why the state of an environment cannot be taken; an empty string if it can.

    Ask once at the start of a run: static tables are remembered then, which makes each save fast.
    """
    try:
        take_state(env)
    except UnknownStateError as error:
        return f"the state of {env.spec.id if env.spec else type(env).__name__} cannot be saved, {error}"
    return ""


def put_state(env: Any, state: object) -> None:
    """Bring a fresh environment to a state that `take_state` returned.

    Args:
        env: Made with the same settings, after its first reset. If an error is raised, nothing has changed in it.
        state: The state.

    Raises:
        CannotContinueError: If the state needs what a fresh environment lacks, or if its classes or globals differ.
        ValueError: If it is no state of such an environment.
    """
    name, live = type(env).__name__, Writer(Tables())
    try:
        live.write(env)
    except UnknownStateError as error:
        raise CannotContinueError(f"{name} cannot take over a state, {error}") from error
    outside = values_outside(live.kinds)
    try:
        saved = json.loads(state)  # type: ignore[arg-type]  # a TypeError is handled
        here, there = digests(outside), saved["outside"]
        reader = Reader(saved["nodes"], saved["shared"], live.kinds | live.named, outside)
        reader.read_into(env, saved["root"], name)
        for place, number in saved["spaces"].items():
            reader.read_into(outside.get(place), [number], place)
        different = sorted(place for place in here.keys() | there.keys() if here.get(place) != there.get(place))
    except CannotContinueError:
        raise
    except _MALFORMED as error:
        raise ValueError(f"{name}: what was saved is no state of it ({type(error).__name__}: {error})") from error
    if different:
        raise CannotContinueError(f"{', '.join(different)} lies outside the objects of {name}, and is not what it was")
    for change in reader.changes:
        change()
