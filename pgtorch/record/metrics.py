"""The metrics of a run: every tag with its meaning and unit, written to `metrics.jsonl` and to TensorBoard.

`metrics.jsonl` is the authoritative record: one object per update, with the number of the update, the environment steps
so far and the tags below. It depends only on the settings, so the same seed gives the same file; wall-clock figures go
to TensorBoard only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from pgtorch.config import TrainConfig
from pgtorch.gradient_check import DIFFERENCE
from pgtorch.record.checkpoint import CheckpointError
from pgtorch.record.folder import naming
from pgtorch.record.tensorboard import BIAS, MEAN_RETURN, SUFFIX, EventFile, is_shown

# The x axis of every tag is environment steps. policy/bias and policy/p_norm are taken after the update; the rest is
# from its last gradient step, except the differences, which are the largest over all its steps.
TAGS = {
    "policy/bias": "The one parameter of the lesson. Hovers around its optimum, -10 by default.",
    "policy/p_norm/hunger_0.0": "P(Norm) when not hungry at all, in [0, 1]. Goes to 0.",
    "policy/p_norm/hunger_0.5": "P(Norm) halfway, in [0, 1]. Swings around 0.5 as the bias hovers.",
    "policy/p_norm/hunger_1.0": "P(Norm) when very hungry, in [0, 1]. Starts at 1 and stays there.",
    "policy/entropy": "Mean entropy of the policy on the rows of the step, in nats. 0 means certain.",
    "gradient/autograd": "The gradient of the bias by autograd.",
    "gradient/manual": "The same by the chain rule, by hand.",
    "gradient/absolute_difference": "Largest absolute difference of the two in the update. 0: all bits agree.",
    "gradient/difference_in_units_of_u_c": "The same in units of rounding error; above 32 the run stops.",
    "gradient/norm": "Euclidean norm of the policy's gradient. If an update has several steps, the last one's.",
    "update/relative_difference": "Between the update and a second implementation of it. Above 1e-6 the run stops.",
    "rollout/episode_return": "Mean sum of rewards of the episodes that ended in this update.",
    "rollout/episode_length": "Mean number of steps of the episodes that ended in this update.",
    "evaluation/return_greedy": "Mean return of fresh episodes with the likeliest actions, on updates that evaluate.",
    "evaluation/return_sampled": "The same with drawn actions.",
    "loss/policy_gradient": "-mean(log pi * multiplier). Not a measure of progress: only its gradient means anything.",
    "loss/value": "Mean squared error of the value function.",
    "time/env_steps_per_second": "Environment steps per second of wall clock since training began. TensorBoard only.",
    BIAS: "policy/bias again, from the start, at ever fewer updates and the last one. TensorBoard only.",
    MEAN_RETURN: "Mean of rollout/episode_return over the last half of the run so far. TensorBoard only.",
}

GREEDY, SAMPLED = "evaluation/return_greedy", "evaluation/return_sampled"
CURVES = ("policy/bias", "gradient/autograd", "gradient/manual", "rollout/episode_return")  # what pictures show
LINES = "metrics.jsonl"
FLUSH_SECONDS = 1.0
MOST_POINTS = 4096  # of a curve, an even number; a picture cannot show more
_RECORD = ("sizes", "sha256", "start", "pending")
_EVENTS = re.compile(r"events\.out\.tfevents\.[^/]+" + re.escape(SUFFIX))


class Point(NamedTuple):
    """A value of a curve, and the number, sum and sum of squares of the values before it."""

    update: int
    env_steps: int
    value: float
    position: int
    total: float
    squares: float


class Curve:
    """The values of one tag over a run, in bounded memory: evenly spaced points, and exact means between them."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, int, float, int, float, float]] = []  # as in `Point`, which is slower to make
        self._every = 1  # one of this many values is kept
        self._total = self._squares = 0.0
        self.count = 0

    def add(self, update: int, env_steps: int, value: float) -> None:
        """Add the next value."""
        self._last = (update, env_steps, value, self.count, self._total, self._squares)
        if self.count % self._every == 0:
            if len(self._kept) == MOST_POINTS:
                del self._kept[1::2]
                self._every *= 2
            self._kept.append(self._last)
        self.count += 1
        self._total += value
        self._squares += value * value

    @property
    def points(self) -> list[Point]:
        """At most 4,097 points, evenly spaced, with the first and the last value."""
        kept = self._kept if self._kept[-1] is self._last else [*self._kept, self._last]
        return [Point(*point) for point in kept]

    def late(self) -> tuple[float, float]:
        """Mean and standard deviation of the last half; beyond 4,096 values it begins at the next kept point."""
        index = -(-(self.count // 2) // self._every)  # of the first kept point in it
        start = Point(*(self._kept[index] if index < len(self._kept) else self._last))
        count = self.count - start.position
        mean = (self._total - start.total) / count
        return mean, max((self._squares - start.squares) / count - mean * mean, 0.0) ** 0.5

    def drift(self) -> float:
        """How far the mean moves from the third quarter to the last, in standard deviations of the last half.

        It is 1.7 for a straight line, however steep, and near 0 for values that hover. 0 if there are too few.
        """
        half, last = (
            next(point for point in self.points if point.position >= self.count * part // 4) for part in (2, 3)
        )
        deviation = self.late()[1]
        if last.position == half.position or not deviation:
            return 0.0
        before = (last.total - half.total) / (last.position - half.position)
        return abs((self._total - last.total) / (self.count - last.position) - before) / deviation

    def running_mean(self, window: int) -> tuple[int, list[float]]:
        """For each point, the mean of the values up to it.

        Args:
            window: Number of points in a mean; the values between them also count.

        Returns:
            The number of values in a mean, once there are that many; and the means.
        """
        points, means = self.points, []
        for i, end in enumerate(points):
            start = points[max(0, i - window + 1)]
            means.append((end.total + end.value - start.total) / (end.position + 1 - start.position))
        return (window - 1) * self._every + 1, means


class History:
    """What summary and pictures need from a run's metrics, in bounded memory however long the run.

    Attributes:
        start: `Policy.figures` before the first update.
        last: The figures of the last update.
        evaluated: The number of the last update that was evaluated; 0 if none was.
        evaluation: Its evaluation, by tag.
        pending: The figures of an update that is not in the files yet, since its evaluation was interrupted.
        num_updates: Updates so far.
        env_steps: Environment steps so far.
        curves: The curves that pictures show, by tag; only those with a value.
        largest_difference: Between the two gradients; None if they were never compared.
        digest: SHA-256 of `metrics.jsonl` so far.
        sizes: Of the files in bytes, by name, if the history was read back; anything beyond is cut off.
    """

    def __init__(
        self,
        start: Mapping[str, float] | None = None,
        sizes: Mapping[str, int] | None = None,
        pending: Mapping[str, float] | None = None,
    ) -> None:
        self.start: Mapping[str, float] = start or {}
        self.pending: Mapping[str, float] = pending or {}
        self.last: Mapping[str, float] = {}
        self.evaluated = 0
        self.evaluation: Mapping[str, float] = {}
        self.num_updates = self.env_steps = 0
        self.curves: dict[str, Curve] = {}
        self.largest_difference: float | None = None
        self.digest = hashlib.sha256()
        self.sizes = sizes

    def add(self, update: int, env_steps: int, figures: Mapping[str, float]) -> None:
        """Add one update."""
        self.num_updates, self.env_steps, self.last = update, env_steps, figures
        for tag in CURVES:
            if tag in figures:
                if tag not in self.curves:
                    self.curves[tag] = Curve()
                self.curves[tag].add(update, env_steps, figures[tag])
        if GREEDY in figures:
            self.evaluated, self.evaluation = update, {tag: figures[tag] for tag in (GREEDY, SAMPLED)}
        if DIFFERENCE in figures and figures[DIFFERENCE] >= (self.largest_difference or 0.0):
            self.largest_difference = figures[DIFFERENCE]

    def summary(self) -> dict[str, float]:
        """The summary of a finished run.

        Returns:
            For the lesson: the last `bias`; over the last half of the updates its mean `late_bias` and standard
            deviation `late_bias_deviation`, and from `Curve.drift` its `late_bias_drift`; `p_norm_hunger_0` and
            `p_norm_hunger_1`. If gradients were compared, `largest_gradient_difference`. If the policy was evaluated,
            from the last evaluation `evaluation_update`, `evaluation_return_greedy` and `evaluation_return_sampled`.
        """
        summary = {name: self.last[tag] for name, tag in LAST.items() if tag in self.last}
        if "policy/bias" in self.curves:
            summary["late_bias"], summary["late_bias_deviation"] = self.curves["policy/bias"].late()
            summary["late_bias_drift"] = self.curves["policy/bias"].drift()
        if self.largest_difference is not None:
            summary["largest_gradient_difference"] = self.largest_difference
        if self.evaluated:
            summary["evaluation_update"] = self.evaluated
            summary |= {tag.replace("/", "_"): value for tag, value in self.evaluation.items()}
        return summary


LAST = {
    "bias": "policy/bias",
    "p_norm_hunger_0": "policy/p_norm/hunger_0.0",
    "p_norm_hunger_1": "policy/p_norm/hunger_1.0",
}


class MetricsWriter:
    """Writes each update as a line of `metrics.jsonl` and as a TensorBoard event.

    Updates are buffered for up to a second, then written all at once, which is twice as fast. Use it as a context
    manager: on exit, also after an error, it writes the rest and closes both files.

    Args:
        folder: The folder of the run, which exists.
        history: Of the run so far, from `read_record`: what was written after it is cut off. None begins a new run.
    """

    def __init__(self, folder: Path, history: History | None = None) -> None:
        self._history = History() if history is None else history
        if self._history.sizes is not None:
            _cut_files(folder, self._history.sizes)
        self._folder = folder
        self._lines = (folder / LINES).open("ab")
        self._events = EventFile(folder)
        if self._history.env_steps:
            self._events.write_restart(self._history.env_steps + 1)
        self._start = self._flushed = time.time()
        self._first_step = self._history.env_steps
        self._kept: list[tuple[int, int, float, Mapping[str, float]]] = []  # update, environment steps, time, figures

    def __enter__(self) -> MetricsWriter:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the rest and close both files."""
        try:
            self.flush()
        finally:
            with naming(self._folder / LINES):
                self._lines.close()
            with naming(self._folder):
                self._events.close()

    def begin(self, config: TrainConfig, start: Mapping[str, float]) -> None:
        """Write what TensorBoard shows besides the curves; once, before the first update.

        Args:
            config: The settings of the run.
            start: `Policy.figures` of the initial policy.
        """
        self._history.start = start
        self._events.write_about(config, TAGS, has_bias="policy/bias" in start)
        if "policy/bias" in start:
            self._events.write_front(0, {BIAS: start["policy/bias"]})

    def write(self, update: int, env_steps: int, figures: Mapping[str, float]) -> None:
        """Write one update.

        Args:
            update: Its number, from 1.
            env_steps: Environment steps so far, the x axis.
            figures: Values by tag, each a key of `TAGS`.
        """
        now = time.time()
        self._kept.append((update, env_steps, now, figures))
        if now - self._flushed > FLUSH_SECONDS:
            self.flush()

    def write_picture(self, tag: str, picture: Path, env_steps: int) -> None:
        """Add a PNG file to TensorBoard's images."""
        with naming(self._folder):
            self._events.write_picture(env_steps, tag, picture.read_bytes())

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        kept, self._kept = self._kept, []
        lines = []
        front = []
        for update, env_steps, _, figures in kept:
            lines.append(json.dumps({"update": update, "env_steps": env_steps, **figures}) + "\n")
            self._history.add(update, env_steps, figures)
            if is_shown(update):
                front.append((env_steps, self._front()))
        data = "".join(lines).encode()
        self._history.digest.update(data)
        with naming(self._folder / LINES):
            self._lines.write(data)
            self._lines.flush()
        with naming(self._folder):
            for _, env_steps, now, figures in kept:
                speed = (env_steps - self._first_step) / max(now - self._start, 1e-9)
                self._events.write_scalars(env_steps, now, {**figures, "time/env_steps_per_second": speed})
            for env_steps, figures in front:
                self._events.write_front(env_steps, figures)
            self._events.flush()
        self._flushed = time.time()

    def end(self) -> None:
        """Complete the first screen with the last update; once, after the last checkpoint, so that resuming cuts it."""
        self.flush()
        if self._history.num_updates and not is_shown(self._history.num_updates):
            with naming(self._folder):
                self._events.write_front(self._history.env_steps, self._front())

    def _front(self) -> dict[str, float]:
        """What the first screen shows of the last update."""
        shown = {BIAS: self._history.last["policy/bias"]} if "policy/bias" in self._history.last else {}
        if "rollout/episode_return" in self._history.curves:
            shown[MEAN_RETURN] = self._history.curves["rollout/episode_return"].late()[0]
        return shown

    def save(self, pending: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Make everything written so far survive a power cut.

        Args:
            pending: The figures of an update that has not been written, since its evaluation was interrupted.

        Returns:
            What a checkpoint keeps of the files, for `read_record`.
        """
        self.flush()
        with naming(self._folder / LINES):
            os.fsync(self._lines.fileno())
        with naming(self._folder):
            self._events.flush_to_disk()
        sizes = {path.name: path.stat().st_size for path in [self._folder / LINES, *_event_files(self._folder)]}
        digest, start = self._history.digest.hexdigest(), dict(self._history.start)
        return {"sizes": sizes, "sha256": digest, "start": start, "pending": dict(pending or {})}

    @property
    def history(self) -> History:
        """The run so far."""
        self.flush()
        return self._history

    def hash(self, modules: Mapping[str, nn.Module]) -> str:
        """A hash of the run so far: of every line of `metrics.jsonl` and every bit of the modules.

        Args:
            modules: By name.

        Returns:
            SHA-256 in hexadecimal, 64 digits.
        """
        self.flush()
        digest = self._history.digest.copy()
        digest.update(parameter_bytes(modules))
        return digest.hexdigest()


def parameter_bytes(modules: Mapping[str, nn.Module]) -> bytes:
    """Every bit of the modules, given by name, as it goes into the hash of a run."""
    parts = []
    for name, module in modules.items():
        for key, tensor in module.state_dict().items():
            parts.append(f"{name}.{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
            parts.append(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return b"".join(parts)


def read_record(folder: Path, record: Mapping[str, Any]) -> History:
    """Read back what a run wrote up to a checkpoint; changes nothing. Arguments and errors as for `check_record`."""
    history = check_record(folder, record)
    try:
        for number, line in enumerate(_first_lines(folder / LINES, record["sizes"][LINES]), 1):
            figures = _parse(line, folder / LINES, number)
            history.add(figures.pop("update"), figures.pop("env_steps"), figures)
    except ValueError as error:  # in a checkpoint that was forged to fit
        raise CheckpointError(str(error)) from error
    return history


def check_record(folder: Path, record: Mapping[str, Any]) -> History:
    """Check that what a run wrote up to a checkpoint is still there. Event files may be missing.

    Args:
        folder: The folder of the run.
        record: From `MetricsWriter.save`.

    Returns:
        A history that has seen the digest of the metrics, but no figures.

    Raises:
        CheckpointError: If `metrics.jsonl` does not hold, bit for bit, what it held then, or an event file is shorter.
    """
    sizes, digest, start, pending = (record.get(name) for name in _RECORD)
    if record.keys() != set(_RECORD) or not isinstance(sizes, dict) or LINES not in sizes:
        raise CheckpointError(
            f"record must hold sizes, with that of {LINES}, sha256, start and pending, got {record!r:.200}"
        )
    for name, numbers in (("start", start), ("pending", pending)):
        if not isinstance(numbers, dict) or not all(type(value) in (float, int) for value in numbers.values()):
            raise CheckpointError(f"record.{name} must be numbers by tag, got {numbers!r:.100}")
    for name, size in sizes.items():
        if type(size) is not int or size < 0 or not (name == LINES or _EVENTS.fullmatch(str(name))):
            raise CheckpointError(f"record.sizes must be bytes by name of a file, got {name!r:.50}: {size!r:.50}")
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found < size and (name == LINES or path.exists()):
            raise CheckpointError(f"{path} must hold at least the {size} bytes of the checkpoint, got {found}")
    history = History(start, sizes, pending)
    for line in _first_lines(folder / LINES, sizes[LINES]):
        history.digest.update(line)
    if history.digest.hexdigest() != digest:
        raise CheckpointError(f"{folder / LINES} has changed since the checkpoint: the digest of its lines differs")
    return history


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, oldest first, without a last line torn by a crash.

    Args:
        folder: The folder of the run.

    Raises:
        FileNotFoundError: If it contains no metrics.
        ValueError: If a line is damaged; the message names it.
    """
    path = folder / LINES
    lines = path.read_bytes().split(b"\n")
    return [_parse(line, path, i + 1) for i, line in enumerate(lines[:-1])]  # the last one is empty, or torn


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        figures = json.loads(line)
        whole = type(figures["update"]) is type(figures["env_steps"]) is int
        if whole and all(type(value) in (float, int) for value in figures.values()):
            return dict(figures)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError(f"{path}, line {number} must be numbers by tag, with update and env_steps, got {line!r:.100}")


def _first_lines(path: Path, size: int) -> Iterator[bytes]:
    """The lines within the first `size` bytes of a file."""
    with path.open("rb") as file:
        while size > 0 and (line := file.readline(size)):
            size -= len(line)
            yield line


def _cut_files(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cut off what was written after a checkpoint."""
    for path in [folder / LINES, *_event_files(folder)]:
        if path.name in sizes:
            os.truncate(path, sizes[path.name])
        else:
            path.unlink()


def _event_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _EVENTS.fullmatch(path.name))
