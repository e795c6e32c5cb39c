"""What the scripts share: flags from a function or dataclass, errors in one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, TypeVar

import tyro

FAILED, WRONG_INPUT = 1, 2  # exit status: the work failed; the user asked for what cannot be

T = TypeVar("T")


def parse(
    target: type[T],
    description: str | None,
    registry: tyro.constructors.ConstructorRegistry | None = None,
    default: T | None = None,
) -> T:
    """Make a dataclass of the flags. Wrong ones are told in one line on stderr; the process ends with status 2."""
    message = io.StringIO()
    defaults: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(message):
            made: T = tyro.cli(target, description=description, registry=registry, **defaults)
            return made
    except SystemExit as end:
        if end.code:
            complain(_unboxed(message.getvalue()), WRONG_INPUT)
        raise


def complain(message: str, status: int) -> int:
    """Print an error in one line; give its exit status back."""
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _unboxed(message: str) -> str:
    """The first paragraph of tyro's message, without the box around it."""
    lines = [line.strip("│ ") for line in message.splitlines() if not line.startswith(("╭", "╰"))]
    return re.split(r"\n─", "\n".join(lines))[0]


def leave_on_interrupt() -> None:
    """Have Ctrl-C end the script at once, with the status that shells expect and no traceback."""
    signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))


def warn_in_one_line() -> None:
    """Have warnings told like errors, without the line of code that they come from."""
    warnings.showwarning = lambda message, *_: print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)


class StopSignals:
    """Catches Ctrl-C and SIGTERM: the first asks to stop, which calling this tells; a second leaves at once.

    Attributes:
        number: Of the signal that came; 0: none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._owner = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number != 0

    def _receive(self, number: int, _frame: object) -> None:
        in_worker = os.getpid() != self._owner  # which inherits this: it leaves Ctrl-C to its parent
        if in_worker and number == signal.SIGINT:
            return
        if in_worker or self.number:
            os._exit(128 + number)
        self.number = number
