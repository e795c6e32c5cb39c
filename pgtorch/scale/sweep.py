"""Trains the learners of a sweep in a process for each core. Each has the bits that it has alone."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from pgtorch.config import TrainConfig
from pgtorch.lesson.learners import can_train_together, train_together
from pgtorch.policies import BiasPolicy
from pgtorch.record.lines import digests
from pgtorch.record.metrics import parameter_bytes
from pgtorch.record.sweeps import RUNS, Learner, Outcome, curve_of, outcomes_of
from pgtorch.run import train

MOST_ROWS = 2_000_000  # updates times learners trained together, in each process: a quarter of a gigabyte
POLL_SECONDS = 0.1  # between checks whether to stop


def sweep(
    configs: Sequence[TrainConfig], learners: Sequence[Learner], folder: Path, should_stop: Callable[[], bool]
) -> Iterator[tuple[Learner, Outcome]]:
    """Train learners.

    Args:
        configs: Settings. Each fits together, as `check_setup` finds out.
        learners: Of each the number of its settings, and its seed.
        folder: For the run folders of learners while they run.
        should_stop: Called often. Once it returns True, learners that have not finished are abandoned.

    Yields:
        Each learner that has finished, in any order.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context, tasks = multiprocessing.get_context("spawn"), {}
    end, our_end = context.Pipe(duplex=False)  # once ours is closed, by this process or since it is gone, workers exit
    workers = ProcessPoolExecutor(min(cores, len(learners)), context, _begin, (end,))
    with TemporaryDirectory(prefix=RUNS, dir=folder) as runs, end, workers as pool, our_end:
        for number, config in enumerate(configs):
            some = [learner for learner in learners if learner[0] == number]
            most = min(MOST_ROWS // config.num_updates, -(-len(some) // cores)) if can_train_together(config) else 1
            for i in range(0, len(some), size := max(most, 1)):
                part = some[i : i + size]
                run = replace(config, run_dir=Path(runs, f"{number}-{i}"), checkpoint_every=0, pictures=False)
                tasks[pool.submit(_train, run, [seed for _, seed in part])] = part
        pending = set(tasks)
        while pending and not should_stop():
            finished, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
            for task in finished:
                yield from zip(tasks.pop(task), task.result(), strict=True)


def _train(config: TrainConfig, seeds: Sequence[int]) -> list[Outcome]:
    """Train learners that differ in nothing but the seed, in a worker: together if it can be, else one by one."""
    outcomes: list[Outcome | None] = [None] * len(seeds)
    if can_train_together(config):
        with suppress(ArithmeticError):  # of an environment that all share: alone each says what is wrong
            trained = train_together(config, seeds)
            ends = [parameter_bytes({"policy": BiasPolicy(config.weight, bias)}) for bias in trained.bias]
            found = zip(outcomes_of(trained.columns, digests(trained.columns, ends)), trained.failed, strict=True)
            outcomes = [None if failed else outcome for outcome, failed in found]
    return [outcome or _train_alone(replace(config, seed=seed)) for seed, outcome in zip(seeds, outcomes, strict=True)]


def _train_alone(config: TrainConfig) -> Outcome:
    assert config.run_dir is not None
    try:
        result = train(config)
        curve = curve_of(result.run_dir, config.num_updates, "bias" in result.summary)
    except (Exception, SystemExit) as error:
        return Outcome(error=f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(config.run_dir, ignore_errors=True)
    return Outcome(result.hash, result.num_updates, result.num_env_steps, result.summary, curve)


def _begin(end: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal sends to all: the parent decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_at, args=[end], daemon=True).start()


def _exit_at(end: Connection) -> None:
    end.poll(None)  # until the other end is closed
    os._exit(1)
