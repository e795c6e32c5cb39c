"""The other processes that torchrun has started: messages between them, and how to notice that one is lost.

A message is pickled, and goes between rank 0 and another by gloo. The processes of a job trust each other.
"""

from __future__ import annotations

import itertools
import os
import pickle
import socket
import sys
import threading
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.rendezvous import rendezvous

START = timedelta(seconds=60)  # for the processes to find each other; torchrun starts them at the same time
FOREVER = timedelta(days=30)  # learning and playing may take long; a lost process is noticed in other ways
BEAT_SECONDS = 2.0  # between signs of life
MOST_MISSED = 8  # of them, after which a process counts as lost

distributed: Any = torch.distributed  # not all of it has types


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
        self._folder, self._round = f"{job}/folder", f"{job}/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
        self._closed = threading.Event()
        try:
            self._store, *_ = next(
                rendezvous("env://", timeout=START)
            )  # in torchrun's own process, which outlives this
            has_folder = self._store.check([self._folder])
            self.earlier_folder = Path(os.fsdecode(self._store.get(self._folder))) if has_folder else None
            options = distributed.ProcessGroupGloo._Options()
            options._timeout, options._devices = START, [self._device()]
            store = distributed.PrefixStore(self._round, self._store)
            self._group = distributed.ProcessGroupGloo(store, self.rank, self.size, options)
        except (OSError, RuntimeError, ValueError) as error:
            raise RankError(f"{self.name}: the {self.size} processes do not find each other: {error}") from error
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def remember(self, folder: Path) -> None:
        """Keep the folder of this run with torchrun, which outlives its processes."""
        self._store.set(self._folder, str(folder))

    def send(self, to: Iterable[int], *message: Any) -> None:
        """Send a message to some ranks, once they receive it.

        Raises:
            RankError: If one is lost.
        """
        data = torch.frombuffer(bytearray(pickle.dumps(message, 5)), dtype=torch.uint8)
        for other in to:
            try:
                for tensor in (torch.tensor([len(data)]), data):
                    self._group.send([tensor], other, 0).wait(FOREVER)
            except RuntimeError as error:
                raise RankError(f"rank {other} was lost, says {self.name}") from error

    def receive(self, other: int) -> Any:
        """The next message of a rank, however long it takes. Raises what `send` raises."""
        size = torch.empty(1, dtype=torch.int64)
        try:
            self._group.recv([size], other, 0).wait(FOREVER)
            data = torch.empty(int(size), dtype=torch.uint8)
            self._group.recv([data], other, 0).wait(FOREVER)
        except RuntimeError as error:
            raise RankError(f"rank {other} was lost, says {self.name}") from error
        return pickle.loads(data.numpy().data)

    def close(self) -> None:
        """Leave the job."""
        self._closed.set()
        self._watcher.join(BEAT_SECONDS)  # it may be waiting for a store that is lost
        del self._group

    @staticmethod
    def _device() -> Any:
        """The network device that leads to the first machine.

        Gloo would go by the name of this machine, which often means 127.0.1.1, where no other machine can reach it.
        """
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        family, kind, *_, target = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # sends nothing
            return distributed.ProcessGroupGloo.create_device(hostname=probe.getsockname()[0])

    def _watch(self) -> None:
        """Say that this process is alive; end it once another one no longer does: its machine may be off.

        In a thread, since the process may be playing, learning or waiting for the other one.
        """
        heard: dict[int, bytes] = {}
        missed = dict.fromkeys(self.others or [0], 0)
        for beat in itertools.count():
            if self._closed.wait(BEAT_SECONDS):
                return
            try:
                self._store.set(f"{self._round}/alive/{self.rank}", str(beat))
                for other in missed:
                    key = f"{self._round}/alive/{other}"
                    now = self._store.get(key) if self._store.check([key]) else b""
                    missed[other] = missed[other] + 1 if now == heard.get(other, b"") else 0
                    heard[other] = now
                lost = [f"rank {other}" for other in missed if missed[other] > MOST_MISSED]
            except RuntimeError:  # no connection to the store
                lost = ["torchrun on the first machine"]
            if lost and not self._closed.is_set():
                print(f"pgtorch: error: {lost[0]} was lost, says {self.name}", file=sys.stderr, flush=True)
                os._exit(1)
