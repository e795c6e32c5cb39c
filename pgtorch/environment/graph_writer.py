"""Writes the graph of objects that an environment consists of, node by node.

A value is written as an atom, or as [the number of its node]. A node is a list: its kind, then its content.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import functools
import hashlib
import itertools
import json
import random
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from operator import attrgetter
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from pgtorch.environment.outside import is_own, values_outside
from pgtorch.environment.tables import ATOMS, Tables

SEQUENCES = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
MAPPINGS = {kind.__name__: kind for kind in (dict, OrderedDict, Counter, defaultdict)}
WRITTEN: dict[type, tuple[Callable[[Any], Iterable[Any]], Callable[..., Any], set[type]]] = {
    # Written as arguments: how to get them, what takes them, their types.
    bytes: (lambda value: [value.hex()], bytes.fromhex, {str}),
    bytearray: (lambda value: [value.hex()], bytearray.fromhex, {str}),
    complex: (attrgetter("real", "imag"), complex, {float}),
    range: (attrgetter("start", "stop", "step"), range, {int}),
    slice: (attrgetter("start", "stop", "step"), slice, {int, type(None)}),
    Fraction: (attrgetter("numerator", "denominator"), Fraction, {int}),
    Decimal: (lambda value: [str(value)], Decimal, {str}),
    timedelta: (attrgetter("days", "seconds", "microseconds"), timedelta, {int}),
    date: (attrgetter("year", "month", "day"), date, {int}),
    datetime: (attrgetter("year", "month", "day", "hour", "minute", "second", "microsecond"), datetime, {int}),
}
BIT_GENERATORS = {name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")}
DTYPE_KINDS = frozenset("biufcSUmM")
MOST_POOL = 1024  # words in the pool of a SeedSequence
MOST_VIEW = 2**24  # elements of a view that repeats its memory
KEPT: dict[str, Any] = {"__defaults__": tuple | None, "__kwdefaults__": dict | None, "__dict__": dict}  # by a function
_ARRAYS = np.ndarray, np.generic
_CONSTANTS = EnvSpec, type, types.ModuleType, np.ufunc
EMPTY = object()  # the content of an empty cell


class UnknownStateError(TypeError):
    """An environment holds something whose state cannot be saved; the message names it."""


class Writer:
    """Walks a graph and writes it.

    Args:
        tables: Those of earlier walks. None writes tables node by node.
        data_only: Whether to refuse functions, and objects of library classes.

    Attributes:
        kinds: Classes of the objects that it has found.
        named: Enumerations and named tuples that it has found.
    """

    def __init__(self, tables: Tables | None, *, data_only: bool = False) -> None:
        self.kinds: set[type] = set()
        self.named: set[type] = set()
        self._numbers: dict[int, int] = {}
        self._tables, self._data_only = tables, data_only
        self._nodes: list[Any] = []
        self._found: list[tuple[Any, str]] = []  # values of all nodes, written or not, and their places
        self._shared: dict[Any, int] = {}
        self._contents: list[Any] = []
        self._outside: dict[int, str] = {}

    def write(self, root: Any) -> str:
        """The graph reachable from an environment or a value, as JSON.

        Raises:
            UnknownStateError: If it holds something that cannot be restored.
        """
        name = type(root).__name__
        state: dict[str, Any] = {"root": self._reference(root, name)}
        self._work()
        if not self._data_only:
            outside, state["spaces"] = values_outside(self.kinds), {}
            for place, value in outside.items():
                if id(value) in self._numbers:  # its class may not have been known before
                    self._nodes[self._numbers[id(value)]] = ["outside", place]
                if isinstance(value, gym.Space):
                    state["spaces"][place] = len(self._found)
                    self._found.append((value, place))
                    self._nodes.append(self._object(value, place))
                    self._work()
            state["outside"] = digests(outside)
        state |= {"nodes": self._nodes, "shared": self._contents}
        try:
            return json.dumps(state, default=lambda item: item.tolist())
        except (RecursionError, ValueError) as error:  # an integer with too many digits, for instance
            raise UnknownStateError(f"{name} holds what JSON cannot express ({error})") from None

    def containers(self) -> list[int]:
        """The ids of the lists and dicts that it has written item by item."""
        return [key for key, number in self._numbers.items() if self._nodes[number][0] in ("list", "dict")]

    def _work(self) -> None:
        for value, where in itertools.islice(self._found, len(self._nodes), None):  # the list grows meanwhile
            self._nodes.append(self._node(value, where))

    def _reference(self, value: Any, where: str) -> Any:
        """An atom, or the number of a node, which is written later."""
        if type(value) in ATOMS:
            return value
        number = self._numbers.setdefault(id(value), len(self._found))
        if number == len(self._found):
            self._found.append((value, where))
        return [number]

    def _references(self, values: Iterable[Any], where: str) -> list[Any]:
        return [
            item if type(item) in ATOMS else self._reference(item, f"{where}[{i}]") for i, item in enumerate(values)
        ]

    def _by_name(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        return {
            name: item if type(item) in ATOMS else self._reference(item, f"{where}.{name}")
            for name, item in values.items()
            if type(item) is not EnvSpec  # each environment has its own
        }

    def _node(self, value: Any, where: str) -> list[Any]:  # noqa: PLR0911, PLR0912 -- a table of kinds
        kind: Any = type(value)
        name: str = kind.__name__
        if id(value) in self._outside:
            return ["outside", self._outside[id(value)]]
        if kind in self.kinds:
            return self._object(value, where)
        if self._tables and kind in (list, dict) and (table := self._tables.find(value)):
            return ["table", self._share(table.key, table.content)]
        if SEQUENCES.get(name) is kind:
            is_set = self._data_only and kind in (set, frozenset)  # whose order differs between processes
            items = sorted(value, key=repr) if is_set else value
            return [name, self._references(items, where), getattr(value, "maxlen", None)]
        if MAPPINGS.get(name) is kind:
            pairs = [
                [self._reference(key, f"a key of {where}"), self._reference(item, f"{where}[{key!r}]")]
                for key, item in value.items()
            ]
            return [name, pairs, self._reference(getattr(value, "default_factory", None), where)]
        if isinstance(value, _ARRAYS):
            return self._array(value, where)
        if isinstance(value, np.dtype) and value.kind in DTYPE_KINDS:
            return ["dtype", value.str]
        if kind in WRITTEN and not (kind is datetime and (value.tzinfo or value.fold)):
            arguments = list(WRITTEN[kind][0](value))
            if set(map(type, arguments)) <= WRITTEN[kind][2]:
                return ["written", name, arguments]
        if isinstance(value, enum.Enum):
            self.named.add(kind)
            return ["enum", name_of(kind), value.name]
        if isinstance(value, tuple) and hasattr(kind, "_fields") and not getattr(value, "__dict__", None):
            self.named.add(kind)
            return ["named", name_of(kind), self._references(value, where)]
        if value is EMPTY:
            return ["empty"]
        if is_constant(value):
            return ["constant", name_of(value)]
        if node := self._generator(value, where):
            return node
        if isinstance(value, types.FunctionType) and not self._data_only:
            enclosed = {key: self._reference(content_of(cell), f"{where}.{key}") for key, cell in cells(value)}
            kept = {key: getattr(value, key) for key in KEPT}
            return ["function", code_of(value), enclosed, self._by_name(kept, where)]
        if isinstance(value, types.MethodType):
            name = value.__func__.__name__
            if getattr(type(value.__self__), name, None) is value.__func__:
                return ["method", self._reference(value.__self__, where), name]
        return self._object(value, where)

    def _object(self, value: Any, where: str) -> list[Any]:
        kind: Any = type(value)
        if kind not in self.kinds:
            if not is_plain(kind) or (self._data_only and not is_own(kind)):
                raise UnknownStateError(f"{where} is a {name_of(kind)}")
            self.kinds.add(kind)
            if not self._data_only:
                found = values_outside([kind]).items()
                self._outside |= {id(item): place for place, item in found if type(item) not in ATOMS}
        held = {name: slot.__get__(value) for name, slot in slots(kind).items() if hasattr(value, name)}
        attributes = self._by_name(getattr(value, "__dict__", {}), where)
        return ["object", name_of(kind), attributes, self._by_name(held, where) if held else held]

    def _generator(self, value: Any, where: str) -> list[Any] | None:
        kind: Any = type(value)
        if kind is np.random.Generator:
            return ["Generator", self._reference(value.bit_generator, f"{where}.bit_generator")]
        if kind is np.random.RandomState:
            drawn = value.get_state(legacy=False)
            bits = self._reference(value._bit_generator, f"{where}.bit_generator")
            return ["RandomState", bits, drawn["has_gauss"], drawn["gauss"]]
        if kind is np.random.SeedSequence and value.pool_size <= MOST_POOL:
            born = value.entropy, list(value.spawn_key), value.pool_size, value.n_children_spawned
            return ["SeedSequence", *born]
        if kind.__name__ in BIT_GENERATORS and BIT_GENERATORS[kind.__name__] is kind:
            return ["bits", kind.__name__, self._reference(value.seed_seq, f"{where}.seed_seq"), value.state]
        return ["Random", *value.getstate()] if kind is random.Random else None

    def _array(self, value: Any, where: str) -> list[Any]:
        """An array that owns its memory, a view of one, or a NumPy scalar."""
        known = value.dtype.kind in DTYPE_KINDS
        if known and isinstance(value, np.generic):
            return ["scalar", value.dtype.str, self._bytes(value.tobytes())]
        owner = value
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        order = "C" if owner.flags.c_contiguous else "F"
        known = known and type(value) is type(owner) is np.ndarray and owner.dtype == value.dtype
        if known and owner.base is None and owner.flags[f"{order}_CONTIGUOUS"]:
            if owner is value:
                data = self._bytes(value.tobytes(order))
                return ["array", value.dtype.str, list(value.shape), order, bool(value.flags.writeable), data]
            if value.size <= max(owner.size, MOST_VIEW):
                offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
                memory = self._reference(owner, f"{where}.base")
                return ["view", memory, offset, list(value.shape), list(value.strides), bool(value.flags.writeable)]
        raise UnknownStateError(f"{where} is a numpy.{type(value).__name__} of {value.dtype}")

    def _bytes(self, data: bytes) -> int:
        return self._share(data, lambda: base64.b64encode(data).decode())

    def _share(self, key: Any, content: Callable[[], Any]) -> int:
        """Write a content once, however many nodes share it; return its number."""
        number = self._shared.setdefault(key, len(self._contents))
        if number == len(self._contents):
            self._contents.append(content())
        return number


def digests(outside: Mapping[str, Any]) -> dict[str, str]:
    """Digests that show whether values outside an environment's objects changed; what cannot be written is left out."""
    found = {}
    for place, value in outside.items():
        if not isinstance(value, gym.Space):
            with contextlib.suppress(UnknownStateError):
                text = Writer(None, data_only=True).write(value)
                found[place] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def is_constant(value: Any) -> bool:
    """Whether it cannot change while an environment runs."""
    if isinstance(value, types.BuiltinFunctionType):
        return isinstance(value.__self__, types.ModuleType | None)
    return value is Ellipsis or isinstance(value, _CONSTANTS)


@functools.lru_cache(1024)
def is_plain(kind: Any) -> bool:
    """Whether the objects of a class are nothing but their attributes and slots."""
    extra = ["__dict__"] * (kind.__dictoffset__ != 0) + ["__weakref__"] * (kind.__weakrefoffset__ != 0)
    size = sum(len(_own_slots(base)) for base in kind.__mro__)
    twin = type("_Twin", (), {"__slots__": (*(f"slot_{i}" for i in range(size)), *extra)})
    plain = kind.__basicsize__ == twin.__basicsize__ and kind.__itemsize__ == 0 and not issubclass(kind, type)
    return plain or kind is types.SimpleNamespace


@functools.lru_cache(1024)
def slots(kind: Any) -> dict[str, Any]:
    """The slots of a class by name, each a descriptor."""
    return {name: slot for base in reversed(kind.__mro__) for name, slot in _own_slots(base).items()}


def _own_slots(kind: Any) -> dict[str, Any]:
    own = vars(kind)  # a class of a C library has descriptors too, but no "__slots__"
    return {k: item for k, item in own.items() if "__slots__" in own and type(item) is types.MemberDescriptorType}


def cells(function: Any) -> list[tuple[str, Any]]:
    """The closure cells of a function, by name."""
    return list(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def content_of(cell: Any) -> Any:
    """The content of a closure cell; `EMPTY` if it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def code_of(function: Any) -> list[str]:
    """What identifies a function: its name, its place, and its code."""
    if not isinstance(function, types.FunctionType):
        return []
    code = function.__code__
    constants = [item.co_code.hex() if isinstance(item, types.CodeType) else repr(item) for item in code.co_consts]
    return [name_of(function), str(code.co_firstlineno), code.co_code.hex(), *code.co_names, *constants]


def name_of(value: Any) -> str:
    """Where a class, a function or a module comes from, as "module:name"; for another value, its class."""
    if isinstance(value, types.ModuleType):
        return f"{value.__name__}:"
    if isinstance(value, np.ufunc):
        return f"numpy:{value.__name__}"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{getattr(named, '__module__', 'builtins')}:{named.__qualname__}"  # Box2D has classes of no module
