"""A process for each core. None outlives the process that started it, and all stop when that one says so."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from types import ModuleType

from pgtorch.config import TrainConfig

MOST_POINTS = 2000  # of a learner's curve
_stop: Event  # in a worker: set once it is to stop


@dataclass
class Outcome:
    """What became of a learner."""

    hash: str = ""  # as in the `config.json` of a run folder
    num_updates: int = 0
    num_env_steps: int = 0
    summary: dict[str, float] = field(default_factory=dict)  # as in `TrainResult`
    error: str = ""  # if it failed
    curve: list[tuple[int, float]] = field(default_factory=list)  # environment steps; the bias, else the episode return


def spacing(num_updates: int) -> int:
    """A learner's curve has a point every this many updates."""
    return -(-num_updates // MOST_POINTS)


@contextmanager
def workers(most: int) -> Iterator[ProcessPoolExecutor]:
    """Processes, at most one for each core. At the end they stop what they do."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ProcessPoolExecutor(min(most, cores), context, _begin, (stop,))
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")  # else they would run the script as well, if it has no guard
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        sys.modules["__main__"] = script


def train_alone(config: TrainConfig) -> list[Outcome]:
    """Train one learner, in a worker; its run folder is deleted. Nothing if it was stopped."""
    from pgtorch.record.metrics import read_metrics  # noqa: PLC0415 -- a worker that only hashes needs no torch
    from pgtorch.run import train  # noqa: PLC0415

    assert config.run_dir is not None
    every = spacing(config.num_updates)
    try:
        result = train(config, should_stop=_stop.is_set)
        lines = read_metrics(result.run_dir)
    except (Exception, SystemExit) as error:
        return [Outcome(error=f"{type(error).__name__}: {error}")]
    finally:
        shutil.rmtree(config.run_dir, ignore_errors=True)
    if _stop.is_set():
        return []
    tag = "policy/bias" if "bias" in result.summary else "rollout/episode_return"
    curve = [(line["env_steps"], line[tag]) for line in lines[every - 1 :: every] if tag in line]
    return [Outcome(result.hash, result.num_updates, result.num_env_steps, result.summary, curve=curve)]


def _begin(stop: Event) -> None:
    global _stop  # noqa: PLW0603 -- all that a worker knows
    _stop = stop
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal sends to all: the parent decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
