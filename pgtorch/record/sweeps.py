"""What a sweep leaves: summaries of its learners, a table by setting, bands in a picture and in TensorBoard.

L  learners    U  updates    P  points of a curve
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgtorch.gradient_check import DIFFERENCE
from pgtorch.record import plot
from pgtorch.record.folder import PACKAGES, naming
from pgtorch.record.metrics import LAST, read_metrics
from pgtorch.record.metrics import MOST_POINTS as KEPT_POINTS
from pgtorch.record.tensorboard import SUFFIX, EventFile

SWEEP = "sweep.json"
FINISHED = "finished.jsonl"  # learners of a sweep that has not ended
RUNS = ".learners-"  # with a random end: holds the run folders of learners while they run
MOST_POINTS = 2000  # of a learner's curve
RESAMPLES = 2000  # of the bootstrap
PERCENTILES = (5, 50, 95)  # of the band
OUTCOMES = ("late_bias", "recent_return")  # what the table shows of a summary
NEAR = 1.0  # how near the optimum a bias has arrived
MOST_BANDS = 4  # in a picture

Curve = NDArray[np.float64]  # environment steps and values, [P, 2]
Learner = tuple[int, int]  # the number of its settings, and its seed


@dataclass
class Outcome:
    """What became of a learner."""

    hash: str = ""  # as in the `config.json` of a run folder
    num_updates: int = 0
    num_env_steps: int = 0
    summary: dict[str, float] = field(default_factory=dict)  # as in `TrainResult`
    curve: Curve = field(default_factory=lambda: np.empty((0, 2)))  # of the bias, else of the episode return
    error: str = ""  # if it failed


def outcomes_of(columns: Mapping[str, NDArray[Any]], hashes: Iterable[str]) -> Iterator[Outcome]:
    """The outcomes of learners of the lesson.

    Args:
        columns: What they logged, by tag, each [U, L].
        hashes: Of each learner.
    """
    updates, every = len(columns["policy/bias"]), spacing(len(columns["policy/bias"]))
    curves, steps = columns["policy/bias"][every - 1 :: every].T, np.arange(every, updates + 1, every)
    for summary, values, digest in zip(summaries(columns), curves, hashes, strict=True):
        yield Outcome(digest, updates, updates, summary, np.stack([steps, values], axis=1))


def curve_of(run_dir: Path, num_updates: int, has_bias: bool) -> Curve:
    """The curve of a run, of the bias if there is one."""
    tag, every = "policy/bias" if has_bias else "rollout/episode_return", spacing(num_updates)
    lines = read_metrics(run_dir)[every - 1 :: every]
    return np.array([(line["env_steps"], line[tag]) for line in lines if tag in line], float).reshape(-1, 2)


def spacing(num_updates: int) -> int:
    """A learner's curve has a point every this many updates."""
    return -(-num_updates // MOST_POINTS)


def summaries(columns: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, float]]:
    """The summaries of learners of the lesson, to the bit those of `TrainResult`.

    Args:
        columns: What they logged, by tag, each [U, L].
    """
    bias = columns["policy/bias"].astype(np.float64)
    count = len(bias)
    kept = next(2**k for k in range(64) if count <= KEPT_POINTS * 2**k)  # `metrics.Curve` keeps one of so many values
    half, last = (min(-(-(count * part // 4) // kept) * kept, count - 1) for part in (2, 3))  # where these begin
    nothing = np.zeros((1, bias.shape[1]))
    sums = [np.concatenate([nothing, values]).cumsum(axis=0) for values in (bias, bias * bias)]  # [U + 1, L]
    mean, square = ((total[-1] - total[half]) / (count - half) for total in sums)
    before = (sums[0][last] - sums[0][half]) / max(last - half, 1)
    after = (sums[0][-1] - sums[0][last]) / (count - last)
    recent = columns["rollout/episode_return"][-100:].T.tolist()
    for i in range(bias.shape[1]):
        summary = {name: float(columns[tag][-1, i]) for name, tag in LAST.items()}
        summary["late_bias"] = float(mean[i])
        deviation = max(float(square[i] - mean[i] * mean[i]), 0.0) ** 0.5
        summary["late_bias_deviation"] = deviation
        summary["late_bias_drift"] = abs(float(after[i] - before[i])) / deviation if deviation and last > half else 0.0
        if DIFFERENCE in columns:
            summary["largest_gradient_difference"] = float(columns[DIFFERENCE][:, i].max())
        summary["recent_return"] = sum(recent[i]) / len(recent[i])
        summary["recent_episodes"] = len(recent[i])
        yield summary


def interquartile_mean(values: NDArray[Any]) -> float:
    """Mean of the middle half of values [L]: less noisy than the median, deaf to outliers unlike the mean.

    Source: Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice".
    """
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())


def bootstrap_interval(values: NDArray[Any]) -> tuple[float, float]:
    """A 95 % interval of the interquartile mean of values [L]: its percentiles over draws of L with replacement."""
    generator = np.random.default_rng(0)
    means = [interquartile_mean(generator.choice(values, len(values))) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return low, high


def matrix(curves: Sequence[Curve]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Curves as rows. One that ended early keeps its last value.

    Returns:
        Environment steps [P], of the longest curve; values [L, P].
    """
    steps = max(curves, key=len)[:, 0].astype(np.int64)
    rows = [np.pad(curve[:, 1], (0, len(steps) - len(curve)), mode="edge") for curve in curves]
    return steps, np.array(rows)


def summarize(results: Sequence[Mapping[str, float]], curves: Sequence[Curve], optimum: float | None) -> dict[str, Any]:
    """What learners of the same settings reached.

    Args:
        results: The summary of each.
        curves: The curve of each.
        optimum: The exact best bias; None if there is none, or curves are not of the bias.

    Returns:
        For each of `OUTCOMES` its interquartile mean and the interval; how many were near the optimum after so many
        environment steps, and after how many half of them had come near it for the first time.
    """
    found: dict[str, Any] = {}
    for name in OUTCOMES:
        values = np.array([result[name] for result in results if name in result])
        if len(values):
            mean, interval = interquartile_mean(values), bootstrap_interval(values)
            found[name] = {"interquartile_mean": mean, "interval": interval}
    if optimum is not None and curves:
        steps, values = matrix(curves)
        near = abs(values - optimum) < NEAR
        first = np.where(near.any(axis=1), steps[near.argmax(axis=1)], math.inf)
        median = float(np.median(first))
        marks = sorted({int(np.searchsorted(steps, mark)) for mark in _marks(int(steps[-1]))})
        counts = {str(steps[mark]): int(near[:, mark].sum()) for mark in marks}
        median_or_none = median if math.isfinite(median) else None
        found["near_optimum"] = {"optimum": optimum, "learners_after_steps": counts, "median_first": median_or_none}
    return found


def _marks(last: int) -> list[int]:
    """1, 2, 5, 10, 20, ... up to the last, and the last; no more than five."""
    series = [factor * 10**power for power in range(20) for factor in (1, 2, 5)]
    return [*[mark for mark in series if mark < last][-4:], last]


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `sweep.json`, with command and versions, those of the first time; whole or not at all.

    Raises:
        OSError: If it cannot be written; the message names it.
    """
    path, temporary = folder / SWEEP, folder / f".{SWEEP}.tmp"
    about = {"command": sys.argv, "versions": {name: version(name) for name in PACKAGES}}
    if path.exists():
        before = read(folder)
        about = {name: before[name] for name in about}
    try:
        with naming(path):
            temporary.write_text(json.dumps({**about, **content}, indent=1) + "\n")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(folder: Path) -> dict[str, Any]:
    """What `sweep.json` holds.

    Raises:
        ValueError: If it is not that of a sweep.
    """
    try:
        content: dict[str, Any] = json.loads((folder / SWEEP).read_text())
        missing = {"command", "versions", "settings", "seeds", "learners"} - content.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{str(folder)!r} must be the folder of a sweep: {error}") from error
    if missing:
        raise ValueError(f"{str(folder)!r} must be the folder of a sweep: its {SWEEP} lacks {sorted(missing)}")
    return content


def read_finished(folder: Path) -> dict[Learner, Outcome]:
    """Learners of a sweep that has not ended; a line that was not written to its end is deleted."""
    path = folder / FINISHED
    if not path.exists():
        return {}
    with path.open("rb+") as file:
        whole = file.read().rpartition(b"\n")[0]
        file.truncate(len(whole) + 1 if whole else 0)
    found = {}
    for number, seed, outcome in map(json.loads, whole.splitlines()):
        curve = np.array(outcome["curve"], float).reshape(-1, 2)
        found[number, seed] = Outcome(**outcome | {"curve": curve})
    return found


def clear_remains(folder: Path) -> None:
    """Delete what a sweep left that was stopped or killed, but for what has been learned."""
    for runs in folder.glob(f"{RUNS}*"):
        shutil.rmtree(runs)
    for events in (*folder.glob(f"events.*{SUFFIX}"), *folder.glob(f"[0-9]*-*/events.*{SUFFIX}")):
        events.unlink()


def note_finished(folder: Path, learner: Learner, outcome: Outcome) -> None:
    """Keep a learner, in case that the sweep is stopped or killed."""
    with naming(folder / FINISHED), (folder / FINISHED).open("a") as file:
        file.write(json.dumps([*learner, {**vars(outcome), "curve": outcome.curve.tolist()}]) + "\n")


def draw(folder: Path, curves: Mapping[str, Sequence[Curve]], tag: str, optimum: float | None) -> Path:
    """Draw the median and the 5 to 95 % band of learners, and write both for TensorBoard.

    Args:
        folder: Of the sweep. Curves of several settings go into folders of their own within it, so that TensorBoard
            lays them over each other.
        curves: Of each learner, by setting.
        tag: What they are of.
        optimum: The exact best bias of all; None draws no line.

    Returns:
        The PNG file.

    Raises:
        OSError: If a file cannot be written; the message names it.
    """
    name = tag.rpartition("/")[2]
    title = f"{sum(map(len, curves.values())):,} learners: median and 5 to 95 % band"
    axes = plot.axes(title, "environment steps", name.replace("_", " "))
    styles = [(plot.DARK, "-"), (plot.MIDDLE, "-"), (plot.DARK, ":"), (plot.MIDDLE, ":")]
    for number, (label, some) in enumerate(curves.items()):
        steps, values = matrix(some)
        low, median, high = np.percentile(values, PERCENTILES, axis=0)
        if number < MOST_BANDS:
            color, dash = styles[number]
            axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(steps, median, color=color, linestyle=dash, label=label or "median")
        inner = f"{number}-{re.sub(r'[^A-Za-z0-9_.=-]+', '_', label)[:80]}" if len(curves) > 1 else ""
        _write_events(folder / inner, steps, [low, median, high], tag)
    if optimum is not None:
        axes.axhline(optimum, color=plot.SIGNAL, linestyle="--", label=f"exact optimum, {optimum:.2f}")
    if len(curves) > MOST_BANDS:
        axes.plot([], [], " ", label=f"and {len(curves) - MOST_BANDS} more, in TensorBoard")
    path = plot.save(axes, folder / f"{name}.png")
    with naming(folder):
        events = EventFile(folder)
        events.write_picture(0, f"pictures/{name}", path.read_bytes())
        events.close()
    return path


def _write_events(folder: Path, steps: NDArray[Any], band: Sequence[NDArray[Any]], tag: str) -> None:
    with naming(folder):
        folder.mkdir(exist_ok=True)
        events, now = EventFile(folder), time.time()
        tags = [f"{tag}/median" if percentile == 50 else f"{tag}/percentile_{percentile}" for percentile in PERCENTILES]  # noqa: PLR2004
        for step, *values in zip(steps.tolist(), *(part.tolist() for part in band), strict=True):
            events.write_scalars(step, now, dict(zip(tags, values, strict=True)))
        events.close()
