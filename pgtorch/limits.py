"""Checks settings against their annotations: type, choices and limit, as in `Annotated[float, above(0)]`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

MOST_FLOAT = 3e38  # what float32 can hold
NOUNS = {int: "an integer", float: "a number", bool: "a bool", str: "a str", dict: "a dict", Path: "a path"}
ACCEPTED: dict[Any, Any] = {float: (int, float), Path: (str, Path)}  # and converted; other types are kept


@dataclass(frozen=True)
class Limit:
    """What a value must be, in words and as a test that NaN fails."""

    text: str
    allows: Callable[[Any], bool]


def above(low: float) -> Limit:
    """Numbers above `low`."""
    return Limit(f"above {low}", lambda value: value > low)


def at_least(low: float, at_most: float = math.inf) -> Limit:
    """Numbers from `low` to `at_most`."""
    text = f"at least {low}" + (f" and at most {at_most}" if at_most < math.inf else "")
    return Limit(text, lambda value: low <= value <= at_most)


def matching(pattern: str, text: str) -> Limit:
    """Strings that fully match a regular expression; `text` describes them."""
    return Limit(text, lambda value: re.fullmatch(pattern, value) is not None)


def annotations_of(target: type[Any]) -> dict[str, Any]:
    """The annotations of a class, by field."""
    return get_type_hints(target, include_extras=True)


def limit_of(annotation: Any) -> str:
    """The limit in an annotation, in words, also inside `X | None` or `tuple[X, ...]`; "" if there is none."""
    inner = (limit_of(part) for part in get_args(annotation))
    return annotation.text if isinstance(annotation, Limit) else next(filter(None, inner), "")


def check(name: str, annotation: Any, value: Any) -> Any:
    """The value, converted to its annotation's type: an integer to float, a list to tuple, a string to path.

    Raises:
        TypeError: If the value is not of that type; for a dict, if JSON cannot represent it.
        ValueError: If it is outside the limit, not one of the choices, or not finite.
    """
    kind, *limits = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    kind, inner = get_origin(kind) or kind, get_args(kind)
    if kind in (UnionType, Union):  # X | None
        return None if value is None else check(name, inner[0], value)
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(check(name, inner[0], item) for item in value)
    if kind is Literal:
        limits = [Limit(f"one of {inner}", inner.__contains__)]
    elif not isinstance(value, ACCEPTED.get(kind, kind)) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} must be {NOUNS.get(kind, 'a sequence of integers')}, got {value!r}")
    too_large = kind is float and value > MOST_FLOAT
    if too_large or (kind is float and not value >= -MOST_FLOAT) or not all(limit.allows(value) for limit in limits):
        number = "a finite number " * (kind is float)
        words = " and ".join([limit.text for limit in limits] + [f"at most {MOST_FLOAT:g}"] * too_large)
        raise ValueError(f"{name} must be {number}{words}".rstrip() + f", got {value!r}")
    if kind is dict:
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(f"{name} must be representable as JSON, got {value!r}") from error
    return kind(value) if kind in ACCEPTED else value
