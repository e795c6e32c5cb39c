"""The state of any environment made of plain Python and NumPy: taken out as plain values and tensors, and put back.

An environment is walked as a graph: attributes, containers, arrays and views of them, generators, wrappers, helper
objects, what functions enclose. Whatever two names share, they share again afterwards. Objects are not made anew: those
of an environment of the same settings are filled. Where anything else turns up, a physics engine's data for instance,
the environment is said to have no state that can be given, and a run cannot resume in mid-episode.
"""

from __future__ import annotations

import enum
import functools
import json
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv

_SEQUENCES: dict[str, Callable[..., Any]] = {"list": list, "tuple": tuple, "deque": deque}
_BIT_GENERATORS: dict[str, Callable[[Any], np.random.BitGenerator]] = {
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
}
_PLAIN_SIZE = type("_Plain", (), {}).__basicsize__  # bytes; an object of more keeps something beside its attributes
_KEPT = ("__defaults__", "__kwdefaults__", "__dict__")  # what a function may keep beside what it encloses
_MISSING = object()

State = dict[str, Any]  # "nodes", the values that have an identity, and "root", the environment among them


class MissingObjectError(ValueError):
    """A state holds an object that the environment has not got, and that is not made anew."""


class UnknownStateError(TypeError):
    """An environment holds something whose state cannot be taken; the message names it."""


def take_state(env: Any) -> State:
    """Everything that may change in an environment, as plain types and tensors.

    Args:
        env: A `gymnasium.Env` or `gymnasium.vector.VectorEnv`, after its first reset.

    Raises:
        UnknownStateError: Where it holds anything but plain values, arrays, generators, and objects of such.
    """
    if isinstance(env.unwrapped, AsyncVectorEnv):
        raise UnknownStateError("its environments live in other processes")
    taker = _Taker()
    try:
        root = taker.take(env, type(env).__name__)
    except RecursionError:
        raise UnknownStateError(f"{type(env).__name__} is nested too deeply") from None
    return {"root": root, "nodes": taker.nodes}


def why_unknown(env: Any) -> str:
    """Why an environment cannot give its state; an empty string where it can."""
    try:
        take_state(env)
    except UnknownStateError as error:
        return f"{env.spec.id if env.spec else type(env).__name__} cannot give its state, {error}"
    return ""


def put_state(env: Any, state: State) -> None:
    """Bring an environment of the same kind to a state that `take_state` gave.

    Args:
        env: Made by the same settings, after its first reset. Where an error is raised, it is as it was.
        state: The state.

    Raises:
        ValueError: Where the state does not fit; the message names the attribute.
    """
    name = type(env).__name__
    if not isinstance(state, dict) or state.keys() != {"root", "nodes"}:
        missing = sorted({"root", "nodes"} - set(state)) if isinstance(state, dict) else ["root", "nodes"]
        raise ValueError(f"{name}: what was saved is no state, missing {missing}")
    try:
        putter = _Putter(state["nodes"])
        putter.plan(state["root"], env, name)
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{name}: what was saved is no state ({type(error).__name__} {error})") from error
    if putter.made.get(state["root"][1]) is not env:
        raise ValueError(f"{name}: what was saved is another kind of state")
    for change in putter.changes:
        change()


class _Taker:
    """Writes a graph down, node by node."""

    def __init__(self) -> None:
        self.nodes: list[tuple[Any, ...]] = []
        self._index: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no id is given twice

    def take(self, value: Any, where: str) -> tuple[str, Any]:
        """A value that has no identity, or the number of the node that it became."""
        if value is None or type(value) in (bool, int, float, str):
            return "value", value
        if id(value) not in self._index:
            self._index[id(value)] = len(self.nodes)
            self._alive.append(value)
            self.nodes.append(())  # its place, taken before what it holds
            self.nodes[self._index[id(value)]] = self._node(value, where)
        return "node", self._index[id(value)]

    def _node(self, value: Any, where: str) -> tuple[Any, ...]:  # noqa: PLR0911 -- a table of kinds
        if isinstance(value, enum.Enum):
            return "enum", _name(type(value)), value.name
        if _is_constant(value):
            return "constant", _name(value)
        if type(value) is np.random.Generator and type(value.bit_generator).__name__ in _BIT_GENERATORS:
            return self._generator(value.bit_generator, where)
        if type(value) is np.ndarray or isinstance(value, np.generic):
            return self._array(value, where)
        for kind, sequence in _SEQUENCES.items():
            if type(value) is sequence:
                items = [self.take(item, f"{where}[{i}]") for i, item in enumerate(value)]
                return kind, items, value.maxlen if isinstance(value, deque) else None
        if type(value) is dict and all(type(key) in (str, int) for key in value):
            return "dict", [[key, self.take(item, f"{where}[{key!r}]")] for key, item in value.items()]
        if isinstance(value, types.FunctionType):
            enclosed = {name: self.take(_inside(cell), f"{where}.{name}") for name, cell in _cells(value)}
            kept = {name: self.take(getattr(value, name), f"{where}.{name}") for name in _KEPT}
            return "function", _code(value), enclosed, kept
        if isinstance(value, types.MethodType):
            return "method", _name(value.__func__), self.take(value.__self__, f"{where}.__self__")
        if _is_plain(value):
            attributes = {name: self.take(item, f"{where}.{name}") for name, item in vars(value).items()}
            return "object", _name(type(value)), attributes
        raise UnknownStateError(f"{where} is a {_name(type(value))}")

    def _generator(self, bits: Any, where: str) -> tuple[Any, ...]:
        seed = bits.seed_seq
        if type(seed) is not np.random.SeedSequence:
            raise UnknownStateError(f"{where} is a generator without a numpy.random.SeedSequence")
        born = {"entropy": seed.entropy, "spawn_key": seed.spawn_key, "pool_size": seed.pool_size}
        born["n_children_spawned"] = seed.n_children_spawned
        state = json.dumps(
            [born, bits.state], default=lambda value: value.tolist()
        )  # text, for their integers have 128 bits
        return "generator", type(bits).__name__, state

    def _array(self, value: Any, where: str) -> tuple[Any, ...]:
        """An array that owns its memory, a view of one, or a NumPy scalar."""
        unknown = UnknownStateError(f"{where} is a numpy.{type(value).__name__} of {value.dtype}")
        owner = value
        while isinstance(owner, np.ndarray) and isinstance(owner.base, np.ndarray):
            owner = owner.base
        text = value.dtype.kind in "SU"
        if isinstance(value, np.ndarray) and (owner.base is not None or not owner.flags.c_contiguous):
            raise unknown
        if owner is not value:
            if text or owner.dtype != value.dtype:
                raise unknown
            offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
            place = (offset, list(value.shape), list(value.strides), bool(value.flags.writeable))
            return "view", self.take(owner, f"{where}.base"), *place
        if not text and value.dtype.kind not in "biuf":
            raise unknown
        try:
            content = np.asarray(value).astype(np.str_).tolist() if text else torch.from_numpy(np.array(value))
        except (TypeError, ValueError):  # of a kind, an order of bytes or letters that neither can hold
            raise unknown from None
        scalar = isinstance(value, np.generic)
        kind = "text" if text else "scalar" if scalar else "array"
        return kind, content, value.dtype.str, not scalar and bool(value.flags.writeable)


class _Putter:
    """Makes every value anew, but for objects and functions, whose changes it plans; nothing has changed before."""

    def __init__(self, nodes: list[tuple[Any, ...]]) -> None:
        self.made: dict[int, Any] = {}
        self.changes: list[Callable[[], None]] = []
        self._nodes = nodes
        self._used: dict[int, int] = {}  # by id of a live object, the node that it takes over

    def plan(self, reference: tuple[str, Any], current: Any, where: str) -> Any:
        """The value that takes the place of `current`."""
        kind, content = reference
        if kind == "value" and (content is None or type(content) in (bool, int, float, str)):
            return content
        if kind != "node" or not 0 <= content < len(self._nodes):
            raise ValueError(f"{where} does not fit what was saved")
        if content not in self.made:
            self._make(content, current, where)
        return self.made[content]

    def _make(self, index: int, current: Any, where: str) -> None:  # noqa: PLR0912 -- a table of kinds
        match self._nodes[index]:
            case ("array", torch.Tensor() as tensor, str(dtype), bool(writeable)):
                self._keep(index, tensor.numpy().astype(dtype), writeable)
            case ("view", owner, int(offset), list(shape), list(strides), bool(writeable)):
                memory = self.plan(owner, None, where)
                self._keep(index, np.ndarray(shape, memory.dtype, memory, offset, strides), writeable)
            case ("scalar", torch.Tensor() as tensor, str(dtype), False):
                self.made[index] = tensor.numpy().astype(dtype)[()]
            case ("text", list() | str() as text, str(dtype), bool(writeable)):
                array = np.array(text, dtype)
                self._keep(index, array if array.ndim else array[()], writeable)
            case ("generator", str(name), str(state)):
                born, now = json.loads(state)
                bits = _BIT_GENERATORS[name](np.random.SeedSequence(**born))
                bits.state = now
                self.made[index] = np.random.Generator(bits)
            case ("list" | "tuple" | "deque" as kind, list(items), maxlen):
                self._make_sequence(index, kind, items, maxlen, current, where)
            case ("dict", list(items)):
                made = self.made[index] = {}
                known = current if type(current) is dict else {}
                for key, item in items:
                    made[key] = self.plan(item, known.get(key, _MISSING), f"{where}[{key!r}]")
            case ("enum", str(name), str(member)) if _name(type(current)) == name:
                self.made[index] = type(current)[member]
            case ("constant", str(name)) if _is_constant(current) and _name(current) == name:
                self.made[index] = current
            case ("method", str(name), owner) if isinstance(current, types.MethodType):
                if _name(current.__func__) != name or self.plan(owner, current.__self__, where) is not current.__self__:
                    raise ValueError(f"{where} should be {name}, of the same object")
                self.made[index] = current
            case ("function", list(code), dict(enclosed), dict(kept)) if _code(current) == code:
                self._claim(index, current, where)
                for key in _KEPT:
                    content = self.plan(kept[key], getattr(current, key), f"{where}.{key}")
                    self.changes.append(functools.partial(setattr, current, key, content))
                for key, cell in _cells(current):
                    content = self.plan(enclosed[key], _inside(cell), f"{where}.{key}")
                    self.changes.append(functools.partial(setattr, cell, "cell_contents", content))
            case ("object", str(name), dict(attributes)) if _is_plain(current) and _name(type(current)) == name:
                self._claim(index, current, where)
                self._plan_attributes(current, attributes, where)
            case ("object" | "function" | "method" | "enum" | "constant", *_) if self.made:  # within the environment
                raise MissingObjectError(f"{where} is another one in a fresh environment, and cannot be made")
            case _:
                raise ValueError(f"{where} does not fit what was saved")

    def _make_sequence(self, index: int, kind: str, items: list[Any], maxlen: Any, current: Any, where: str) -> None:
        known = list(current) if type(current) is _SEQUENCES[kind] else []
        known += [_MISSING] * (len(items) - len(known))
        made: Any = [] if kind == "list" else deque(maxlen=maxlen)
        if kind != "tuple":
            self.made[index] = made
        for i, item in enumerate(items):
            made.append(self.plan(item, known[i], f"{where}[{i}]"))
        if kind == "tuple":
            self.made[index] = tuple(made)

    def _plan_attributes(self, current: Any, attributes: dict[str, Any], where: str) -> None:
        planned = {}
        for name, item in attributes.items():
            live = vars(current).get(name, _MISSING)
            if live is _MISSING and item[0] == "node" and self._nodes[item[1]][0] == "constant":
                if not hasattr(type(current), name):  # which would make it when it is asked for: cached_property
                    raise ValueError(f"{where}.{name} is missing")
                continue
            planned[name] = self.plan(item, live, f"{where}.{name}")

        def change() -> None:
            vars(current).clear()
            vars(current).update(planned)

        self.changes.append(change)

    def _claim(self, index: int, current: Any, where: str) -> None:
        """Fill a live object with what was one object; never with two, of which it would be a mixture."""
        if self._used.setdefault(id(current), index) != index:
            raise ValueError(f"{where} is one object here and was two")
        self.made[index] = current

    def _keep(self, index: int, array: Any, writeable: bool) -> None:
        if isinstance(array, np.ndarray):
            array.flags.writeable = writeable
        self.made[index] = array


def _is_constant(value: Any) -> bool:
    """What cannot change while an environment is played."""
    if isinstance(value, types.BuiltinFunctionType):
        return isinstance(value.__self__, types.ModuleType | None)
    return isinstance(value, gym.Space | EnvSpec | type | types.ModuleType | np.dtype)


def _is_plain(value: Any) -> bool:
    """Whether an object is nothing but its attributes."""
    kind = type(value)
    slots = {name for base in kind.__mro__ for name in _slots(base)} - {"__dict__", "__weakref__"}
    return hasattr(value, "__dict__") and kind.__basicsize__ == _PLAIN_SIZE and not slots


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _cells(function: Any) -> list[tuple[str, Any]]:
    return list(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))


def _inside(cell: Any) -> Any:
    """What a function encloses in a cell, which may be empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _code(function: Any) -> list[str]:
    """What tells one function from another: its name, where it stands, and what it does."""
    if not isinstance(function, types.FunctionType):
        return []
    code = function.__code__
    constants = [item.co_code.hex() if isinstance(item, types.CodeType) else repr(item) for item in code.co_consts]
    return [_name(function), str(code.co_firstlineno), code.co_code.hex(), *code.co_names, *constants]


def _name(value: Any) -> str:
    """Where a class, a function or a module comes from; of a space or a specification, what kind it is."""
    if isinstance(value, gym.Space | EnvSpec | np.dtype):
        value = type(value)
    if isinstance(value, types.ModuleType):
        return value.__name__
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', type(value).__qualname__)}"
