"""A run: the outer loop around a trainer, its folder, and how to resume it."""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import torch

from pgtorch.config import TrainConfig
from pgtorch.environment.checks import NonFiniteError
from pgtorch.environment.streams import own_streams
from pgtorch.environment.workers import Interrupted, StepTimeout
from pgtorch.policies import Policy
from pgtorch.record import pictures
from pgtorch.record.checkpoint import CheckpointError, checkpoints, read_newest, remove_newer, save_checkpoint
from pgtorch.record.evaluator import Evaluator
from pgtorch.record.folder import (
    clear_beginning,
    is_new,
    locked,
    new_run_folder,
    note_hash,
    note_resumption,
)
from pgtorch.record.metrics import History, MetricsWriter, read_record
from pgtorch.record.trained_run import TrainedRun, read_config
from pgtorch.record.trainer_state import (
    find_not_finite,
    put_trainer_state,
    require_finite_state,
    take_trainer_state,
)
from pgtorch.record.trust import import_allowed, require_trusted
from pgtorch.scale.shards import Job, joined
from pgtorch.trainer import Trainer


class SetupError(ValueError):
    """The request cannot be carried out. Nothing has been written."""


@dataclass(frozen=True, kw_only=True)
class TrainResult(TrainedRun):
    """A trained policy with its settings, its normalizer and the folder of its run."""

    run_dir: Path  # the run's folder: config.json, metrics.jsonl, TensorBoard events, checkpoints, pictures
    num_updates: int
    num_env_steps: int
    reached_target: bool  # `target_return`, in training and in an evaluation of this policy
    summary: dict[str, float]
    """`History.summary`; the mean return of the last episodes of training, at most 100, as `recent_return`, and their
    number, `recent_episodes`. If there were evaluations, those of the best policy: `best_update`,
    `best_return_greedy`, `best_return_sampled`. `load_run(run_dir, which="best")` loads it."""
    hash: str  # of metrics and parameters: the same seed on the same kind of machine gives the same hash


class Callback(Protocol):
    """What `train` and `resume` call after each update: any function, or object with `__call__`, of two arguments.

    It may log, draw and measure. It is called in the run's own process, once per update, in order, before the update's
    checkpoint is saved. It must not change the policy or draw from the global random streams: the run would no longer
    be reproducible. An error that it raises ends the run, and is raised by `train`; the run can be resumed from its
    last checkpoint. To end a run early and save it, use `should_stop`.
    """

    def __call__(self, update: int, figures: Mapping[str, float], /) -> None:
        """Take notice of an update.

        Args:
            update: Its number, from 1; in a resumed run, from the first one after the checkpoint.
            figures: What `metrics.jsonl` says of it, by tag; `pgtorch.record.metrics.TAGS` explains them.
        """


Update = Callable[[], dict[str, float]]


def train(
    config: TrainConfig | None = None,
    policy: Policy | None = None,
    callback: Callback | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train a policy and record the run in its own folder.

    Under torchrun every process calls it. Rank 0 learns and writes the folder, and only there `callback` is called; all
    return the same result.

    Args:
        config: Settings; None is the lesson.
        policy: What to train; None makes the policy that the settings name.
        callback: Called after each update, for a progress bar for instance.
        should_stop: Called after each update, and while an evaluation or a worker takes its time. Once it returns True,
            the run is saved and ends; it can be resumed later.

    Returns:
        The policy, on the run's device, and the folder of its run.

    Raises:
        SetupError: If environment, policy, settings and folder do not fit together; nothing has been written.
        GradientMismatchError: If autograd's gradient is not the manual one.
        NonFiniteError: If an observation, a reward, a gradient or a figure is not finite. Notes name the first tensor
            that is not, the update, and the last checkpoint.
        ContractError: If the environment violates its spaces.
        CheckpointError: If a checkpoint cannot be written.
    """
    config = TrainConfig() if config is None else config
    with ExitStack() as stack:
        with _setting_up():
            _require_arguments(config, policy, callback)
            job = stack.enter_context(joined(policy, should_stop))
        if job is not None and job.rank > 0:
            served: TrainResult = job.serve(_as_found)
            return served
        with _setting_up():
            if job is not None and (earlier := job.earlier_folder) is not None:  # torchrun has started again
                if checkpoints(earlier):
                    own = {name.rpartition(":")[0] for name in config.imports} - {""}
                    return _resume(job, earlier, {}, policy, callback, should_stop, own)
                clear_beginning(earlier)
                config = replace(config, run_dir=earlier)
            config = _with_shards(config, job)
            stack.enter_context(_as_found(config))
            trainer = stack.enter_context(closing(_make_trainer(config, policy, job)))
            update = _updater(trainer)
            evaluator = stack.enter_context(closing(Evaluator(trainer, should_stop=_stop_of(job, should_stop))))
            if job is not None and config.run_dir is not None and is_new(config.run_dir):
                job.remember(config.run_dir)
            folder = stack.enter_context(new_run_folder(config))
            if job is not None:
                job.remember(folder)
        writer = stack.enter_context(MetricsWriter(folder))
        writer.begin(config, trainer.policy.figures())
        return _run(trainer, update, evaluator, folder, writer, callback, job)


def check_setup(config: TrainConfig) -> None:
    """Raise the `SetupError` that `train` would raise for these settings, whatever its folder; write nothing."""
    with _setting_up(), _as_found(config), closing(Trainer(config)) as trainer:
        _updater(trainer)


def resume(
    run_dir: Path | str,
    num_updates: int | None = None,
    target_return: float | None = None,
    policy: Policy | None = None,
    callback: Callback | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    allow_import: Collection[str] = (),
    device: str | None = None,
) -> TrainResult:
    """Continue a run from its newest intact checkpoint, in the same folder, as if it had never stopped.

    Args:
        run_dir: The run's folder.
        num_updates: New number of updates. If the learning rate decays, the rest of the run then differs. A run that
            has reached its target continues without one, and a warning says so, unless `target_return` is given too.
        target_return: New target return. None keeps the run's own.
        policy: For your own policy: an instance of its class, whose parameters are replaced.
        callback: As for `train`.
        should_stop: As for `train`.
        allow_import: Modules to import first, even if they are not installed: an environment's `module:Id` runs that
            module's code, and a module may register the environment.
        device: New device. None keeps the run's own.

    Returns:
        As for `train`.

    Raises:
        SetupError: If there is no run to resume, or it cannot be continued as asked.
        CheckpointError: If no checkpoint is intact and fits.
        GradientMismatchError, NonFiniteError, ContractError: As for `train`.
    """
    asked = {"num_updates": num_updates, "target_return": target_return, "device": device}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    with ExitStack() as stack:
        with _setting_up():
            _require_arguments(TrainConfig(**changes), policy, callback)
            job = stack.enter_context(joined(policy, should_stop))
        if job is not None and job.rank > 0:
            with _setting_up():
                import_allowed(allow_import)  # rank 0 decides whether the run is trusted
            served: TrainResult = job.serve(_as_found)
            return served
        return _resume(job, Path(run_dir), changes, policy, callback, should_stop, allow_import)


def _resume(
    job: Job | None,
    folder: Path,
    changes: Mapping[str, Any],
    policy: Policy | None,
    callback: Callback | None,
    should_stop: Callable[[], bool],
    allow_import: Collection[str],
) -> TrainResult:
    def continued(path: Path, content: Mapping[str, Any]) -> tuple[Trainer, History, Evaluator]:
        config = read_config(path, content)
        history = read_record(folder, content["record"])
        with _setting_up():
            for name in config.imports:
                require_trusted(name, folder, allow_import)
            import_allowed(allow_import)
            config = replace(config, **changes)
            stack.enter_context(_as_found(config))
            trainer = _make_trainer(config, policy, job)
        try:
            put_trainer_state(trainer, content["trainer"])
            with _setting_up():
                stop, best = _stop_of(job, should_stop), content["best"]
                evaluator = Evaluator(trainer, evaluated=history.evaluated, best=best, should_stop=stop)
        except BaseException:
            trainer.close()
            raise
        return trainer, history, evaluator

    with ExitStack() as stack:
        with _setting_up():
            stack.enter_context(locked(folder))
        if not checkpoints(folder):
            raise SetupError(f"resume must be the folder of a run with a checkpoint, got {str(folder)!r}")
        path, (trainer, history, evaluator) = read_newest(folder, continued)
        stack.enter_context(closing(trainer))
        stack.enter_context(closing(evaluator))
        asked = changes.get("num_updates")
        if trainer.num_updates > trainer.config.num_updates:
            raise SetupError(f"num_updates must be at least {trainer.num_updates}, the number done, got {asked}")
        if "num_updates" in changes and "target_return" not in changes and evaluator.has_reached_target(history.last):
            reached = f"the run has reached its target return, {trainer.config.target_return:g}"
            warnings.warn(f"{reached}: it continues without one, to update {asked}", stacklevel=3)
            trainer.config = replace(trainer.config, target_return=None)
        with _setting_up():
            update = _updater(trainer)
            remove_newer(path)
            note_resumption(folder, trainer.config)
        writer = stack.enter_context(MetricsWriter(folder, history))
        return _run(trainer, update, evaluator, folder, writer, callback, job)


def _run(
    trainer: Trainer,
    update: Update,
    evaluator: Evaluator,
    folder: Path,
    writer: MetricsWriter,
    callback: Callback | None,
    job: Job | None,
) -> TrainResult:
    config, saved = trainer.config, -1
    should_stop = evaluator.should_stop
    figures = dict(writer.history.pending)  # of an update that was stopped in its evaluation; else empty
    reached = not figures and evaluator.has_reached_target(writer.history.last)

    def save() -> int:
        require_finite_state(trainer)
        record = writer.save(figures)
        state = take_trainer_state(trainer)
        number, settings = trainer.num_updates, config.to_dict()
        save_checkpoint(folder, number, config=settings, record=record, trainer=state, best=evaluator.best)
        return number

    for shard in trainer.shards:
        if isinstance(shard.env, StepTimeout):
            shard.env.should_stop = should_stop
    number = trainer.num_updates
    try:
        while figures or (trainer.num_updates < config.num_updates and not reached and not should_stop()):
            number = trainer.num_updates + (not figures)
            try:
                figures = figures or update()
                if evaluator.is_due():
                    figures |= evaluator.evaluate()
            except Interrupted:  # asked to stop while a worker hangs, or in an evaluation, which is repeated later
                break
            _require_finite(figures, number)
            reached = evaluator.has_reached_target(figures)
            writer.write(number, trainer.num_env_steps, figures)
            if callback is not None:
                callback(number, figures)
            figures = {}
            if config.checkpoint_every and number % config.checkpoint_every == 0:
                saved = save()
        if saved != trainer.num_updates:
            save()
    except Exception as error:
        _note_what_is_not_finite(error, trainer, number, folder)
        raise
    writer.end()
    if config.pictures and (reached or trainer.num_updates == config.num_updates or not should_stop()):
        for tag, picture in pictures.draw(folder, writer.history, config, trainer.policy).items():
            writer.write_picture(tag, picture, trainer.num_env_steps)
    modules = {"policy": trainer.policy, "value_function": trainer.value_function}
    digest = writer.hash({name: module for name, module in modules.items() if module is not None})
    note_hash(folder, digest)
    result = TrainResult(
        config=config,
        policy=trainer.policy,
        normalize_observation=trainer.collector.normalize_observation,
        run_dir=folder,
        num_updates=trainer.num_updates,
        num_env_steps=trainer.num_env_steps,
        reached_target=reached,
        summary=writer.history.summary() | _recent(trainer) | evaluator.summary(),
        hash=digest,
    )
    if job is not None:
        job.finish(result)
    return result


def _with_shards(config: TrainConfig, job: Job | None) -> TrainConfig:
    """The settings with the number of shards: by default one for each process."""
    return replace(config, num_shards=config.num_shards or (1 if job is None else job.size))


def _stop_of(job: Job | None, should_stop: Callable[[], bool]) -> Callable[[], bool]:
    """Whether this process or another one of the job was asked to stop."""
    return should_stop if job is None else job.should_stop


def _make_trainer(config: TrainConfig, policy: Policy | None, job: Job | None) -> Trainer:
    return Trainer(config, policy) if job is None else job.make_trainer(config, policy)


def _recent(trainer: Trainer) -> dict[str, float]:
    """Mean return and number of the last episodes of training, for the summary; empty if none has ended."""
    recent = trainer.collector.episodes.recent
    return {"recent_return": sum(recent) / len(recent), "recent_episodes": len(recent)} if recent else {}


def _require_finite(figures: Mapping[str, float], update: int) -> None:
    for tag, value in figures.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"update {update}: {tag} must be finite, got {value}; is learning_rate too high?")


def _note_what_is_not_finite(error: Exception, trainer: Trainer, update: int, folder: Path) -> None:
    """Add to an error about numbers which tensor is not finite, in which update, and where to go back to."""
    found = find_not_finite(trainer)
    if not found and not isinstance(error, NonFiniteError):
        return
    if found and found not in str(error):
        error.add_note(found)
    newest = next(iter(checkpoints(folder)), "none yet")
    error.add_note(f"in update {update}; last good checkpoint: {newest}")


def _updater(trainer: Trainer) -> Update:
    """The trainer's `update`, compared with a second implementation if the settings say so."""
    if not trainer.config.check_update:
        return trainer.update
    from pgtorch.proof.twin import checked_update  # noqa: PLC0415 -- seldom needed

    return checked_update(trainer, trainer.config.check_update)


def _require_arguments(config: object, policy: object, callback: object) -> None:
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {config!r:.100}")
    if not isinstance(policy, Policy | None):
        raise TypeError(f"policy must be a pgtorch.Policy, got {policy!r:.100}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {callback!r:.100}")


@contextmanager
def _as_found(config: TrainConfig) -> Iterator[None]:
    """Give a run its own number of torch threads and its own global random streams; then restore the caller's."""
    before = torch.get_num_threads()
    with own_streams(config.seed):
        torch.set_num_threads(config.num_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def _setting_up() -> Iterator[None]:
    """Turn every error before the first step, in an environment's constructor for instance, into a `SetupError`."""
    try:
        yield
    except (SetupError, CheckpointError):
        raise
    except (Exception, SystemExit) as error:
        told = ValueError | TypeError | OSError | ImportError | RuntimeError | gym.error.Error | NonFiniteError
        if isinstance(error, told) and str(error):
            raise SetupError(str(error)) from error
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"({frame.filename}, line {frame.lineno})"
        raise SetupError(" ".join([type(error).__name__, *str(error).split(), place])) from error
