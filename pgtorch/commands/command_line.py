"""What the commands share: parsing, and one-line messages."""

from __future__ import annotations

import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

FAILED, WRONG_INPUT = 1, 2  # exit status: the work failed; the request cannot be carried out
PACKAGE = Path(__file__).parents[1]

T = TypeVar("T")


def parse(
    target: type[T],
    description: str | None,
    arguments: Sequence[str] | None,
    *,
    command: str | None = None,
    default: T | None = None,
    hint: str = "",
) -> T:
    """Make a dataclass from flags, as `pgtorch.commands.flags` describes.

    Args:
        target: The dataclass.
        description: What the command does, for --help.
        arguments: The words after the command; None uses `sys.argv`.
        command: Name of the command; None uses that of the dataclass's module.
        default: Holds the defaults, and is the result if there are no words; None uses the dataclass's own.
        hint: Added to the error about an unknown flag, instead of a guess at what was meant.

    Raises:
        SystemExit: With status 2, after one line on stderr, if a flag or a value is wrong; with status 0 after --help.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if default is not None and not words:
        return default
    from pgtorch.commands.flags import read  # noqa: PLC0415 -- imports tyro, which takes an eighth of a second

    prog = f"pgtorch {command or target.__module__.rpartition('.')[2]}"
    try:
        return read(target, words, default=default, prog=prog, description=description, hint=hint)
    except (TypeError, ValueError) as error:
        sys.exit(complain(str(error), WRONG_INPUT))


def complain(message: str, status: int) -> int:
    """Print an error in one line on stderr; return its exit status."""
    print(f"pgtorch: error: {in_one_line(message)}", file=sys.stderr)
    return status


def describe(error: BaseException) -> str:
    """An error in words: its message and notes. An unexpected one gets its type and where it was raised."""
    message = "; ".join([str(error), *getattr(error, "__notes__", [])])
    frame = traceback.extract_tb(error.__traceback__)[-1]
    is_known = type(error).__module__.startswith(("pgtorch", "gymnasium")) or isinstance(error, OSError | ImportError)
    is_refusal = isinstance(error, ValueError | TypeError) and Path(frame.filename).is_relative_to(PACKAGE)
    if message and (is_known or is_refusal):
        return message
    return f"{type(error).__name__}: {message} ({frame.filename}, line {frame.lineno})"


def warn_in_one_line() -> None:
    """Print warnings like errors, without the line of code that they come from and without Gymnasium's colors."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        text = re.sub(r"\x1b\[[\d;]*m", "", str(message))
        print(f"pgtorch: warning: {in_one_line(text)}", file=sys.stderr)

    warnings.showwarning = show


def printable(text: object) -> str:
    """Text for a terminal, with control characters and line breaks escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def in_one_line(text: object) -> str:
    """Text of several lines in one, printable."""
    return printable(" ".join(str(text).split()))
