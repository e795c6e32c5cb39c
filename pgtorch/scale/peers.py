"""The other processes that torchrun has started: messages between them, and what to do when one is lost.

A message is pickled, and goes between rank 0 and another. The processes of a job trust each other.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import pickle
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch

START = timedelta(seconds=60)  # for the processes to find each other; torchrun starts them at the same time
FOREVER = timedelta(days=30)  # learning and playing may take long; a lost process is noticed in other ways
BEAT_SECONDS = 2.0
MOST_MISSED = 8  # beats, after which a process counts as lost

_SET_INTERFACE = "GLOO_SOCKET_IFNAME"
_GET_ADDRESS = 0x8915  # SIOCGIFADDR of Linux

distributed: Any = torch.distributed  # not all of it has types


class RankError(RuntimeError):
    """Another process of the job failed or was lost; the message names its rank."""


def rank() -> int:
    """The number of this process among those that torchrun started; 0 without torchrun."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0


class Peers:
    """The processes of a job, connected.

    Args:
        number: Of this job among those of a process, the same in each.

    Attributes:
        rank: Of this process.
        size: How many there are.
        others: Ranks that this one exchanges messages with: all others for rank 0, rank 0 for the others.
        name: Of this process, for messages.

    Raises:
        RankError: If they do not find each other.
    """

    def __init__(self, number: int) -> None:
        self.rank, self.size = rank(), int(os.environ["WORLD_SIZE"])
        self.others = range(1, self.size) if self.rank == 0 else range(1)
        self.name = f"rank {self.rank} on {socket.gethostname()}"
        self._run = f"pgtorch/{number}"
        self._round = f"{self._run}/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
        self._closed = threading.Event()
        try:
            self._store = self._connect()
            with _interface(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])):
                store = distributed.PrefixStore(self._round, self._connect())
                settings: Any = {"store": store, "rank": self.rank, "world_size": self.size, "timeout": START}
                distributed.init_process_group("gloo", **settings)
        except (RuntimeError, ValueError) as error:
            raise RankError(f"{self.name}: the {self.size} processes do not find each other: {error}") from error
        self._watcher = threading.Thread(target=self._watch, args=[self._connect()], daemon=True)
        self._watcher.start()

    def keep(self, key: str, text: str) -> None:
        """Keep a text in torchrun's own process, which outlives this one."""
        self._store.set(f"{self._run}/{key}", text)

    def recall(self, key: str) -> str | None:
        """A text that was kept, also before torchrun started its processes again; None if there is none."""
        key = f"{self._run}/{key}"
        return os.fsdecode(self._store.get(key)) if self._store.check([key]) else None

    def send(self, to: Iterable[int], *message: Any) -> None:
        """Send a message to some ranks.

        Raises:
            RankError: If one is lost.
        """
        data = torch.frombuffer(bytearray(pickle.dumps(message, 5)), dtype=torch.uint8)
        for other in to:
            try:
                for tensor in (torch.tensor([len(data)]), data):
                    distributed.isend(tensor, other).wait(FOREVER)
            except RuntimeError as error:
                self._lose(other, error)

    def receive(self, other: int) -> Any:
        """The next message of a rank, however long it takes. Raises what `send` raises."""
        size = torch.empty(1, dtype=torch.int64)
        try:
            distributed.irecv(size, other).wait(FOREVER)
            data = torch.empty(int(size), dtype=torch.uint8)
            distributed.irecv(data, other).wait(FOREVER)
        except RuntimeError as error:
            self._lose(other, error)
        return pickle.loads(data.numpy().data)

    def _lose(self, other: int, error: RuntimeError) -> NoReturn:
        key, lost = f"{self._round}/lost", str(other)
        with suppress(RuntimeError):  # if the store is lost as well
            if self.rank == 0:
                self._store.set(key, lost)
            elif self._store.check([key]):  # rank 0 has left because of another
                lost = self._store.get(key).decode()
        raise RankError(f"rank {lost} was lost, says {self.name}") from error  # its text would only confuse

    def _connect(self) -> Any:
        """A connection of its own to the store of torchrun, which outlives the processes that torchrun starts."""
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        is_master = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        return distributed.TCPStore(
            address, port, is_master=is_master, timeout=START / 3, wait_for_workers=False, multi_tenant=is_master
        )

    def _watch(self, store: Any) -> None:
        """Say that this process is alive; end it if another one no longer does, since its machine is off for instance.

        In a thread, since the process may be waiting for the other one.
        """
        heard: dict[int, bytes] = {}
        missed = dict.fromkeys(self.others, 0)
        for beat in itertools.count():
            if self._closed.wait(BEAT_SECONDS):
                return
            try:
                store.set(f"{self._round}/alive/{self.rank}", str(beat))
                for other in self.others:
                    key = f"{self._round}/alive/{other}"
                    now = store.get(key) if store.check([key]) else b""
                    missed[other] = missed[other] + 1 if now == heard.get(other, b"") else 0
                    heard[other] = now
                lost = next((other for other in self.others if missed[other] > MOST_MISSED), None)
                reason = f"rank {lost} was lost: no sign of life for {MOST_MISSED * BEAT_SECONDS:g} s"
                if lost is not None and self.rank == 0:
                    store.set(f"{self._round}/lost", str(lost))
            except RuntimeError:  # no connection to the store
                lost, reason = 0, "torchrun on the first machine was lost"
            if lost is not None and not self._closed.is_set():
                print(f"pgtorch: error: {reason}, says {self.name}", file=sys.stderr, flush=True)
                os._exit(1)

    def close(self) -> None:
        """Leave the job."""
        self._closed.set()
        self._watcher.join(BEAT_SECONDS)
        distributed.destroy_process_group()


@contextmanager
def _interface(address: str, port: int) -> Iterator[None]:
    """Let gloo use the network interface that leads to the first machine.

    It would go by the name of this machine, which often means 127.0.1.1, where no other machine can reach it.
    """
    name = None
    if _SET_INTERFACE not in os.environ and sys.platform == "linux":
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, port))  # sends nothing
            own = socket.inet_aton(probe.getsockname()[0])
            for _, candidate in socket.if_nameindex():
                with suppress(OSError):  # it has no address
                    found = fcntl.ioctl(probe, _GET_ADDRESS, struct.pack("256s", candidate.encode()))
                    name = candidate if found[20:24] == own else name
    if name is None:
        yield
        return
    os.environ[_SET_INTERFACE] = name
    try:
        yield
    finally:
        del os.environ[_SET_INTERFACE]
