"""A run: a trainer, the folder that it writes to, and the way back into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from pgtorch.record import metrics, pictures
from pgtorch.record.checkpoint import CheckpointError, checkpoints, read_config, read_newest, save_checkpoint
from pgtorch.config import TrainConfig
from pgtorch.policies import Policy
from pgtorch.record.folder import create_run_folder, note_resumption
from pgtorch.trainer import Trainer


class SetupError(ValueError):
    """What was asked for cannot be done. Nothing has been written."""


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind."""

    policy: Policy  # the trained module
    run_dir: Path  # the run's folder: config.json, metrics.jsonl, TensorBoard events, checkpoints, pictures
    num_updates: int
    num_env_steps: int
    summary: dict[str, float]  # `metrics.summarize`, and the mean return of the last 100 episodes: `recent_return`


Callback = Callable[[int, Mapping[str, float]], None]


def train(
    config: TrainConfig | None = None,
    policy: Policy | None = None,
    callback: Callback | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train a policy and write the run down.

    Args:
        config: Settings; None is the lesson.
        policy: What to train; None makes the one that fits the environment.
        callback: Called after each update with its number and metrics, for a progress bar for instance.
        should_stop: Asked after each update; where it says so, the run is saved and ends, to be resumed later.

    Returns:
        The policy and where its run lies.

    Raises:
        SetupError: Where environment, policy, settings and folder do not fit; nothing has been written then.
        GradientMismatchError: Where autograd's gradient is not the manual one.
        NonFiniteError: Where an observation, a reward or a gradient is no finite number.
        CheckpointError: Where a checkpoint cannot be written.
    """
    config = config or TrainConfig()
    with _setting_up():
        trainer = Trainer(config, policy)
    with closing(trainer):
        with _setting_up():
            folder = create_run_folder(config)
        with metrics.MetricsWriter(folder) as writer:
            writer.write_about(config)
            return _run(trainer, folder, writer, callback, should_stop)


def resume(
    run_dir: Path | str,
    num_updates: int | None = None,
    target_return: float | None = None,
    policy: Policy | None = None,
    callback: Callback | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Go on with a run from its newest checkpoint that is whole, in the same folder, as if it had never stopped.

    Args:
        run_dir: The run's folder.
        num_updates: Where the run is to end instead; with a learning rate that decays, the rest of it then differs.
        target_return: Where it is to stop before instead; None leaves that as it was.
        policy: For a policy of one's own: one of its class, whose parameters are replaced.
        callback: As for `train`.
        should_stop: As for `train`.

    Returns:
        As for `train`.

    Raises:
        SetupError: Where there is no run to resume, or it cannot be gone on with as asked.
        CheckpointError: Where no checkpoint is whole, or it does not fit.
        GradientMismatchError, NonFiniteError: As for `train`.
    """
    folder = Path(run_dir)
    try:
        found = checkpoints(folder)
    except (OSError, ValueError):  # a name too long, or with a NUL
        found = []
    if not found:
        raise SetupError(f"resume must be the folder of a run with a checkpoint, got {str(folder)!r}, which has none")
    path, content = read_newest(folder)
    config = read_config(path, content)
    with _setting_up():
        asked: dict[str, Any] = {"num_updates": num_updates, "target_return": target_return}
        config = replace(config, **{name: value for name, value in asked.items() if value is not None})
        trainer = Trainer(config, policy)
    with closing(trainer):
        try:
            trainer.load_state_dict(content["trainer"])
            metrics.require_files(folder, content["files"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error}") from error
        if trainer.num_updates > config.num_updates:
            raise SetupError(f"num_updates must be at least {trainer.num_updates}, the updates done, got {num_updates}")
        for newer in checkpoints(folder):
            if newer > path:
                newer.unlink()
        note_resumption(folder, config)
        with metrics.MetricsWriter(folder, content["files"], trainer.num_env_steps) as writer:
            return _run(trainer, folder, writer, callback, should_stop)


def _run(
    trainer: Trainer,
    folder: Path,
    writer: metrics.MetricsWriter,
    callback: Callback | None,
    should_stop: Callable[[], bool],
) -> TrainResult:
    config, saved = trainer.config, -1

    def save() -> int:
        trainer.require_finite()
        files = writer.flush_to_disk()
        content = {"config": config.to_dict(), "files": files, "trainer": trainer.state_dict()}
        save_checkpoint(folder, trainer.num_updates, content)
        return trainer.num_updates

    while trainer.num_updates < config.num_updates and not trainer.has_reached_target() and not should_stop():
        logged = trainer.update()
        writer.write(trainer.num_updates, trainer.num_env_steps, logged)
        if callback is not None:
            callback(trainer.num_updates, logged)
        if config.checkpoint_every and trainer.num_updates % config.checkpoint_every == 0:
            saved = save()
    if saved != trainer.num_updates:
        save()
    lines = metrics.read_metrics(folder)
    if config.pictures and lines and (trainer.num_updates == config.num_updates or not should_stop()):
        for tag, picture in pictures.draw(folder, lines, config, trainer.policy).items():
            writer.write_picture(tag, picture, trainer.num_env_steps)
    recent = trainer.collector.episodes.recent
    summary = metrics.summarize(lines) | ({"recent_return": sum(recent) / len(recent)} if recent else {})
    return TrainResult(trainer.policy, folder, trainer.num_updates, trainer.num_env_steps, summary)


@contextmanager
def _setting_up() -> Iterator[None]:
    """Whatever goes wrong before the first step is a `SetupError`."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, MemoryError, RuntimeError, gym.error.Error) as error:
        raise SetupError(str(error) or type(error).__name__) from error
