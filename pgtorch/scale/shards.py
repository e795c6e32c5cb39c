"""The processes that torchrun starts: all of them play shards of the environments, rank 0 learns and writes.

Once an update, rank 0 sends the policy's parameters and the normalizer's statistics, and each process answers with the
rows that its shards played. Between updates rank 0 has them save and restore their shards. A message is a function to
call and its arguments, pickled: the processes of a job trust each other.
"""

from __future__ import annotations

import itertools
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator

from pgtorch.config import TrainConfig
from pgtorch.environment.workers import StepTimeout
from pgtorch.policies import Policy
from pgtorch.rollout import Played, RolloutCollector
from pgtorch.scale.peers import Peers, RankError
from pgtorch.trainer import Trainer

_OWN = ("policy", "normalize_observation", "generator")  # parts of a result that each process has itself

AsFound = Callable[[TrainConfig], AbstractContextManager[None]]


class _Failure(NamedTuple):
    """An error, as it is sent."""

    kind: type[Exception]
    text: str


@contextmanager
def joined(policy: Policy | None, should_stop: Callable[[], bool]) -> Iterator[Job | None]:
    """Connect the processes that torchrun started; None without torchrun. Within another call it gives the same job.

    Raises:
        RankError: If they do not find each other.
    """
    global _job  # noqa: PLW0603 -- a process belongs to one job
    if _job is not None or "TORCHELASTIC_RUN_ID" not in os.environ:
        yield _job
        return
    _job = job = Job(policy, should_stop)
    try:
        yield job
    except BaseException as error:
        job.end(job.failure(error))
        raise
    finally:
        _job = None
        job.close()


_job: Job | None = None
_calls = itertools.count()  # of runs in this process, and so the same in each


class Job:
    """The processes of a job, as one of them sees them. It is the `Exchange` of rank 0's collector.

    Args:
        policy: What to train, or None, as in each process; its parameters are rank 0's.
        should_stop: Whether this process has been asked to stop.
    """

    def __init__(self, policy: Policy | None, should_stop: Callable[[], bool]) -> None:
        self._peers = Peers(next(_calls))
        self.rank, self.size = self._peers.rank, self._peers.size
        self.trainer: Trainer | None = None
        self._policy, self._should_stop, self._asked_to_stop = policy, should_stop, False
        self._owing: list[int] = []  # ranks that have not answered yet
        self._ended = False

    # What rank 0 does

    def make_trainer(self, config: TrainConfig, policy: Policy | None) -> Trainer:
        """Make a trainer in every process, with the shards that it hosts.

        Raises:
            ValueError: If the shards cannot be shared out equally.
        """
        assert config.num_shards is not None
        if config.num_shards % self.size:
            raise ValueError(
                f"num_shards must be a multiple of the number of processes, got {config.num_shards} and {self.size}"
            )
        self._ask(_set_up, config)
        self.trainer = Trainer(config, policy, self)
        try:
            self._answers()
        except BaseException:
            self.trainer.close()
            raise
        return self.trainer

    def hosted(self, num_shards: int) -> range:
        """The numbers of the shards that this process plays."""
        share = num_shards // self.size
        return range(self.rank * share, (self.rank + 1) * share)

    def play(self, collector: RolloutCollector, policy: Policy, generator: Generator) -> list[Played]:
        """Let every process play its shards with this policy; what all of them did, in order of shard."""
        normalizer = collector.normalize_observation
        self._ask(_play, _arrays(policy), None if normalizer is None else normalizer.moments)
        return [*collector.play(policy, generator), *itertools.chain(*self._answers())]

    def everywhere(self, work: Callable[..., list[Any]], collector: RolloutCollector, *arguments: Any) -> list[Any]:
        """Call a function in every process with its own collector; what it returned, in order of rank."""
        self._ask(_call, work, *arguments)
        return [*work(collector, *arguments), *itertools.chain(*self._answers())]

    def should_stop(self) -> bool:
        """Whether any process has been asked to stop, as far as rank 0 knows."""
        return self._should_stop() or self._asked_to_stop

    def earlier_folder(self) -> Path | None:
        """The folder of this run, from before torchrun started its processes again; None if there was none."""
        folder = self._peers.recall("folder")
        return None if folder is None else Path(folder)

    def remember(self, folder: Path) -> None:
        """Keep the folder of this run, in torchrun's own process."""
        self._peers.keep("folder", str(folder))

    def finish(self, result: Any) -> None:
        """Give the other processes the result of the run."""
        own = {field.name: getattr(result, field.name) for field in fields(result) if field.name not in _OWN}
        normalizer = result.normalize_observation
        self.end((type(result), own, _arrays(result.policy), None if normalizer is None else normalizer.moments))

    def end(self, message: Any) -> None:
        """Send the other processes a result or a failure, once."""
        if self.rank or self._ended:
            return
        self._ended = True
        for other in self._peers.others:
            with suppress(RankError):
                if other in self._owing:  # it cannot hear before it has answered
                    self._peers.receive(other)
                self._peers.send([other], None, message)

    # What the others do

    def serve(self, as_found: AsFound) -> Any:
        """Do what rank 0 asks, up to the end of the run.

        Args:
            as_found: A context with the run's threads and global streams.

        Returns:
            The result of the run, with the policy of this process.

        Raises:
            RankError: If rank 0 failed or was lost. An error of this library is raised as its own class.
        """
        self._as_found = as_found
        with ExitStack() as self._stack:
            while True:
                work, *arguments = self._peers.receive(0)
                if work is None:
                    return self._conclude(*arguments)
                try:
                    answer = work(self, *arguments)
                except (Exception, SystemExit) as error:
                    answer = self.failure(error)
                self._peers.send([0], answer, self._should_stop())

    def _conclude(self, message: Any) -> Any:
        if isinstance(message, _Failure):
            raise message.kind(message.text)
        kind, own, arrays, moments = message
        trainer = self.trainer
        assert trainer is not None
        _load(trainer, arrays, moments)
        return kind(**own, policy=trainer.policy, normalize_observation=trainer.collector.normalize_observation)

    # What all do

    def failure(self, error: BaseException) -> _Failure:
        """An error for the other processes: its class if it is one of this library's; else its name and place."""
        text, kind = "; ".join([str(error), *getattr(error, "__notes__", [])]), type(error)
        if not kind.__module__.startswith("pgtorch") or not issubclass(kind, Exception):
            frame = traceback.extract_tb(error.__traceback__)[-1]
            text, kind = f"{kind.__name__}: {text} ({frame.filename}, line {frame.lineno})", RankError
        return _Failure(kind, text if text.startswith("rank ") else f"{self._peers.name}: {text}")

    def close(self) -> None:
        """Leave the job."""
        self._peers.close()

    def _ask(self, *message: Any) -> None:
        self._peers.send(self._peers.others, *message)
        self._owing = list(self._peers.others)

    def _answers(self) -> list[Any]:
        """One from each process; a failure is raised once all have answered."""
        answers = []
        for other in self._peers.others:
            self._owing.remove(other)
            answer, stop = self._peers.receive(other)
            self._asked_to_stop |= stop
            answers.append(answer)
        for answer in answers:
            if isinstance(answer, _Failure):
                raise answer.kind(answer.text)
        return answers


def _set_up(job: Job, config: TrainConfig) -> None:
    job._stack.close()  # of an earlier checkpoint, which did not fit
    job._stack.enter_context(job._as_found(config))
    job.trainer = job._stack.enter_context(closing(Trainer(config, job._policy, job)))
    for shard in job.trainer.shards:
        if isinstance(shard.env, StepTimeout):
            shard.env.should_stop = job._should_stop


def _play(job: Job, arrays: dict[str, Any], moments: Any) -> list[Played]:
    assert job.trainer is not None
    _load(job.trainer, arrays, moments)
    return job.trainer.collector.play(job.trainer.policy, job.trainer.generator)


def _call(job: Job, work: Callable[..., list[Any]], *arguments: Any) -> list[Any]:
    assert job.trainer is not None
    return work(job.trainer.collector, *arguments)


def _arrays(module: torch.nn.Module) -> dict[str, Any]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}


def _load(trainer: Trainer, arrays: dict[str, Any], moments: Any) -> None:
    trainer.policy.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    if trainer.collector.normalize_observation is not None:
        trainer.collector.normalize_observation.moments = moments
