"""The other processes that torchrun has started: messages between them, and how to notice that one is lost.

Rank 0 has a connection to each other process. A message is pickled: the processes of a job trust each other.
"""

from __future__ import annotations

import itertools
import os
import pickle
import secrets
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed.rendezvous import rendezvous

START_SECONDS = 60.0  # for the processes to find each other; torchrun starts them at the same time
BEAT_SECONDS = 2.0  # between signs of life
SILENCE_SECONDS = 16.0  # after so long without one, a process counts as lost


class RankError(RuntimeError):
    """Another process of the job failed or was lost; the message names its rank."""


def rank() -> int:
    """The number of this process among those that torchrun started; 0 without torchrun."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


class Peers:
    """The processes of a job, connected.

    Attributes:
        rank: Of this process.
        size: How many there are.
        others: For rank 0 the ranks of all others; else none.
        name: Of this process, for messages.
        earlier_folder: Of this run, from before torchrun started its processes again; None if there was none.

    Raises:
        RankError: If they do not find each other.
    """

    _jobs = itertools.count()  # of a process, one after another; and so the same in each

    def __init__(self) -> None:
        self.rank, self.size = rank(), int(os.environ["WORLD_SIZE"])
        self.others = range(1, self.size) if self.rank == 0 else range(0)
        self.name = f"rank {self.rank} on {socket.gethostname()}"
        job = f"pgtorch/{next(self._jobs)}"
        self._address, self._folder = f"{job}/address", f"{job}/folder"  # keys of the store
        self._links: dict[int, _Link] = {}
        try:
            wait = timedelta(seconds=START_SECONDS)
            self._store, *_ = next(rendezvous("env://", timeout=wait))  # in torchrun's own process
            has_folder = self._store.check([self._folder])
            self.earlier_folder = Path(os.fsdecode(self._store.get(self._folder))) if has_folder else None
            if self.rank == 0:
                self._accept()
            else:
                self._connect()
        except (OSError, RuntimeError, ValueError) as error:
            self.close()
            raise RankError(f"{self.name}: the {self.size} processes do not find each other: {error}") from error

    def remember(self, folder: Path) -> None:
        """Keep the folder of this run with torchrun, which outlives its processes."""
        self._store.set(self._folder, str(folder))

    def send(self, to: Iterable[int], *message: Any) -> None:
        """Send a message to some ranks, which are waiting for it.

        Raises:
            RankError: If one is lost.
        """
        data = pickle.dumps(message, 5)
        for other in to:
            try:
                self._links[other].write(data)
            except OSError as error:
                raise RankError(f"rank {other} was lost, says {self.name}") from error

    def receive(self, other: int) -> Any:
        """The next message of a rank, however long it takes. Raises what `send` raises."""
        try:
            while (message := pickle.load(self._links[other].file)) is None:  # a sign of life
                pass
        except (OSError, EOFError, pickle.UnpicklingError) as error:  # TimeoutError: no sign of life
            raise RankError(f"rank {other} was lost, says {self.name}") from error
        return message

    def close(self) -> None:
        """Leave the job, rank 0 once the others have: what it has sent arrives."""
        end = time.monotonic() + (0.0 if self.rank else SILENCE_SECONDS)
        for link in self._links.values():
            link.close(end)

    def _accept(self) -> None:
        token = secrets.token_bytes(16)  # of this job: others may find the port, too
        with socket.create_server(("", 0)) as server:
            server.settimeout(START_SECONDS)
            self._store.set(self._address, f"{server.getsockname()[1]} {token.hex()}")
            while len(self._links) < len(self.others):
                link = _Link(server.accept()[0])
                if link.file.read(len(token)) == token:
                    self._links[int.from_bytes(link.file.read(4), "big")] = link
                else:
                    link.close(end=0.0)

    def _connect(self) -> None:
        end = time.monotonic() + START_SECONDS
        while not self._links:
            port, token = self._store.get(self._address).decode().split()
            try:
                self._links[0] = _Link(socket.create_connection((os.environ["MASTER_ADDR"], int(port)), START_SECONDS))
                self._links[0].write(bytes.fromhex(token) + self.rank.to_bytes(4, "big"))
            except ConnectionRefusedError:  # the address from before torchrun started rank 0 again
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)


class _Link:
    """A connection to another process, and a thread that says that this one is alive: it may be playing or learning."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SILENCE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = connection.makefile("rwb")
        self._socket, self._lock, self._closed = connection, threading.Lock(), threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def write(self, data: bytes) -> None:
        with self._lock:
            self.file.write(data)
            self.file.flush()

    def close(self, end: float) -> None:
        self._closed.set()
        with suppress(OSError), self._socket, self.file:
            self._socket.shutdown(socket.SHUT_WR)
            while time.monotonic() < end and self.file.read1():  # until the other one has left
                pass
        self._heart.join()

    def _beat(self) -> None:
        with suppress(OSError, ValueError):  # lost, as the next message will find out; or closed
            while not self._closed.wait(BEAT_SECONDS):
                self.write(pickle.dumps(None))
