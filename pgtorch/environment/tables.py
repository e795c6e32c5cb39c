"""Static tables of an environment, such as its transitions: written once, then recognized quickly at each save."""

from __future__ import annotations

import gc
import itertools
import json
import marshal
from collections.abc import Iterable
from typing import Any

import numpy as np

ATOMS = frozenset({type(None), bool, int, float, str})
_LEAST = 8  # items in a container worth remembering


class Table:
    """A tree of lists and dicts whose leaves are numbers, strings, and tuples of them.

    Args:
        root: A list or a dict.

    Attributes:
        key: Equal for tables with equal content.

    Raises:
        TypeError, ValueError: If it is not such a tree.
    """

    def __init__(self, root: Any) -> None:
        self._root, self._containers = root, [root]
        kinds, level, leaves = set(map(type, root)), gc.get_referents(root), list[Any]()
        while level:
            kinds.update(map(type, level))
            leaves += [item for item in level if type(item) is tuple]
            level = [item for item in level if type(item) in (list, dict)]
            self._containers += level
            kinds.update(map(type, itertools.chain.from_iterable(level)))  # the keys among them
            level = gc.get_referents(*level)
            if len(set(map(id, self._containers))) < len(self._containers):
                raise TypeError("a container in two places")
        while leaves:
            found = gc.get_referents(*leaves)
            kinds.update(type(item) if type(item) not in (list, dict) else object for item in found)
            leaves = [item for item in found if type(item) is tuple]
        numbers = (np.number, np.bool_)
        if not all(kind in ATOMS or kind in (list, dict, tuple) or issubclass(kind, numbers) for kind in kinds):
            raise TypeError("a leaf that may change")
        self.key = frozenset(kinds), marshal.dumps(root, 2)  # version 2: bytes that depend on the content alone
        self._separated = [item for container in self._containers for item in (container, _END)]
        self._dicts = [item for item in self._containers if type(item) is dict and set(map(type, item)) == {str}]
        self._objects, self._keys = self._held()
        self._inner = np.sort(np.fromiter(map(id, self._containers[1:]), np.intp))
        self._content = ""

    def is_unchanged(self) -> bool:
        """Whether each container still holds the same objects."""
        objects, keys = self._held()
        return np.array_equal(_addresses(objects), _addresses(self._objects)) and keys == self._keys

    def has_inside(self, ids: Any) -> bool:
        """Whether any of these ids, an array of integers, is that of a container inside it."""
        return bool((self._inner[np.searchsorted(self._inner, ids) % len(self._inner)] == ids).any())

    def content(self) -> str:
        """The table as JSON: [kind, items ...], and atoms."""
        self._content = self._content or json.dumps(_nested(self._root))
        return self._content

    def _held(self) -> tuple[Any, list[str]]:
        """What the containers hold, in order, with a mark after each; and the keys that are strings."""
        objects = gc.get_referents(*self._separated)  # for a dict with other keys, those too
        return np.fromiter(objects, object, len(objects)), list(itertools.chain.from_iterable(self._dicts))


_END = (object(),)


def _addresses(objects: Any) -> Any:
    """The addresses of the objects in an array: integers [N], in the same memory."""
    return np.ndarray(len(objects), np.intp, objects)


class Tables:
    """The tables of one environment, remembered from save to save."""

    def __init__(self) -> None:
        self._known: dict[int, Table] = {}
        self._used: dict[int, Table] = {}
        self._barred: set[int] = set()

    def find(self, value: Any) -> Table | None:
        """A list or dict as a table; None if it is not one, or too small."""
        if len(value) < _LEAST or id(value) in self._barred:
            return None
        table = self._known.pop(id(value), None)
        if table is None or not table.is_unchanged():
            items: Iterable[Any] = value.values() if type(value) is dict else value
            if not {list, dict} & set(map(type, items)):
                return None
            try:
                table = Table(value)
            except (TypeError, ValueError):
                return None
        self._used[id(value)] = table
        return table

    def forget_unused(self) -> None:
        """Forget the tables that were not found since the last call."""
        self._known, self._used = self._used, {}

    def bar(self, ids: Iterable[int]) -> bool:
        """Stop finding the tables that contain any of these ids; return whether there are any."""
        array = np.fromiter(ids, np.intp)
        barred = {key for key, table in self._known.items() if table.has_inside(array)}
        self._barred |= barred
        return bool(barred)


def _nested(value: Any) -> Any:
    kind = type(value)
    if kind in ATOMS:
        return value
    if isinstance(value, np.generic):
        return ["scalar", value.dtype.str, value.tobytes().hex()]
    items = itertools.chain.from_iterable(value.items()) if kind is dict else value
    return [kind.__name__, *map(_nested, items)]


def rebuilt(content: Any) -> Any:
    """A new table from its content, read from JSON.

    Raises:
        LookupError, TypeError, ValueError: If it is not one.
    """
    if type(content) in ATOMS:
        return content
    kind, *items = content
    if kind == "scalar":
        name, data = items
        dtype = np.dtype(name)
        if dtype.kind not in "biufc":
            raise TypeError(f"{name} is not a type of numbers")
        return np.frombuffer(bytes.fromhex(data), dtype)[0]
    values = map(rebuilt, items)
    return dict(zip(values, values, strict=True)) if kind == "dict" else {"list": list, "tuple": tuple}[kind](values)
