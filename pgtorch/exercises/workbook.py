"""The workbook: the questions without their answers; and a learner's file, loaded however broken it is."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOLUTIONS = Path(__file__).with_name("solutions.py")
BLANK = "raise NotImplementedError"


def blank() -> str:
    """The text of the workbook: `solutions.py` with the body of each function replaced."""
    text = SOLUTIONS.read_text(encoding="utf-8")
    lines = text.splitlines()
    for function in reversed([node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]):
        docstring, end = function.body[0], function.end_lineno
        lines[docstring.end_lineno : end] = [f"    {BLANK}"]
    return "\n".join(lines) + "\n"


@dataclass
class Workbook:
    """A learner's file after it ran.

    Attributes:
        namespace: Its functions and variables, by name.
        broken: Functions that could not be defined, by name, each with the reason.
        problems: What else went wrong, in words.
        undone: Functions without a body of their own.
    """

    namespace: dict[str, Any]
    broken: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    undone: set[str] = field(default_factory=set)


def load(path: Path, run: Callable[[Callable[[], None]], str]) -> Workbook:
    """Run a learner's file, one statement after the other: what one of them raises does not lose the rest.

    Args:
        path: The file.
        run: Calls a function, and says in words what went wrong; "" if nothing did.

    Raises:
        OSError: If it cannot be read.
        UnicodeDecodeError: If it is not UTF-8.
    """
    source = path.read_text(encoding="utf-8-sig")
    book = Workbook({"__name__": "workbook", "__file__": str(path)})
    for name, part in _statements(source, book):
        for node in ast.walk(part):
            if isinstance(node, ast.ExceptHandler) and node.type is None:  # a bare except would swallow the time limit
                node.type = ast.copy_location(ast.Name("Exception", ast.Load()), node)
        tree = ast.Module([part], [])
        if problem := run(lambda tree=tree: exec(compile(tree, str(path), "exec", dont_inherit=True), book.namespace)):  # type: ignore[misc]
            if name:
                book.broken[name] = problem
            else:
                book.problems.append(problem)
        if isinstance(part, ast.FunctionDef) and _is_blank(part):
            book.undone.add(part.name)
    return book


def _statements(source: str, book: Workbook) -> Iterator[tuple[str, ast.stmt]]:
    """The top-level statements, each with the name of the function that it defines, or "".

    If the file has a syntax error, it is cut before each line that begins a function, so that only one is lost.
    """
    try:
        parts = ast.parse(source).body
    except (SyntaxError, ValueError):
        parts = []
        for first, text in _pieces(source):
            try:
                parts += ast.parse("\n" * first + text).body
            except (SyntaxError, ValueError) as error:
                name = re.match(r"(?:async )?def (\w+)", text)
                where = f"Line {error.lineno}: " if isinstance(error, SyntaxError) else ""
                said = f"{where}{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}."
                if name:
                    book.broken[name[1]] = said
                else:
                    book.problems.append(said)
    for part in parts:
        yield (part.name if isinstance(part, ast.FunctionDef) else ""), part


def _pieces(source: str) -> Iterator[tuple[int, str]]:
    """The text from each line that begins a function to the next, with the number of lines before it."""
    lines = source.splitlines()
    starts = [0, *(i for i, line in enumerate(lines) if i and re.match(r"(async )?def ", line)), len(lines)]
    for start, end in itertools.pairwise(starts):
        yield start, "\n".join(lines[start:end]) + "\n"


def _is_blank(function: ast.FunctionDef) -> bool:
    """Whether nothing but a docstring, `...`, `pass` or `raise NotImplementedError` stands in it."""
    body = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return all(isinstance(node, ast.Pass) or ast.unparse(node).startswith(BLANK) for node in body)
