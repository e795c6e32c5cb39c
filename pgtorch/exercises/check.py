"""Checks a workbook: each answer is correct, or wrong with what it does, or not done yet.

An answer is judged by `cases.py`. If it is wrong, it is compared with the typical wrong answers of `hints.py`; if it is
none of them, the report says what holds for it: always twice as large, right for Norm only, the same whatever the
reward. The effect on the lesson, and the first input on which it fails, are computed from the learner's own function.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pgtorch.exercises import solutions
from pgtorch.exercises.cases import EXERCISES, TOLERANCE, Answer, Case, Exercise, differ
from pgtorch.exercises.effects import EFFECTS
from pgtorch.exercises.hints import TOGETHER, WRONG, Wrong
from pgtorch.exercises.workbook import Workbook, load

SECONDS = 5.0  # for one exercise
ENOUGH = 3  # inputs on which an answer must be like a typical one
Status = Literal["correct", "wrong", "not done", "waits"]
NEGATED = {"guess_derivative", "times_reward", "loss", "two_logits", "reward_to_go", "gae", "clipped"}
ERRORS = {
    (
        "sigmoid",
        "OverflowError",
    ): "exp of more than 709 is too large for a float. If z is negative, exp(z) / (1 + exp(z)) "
    "is the same, and has no large exponent.",
    (
        "sigmoid",
        "NotFiniteError",
    ): "exp of more than 709 is infinite, and infinity divided by infinity is not a number. "
    "Where z is positive, 1 / (1 + exp(-z)) is the same, and has no large exponent.",
    ("loss", "ValueError"): "If the log is the reason: take that of the probability only, the reward may be negative.",
    ("times_reward", "ZeroDivisionError"): "The reward may be 0. It multiplies; nothing is divided here.",
    ("reward_to_go", "IndexError"): "There is no step after the last one: begin there, and go backward.",
    (
        "gae",
        "IndexError",
    ): "There is no step after the last one: begin there, and go backward. The value after step t is next_values[t].",
}


class NotFiniteError(ValueError):
    """An answer is NaN or infinite."""


class NotNumbersError(TypeError):
    """An answer is no number, or not as many as it must be."""


class TimeUpError(BaseException):
    """The time is up; not an Exception, so that a learner's `except Exception` lets it pass."""


@dataclass(frozen=True)
class Result:
    """What is said about an answer.

    Attributes:
        number: Of the exercise.
        name: Of the function.
        status: "correct", "wrong", "not done", or "waits": right by itself, but it calls a function that is not.
        message: In words; "" if it is correct.
        effect: What the answer does to the lesson; "" if that is not known.
        example: The first input on which it is wrong.
        hint: Name of the typical wrong answer that it is; "" if it is none.
        judged_by: How it is judged, in a few words.
    """

    number: int
    name: str
    status: Status
    message: str = ""
    hint: str = ""
    effect: str = ""
    example: str = ""
    judged_by: str = ""


@dataclass(frozen=True)
class Report:
    """The results of a workbook, and what went wrong outside of its functions."""

    path: str
    results: tuple[Result, ...]
    problems: tuple[str, ...] = ()

    @property
    def correct(self) -> int:
        """How many exercises are correct."""
        return sum(result.status == "correct" for result in self.results)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return {"workbook": self.path, "correct": self.correct, "of": len(self.results)} | {
            "problems": list(self.problems),
            "exercises": [asdict(result) for result in self.results],
        }


def check(path: Path, only: int | None = None, seconds: float = SECONDS) -> Report:
    """Check the answers in a file. It runs the file, in this process; what it prints is not shown.

    Call it in the main thread: the time limit is a signal.

    Args:
        path: The workbook.
        only: Number of the one exercise to check; None checks all.
        seconds: Time limit for each exercise.

    Raises:
        OSError: If the file cannot be read.
        UnicodeDecodeError: If it is not UTF-8.
    """
    with _quiet(path.parent):
        book = load(path, lambda statement: _run(statement, path, seconds))
        known: dict[str, Result] = {}

        def result_of(exercise: Exercise) -> Result:
            if exercise.name not in known:
                known[exercise.name] = _examine(exercise, book, path, seconds)
            return known[exercise.name]

        wanted = [exercise for exercise in EXERCISES if only in (None, exercise.number)]
        results = []
        for exercise in wanted:
            result = result_of(exercise)
            if result.status != "correct" and exercise.name not in book.undone and result.hint != "time":
                wrong = [e.name for e in EXERCISES if e is not exercise and result_of(e).status != "correct"]
                result = _with_others_right(exercise, result, wrong, book, path, seconds) if wrong else result
            results.append(result)
    return Report(str(path), tuple(results), tuple(book.problems))


def _with_others_right(
    exercise: Exercise, result: Result, wrong: Sequence[str], book: Workbook, path: Path, seconds: float
) -> Result:
    """The result if the functions that it calls were right, so that an error is reported where it is."""
    called: set[str] = set()

    def right(name: str) -> Callable[..., Any]:
        def stand_in(*arguments: Any) -> Any:
            called.add(name)
            return getattr(solutions, name)(*arguments)

        return stand_in

    before = dict(book.namespace)
    book.namespace.update({name: right(name) for name in wrong})  # in place: the functions look their globals up in it
    try:
        again = _examine(exercise, book, path, seconds)
    finally:
        book.namespace.clear()
        book.namespace.update(before)
    if not called:
        return result
    if again.status != "correct":
        return again
    names = " and ".join(f"{name} (exercise {e.number})" for e in EXERCISES if (name := e.name) in called)
    verb = "is" if len(called) == 1 else "are"
    message = f"Right by itself, but it calls {names}, which {verb} not right yet."
    return replace(again, status="waits", message=message)


# One exercise


@dataclass
class Seen:
    """What an answer gives for a case: numbers, or what it raised."""

    case: Case
    numbers: list[float] = field(default_factory=list)
    error: BaseException | None = None
    value: Any = None

    @property
    def judged(self) -> list[float]:
        """The numbers that are judged."""
        return self.numbers[: len(self.numbers) - self.case.extra]

    @property
    def is_right(self) -> bool:
        """Whether they are what they must be."""
        return self.error is None and _agree(self.judged, self.case.expected)


def _examine(exercise: Exercise, book: Workbook, path: Path, seconds: float) -> Result:
    """The result of one exercise, by the function as it is now."""
    name, function = exercise.name, book.namespace.get(exercise.name)
    result = Result(exercise.number, name, "not done", judged_by=exercise.how)
    if name in book.broken:
        return replace(result, status="wrong", message=f"It cannot be defined. {book.broken[name]}", hint="error")
    if name in book.undone:
        return result
    if not callable(function):
        return replace(result, message=f"There is no function {name} in {path.name}.")
    try:
        with _time_limit(seconds):
            return _judge(exercise, function, path, result)
    except TimeUpError:
        text = f"It did not return within {seconds:g} seconds. Is there a loop that never ends?"
        return replace(result, status="wrong", message=text, hint="time")


def _judge(exercise: Exercise, function: Callable[..., Any], path: Path, result: Result) -> Result:
    """The result, by whichever kind of arguments suits the function best."""
    tried = []
    for convert in STYLES:
        answer = _answer(function, convert)
        seen = [_look(case, answer) for case in exercise.cases]
        if all(one.is_right for one in seen):
            return replace(result, status="correct")
        tried.append((seen, answer))
    seen, answer = min(tried, key=lambda one: sum(look.error is not None for look in one[0]))  # the first of equals
    if any(isinstance(one.error, NotImplementedError) for one in seen):
        return replace(result, message="It raises NotImplementedError.")
    hint, message = _explain(exercise, seen, path)
    result = replace(result, status="wrong", message=message, hint=hint)
    if any(one.error is None and not one.is_right for one in seen):
        result = replace(result, effect=_effect(exercise.name, answer), example=_example(exercise, seen))
    return result


def _explain(exercise: Exercise, seen: Sequence[Seen], path: Path) -> tuple[str, str]:
    """The hint's name, and what is wrong, in words."""
    if wrong := _recognize(exercise, seen):
        return wrong
    failed = [one for one in seen if one.error is not None]
    facts = _facts(exercise, [one for one in seen if one.error is None])
    if failed:
        error = failed[0].error
        right_elsewhere = len(failed) < len(seen) and all(one.is_right or one.error for one in seen)
        text = f"{_call(exercise, failed[0].case)} {_what(error, path)}"
        text = f"Right where it answers, but {text}" if right_elsewhere else text
        return "error", " ".join(
            filter(None, [text, ERRORS.get((exercise.name, type(error).__name__), ""), *facts[:3]])
        )
    return "", " ".join(facts[:3]) or "Not right yet. It is none of the mistakes that have a hint: look at the numbers."


def _recognize(exercise: Exercise, seen: Sequence[Seen]) -> tuple[str, str] | None:
    """The typical wrong answer that gives the same everywhere, or wherever both give anything; or its negative."""
    for strict, sign in itertools.product((True, False), (1.0, -1.0)):
        if sign > 0 or exercise.name in NEGATED:
            for wrong in (*WRONG[exercise.name], *TOGETHER.get(exercise.name, ())):
                if _is_like(wrong, seen, strict=strict, sign=sign):
                    more = " And yours has the opposite sign of that." if sign < 0 else ""
                    return wrong.key + (", negative" if more else ""), wrong.hint + more
    return None


def _is_like(wrong: Wrong, seen: Sequence[Seen], *, strict: bool, sign: float) -> bool:
    """Whether a typical answer and the one seen agree, and fail on the same inputs.

    If not strict, the one seen may fail on more of them, and the typical one may overflow.
    """

    def negative(*arguments: Any) -> Any:
        value = wrong.function(*arguments)
        return [-x for x in value] if isinstance(value, list | tuple) else -value

    answer, shared = _answer(negative if sign < 0 else wrong.function, lambda argument: argument), []
    for one in seen:
        typical = _look(one.case, answer)
        if typical.error is None and one.error is None:
            if not _agree(one.numbers, typical.numbers):
                return False
            shared.append(one)
        else:
            overflows = isinstance(typical.error, OverflowError | ZeroDivisionError)
            both_fail = typical.error is not None and one.error is not None
            if not both_fail and (strict or (one.error is None and not overflows)):
                return False
    return len(shared) >= (1 if strict else ENOUGH) and not all(one.is_right for one in shared)


def _facts(exercise: Exercise, seen: Sequence[Seen]) -> list[str]:
    """What can be said of a wrong answer that is not a typical one: true sentences, the most telling first."""
    wrong = [one for one in seen if not one.is_right]
    if not wrong:
        return []
    pairs = [pair for one in seen for pair in zip(one.judged, one.case.expected, strict=True)]
    largest = max(pairs, key=lambda pair: abs(pair[1]))
    factor, offset = largest[0] / largest[1], pairs[0][0] - pairs[0][1]
    if len(pairs) > 1 and len({round(got, 4) for got, _ in pairs}) == 1 and math.isfinite(pairs[0][0]):
        return [f"It always gives {pairs[0][0]:.4g}, whatever the arguments."]
    if all(_agree([got], [factor * expected]) for got, expected in pairs):
        reverse = "The sign is reversed: it" if abs(factor + 1) < TOLERANCE else "It"
        return [f"{reverse} is always {factor:.4g} times what it must be."]
    if all(_agree([got], [offset + expected]) for got, expected in pairs):
        return [f"It is always {abs(offset):.4g} too {'large' if offset > 0 else 'small'}."]
    facts = list(exercise.remarks([(one.case.arguments, one.numbers) for one in seen]))
    for index, output in enumerate(exercise.outputs):
        others = [i for i in range(len(exercise.outputs)) if i != index]
        if all(_agree([one.judged[i] for i in others], [one.case.expected[i] for i in others]) for one in seen):
            facts.append(f"Only {output} is wrong.")
    facts += [f"It gives the same for each {name} that was tried." for name in _without_effect(exercise, seen)]
    fitting = []
    for text, test in exercise.parts:
        inside = [one for one in seen if test(*one.case.arguments)]
        if all(test(*one.case.arguments) for one in wrong) and len(inside) < len(seen):
            fitting.append((len(inside), text))
    if fitting:
        facts.append(f"Of all inputs tried, it is wrong only for {min(fitting)[1]}.")
    return facts


def _without_effect(exercise: Exercise, seen: Sequence[Seen]) -> Iterator[str]:
    """The arguments that make no difference where they should."""
    for index, name in enumerate(exercise.parameters):
        groups: dict[str, list[Seen]] = {}
        for one in seen:
            arguments = one.case.arguments
            if len(arguments) == len(exercise.parameters) and "nan" not in repr(arguments):
                groups.setdefault(repr(arguments[:index] + arguments[index + 1 :]), []).append(one)
        pairs = [pair for group in groups.values() for pair in itertools.pairwise(group)]
        should = [(a, b) for a, b in pairs if not _agree(a.case.expected, b.case.expected)]
        if should and all(_agree(a.judged, b.judged) for a, b in pairs):
            yield name


def _effect(name: str, answer: Answer) -> str:
    """What the answer does to the lesson; "" if it cannot be told, since it fails on the way."""
    try:
        return EFFECTS[name](answer) if name in EFFECTS else ""
    except Exception:  # the learner's function raises what it likes, or its numbers go astray
        return ""


def _example(exercise: Exercise, seen: Sequence[Seen]) -> str:
    """The first input on which it is wrong, with numbers."""
    for one in seen:
        if one.error is None and not one.is_right:
            shown = (one.judged, one.case.expected)
            got, expected = (", ".join("undefined" if math.isnan(x) else _short(x) for x in part) for part in shown)
            return one.case.text.format(
                call=_call(exercise, one.case), value=", ".join(map(_short, one.value)), got=got, expected=expected
            )
    return ""


# Calling and comparing


def _agree(x: Sequence[float], y: Sequence[float]) -> bool:
    """Equal up to the tolerance; NaN equals NaN."""
    return len(x) == len(y) and all(
        not differ(a, b) or (math.isnan(a) and math.isnan(b)) for a, b in zip(x, y, strict=True)
    )


def _look(case: Case, answer: Answer) -> Seen:
    """What a case shows of an answer."""
    seen = Seen(case)

    def recorded(*arguments: Any) -> list[float]:
        seen.value = answer(*arguments)
        return list(seen.value)

    try:
        seen.numbers = _as_many(case.look(recorded), case)
    except TimeUpError:
        raise
    except BaseException as error:  # also SystemExit: the learner's function may raise anything
        seen.error = error
    return seen


def _as_many(numbers: list[float], case: Case) -> list[float]:
    """The numbers, if there are as many as expected.

    Raises:
        NotNumbersError: If there are not.
    """
    expected, found = len(case.expected), len(numbers) - case.extra
    if found != expected:
        raise NotNumbersError(f"returns {found} number{'s' * (found != 1)}, and must return {expected}")
    return numbers


def _answer(function: Callable[..., Any], convert: Callable[[Any], Any]) -> Answer:
    """The function, called with converted copies of the arguments, its numbers as a list of floats."""

    def answer(*arguments: Any) -> list[float]:
        return _numbers(function(*[convert(argument) for argument in arguments]))

    return answer


def _numbers(value: Any) -> list[float]:
    """A number, an array, a tensor, or a sequence of these, as floats.

    Raises:
        NotNumbersError: If it is anything else.
        NotFiniteError: If one is NaN or infinite.
    """
    if value is None:
        raise NotNumbersError("returns None; is there a return missing?")
    if isinstance(value, torch.Tensor):
        found = value.detach().double().flatten().tolist()
    elif isinstance(value, list | tuple):
        found = [number for item in value for number in _numbers(item)]
    else:
        try:
            found = np.asarray(value, dtype=np.float64).flatten().tolist()
        except (TypeError, ValueError):
            raise NotNumbersError(f"returns {_short(value)}, which is no number") from None
    if not all(map(math.isfinite, found)):
        raise NotFiniteError(f"returns {_short(value)}")
    return [float(x) for x in found]


def _plain(argument: Any) -> Any:
    return list(argument) if isinstance(argument, list) else argument


def _array(argument: Any) -> Any:
    if isinstance(argument, list):
        return np.array(argument)
    return np.float64(argument) if isinstance(argument, float) else argument


def _tensor(argument: Any) -> Any:
    if isinstance(argument, list):
        return torch.tensor(argument, dtype=torch.bool if isinstance(argument[0], bool) else torch.float64)
    return torch.tensor(argument, dtype=torch.float64) if isinstance(argument, float) else argument


STYLES = (_plain, _array, _tensor)


# Words


def _call(exercise: Exercise, case: Case) -> str:
    named = zip(exercise.parameters, case.arguments, strict=False)
    return f"{exercise.name}({', '.join(f'{name}={_short(value)}' for name, value in named)})"


def _short(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, float):
        return f"{round(value, 9):.4g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004


def _what(error: BaseException | None, path: Path) -> str:
    """An error as the rest of a sentence, with the line of the learner's file."""
    text = str(error).rstrip(".")
    if not isinstance(error, NotNumbersError | NotFiniteError):
        frames = traceback.extract_tb(error.__traceback__ if error else None, limit=-20)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        where = f" in line {lines[-1]}" if lines else ""
        text = f"raises {type(error).__name__}{where}{': ' * bool(text)}{text}"
    return text if text.endswith("?") else f"{text}."


# Running a learner's code


def _run(statement: Callable[[], None], path: Path, seconds: float) -> str:
    """Run a statement of the file; say what it raised, "" if nothing."""
    try:
        with _time_limit(seconds):
            statement()
    except TimeUpError:
        return f"A statement did not end within {seconds:g} seconds."
    except BaseException as error:  # also SystemExit
        return f"The file {_what(error, path)}"
    return ""


@contextlib.contextmanager
def _quiet(folder: Path) -> Iterator[None]:
    """Nothing is printed or read meanwhile, no warning is shown, and modules beside the workbook can be imported."""
    entry, stdin = str(folder.resolve()), sys.stdin
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        sys.path.insert(0, entry)
        sys.stdin = io.StringIO()
        try:
            yield
        finally:
            sys.stdin = stdin
            if entry in sys.path:
                sys.path.remove(entry)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeUpError in the code inside when the time is up, and again each second, if it was swallowed."""

    def ring(*_: object) -> None:
        raise TimeUpError

    handler, begin = signal.signal(signal.SIGALRM, ring), time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # a timer of the caller's
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begin), 1e-3), interval)
