"""TensorBoard: the event file of a run, and what it shows besides the curves."""

from __future__ import annotations

import inspect
import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from pgtorch.config import TrainConfig

SUFFIX = ".pgtorch"  # of our event files: no others are ever cut or deleted

# TensorBoard opens on the two alphabetically first groups of tags. The bias is written a second time, in a group that
# comes first, at ever fewer updates (`is_shown`): the way from 0 to -10 is then so many points of the curve that
# TensorBoard, which scales a chart without its lowest and highest 5 %, does not cut it off.
BIAS, MEAN_RETURN = "bias/bias", "episode/mean_return"

# Pages of Custom Scalars: the title of each chart, and patterns of the tags on it. Equal curves hide each other, so the
# two gradients have a chart each.
CHARTS = {
    "The bias": [BIAS],
    "P(Norm) when not hungry, halfway, very hungry": [r"policy/p_norm/hunger_.*"],
    "The gradient by autograd": ["gradient/autograd"],
    "The gradient by hand": ["gradient/manual"],
    "Their difference": ["gradient/absolute_difference"],
    "Mean return of the last half": [MEAN_RETURN],
    "Return of an episode": ["rollout/episode_return", "evaluation/return_.*"],
}
OTHER_CHARTS = {  # of runs without a bias
    "Mean return of the last half": [MEAN_RETURN],
    "Return of an episode": ["rollout/episode_return", "evaluation/return_.*"],
    "Length of an episode": ["rollout/episode_length"],
    "Entropy of the policy": ["policy/entropy"],
    "Norm of the gradient": ["gradient/norm"],
    "Loss of the value function": ["loss/value"],
    "Environment steps per second": ["time/env_steps_per_second"],
}


def is_shown(update: int) -> bool:
    """Whether the first screen shows this update: each of the first 15, then 8 whenever their number doubles."""
    return update % max(1, 1 << update.bit_length() >> 4) == 0


class EventFile:
    """A TensorBoard event file, written record by record.

    One event with the 13 values of an update takes 11 microseconds here, 93 with `SummaryWriter`'s `add_summary` and
    1,150 with its `add_scalar`; an update of the lesson takes about 130.

    Args:
        folder: The folder of the file, which exists.
    """

    def __init__(self, folder: Path) -> None:
        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}{SUFFIX}"
        self._file = (folder / name).open("xb")
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        self._scalars = Event()  # made once, filled for each step
        self._values: dict[str, Any] = {}  # its values by tag

    def write_scalars(self, step: int, now: float, scalars: Mapping[str, float]) -> None:
        """Write one event with all scalars of a step."""
        if self._values.keys() != scalars.keys():
            self._scalars = Event(summary=Summary(value=[Summary.Value(tag=tag) for tag in scalars]))
            self._values = {value.tag: value for value in self._scalars.summary.value}
        self._scalars.step, self._scalars.wall_time = step, now
        for tag, scalar in scalars.items():
            self._values[tag].simple_value = scalar
        self._write(self._scalars)

    def write_restart(self, step: int) -> None:
        """Tell a running TensorBoard to drop what it has read from this step on."""
        self._write(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def write_front(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the scalars of the first screen at a step."""
        values = [Summary.Value(tag=tag, simple_value=scalar) for tag, scalar in scalars.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def write_about(self, config: TrainConfig, tags: Mapping[str, str], *, has_bias: bool) -> None:
        """Write a page of charts, the hyperparameters and the meaning of each tag; once, when a run begins.

        Without a summary of the experiment, which could only know the settings of one run, TensorBoard takes the
        columns of HParams from all runs in the folder: the first five in which they differ, in alphabetical order,
        then the first five tags. Both fives are constants of its page, and its server sorts; no file can change that.

        Args:
            config: The settings of the run.
            tags: The meaning of each tag.
            has_bias: Whether the run logs a bias; the page is then the lesson's.
        """
        from torch.utils.tensorboard import summary  # noqa: PLC0415 -- 0.05 s, which a resumed run does not need

        page = ("The lesson on one page", CHARTS) if has_bias else ("The run on one page", OTHER_CHARTS)
        charts = {title: ["Multiline", patterns] for title, patterns in page[1].items()}
        _, *session = summary.hparams(_columns(config), {})  # type: ignore[no-untyped-call]
        rows = "\n".join(f"| `{tag}` | {meaning} |" for tag, meaning in tags.items())
        for message in (
            summary.custom_scalars({page[0]: charts}),  # type: ignore[no-untyped-call]
            *session,
            summary.text("what each tag means", f"| tag | meaning |\n|---|---|\n{rows}"),  # type: ignore[no-untyped-call]
        ):
            self._write(Event(wall_time=time.time(), summary=message))

    def write_picture(self, step: int, tag: str, png: bytes) -> None:
        """Write one event with an image."""
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(encoded_image_string=png, colorspace=4, width=width, height=height)  # 4: RGBA
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        self._file.flush()

    def flush_to_disk(self) -> None:
        """Make everything written so far survive a power cut."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        self._file.close()

    def _write(self, event: Event) -> None:
        """A TFRecord: length, its checksum, the bytes, their checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(length + _masked_checksum(length) + data + _masked_checksum(data))


def _columns(config: TrainConfig) -> dict[str, int | float | str]:
    """Every setting by its column in HParams, and of the environment also those left at their default."""
    settings = config.to_dict()
    del settings["run_dir"]
    kwargs = _environment_defaults(config.env_id) | settings.pop("env_kwargs")
    settings |= {f"env_kwargs.{name}": value for name, value in kwargs.items()}
    return {name: value if type(value) in (int, float) else _in_words(value) for name, value in settings.items()}


def _in_words(value: object) -> str:
    """Equal for a tuple and the list that JSON makes of it."""
    return json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else str(value)


def _environment_defaults(env_id: str) -> dict[str, Any]:
    """The keyword arguments of an environment and their defaults, as far as they are known."""
    try:
        spec = gym.spec(env_id.rpartition(":")[2])  # whose module is imported by now
        creator: Any = spec.entry_point
        parameters = inspect.signature(load_env_creator(creator) if isinstance(creator, str) else creator).parameters
    except (gym.error.Error, ImportError, AttributeError, TypeError, ValueError):
        return {}
    known = {p.name: p.default for p in parameters.values() if p.default is not p.empty} | spec.kwargs
    return {name: value for name, value in known.items() if name != "render_mode"}


def _masked_checksum(data: bytes) -> bytes:
    """CRC-32C, rotated right by 15 bits plus a constant, as the TFRecord format requires."""
    checksum = google_crc32c.value(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)
