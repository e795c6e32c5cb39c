"""When sharing the gradient of a network would pay: two processes halve a gradient step and add their gradients up."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

UNITS = (64, 128, 256, 512, 1024)  # of each of two hidden layers
ROWS = 512  # of a gradient step
REPETITIONS = 30


def sharing_rows(
    units: Sequence[int] = UNITS, rows: int = ROWS, repetitions: int = REPETITIONS
) -> Iterator[tuple[int, float, float]]:
    """Times of a gradient step, medians, by two processes with a thread each.

    Yields:
        The units of each of two hidden layers; milliseconds in one process, while the other waits; milliseconds if each
        takes half of the rows and gradients are added up.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_measure, (folder, units, rows, repetitions), nprocs=2)  # type: ignore[no-untyped-call]
        yield from map(tuple, json.loads((Path(folder) / "times").read_text()))


def _measure(rank: int, folder: str, units: Sequence[int], rows: int, repetitions: int) -> None:
    torch.set_num_threads(1)
    distributed: Any = torch.distributed  # not all of it has types
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = []
    for width in units:
        network = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))
        batch = torch.ones(rows, 8)

        def shared(network: nn.Module = network, batch: torch.Tensor = batch) -> None:
            _step(network, batch[: rows // 2])
            gradient = nn.utils.parameters_to_vector([p.grad for p in network.parameters() if p.grad is not None])
            distributed.all_reduce(gradient)

        def alone(network: nn.Module = network, batch: torch.Tensor = batch) -> None:
            if rank == 0:
                _step(network, batch)

        times: list[list[float]] = [[], []]
        for _ in range(repetitions):
            for work, kept in zip((alone, shared), times, strict=True):  # by turns: a shared machine drifts
                distributed.barrier()
                kept.append(_seconds(work))
        found.append([width, *(1000 * statistics.median(kept) for kept in times)])
    if rank == 0:
        (Path(folder) / "times").write_text(json.dumps(found))
    distributed.destroy_process_group()


def _step(network: nn.Module, batch: torch.Tensor) -> None:
    network.zero_grad()
    network(batch).square().mean().backward()


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
