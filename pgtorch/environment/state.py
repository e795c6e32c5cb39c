"""Saves the state of an environment as text, and restores it.

What cannot be restored to the last bit is refused, with the place named: environments in other processes, data of C
libraries (a physics engine, an emulator), files, iterators, tensors, arrays of objects. A run with such an environment
resumes with new episodes.

Everything else is walked as a graph: attributes, containers, arrays and views of them, random generators, wrappers,
helper objects, spaces, and closures. Objects that were shared are shared again afterwards. The state goes into the
environments of a fresh run with the same settings; missing objects are created without running their constructors. A
set keeps its items, but not always their order.

State in classes and globals is compared, not restored: if a fresh environment differs there, the state is refused.
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
        if not tables.bar(writer.containers()):  # what is also reached in another way must be written as one object
            return state


def why_unknown(env: Any) -> str:
    """Why the state of an environment cannot be saved; an empty string if it can.

    Call once at the start of a run: this caches static tables, which makes each save fast.
    """
    try:
        take_state(env)
    except UnknownStateError as error:
        return f"the state of {env.spec.id if env.spec else type(env).__name__} cannot be saved, {error}"
    return ""


def put_state(env: Any, state: object) -> None:
    """Restore a state that `take_state` returned into a fresh environment.

    Args:
        env: Made with the same settings, after its first reset. If an error is raised, nothing has changed in it.
        state: The state.

    Raises:
        CannotContinueError: If the state needs what a fresh environment lacks, or if its classes or globals differ.
        ValueError: If it is not a state of such an environment.
    """
    name, live = type(env).__name__, Writer(Tables())
    try:
        live.write(env)
    except UnknownStateError as error:
        raise CannotContinueError(f"{name} cannot be given a state, {error}") from error
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
        raise ValueError(f"{name}: what was saved is not a state of it ({type(error).__name__}: {error})") from error
    if different:
        raise CannotContinueError(f"{', '.join(different)} lies outside the objects of {name}, and has changed")
    for change in reader.changes:
        change()
