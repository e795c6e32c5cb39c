"""TensorBoard's event files: a record of protocol buffers, each with its checksums."""

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


class EventFile:
    """A TensorBoard event file, written record by record.

    Why not `SummaryWriter`: its `add_scalar` makes an event of every value and hands it to another thread, and its
    checksum runs in pure Python; both together take several times as long as the lesson's update.

    Args:
        folder: Where the file is made; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        now = time.time()
        name = f"events.out.tfevents.{now:.6f}.{socket.gethostname()}.{os.getpid()}"  # TensorBoard reads them by name
        self._file = (folder / name).open("xb")
        self._write(Event(wall_time=now, file_version="brain.Event:2"))
        self._scalars = Event()  # made once, filled anew for each step
        self._values: dict[str, Any] = {}  # those of it, by tag

    def write_scalars(self, step: int, now: float, scalars: Mapping[str, float]) -> None:
        """One event with all scalars of a step."""
        if self._values.keys() != scalars.keys():
            self._scalars = Event(summary=Summary(value=[Summary.Value(tag=tag) for tag in scalars]))
            self._values = {value.tag: value for value in self._scalars.summary.value}
        self._scalars.step, self._scalars.wall_time = step, now
        for tag, scalar in scalars.items():
            self._values[tag].simple_value = scalar
        self._write(self._scalars)

    def write_restart(self, step: int) -> None:
        """Tell a TensorBoard that is looking on to forget what it has seen from this step on."""
        self._write(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def write_values(self, values: list[Summary.Value]) -> None:
        """One event of step 0 with anything that is no scalar."""
        self._write(Event(wall_time=time.time(), summary=Summary(value=values)))

    def write_picture(self, step: int, tag: str, png: bytes) -> None:
        """One event with an image."""
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(encoded_image_string=png, colorspace=4, width=width, height=height)  # 4: RGBA
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        self._file.flush()

    def flush_to_disk(self) -> None:
        """See that everything written so far outlasts a power cut."""
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
    """CRC-32C, rotated right by 15 bits plus a constant, as the TFRecord format has it."""
    checksum = google_crc32c.value(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)
