"""The hashes of many runs at once, from columns of what they logged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
    words: dict[bytes, list[str]] = {}
    texts = []
    for column in columns.values():
        bits = column.tobytes()
        if bits not in words:
            words[bits] = [*map(float.__repr__, column.astype(float).tolist())]
        texts.append(words[bits])
    updates = [str(number + 1) for number in range(len(texts[0]))]
    line = '{"update": %s, "env_steps": %s, ' + ", ".join(f'"{tag}": %s' for tag in columns) + "}\n"
    lines = "".join(map(line.__mod__, zip(updates, updates, *texts, strict=True)))
    return hashlib.sha256(lines.encode() + end).hexdigest()
