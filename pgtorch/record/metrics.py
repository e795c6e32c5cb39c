"""What a run writes down: every tag with its meaning and unit, to TensorBoard and to `metrics.jsonl`.

`metrics.jsonl` is the record of truth: one object a logged update, with the update's number, the environment steps so
far and the tags below. It depends on nothing but the settings, so a seed gives the same file again; wall-clock figures
go to TensorBoard only.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pgtorch.record import board
from pgtorch.config import TrainConfig
from pgtorch.record.tensorboard import EventFile
from pgtorch.policies import BiasPolicy

# The x axis of every tag is environment steps. policy/bias and policy/p_norm are taken after the update's step; all
# else belongs to the gradient step that was taken, of several to the last; but the differences are the largest.
TAGS = {
    "policy/bias": "The one parameter of the lesson. Hovers around its optimum, -10 by default.",
    "policy/p_norm/hunger_0.0": "P(Norm) when not hungry at all, in [0, 1]. Goes to 0.",
    "policy/p_norm/hunger_0.5": "P(Norm) half-way, in [0, 1]. Swings around 0.5 as the bias hovers.",
    "policy/p_norm/hunger_1.0": "P(Norm) when very hungry, in [0, 1]. Starts at 1 and stays there.",
    "policy/entropy": "Mean entropy of the policy on the rows of the step, in nats. 0 is certain.",
    "gradient/autograd": "The gradient that autograd found for the bias.",
    "gradient/manual": "The same by the chain rule, by hand.",
    "gradient/absolute_difference": "Largest absolute difference of the two in the update. 0: every bit is equal.",
    "gradient/difference_in_units_of_u_c": "The same relative to what rounding may do; beyond 32 the run stops.",
    "gradient/norm": "Euclidean norm of the policy's gradient. Where an update has several steps, the last one's.",
    "rollout/episode_return": "Mean sum of rewards of the episodes that ended in this update.",
    "rollout/episode_length": "Mean number of steps of the episodes that ended in this update.",
    "loss/policy_gradient": "-mean(log pi * multiplier). No measure of progress: only its gradient means anything.",
    "loss/value": "Mean squared error of the value function.",
    "time/env_steps_per_second": "Environment steps per second of wall clock since training began. TensorBoard only.",
}

DIFFERENCE = "gradient/absolute_difference"
DIFFERENCES = (DIFFERENCE, "gradient/difference_in_units_of_u_c")
FLUSH_SECONDS = 1.0
LINES = "metrics.jsonl"
HUNGERS = (0.0, 0.5, 1.0)


_HUNGER = torch.tensor(HUNGERS).unsqueeze(-1)  # [3, 1]


def policy_metrics(policy: nn.Module) -> dict[str, float]:
    """What a policy shows of itself: the bias and P(Norm) of a `BiasPolicy`, nothing of another one."""
    if not isinstance(policy, BiasPolicy):
        return {}
    not_hungry, half_way, hungry = torch.sigmoid(policy(_HUNGER).detach()).tolist()
    return {
        "policy/bias": policy.bias.item(),
        "policy/p_norm/hunger_0.0": not_hungry,
        "policy/p_norm/hunger_0.5": half_way,
        "policy/p_norm/hunger_1.0": hungry,
    }


class MetricsWriter:
    """Writes each update as a line of `metrics.jsonl` and as a TensorBoard event.

    What is written is kept for up to a second, then put into the files all at once: that is twice as fast. Use it as a
    context manager: leaving it, by an error too, writes the rest and closes both files.

    Args:
        folder: The run's folder, which exists.
        sizes: Of the files at the checkpoint that the run goes on from, by `flush_to_disk`: what was written after it
            is cut off. None begins a run.
        env_steps: Environment steps so far.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int] | None = None, env_steps: int = 0) -> None:
        if sizes is not None:
            _cut_files(folder, sizes)
        self._folder = folder
        self._lines = (folder / LINES).open("a")
        self._events = EventFile(folder)
        if env_steps:
            self._events.write_restart(env_steps + 1)
        self._start = self._flushed = time.time()
        self._first_step = env_steps
        self._kept: list[tuple[int, int, float, Mapping[str, float]]] = []  # update, environment steps, time, metrics

    def __enter__(self) -> MetricsWriter:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left and close both files."""
        try:
            self.flush()
        finally:
            with _naming(self._folder / LINES):
                self._lines.close()
            self._events.close()

    def write(self, update: int, env_steps: int, metrics: Mapping[str, float]) -> None:
        """Write one update.

        Args:
            update: Its number, from 1.
            env_steps: Environment steps so far, the x axis.
            metrics: Values by tag, each a key of `TAGS`.
        """
        now = time.time()
        self._kept.append((update, env_steps, now, metrics))
        if now - self._flushed > FLUSH_SECONDS:
            self.flush()

    def write_about(self, config: TrainConfig) -> None:
        """Write what TensorBoard shows beside the curves; once, when the run begins."""
        self._events.write_values(board.about(config, TAGS))

    def write_picture(self, tag: str, picture: Path, env_steps: int) -> None:
        """Show a PNG file among TensorBoard's images."""
        self._events.write_picture(env_steps, tag, picture.read_bytes())

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        kept, self._kept = self._kept, []
        with _naming(self._folder / LINES):
            for update, env_steps, _, metrics in kept:
                self._lines.write(json.dumps({"update": update, "env_steps": env_steps, **metrics}) + "\n")
            self._lines.flush()
        with _naming(self._folder):
            for _, env_steps, now, metrics in kept:
                speed = (env_steps - self._first_step) / max(now - self._start, 1e-9)
                self._events.write_scalars(env_steps, now, {**metrics, "time/env_steps_per_second": speed})
            self._events.flush()
        self._flushed = time.time()

    def flush_to_disk(self) -> dict[str, int]:
        """See that everything written so far outlasts a power cut.

        Returns:
            The size of each file in bytes, by name: for a checkpoint.
        """
        self.flush()
        os.fsync(self._lines.fileno())
        self._events.flush_to_disk()
        return {path.name: path.stat().st_size for path in [self._folder / LINES, *_event_files(self._folder)]}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say what could not be written: a full disk's error does not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; is there no space left?", str(path)) from error


def require_files(folder: Path, sizes: Mapping[str, int]) -> None:
    """See that a run's files still hold what they held at a checkpoint; missing event files are let pass.

    Raises:
        ValueError: Where they do not; the message names the file.
    """
    if not isinstance(sizes, dict) or LINES not in sizes:
        raise ValueError(f"files must be sizes by name, {LINES} among them, got {sizes!r:.100}")
    for name, size in sizes.items():
        if type(size) is not int or size < 0 or Path(name).name != name:
            raise ValueError(f"files must be names in the run's folder and sizes in bytes, got {name!r}: {size!r}")
        path = folder / name
        if name != LINES and not path.exists():
            continue
        found = path.stat().st_size if path.is_file() else 0
        if found < size or not path.is_file():
            raise ValueError(f"{path} must hold at least the {size} bytes of the checkpoint, got {found}")


def _cut_files(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cut off what was written after a checkpoint."""
    for path in [folder / LINES, *_event_files(folder)]:
        if path.name in sizes:
            os.truncate(path, sizes[path.name])
        else:
            path.unlink()


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, oldest first; a last line torn by a crash is left out.

    Args:
        folder: The run's folder.

    Raises:
        FileNotFoundError: Where it holds no metrics.
    """
    lines = (folder / LINES).read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]  # what stands behind the last line break is empty, or torn


def summarize(lines: list[dict[str, Any]]) -> dict[str, float]:
    """What is left to say of a run when it is over.

    Args:
        lines: From `read_metrics`; of none there is nothing to say.

    Returns:
        For the lesson: the last `bias`; over the last half of the updates its mean `late_bias` and standard deviation
        `late_bias_deviation`; `p_norm_hunger_0` and `p_norm_hunger_1`. Where gradients were compared,
        `largest_gradient_difference`.
    """
    figures: dict[str, float] = {}
    if not lines:
        return figures
    if "policy/bias" in lines[-1]:
        late = [line["policy/bias"] for line in lines[len(lines) // 2 :]]
        figures["bias"] = lines[-1]["policy/bias"]
        figures["late_bias"] = sum(late) / len(late)
        figures["late_bias_deviation"] = (sum((b - figures["late_bias"]) ** 2 for b in late) / len(late)) ** 0.5
        figures["p_norm_hunger_0"] = lines[-1]["policy/p_norm/hunger_0.0"]
        figures["p_norm_hunger_1"] = lines[-1]["policy/p_norm/hunger_1.0"]
    differences = [line[DIFFERENCE] for line in lines if DIFFERENCE in line]
    if differences:
        figures["largest_gradient_difference"] = max(differences)
    return figures
