"""TensorBoard: the event file of a run, and what it shows besides the curves."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary

from pgtorch.config import TrainConfig

SUFFIX = ".pgtorch"  # of our event files: no others are ever cut or deleted

# The page of the lesson: the title of each chart, and patterns of the tags on it.
CHARTS = {
    "The bias": ["policy/bias"],
    "P(Norm) when not hungry, halfway, very hungry": [r"policy/p_norm/hunger_.*"],
    "The gradient: by autograd, and by hand": ["gradient/autograd", "gradient/manual"],
    "Their difference": ["gradient/absolute_difference"],
    "Return of an episode": ["rollout/episode_return", "evaluation/return_.*"],
}
HYPERPARAMETERS = ("env_id", "learning_rate", "num_envs", "num_steps", "seed")  # and those that are not the default
OUTCOMES = ("rollout/episode_return", "policy/bias")  # shown beside the hyperparameters, to compare runs


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

    def write_about(self, config: TrainConfig, tags: Mapping[str, str]) -> None:
        """Write the page of the lesson, the hyperparameters and the meaning of each tag; once, when a run begins.

        Args:
            config: The settings of the run.
            tags: The meaning of each tag.
        """
        from torch.utils.tensorboard import summary  # noqa: PLC0415 -- 0.05 s, which a resumed run does not need

        charts = {title: ["Multiline", patterns] for title, patterns in CHARTS.items()}
        usual = TrainConfig(config.env_id).to_dict()
        settings = {
            name: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            for name, value in config.to_dict().items()
            if name in HYPERPARAMETERS or (value != usual[name] and name != "run_dir")
        }
        rows = "\n".join(f"| `{tag}` | {meaning} |" for tag, meaning in tags.items())
        for message in (
            summary.custom_scalars({"The lesson on one page": charts}),  # type: ignore[no-untyped-call]
            *summary.hparams(settings, dict.fromkeys(OUTCOMES)),  # type: ignore[no-untyped-call]
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


def _masked_checksum(data: bytes) -> bytes:
    """CRC-32C, rotated right by 15 bits plus a constant, as the TFRecord format requires."""
    checksum = google_crc32c.value(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)
