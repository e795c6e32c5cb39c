"""A run: the outer loop around a trainer, its folder, and how to resume it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from pgtorch.config import TrainConfig
from pgtorch.environment.streams import own_streams
from pgtorch.environment.workers import Interrupted, StepTimeout
from pgtorch.policies import Policy
from pgtorch.record import pictures
from pgtorch.record.checkpoint import checkpoints, read_newest, remove_newer, save_checkpoint
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
from pgtorch.record.trainer_state import put_trainer_state, require_finite_state, take_trainer_state
from pgtorch.record.trust import require_trusted
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
    summary: dict[str, float]  # `History.summary`, and the mean return of the last 100 episodes: `recent_return`
    hash: str  # of metrics and parameters: the same seed on the same kind of machine gives the same hash


Update = Callable[[], dict[str, float]]
Callback = Callable[[int, Mapping[str, float]], None]


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
        callback: Called after each update with its number and its figures by tag, for a progress bar for instance.
        should_stop: Called after each update. Once it returns True, the run is saved and ends; it can be resumed later.

    Returns:
        The policy and the folder of its run.

    Raises:
        SetupError: If environment, policy, settings and folder do not fit together; nothing has been written.
        GradientMismatchError: If autograd's gradient is not the manual one.
        NonFiniteError: If an observation, a reward or a gradient is not finite.
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
            if job is not None and (earlier := job.earlier_folder()) is not None:  # torchrun has started again
                if checkpoints(earlier):
                    own = {name.rpartition(":")[0] for name in (config.env_id, config.policy)} - {""}
                    return resume(earlier, None, None, policy, callback, should_stop, own)
                clear_beginning(earlier)
                config = replace(config, run_dir=earlier)
            config = _with_shards(config, job)
            stack.enter_context(_as_found(config))
            trainer = stack.enter_context(closing(_make_trainer(config, policy, job)))
            update = _updater(trainer)
            if job is not None and config.run_dir is not None and is_new(config.run_dir):
                job.remember(config.run_dir)
            folder = stack.enter_context(new_run_folder(config))
            if job is not None:
                job.remember(folder)
        writer = stack.enter_context(MetricsWriter(folder))
        writer.begin(config, trainer.policy.figures())
        return _run(trainer, update, folder, writer, callback, should_stop, job)


def resume(
    run_dir: Path | str,
    num_updates: int | None = None,
    target_return: float | None = None,
    policy: Policy | None = None,
    callback: Callback | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    allow_import: Collection[str] = (),
) -> TrainResult:
    """Continue a run from its newest intact checkpoint, in the same folder, as if it had never stopped.

    Args:
        run_dir: The run's folder.
        num_updates: New number of updates. If the learning rate decays, the rest of the run then differs.
        target_return: New target return. None keeps the run's own.
        policy: For your own policy: an instance of its class, whose parameters are replaced.
        callback: As for `train`.
        should_stop: As for `train`.
        allow_import: Modules that the folder's settings may import, besides those already installed or imported: an
            environment's `module:Id` runs that module's code.

    Returns:
        As for `train`.

    Raises:
        SetupError: If there is no run to resume, or it cannot be continued as asked.
        CheckpointError: If no checkpoint is intact and fits.
        GradientMismatchError, NonFiniteError, ContractError: As for `train`.
    """
    folder = Path(run_dir)
    asked = {"num_updates": num_updates, "target_return": target_return}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}

    def continued(path: Path, content: Mapping[str, Any]) -> tuple[Trainer, History]:
        config = read_config(path, content)
        history = read_record(folder, content["record"])
        with _setting_up():
            require_trusted(config.env_id, folder, allow_import)
            config = replace(config, **changes)
            stack.enter_context(_as_found(config))
            trainer = _make_trainer(config, policy, job)
        try:
            put_trainer_state(trainer, content["trainer"])
        except BaseException:
            trainer.close()
            raise
        return trainer, history

    with ExitStack() as stack:
        with _setting_up():
            _require_arguments(TrainConfig(**changes), policy, callback)
            job = stack.enter_context(joined(policy, should_stop))
        if job is not None and job.rank > 0:
            served: TrainResult = job.serve(_as_found)
            return served
        with _setting_up():
            stack.enter_context(locked(folder))
        if not checkpoints(folder):
            raise SetupError(f"resume must be the folder of a run with a checkpoint, got {str(folder)!r}")
        path, (trainer, history) = read_newest(folder, continued)
        stack.enter_context(closing(trainer))
        if trainer.num_updates > trainer.config.num_updates:
            raise SetupError(f"num_updates must be at least {trainer.num_updates}, the number done, got {num_updates}")
        with _setting_up():
            update = _updater(trainer)
            remove_newer(path)
            note_resumption(folder, trainer.config)
        writer = stack.enter_context(MetricsWriter(folder, history))
        return _run(trainer, update, folder, writer, callback, should_stop, job)


def _run(
    trainer: Trainer,
    update: Update,
    folder: Path,
    writer: MetricsWriter,
    callback: Callback | None,
    should_stop: Callable[[], bool],
    job: Job | None,
) -> TrainResult:
    config, saved = trainer.config, -1
    should_stop = should_stop if job is None else job.should_stop

    def save() -> int:
        require_finite_state(trainer)
        record = writer.save()
        state = take_trainer_state(trainer)
        save_checkpoint(folder, trainer.num_updates, config=config.to_dict(), record=record, trainer=state)
        return trainer.num_updates

    for shard in trainer.shards:
        if isinstance(shard.env, StepTimeout):
            shard.env.should_stop = should_stop
    while trainer.num_updates < config.num_updates and not _has_reached_target(trainer) and not should_stop():
        try:
            figures = update()
        except Interrupted:  # a worker hangs, and the run was asked to stop: save the last finished update
            break
        writer.write(trainer.num_updates, trainer.num_env_steps, figures)
        if callback is not None:
            callback(trainer.num_updates, figures)
        if config.checkpoint_every and trainer.num_updates % config.checkpoint_every == 0:
            saved = save()
    if saved != trainer.num_updates:
        save()
    if config.pictures and (trainer.num_updates == config.num_updates or not should_stop()):
        for tag, picture in pictures.draw(folder, writer.history, config, trainer.policy).items():
            writer.write_picture(tag, picture, trainer.num_env_steps)
    modules = {"policy": trainer.policy, "value_function": trainer.value_function}
    digest = writer.hash({name: module for name, module in modules.items() if module is not None})
    note_hash(folder, digest)
    recent = trainer.collector.episodes.recent
    result = TrainResult(
        config=config,
        policy=trainer.policy,
        normalize_observation=trainer.collector.normalize_observation,
        run_dir=folder,
        num_updates=trainer.num_updates,
        num_env_steps=trainer.num_env_steps,
        summary=writer.history.summary() | ({"recent_return": sum(recent) / len(recent)} if recent else {}),
        hash=digest,
    )
    if job is not None:
        job.finish(result)
    return result


def _with_shards(config: TrainConfig, job: Job | None) -> TrainConfig:
    """The settings with the number of shards: by default one for each process."""
    return replace(config, num_shards=config.num_shards or (1 if job is None else job.size))


def _make_trainer(config: TrainConfig, policy: Policy | None, job: Job | None) -> Trainer:
    return Trainer(config, policy) if job is None else job.make_trainer(config, policy)


def _updater(trainer: Trainer) -> Update:
    """The trainer's `update`, compared with a second implementation if the settings say so."""
    if not trainer.config.check_update:
        return trainer.update
    from pgtorch.proof.twin import checked_update  # noqa: PLC0415 -- seldom needed

    return checked_update(trainer, trainer.config.check_update)


def _has_reached_target(trainer: Trainer) -> bool:
    """Whether the mean return of the last 100 episodes has reached the target, if there is one."""
    target, recent = trainer.config.target_return, trainer.collector.episodes.recent
    return target is not None and len(recent) == recent.maxlen and sum(recent) / len(recent) >= target


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
    except SetupError:
        raise
    except (Exception, SystemExit) as error:
        told = isinstance(error, ValueError | TypeError | OSError | ImportError | RuntimeError | gym.error.Error)
        message = str(error) if told and str(error) else f"{type(error).__name__} {error}".rstrip()
        raise SetupError(message) from error
