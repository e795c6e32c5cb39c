"""Flags from a dataclass, by tyro: `--learning-rate X` sets the field `learning_rate: Annotated[float, above(0)]`.

The docstring under a field is its help, followed by its limit. A field without a default is a positional
argument.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import io
import itertools
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, cast

import tyro
from tyro.constructors import PrimitiveConstructorSpec, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from pgtorch.limits import annotations_of, check, limit_of

T = TypeVar("T")


def read_json(words: list[str]) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: If it is invalid, or nested too deeply for Python's parser.
    """
    try:
        return json.loads(words[0])
    except RecursionError as error:
        raise ValueError("JSON must not be nested so deeply") from error


Json = Annotated[
    dict[str, Any],
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=read_json,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    ),
]


def read(
    target: type[T], words: Sequence[str], *, default: T | None, prog: str, description: str | None, hint: str
) -> T:
    """Make a dataclass of the words of a command line.

    Args:
        target: The dataclass.
        words: What follows the command.
        default: Holds the defaults; None uses the dataclass's own.
        prog: Name of program and command, for --help.
        description: What the command does, for --help.
        hint: Added to the error about an unknown flag, instead of a guess at what was meant.

    Raises:
        TypeError, ValueError: If a flag or a value is wrong.
        SystemExit: After --help.
    """
    empty = [word for word in words if re.fullmatch(r"(--[\w-]+=)?", word)]
    if empty:
        raise ValueError(f"every argument needs a value, got {empty[0]!r}")
    kinds, texts = annotations_of(target), explanations(target)

    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        return StructConstructorSpec(dict, tuple(map(flag, kinds))) if info.type is target else None

    def flag(name: str) -> StructFieldSpec:
        limit = limit_of(kinds[name])
        help_text = f"{texts[name]} Must be {limit}." if limit else texts[name]
        kind = Json if kinds[name] == dict[str, Any] else kinds[name]
        return StructFieldSpec(name, kind, getattr(default or target, name, tyro.MISSING), help_text)

    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(rule)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            made, unknown = tyro.cli(
                target,
                prog=prog,
                description=description,
                args=words,
                return_unknown_args=True,
                config=(tyro.conf.PositionalRequiredArgs,),
                registry=registry,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise ValueError(_first_paragraph(box.getvalue())) from None
    if unknown:
        raise ValueError(_about_unknown(unknown[0], list(kinds), hint))
    values = cast(dict[str, Any], made)
    return target(**{name: check(name, kinds[name], value) for name, value in values.items()})


def explanations(target: type[Any]) -> dict[str, str]:
    """The docstring under each field of a dataclass, in one line."""
    (body,) = ast.parse(inspect.getsource(target)).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _first_paragraph(box: str) -> str:
    """The message in tyro's box, without frame, colors and help."""
    title, *lines = re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()
    texts = (line.strip("│╰╯─- ") for line in lines)
    said = " ".join(itertools.takewhile(bool, itertools.dropwhile(lambda text: not text, texts)))
    return said.removeprefix("Error parsing ") or title


def _about_unknown(word: str, names: Sequence[str], hint: str) -> str:
    if not word.startswith("-"):
        return f"unexpected argument {word!r}"
    flags = [prefix + name.replace("_", "-") for name in names for prefix in ("--", "--no-")]
    near = difflib.get_close_matches(word.partition("=")[0].replace("_", "-"), flags, 1, 0.7)
    guess = f". Perhaps you meant {near[0]}?" if near else ""
    return f"unknown flag {word}{hint or guess}"
