"""What an environment may keep outside its objects: in its classes, and in the globals of its module.

This follows the classes of its objects and, from their methods, the functions and classes of the same module. It does
not see what other modules keep, or what is not reached by name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import CodeType, FunctionType, ModuleType
from typing import Any

_FOREIGN = sys.stdlib_module_names - {"__main__"} | {"gymnasium", "numpy", "pgtorch", "torch"}


def is_own(value: Any) -> bool:
    """Whether a class or function belongs to an environment, not to a library that environments are built on."""
    return (value.__module__ or "builtins").partition(".")[0] not in _FOREIGN


def values_outside(kinds: Iterable[type]) -> dict[str, Any]:
    """The attributes of classes, and the globals that their methods name.

    Args:
        kinds: Classes of an environment's objects. Their bases are included; library classes are skipped.

    Returns:
        The values by name, sorted, such as "module.Class.attribute" and "module.name", without functions and classes.
    """
    found: dict[str, Any] = {}
    pending: list[Any] = [base for kind in kinds for base in kind.__mro__ if is_own(base)]
    done = set()
    while pending:
        item = pending.pop()
        if item in done:
            continue
        done.add(item)
        if isinstance(item, type):
            prefix, names = f"{item.__module__}.{item.__qualname__}", dict(vars(item))
        else:
            prefix, names = (
                item.__module__,
                {name: item.__globals__[name] for name in _names(item.__code__) if name in item.__globals__},
            )
            pending += [inner for inner in (getattr(item, "__wrapped__", None),) if isinstance(inner, FunctionType)]
        for name, value in names.items():
            if isinstance(value, property):
                pending += [part for part in (value.fget, value.fset) if isinstance(part, FunctionType)]
                continue
            inner = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if isinstance(inner, type | FunctionType):
                if inner.__module__ == item.__module__:
                    pending.append(inner)
            elif not name.startswith("__") and not isinstance(value, ModuleType):
                found[f"{prefix}.{name}"] = value
    return dict(sorted(found.items()))  # in the same order in each process


def _names(code: CodeType) -> set[str]:
    """The names looked up by a function and the functions within it."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)
