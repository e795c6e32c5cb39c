"""Ten exercises in the order of the lesson.

`pgtorch exercises [FOLDER]` writes FOLDER/workbook.py, with ten small functions to fill in; `pgtorch exercises check
[FOLDER]` judges the answers by mathematics, and says of a wrong one what it does. It runs the file that it checks. Its
exit status is 0 if all answers are correct, otherwise 1.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, parse, printable
from pgtorch.exercises.check import Report, check
from pgtorch.exercises.workbook import SOLUTIONS, blank
from pgtorch.limits import at_least

FOLDER, WORKBOOK = Path("exercises"), "workbook.py"


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    folder: Path = FOLDER
    """Where to write; a positional argument as well."""

    solutions: bool = False
    """Write solutions.py, with the answers, in place of the workbook."""


@dataclass(frozen=True)
class CheckArguments:
    """Flags of `check`."""

    folder: Path = FOLDER
    """Where the workbook is, or a file to check; a positional argument as well."""

    only: Annotated[int, at_least(1, 10)] | None = None
    """Check one exercise only."""

    json: bool = False
    """Print JSON, for teachers: each exercise with status, hint and message."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a workbook, or check one."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(1)
    if words[:1] == ["check"]:
        return _check(parse(CheckArguments, __doc__, _named(words[1:]), command="exercises check"))
    return _write(parse(Arguments, __doc__, _named(words), command="exercises"))


def _named(words: Sequence[str]) -> list[str]:
    """The words, with `--folder` before one that is neither a flag nor a flag's value."""
    for i, word in enumerate(words):
        if not word.startswith("-") and (i == 0 or words[i - 1] not in ("--folder", "--only")):
            return [*words[:i], "--folder", *words[i:]]
    return list(words)


def _write(flags: Arguments) -> int:
    """Write the workbook or the solutions, and say what to do with it."""
    path = flags.folder / ("solutions.py" if flags.solutions else WORKBOOK)
    text = SOLUTIONS.read_text(encoding="utf-8") if flags.solutions else blank()
    try:
        flags.folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        return complain(f"{error.filename} exists already, and is not overwritten", WRONG_INPUT)
    except OSError as error:
        return complain(str(error), WRONG_INPUT)
    command = " ".join(["pgtorch exercises check", *([str(flags.folder)] if flags.folder != FOLDER else [])])
    print(f"wrote {path}" if flags.solutions else f"wrote {path}. Fill it in, then run\n\n    {command}\n")
    return 0


def _check(flags: CheckArguments) -> int:
    """Check the workbook and print the report."""
    path = flags.folder if flags.folder.is_file() else flags.folder / WORKBOOK
    if flags.folder == FOLDER and not path.exists() and Path(WORKBOOK).exists():  # called inside the folder
        path = Path(WORKBOOK)
    if not path.exists():
        return complain(f"there is no {path}; `pgtorch exercises {flags.folder}` writes one", WRONG_INPUT)
    try:
        report = check(path, flags.only)
    except (OSError, UnicodeDecodeError) as error:
        return complain(f"cannot read {path}: {error}", WRONG_INPUT)
    print(json.dumps(report.as_dict(), indent=1) if flags.json else _text(report))
    return 0 if report.correct == len(report.results) else FAILED


def _text(report: Report) -> str:
    """The report for people."""
    lines = [*map(_fill, report.problems)]
    for result in report.results:
        more = {"correct": f", by {result.judged_by}", "not done": " yet"}.get(result.status, "")
        lines.append(f"{result.number:2}  {result.name:20}{result.status}{more}")
        said = [_fill(text) for text in (result.message, result.effect, result.example) if text]
        lines += [*said, ""] if said else []
    todo = [result.name for result in report.results if result.status != "correct"]
    rest = f" Next: {todo[0]}." if todo else ""
    return "\n".join([*lines, "", f"{report.correct} of {len(report.results)} correct.{rest}"])


def _fill(text: str) -> str:
    """A paragraph, indented."""
    return textwrap.fill(printable(text), 82, initial_indent="    ", subsequent_indent="    ")
