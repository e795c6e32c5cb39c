"""The command `pgtorch`, also `python -m pgtorch`: prepares the process and runs one of `pgtorch.commands` in it."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import pgtorch
from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, describe, warn_in_one_line

COMMANDS = {
    "train": "train a policy; without flags, the lesson",
    "evaluate": "play fresh episodes with a run's policy",
    "export": "write a run's policy to a file that runs without pgtorch",
    "verify": "find every gradient in two ways and compare them",
    "lesson": "tell the lesson in the terminal, in five acts; --page shows it in the browser",
    "exercises": "fill in the lesson's ten functions, and check them",
    "sweep": "train many learners: seeds, and several values of any setting",
    "benchmark": "compare the speed with other code",
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command, and end this process with its exit status.

    The status is 0, 1 if the work failed, 2 if it could not start, or 128 + n after signal n.

    Args:
        arguments: The command and its flags; None uses `sys.argv`.
    """
    sys.modules["__main__"] = sys.modules[__name__]  # else processes that this one spawns would run its script as well
    for number in (signal.SIGINT, signal.SIGTERM):  # `train` sets its own, once it has something to save
        signal.signal(number, lambda number, _: os._exit(128 + number))
    try:
        status = run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has closed it
        status = 128 + signal.SIGPIPE
    except BaseException as error:  # an environment may raise anything
        status = complain(describe(error), FAILED)
    os._exit(status)  # a normal exit takes half a second with torch, and drops the signal handlers first


def run(arguments: Sequence[str]) -> int:
    """Import a command and call it with its flags; return its exit status."""
    name, *flags = arguments or ["--help"]
    if name in ("-h", "--help"):
        print("usage: pgtorch COMMAND [FLAGS]\n")
        print("\n".join(f"  {name:11}{text}" for name, text in COMMANDS.items()))
        print("\npgtorch COMMAND --help shows the flags of a command, pgtorch --version the version.")
        return 0
    if name == "--version":
        print(f"pgtorch {pgtorch.__version__}")
        return 0
    if name not in COMMANDS:
        import difflib  # noqa: PLC0415 -- seldom needed

        near = difflib.get_close_matches(name, COMMANDS, 1)
        guess = f". Perhaps you meant {near[0]}?" if near else f", only {', '.join(COMMANDS)}"
        return complain(f"there is no command {name!r}{guess}", WRONG_INPUT)
    warn_in_one_line()
    gc.disable()  # imported objects stay alive: searching them for garbage takes a fifth of the startup
    importlib.import_module("pgtorch.lesson")  # registers Restaurant-v0, so that its plain id works
    command = importlib.import_module(f"pgtorch.commands.{name}")
    gc.freeze()
    gc.enable()
    try:
        status: int = command.main(flags)
    except SystemExit as end:  # after --help, or a wrong flag
        status = end.code if isinstance(end.code, int) else FAILED
    return status


if __name__ == "__main__":
    main()
