"""The processes that torchrun starts: all of them play shards of the environments, rank 0 learns and writes.

Once an update, rank 0 sends the policy's parameters and the normalizer's statistics, and each process answers with the
rows that its shards played. Between updates rank 0 has them save and restore their shards. A message is a function to
call and its arguments; the answer is sent once rank 0 asks for it.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Generator

from pgtorch.config import TrainConfig
from pgtorch.environment.normalization import ObservationNormalizer
from pgtorch.environment.workers import StepTimeout
from pgtorch.policies import Policy
from pgtorch.rollout import Played, RolloutCollector
from pgtorch.scale.peers import Peers, RankError
from pgtorch.trainer import Trainer

_ANSWER, _END = "answer", "end"  # messages that are not functions to call


@contextmanager
def joined(policy: Policy | None, should_stop: Callable[[], bool]) -> Iterator[Job | None]:
    """Connect the processes that torchrun started; None without torchrun. Raises what `Peers` raises."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield None
        return
    with closing(Job(policy, should_stop)) as job:
        try:
            yield job
        except BaseException as error:
            job.end(job.failure(error))
            raise


class Job(Peers):
    """The processes of a job, as one of them sees them. It is the `Exchange` of rank 0's collector.

    Args:
        policy: What to train, or None, as in each process; its parameters are rank 0's.
        should_stop: Whether this process has been asked to stop.
    """

    def __init__(self, policy: Policy | None, should_stop: Callable[[], bool]) -> None:
        super().__init__()
        self._policy, self._should_stop, self._asked_to_stop = policy, should_stop, False
        self.trainer: Trainer  # of another process than rank 0

    # What rank 0 does

    def make_trainer(self, config: TrainConfig, policy: Policy | None) -> Trainer:
        """Make a trainer in every process, with the shards that it hosts. Raises what `hosted` raises."""
        self.send(self.others, _set_up, config)
        with ExitStack() as stack:
            trainer = stack.enter_context(closing(Trainer(config, policy, self)))
            self._answers()
            stack.pop_all()
        return trainer

    def hosted(self, num_shards: int) -> range:
        """The numbers of the shards that this process plays.

        Raises:
            ValueError: If they cannot be shared out equally.
        """
        share, rest = divmod(num_shards, self.size)
        if rest:
            raise ValueError(
                f"num_shards must be a multiple of the number of processes, got {num_shards} and {self.size}"
            )
        return range(self.rank * share, (self.rank + 1) * share)

    def play(self, collector: RolloutCollector, policy: Policy, generator: Generator) -> list[Played]:
        """Let every process play its shards with this policy; what all of them did, in order of shard."""
        self.send(self.others, _play, *_state(policy, collector.normalize_observation))
        return [*collector.play(policy, generator), *self._answers()]

    def everywhere(self, work: Callable[..., list[Any]], collector: RolloutCollector, *arguments: Any) -> list[Any]:
        """Call a function in every process with its own collector; what it returned, in order of rank."""
        self.send(self.others, _call, work, *arguments)
        return [*work(collector, *arguments), *self._answers()]

    def should_stop(self) -> bool:
        """Whether any process has been asked to stop, as far as rank 0 knows."""
        return self._should_stop() or self._asked_to_stop

    def finish(self, result: Any) -> None:
        """Give the other processes the result of the run."""
        shared = replace(result, policy=None, normalize_observation=None)
        self.end(shared, *_state(result.policy, result.normalize_observation))

    def end(self, *message: Any) -> None:
        """Send the other processes a result or an error."""
        for other in self.others:
            with suppress(RankError):
                self.send([other], _END, *message)

    def _answers(self) -> list[Any]:
        """What all others return, one after another; or the first error is raised."""
        answers = []
        for other in self.others:
            self.send([other], _ANSWER)
            answer, stop = self.receive(other)
            self._asked_to_stop |= stop
            if isinstance(answer, Exception):
                raise answer
            answers += answer
        return answers

    # What the others do

    def serve(self, as_found: Callable[[TrainConfig], AbstractContextManager[None]]) -> Any:
        """Do what rank 0 asks, up to the end of the run.

        Args:
            as_found: A context with the run's threads and global streams.

        Returns:
            The result of the run, with the policy of this process.

        Raises:
            RankError: If rank 0 failed or was lost. An error of this library is raised as its own class.
        """
        self._as_found = as_found
        answer: Any = None
        with ExitStack() as self._stack:
            while True:
                work, *arguments = self.receive(0)
                if work == _END:
                    break
                if work == _ANSWER:
                    self.send([0], answer, self._should_stop())
                    continue
                try:
                    answer = work(self, *arguments)
                except (Exception, SystemExit) as error:
                    answer = self.failure(error)
        result, *state = arguments
        if isinstance(result, Exception):
            raise result
        _load(self.trainer, *state)
        normalizer = self.trainer.collector.normalize_observation
        return replace(result, policy=self.trainer.policy, normalize_observation=normalizer)

    def failure(self, error: BaseException) -> Exception:
        """An error for the other processes: of its class if it is this library's; else a text with name and place."""
        text, kind = "; ".join([str(error), *getattr(error, "__notes__", [])]), type(error)
        if not kind.__module__.startswith("pgtorch") or not issubclass(kind, Exception):
            frame = traceback.extract_tb(error.__traceback__)[-1]
            text, kind = f"{kind.__name__}: {text} ({frame.filename}, line {frame.lineno})", RankError
        return kind(text if text.startswith("rank ") else f"{self.name}: {text}")


def _set_up(job: Job, config: TrainConfig) -> list[Any]:
    job._stack.close()  # of an earlier checkpoint, which did not fit
    job._stack.enter_context(job._as_found(config))
    job.trainer = job._stack.enter_context(closing(Trainer(config, job._policy, job)))
    for shard in job.trainer.shards:
        if isinstance(shard.env, StepTimeout):
            shard.env.should_stop = job._should_stop
    return []


def _play(job: Job, *state: Any) -> list[Played]:
    _load(job.trainer, *state)
    return job.trainer.collector.play(job.trainer.policy, job.trainer.generator)


def _call(job: Job, work: Callable[..., list[Any]], *arguments: Any) -> list[Any]:
    return work(job.trainer.collector, *arguments)


def _state(policy: Policy, normalizer: ObservationNormalizer | None) -> tuple[dict[str, Any], Any]:
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in policy.state_dict().items()}
    return arrays, None if normalizer is None else normalizer.moments


def _load(trainer: Trainer, arrays: dict[str, Any], moments: Any) -> None:
    trainer.policy.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    if trainer.collector.normalize_observation is not None:
        trainer.collector.normalize_observation.moments = moments
