"""Reads a graph written by `graph_writer` into the objects of a fresh environment. The graph may be forged."""

from __future__ import annotations

import base64
import enum
import functools
import json
import math
import random
import sys
import types
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv

from pgtorch.environment.graph_writer import (
    BIT_GENERATORS,
    DTYPE_KINDS,
    EMPTY,
    KEPT,
    MAPPINGS,
    MOST_POOL,
    MOST_VIEW,
    SEQUENCES,
    WRITTEN,
    cells,
    code_of,
    content_of,
    is_constant,
    is_plain,
    name_of,
    slots,
)
from pgtorch.environment.outside import is_own
from pgtorch.environment.tables import ATOMS, rebuilt

_NEVER_MADE = (gym.Env, VectorEnv)
_PLAIN = {name_of(kind): kind for kind in (*ATOMS, *SEQUENCES.values(), *MAPPINGS.values(), *WRITTEN, object)}
_WRITTEN_KINDS = {kind.__name__: kind for kind in WRITTEN}
_BUFFERS = {"pos": 624, "buffer_pos": 4}  # a generator's highest position; NumPy does not check it, and reads beyond


class CannotContinueError(ValueError):
    """A state is valid, but cannot be restored into a fresh environment; the message says why."""


class Reader:
    """Rebuilds every value. Changes to live objects are collected first and applied only if all succeed.

    Args:
        nodes: Of the graph.
        shared: Its shared contents.
        kinds: The classes of the fresh environment's objects.
        outside: The values outside of them, by place.

    Attributes:
        changes: What remains to be done, in order.
    """

    def __init__(self, nodes: list[Any], shared: list[Any], kinds: set[type], outside: Mapping[str, Any]) -> None:
        self.changes: list[Callable[[], None]] = []
        self._nodes, self._shared, self._outside = nodes, shared, outside
        self._kinds = {**_PLAIN, **{name_of(kind): kind for kind in kinds}}
        self._modules = {kind.__module__ for kind in kinds if is_own(kind)}
        self._made: dict[int, Any] = {}
        self._used: set[int] = set()  # ids of live objects that are to be filled
        self._pending: deque[Callable[[], None]] = deque()

    def read_into(self, live: Any, reference: Any, where: str) -> None:
        """Plan how to bring a live object to the state in the graph that starts at a reference.

        Raises:
            CannotContinueError: If the state cannot be restored into a fresh environment.
            ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError: If it is malformed.
        """
        if self._plan(reference, live, where) is not live:
            raise ValueError(f"{where} is another object")
        while self._pending:
            self._pending.popleft()()

    def _plan(self, reference: Any, live: Any, where: str) -> Any:
        """The value that takes the place of a live one."""
        if type(reference) in ATOMS:
            return reference
        (number,) = reference
        if type(number) is not int or not 0 <= number < len(self._nodes):
            raise ValueError(f"{where} is node {number!r}")
        if number not in self._made:
            self._made[number] = self._make(number, live, where)
        return self._made[number]

    def _plan_items(self, items: list[Any], live: Any, where: str) -> list[Any]:
        known = list(live) if isinstance(live, list | tuple | deque) else []
        known += [None] * (len(items) - len(known))
        return [self._plan(item, known[i], f"{where}[{i}]") for i, item in enumerate(items)]

    def _plan_by_name(self, items: dict[str, Any], live: Mapping[str, Any], where: str) -> dict[str, Any]:
        return {name: self._plan(item, live.get(name), f"{where}.{name}") for name, item in items.items()}

    def _later(self, fill: Callable[..., None], *arguments: Any) -> None:
        """Fill a new value once everything that may refer to it has been made."""
        self._pending.append(functools.partial(fill, *arguments))

    def _make(self, number: int, live: Any, where: str) -> Any:  # noqa: PLR0911, PLR0912 -- a table of kinds
        made: Any
        match self._nodes[number]:
            case ["list" | "deque" | "set" as kind, list(items), maxlen]:
                if maxlen is not None and len(items) > maxlen:
                    raise ValueError(f"{where} has {len(items)} items, more than {maxlen}")
                made = deque(maxlen=maxlen) if kind == "deque" else SEQUENCES[kind]()
                self._later(self._fill_sequence, made, items, live, where)
                return made
            case ["tuple" | "frozenset" as kind, list(items), None]:
                return SEQUENCES[kind](self._plan_items(items, live, where))
            case ["named", str(name), list(items)]:
                return tuple.__new__(self._find(name, where), self._plan_items(items, live, where))
            case [str(kind), list(items), factory] if kind in MAPPINGS:
                made = MAPPINGS[kind]()
                self._later(self._fill_mapping, made, items, factory, live, where)
                return made
            case ["table", int(place)]:
                return rebuilt(json.loads(self._shared[place]))
            case ["written", str(kind), list(arguments)]:
                _, read, allowed = WRITTEN[_WRITTEN_KINDS[kind]]
                if not set(map(type, arguments)) <= allowed:
                    raise TypeError(f"{where} is not a {kind}")
                return read(*arguments)
            case ["dtype", str(name)]:
                return _dtype(name)
            case ["enum", str(name), str(member)]:
                return enum.EnumMeta.__getitem__(self._find(name, where), member)
            case ["constant", str(name)]:
                return live if is_constant(live) and name_of(live) == name else self._find(name, where)
            case ["outside", str(place)]:
                return self._outside[place]
            case ["empty"]:
                return EMPTY
            case ["method", reference, str(name)]:
                owner = self._plan(reference, getattr(live, "__self__", None), where)
                function = getattr(type(owner), name)
                if not isinstance(function, types.FunctionType):
                    raise TypeError(f"{where} is not a method")
                return types.MethodType(function, owner)
            case ["function", list(code), dict(enclosed), dict(kept)]:
                made = live if code_of(live) == code else self._find(code[0], where)
                if code_of(made) != code or id(made) in self._used:
                    raise CannotContinueError(f"{where} is another function in a fresh environment")
                self._used.add(id(made))
                self._later(self._fill_function, made, enclosed, kept, where)
                return made
            case ["object", str(name), dict(attributes), dict(own_slots)]:
                return self._make_object(number, name, attributes, own_slots, live, where)
            case ["array" | "view" | "scalar", *_] as node:
                return self._make_array(node, where)
            case node:
                return self._make_generator(node, where)

    def _fill_sequence(self, made: Any, items: list[Any], live: Any, where: str) -> None:
        values = self._plan_items(items, live, where)
        made.update(values) if isinstance(made, set) else made.extend(values)

    def _fill_mapping(self, made: Any, items: list[Any], factory: Any, live: Any, where: str) -> None:
        known = live if isinstance(live, dict) else {}
        for key, item in items:
            planned = self._plan(key, None, where)
            made[planned] = self._plan(item, known.get(planned), f"{where}[{planned!r}]")
        if isinstance(made, defaultdict):
            made.default_factory = self._plan(factory, getattr(live, "default_factory", None), where)

    def _fill_function(self, made: Any, enclosed: dict[str, Any], kept: dict[str, Any], where: str) -> None:
        for name, value in self._plan_by_name(kept, {name: getattr(made, name) for name in KEPT}, where).items():
            if not isinstance(value, KEPT[name]):
                raise TypeError(f"{where}.{name} is a {type(value).__name__}")
            self.changes.append(functools.partial(setattr, made, name, value))
        for name, cell in cells(made):
            value = self._plan(enclosed[name], content_of(cell), f"{where}.{name}")
            change = delattr if value is EMPTY else functools.partial(_set, value)
            self.changes.append(functools.partial(change, cell, "cell_contents"))

    def _make_object(
        self, number: int, name: str, attributes: dict[str, Any], own_slots: dict[str, Any], live: Any, where: str
    ) -> Any:
        """Fill the live object, or a new one.

        Objects that define their own hash are always new, and filled at once, since a dict or a set may need the hash.
        """
        kind: Any = type(live)
        own_hash = _has_own_hash(kind) and not isinstance(live, _NEVER_MADE)
        lives = name_of(kind) == name and is_plain(kind) and not own_hash and id(live) not in self._used
        made = self._made[number] = live if lives else self._new(name, where)
        self._used.add(id(made))
        if own_slots.keys() - slots(made.__class__).keys():
            raise ValueError(f"{where} lacks slots")

        def fill() -> None:
            known = getattr(live, "__dict__", {}) if lives else {}
            values = self._plan_by_name(attributes, known, where)
            known = {key: getattr(live, key, None) for key in own_slots} if lives else {}
            change = functools.partial(_fill_object, made, values, self._plan_by_name(own_slots, known, where))
            if lives:
                self.changes.append(change)
            else:
                change()

        if lives or not _has_own_hash(made.__class__):
            self._later(fill)
        else:
            fill()
        return made

    def _new(self, name: str, where: str) -> Any:
        kind: Any = self._find(name, where)
        if kind is types.SimpleNamespace:
            return kind()
        fits = isinstance(kind, type) and not issubclass(kind, _NEVER_MADE)
        if not fits:
            raise TypeError(f"{where} should be a {name}")
        if not is_plain(kind) or kind.__new__ is not object.__new__ or hasattr(kind, "__del__"):
            raise CannotContinueError(f"{where} was another {name}, which cannot be created")
        return object.__new__(kind)

    def _find(self, name: str, where: str) -> Any:
        """A class or function by name: from the environment's own modules, a space, or a plain type."""
        module, _, path = name.partition(":")
        found: Any = self._kinds.get(name)
        if found is None and (module in self._modules or module.startswith("gymnasium.spaces.")):
            found = sys.modules[module]
            for part in path.split("."):
                found = getattr(found, part, None)
        if not isinstance(found, type | types.FunctionType) or name_of(found) != name:
            raise CannotContinueError(f"{where} was {name}, which a fresh environment lacks")
        return found

    def _make_array(self, node: list[Any], where: str) -> Any:
        match node:
            case ["array", str(name), list(shape), "C" | "F" as order, bool(writeable), int(place)]:
                made = self._read(name, shape, place, order).copy(order)
            case ["scalar", str(name), int(place)]:
                return self._read(name, [], place)[()]
            case ["view", reference, int(offset), list(shape), list(strides), bool(writeable)]:
                memory = self._plan(reference, None, where)
                if math.prod(shape) > max(memory.size, MOST_VIEW):
                    raise ValueError(f"{where} has {math.prod(shape)} elements")
                made = np.ndarray(shape, memory.dtype, memory, offset, strides)
            case _:
                raise ValueError(f"{where} is not an array")
        made.flags.writeable = writeable
        return made

    def _read(self, name: str, shape: list[int], place: int, order: Any = "C") -> Any:
        """An array made of shared bytes, whose number must fit."""
        data, dtype = base64.b64decode(self._shared[place], validate=True), _dtype(name)
        if math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes for an array of shape {shape!r:.100}")
        made = np.ndarray(shape, dtype, data, order=order)
        codes = np.frombuffer(data, np.dtype("u4").newbyteorder(dtype.byteorder)) if dtype.kind == "U" else np.zeros(1)
        if codes.max(initial=0) > sys.maxunicode:
            raise ValueError("invalid characters")
        return made

    def _make_generator(self, node: Any, where: str) -> Any:
        match node:
            case ["Generator", bits]:
                return np.random.Generator(self._plan(bits, None, where))
            case ["RandomState", bits, int(has_gauss), float(gauss)]:
                made = np.random.RandomState(self._plan(bits, None, where))
                made.set_state({**made.get_state(legacy=False), "has_gauss": has_gauss, "gauss": gauss})
                return made
            case ["SeedSequence", entropy, list(spawn_key), int(pool_size), int(spawned)] if pool_size <= MOST_POOL:
                return np.random.SeedSequence(
                    entropy, spawn_key=spawn_key, pool_size=pool_size, n_children_spawned=spawned
                )
            case ["bits", str(name), reference, dict(state)]:
                seed = self._plan(reference, None, where)
                if not isinstance(seed, np.random.SeedSequence | None):
                    raise TypeError(f"{where} has no seed")
                bits = np.random.RandomState(0)._bit_generator if seed is None else BIT_GENERATORS[name](seed)
                positions = state["state"] | state
                if not all(0 <= positions.get(key, 0) <= most for key, most in _BUFFERS.items()):
                    raise ValueError(f"{where} is beyond its buffer")
                bits.state = state
                if json.dumps(bits.state, default=lambda item: item.tolist()) != json.dumps(state):
                    raise ValueError(f"{where} has no such state")
                return bits
            case ["Random", version, list(words), gauss]:
                python = random.Random()
                python.setstate((version, tuple(words), gauss))
                return python
        raise ValueError(f"{where} does not fit what was saved")


def _has_own_hash(kind: Any) -> bool:
    """Whether its objects are hashed by content; such an object may be a key."""
    return kind.__hash__ is not None and kind.__hash__ is not object.__hash__


def _dtype(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    if dtype.kind not in DTYPE_KINDS or dtype.str != name:
        raise TypeError(f"{name!r} is not a type of plain numbers or letters")
    return dtype


def _set(value: Any, owner: Any, name: str) -> None:
    setattr(owner, name, value)


def _fill_object(made: Any, attributes: dict[str, Any], own_slots: dict[str, Any]) -> None:
    if hasattr(made, "__dict__"):
        own = vars(made)
        kept = {name: value for name, value in own.items() if type(value) is EnvSpec}
        own.clear()
        own.update(kept | attributes)
    for name, slot in slots(made.__class__).items():
        if name in own_slots:
            slot.__set__(made, own_slots[name])
        elif hasattr(made, name):
            slot.__delete__(made)
