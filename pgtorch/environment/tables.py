"""Static tables of an environment, such as its transitions: written once, and recognized quickly at each later save."""

from __future__ import annotations

import gc
import itertools
import json
import marshal
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

ATOMS = frozenset({type(None), bool, int, float, str})
_LEAST = 8  # items of a container that is worth remembering


class Table:
    """A tree of lists and dicts whose leaves are numbers, strings, and tuples of them.

    Whether it is still what it was is answered in C: its content gives the same bytes, and nothing but their parents
    refers to its inner containers. To these bytes a NumPy number is the same as any other object with its memory.

    Args:
        root: A list or a dict.

    Attributes:
        key: What tables of the same content have in common.

    Raises:
        TypeError, ValueError: If it is no such tree.
    """

    def __init__(self, root: Any) -> None:
        self._root, self._inner = root, list[Any]()
        kinds, level, leaves = set(map(type, root)), gc.get_referents(root), list[Any]()
        while level:
            kinds.update(map(type, level))
            leaves += [item for item in level if type(item) is tuple]
            level = [item for item in level if type(item) in (list, dict)]
            self._inner += level
            kinds.update(map(type, itertools.chain.from_iterable(level)))  # the keys among them
            level = gc.get_referents(*level)
            if len(set(map(id, self._inner))) < len(self._inner):
                raise TypeError("a container in two places")
        while leaves:
            found = gc.get_referents(*leaves)
            kinds.update(type(item) if type(item) not in (list, dict) else object for item in found)
            leaves = [item for item in found if type(item) is tuple]
        numbers = (np.number, np.bool_)
        if not all(kind in ATOMS or kind in (list, dict, tuple) or issubclass(kind, numbers) for kind in kinds):
            raise TypeError("a leaf that may change")
        self._bytes = marshal.dumps(root, 2)  # version 2: bytes that depend on the content alone
        self.key = frozenset(kinds), self._bytes
        self._ids = np.sort(np.fromiter(map(id, self._inner), np.intp))
        self._content = ""

    def is_unchanged(self) -> bool:
        """Whether it holds what it held, in the same containers."""
        return self.is_alone() and marshal.dumps(self._root, 2) == self._bytes

    def is_alone(self) -> bool:
        """Whether nothing but this object and their parents refers to its inner containers."""
        return self._counts() == _ALONE

    def contains_one(self, ids: Any) -> bool:
        """Whether one of some ids, an array of integers, is that of an inner container."""
        return bool((self._ids[np.searchsorted(self._ids, ids) % len(self._ids)] == ids).any())

    def content(self) -> str:
        """The table as JSON: [kind, items ...], and atoms."""
        self._content = self._content or json.dumps(_nested(self._root))
        return self._content

    def _counts(self) -> set[int]:
        return set(map(sys.getrefcount, self._inner))


_ALONE = Table([[0]])._counts()


class Tables:
    """The tables of one environment, remembered from save to save."""

    def __init__(self) -> None:
        self._known: dict[int, Table] = {}
        self._used: dict[int, Table] = {}

    def find(self, value: Any) -> Table | None:
        """A list or dict as a table; None if it is none, or too small."""
        if len(value) < _LEAST:
            return None
        table = self._known.pop(id(value), None)
        if table is None or not table.is_unchanged():
            table = None  # its references would count
            items: Iterable[Any] = value.values() if type(value) is dict else value
            if not {list, dict} & set(map(type, items)):
                return None
            try:
                table = Table(value)
            except (TypeError, ValueError):
                return None
            if not table.is_alone():
                return None
        self._used[id(value)] = table
        return table

    def forget_unused(self) -> None:
        """Forget the tables that were not found since the last call."""
        self._known, self._used = self._used, {}

    def contain(self, ids: Iterable[int]) -> bool:
        """Whether one of some ids is that of a container inside of a table."""
        array = np.fromiter(ids, np.intp)
        return any(table.contains_one(array) for table in self._known.values())


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
        LookupError, TypeError, ValueError: If it is none.
    """
    if type(content) in ATOMS:
        return content
    kind, *items = content
    if kind == "scalar":
        name, data = items
        dtype = np.dtype(name)
        if dtype.kind not in "biufc":
            raise TypeError(f"{name} is no type of numbers")
        return np.frombuffer(bytes.fromhex(data), dtype)[0]
    values = map(rebuilt, items)
    return dict(zip(values, values, strict=True)) if kind == "dict" else {"list": list, "tuple": tuple}[kind](values)
