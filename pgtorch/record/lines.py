"""The hashes of many runs at once, from columns of what they logged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

from numpy.typing import NDArray


def digests(columns: Mapping[str, NDArray[Any]], ends: Sequence[bytes]) -> list[str]:
    """The hashes of runs with one environment step an update.

    Args:
        columns: What L of them logged, by tag in the order of a line, each [U, L].
        ends: What follows the lines of each, from `parameter_bytes`.

    Returns:
        For each what `MetricsWriter.hash` returns. Columns that are equal in every bit are put into words once.
    """
    return [_digest({tag: column[:, i] for tag, column in columns.items()}, end) for i, end in enumerate(ends)]


def _digest(columns: Mapping[str, NDArray[Any]], end: bytes) -> str:
    updates = [str(number + 1) for number in range(len(next(iter(columns.values()))))]
    pieces: list[Iterable[str]] = [repeat('{"update": '), updates, repeat(', "env_steps": '), updates]
    words: dict[bytes, list[str]] = {}
    for tag, column in columns.items():
        bits = column.tobytes()
        if bits not in words:
            words[bits] = [*map(float.__repr__, column.astype(float).tolist())]
        pieces += [repeat(f', "{tag}": '), words[bits]]
    lines = "".join(chain.from_iterable(zip(*pieces, repeat("}\n"))))  # twice as fast as formatting each line
    return hashlib.sha256(lines.encode() + end).hexdigest()
