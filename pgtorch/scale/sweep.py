"""Trains all learners of a sweep, each in the fastest way that leaves it the bits that it has alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgtorch.config import TrainConfig
from pgtorch.lesson.learners import Trained, can_train_together, train_together
from pgtorch.policies import BiasPolicy
from pgtorch.record.metrics import parameter_bytes
from pgtorch.record.sweeps import summaries
from pgtorch.scale.lines import digests
from pgtorch.scale.processes import Outcome, spacing, train_alone, workers

MOST_ROWS = 4_000_000  # updates times learners trained together: half a gigabyte
ROWS_OF_A_TASK = 50_000  # lines of metrics that a process is given to hash: a quarter of a second
POLL_SECONDS = 0.1  # between checks whether to stop

Learner = tuple[int, int]  # the number of its settings, and its seed


def sweep(
    configs: Sequence[TrainConfig],
    seeds: Sequence[int],
    folder: Path,
    *,
    should_stop: Callable[[], bool],
    done: Callable[[Learner, Outcome], None],
) -> None:
    """Train a learner for each of some settings and each seed.

    Args:
        configs: The settings. Each fits together, as `check_setup` finds out.
        seeds: At least one.
        folder: For the run folders of learners in processes while they run.
        should_stop: Called often. Once it returns True, learners that have not finished are abandoned.
        done: Called with each learner that has finished, in any order.
    """
    together = [number for number, config in enumerate(configs) if can_train_together(config)]
    alone = [(number, seed) for number in range(len(configs)) if number not in together for seed in seeds]
    tasks: dict[Future[Any], list[tuple[Learner, Outcome]]] = {}
    with workers(len(configs) * len(seeds)) as pool:
        for number in together:
            config = configs[number]
            size = max(1, MOST_ROWS // config.num_updates)
            for part in (seeds[i : i + size] for i in range(0, len(seeds), size)):
                learners = [(number, seed) for seed in part]
                try:
                    trained = train_together(config, part, should_stop)
                except ArithmeticError:  # of an environment that all share: alone each says what is wrong
                    alone += learners
                    continue
                if trained is None:
                    return
                alone += [learner for learner, failed in zip(learners, trained.failed, strict=True) if failed]
                tasks.update(_hash(pool, config, learners, trained))
        for number, seed in alone:
            run_dir = folder / f".learner-{number}-{seed}"
            run = replace(configs[number], seed=seed, run_dir=run_dir, checkpoint_every=0, pictures=False)
            tasks[pool.submit(train_alone, run)] = [((number, seed), Outcome())]
        pending = set(tasks)
        while pending and not should_stop():
            finished, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
            for task in finished if not should_stop() else ():  # a signal may have ended a process, too
                for (learner, outcome), result in zip(tasks.pop(task), task.result(), strict=False):
                    if isinstance(result, Outcome):
                        done(learner, result)
                    elif learner not in alone:
                        done(learner, replace(outcome, hash=result))


def _hash(
    pool: ProcessPoolExecutor, config: TrainConfig, learners: Sequence[Learner], trained: Trained
) -> Iterator[tuple[Future[Any], list[tuple[Learner, Outcome]]]]:
    """Tasks to hash learners that trained together, a few each, with their outcomes but for the hash."""
    updates, every = config.num_updates, spacing(config.num_updates)
    bias = trained.columns["policy/bias"][every - 1 :: every].T.tolist()
    steps = range(every, updates + 1, every)
    outcomes = [
        Outcome("", updates, updates, summary, curve=list(zip(steps, values, strict=True)))
        for summary, values in zip(summaries(trained.columns), bias, strict=True)
    ]
    ends = [parameter_bytes({"policy": BiasPolicy(config.weight, value)}) for value in trained.bias]
    few = max(1, ROWS_OF_A_TASK // updates)
    for some in (slice(i, i + few) for i in range(0, len(learners), few)):
        columns = {tag: column[:, some] for tag, column in trained.columns.items()}
        yield pool.submit(digests, columns, ends[some]), list(zip(learners[some], outcomes[some], strict=True))
