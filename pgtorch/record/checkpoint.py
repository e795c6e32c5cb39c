"""Checkpoints: a crash at any moment loses none, and a damaged one is never taken for an intact one.

A checkpoint is one file: a line that names the format, the SHA-256 digest of the rest, and the rest as `torch.save`
writes it, plain types and tensors only. It is written under a temporary name, read back, and only then renamed. The two
newest are kept. Reading one never runs code from it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

FORMAT = 3
HEADER = f"pgtorch checkpoint {FORMAT}\n".encode()
KEPT = 2
PARTS = ("config", "record", "trainer", "best")
LONGEST_LIST = 100  # the returns of the last episodes

_NAME = re.compile(r"checkpoint-(\d+)\.pt")
_TEMPORARY = re.compile(r"\.checkpoint-\d+\.pt\.tmp")
_NEVER_NEGATIVE = re.compile(  # counts and mean squares, also of the optimizers in torch.optim
    r"trainer\.(collector\..*\.(count|variance)|optimizers\..*\.(mean_square|steps?|exp_avg_sq|square_avg)\.\d+)$"
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_Used = TypeVar("_Used")


class CheckpointError(ValueError):
    """A checkpoint cannot be written or loaded; the message names the file and what is wrong with it."""


def save_checkpoint(
    folder: Path,
    number: int,
    *,
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    trainer: Mapping[str, Any],
    best: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint; the older ones stay intact until it is in place.

    Args:
        folder: The folder of the run.
        number: Updates done, at least 0; the newest checkpoint is the one with the highest number.
        config: The settings. This and the following are nested dicts, lists, numbers, strings and tensors.
        record: What the run has written so far, from `MetricsWriter.save`.
        trainer: The state of the trainer.
        best: The best policy so far, from `Evaluator.best`; empty or None if none was evaluated.

    Returns:
        The file.

    Raises:
        CheckpointError: If it cannot be written, or the trainer holds numbers that are not finite.
    """
    path = folder / f"checkpoint-{number:09d}.pt"
    require_finite(trainer, f"{path}: trainer")
    payload = io.BytesIO()
    content = {"number": number, "config": config, "record": record, "trainer": trainer, "best": best or {}}
    torch.save(content, payload)
    temporary = folder / f".{path.name}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(HEADER + hashlib.sha256(payload.getbuffer()).digest())
            file.write(payload.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        read_checkpoint(temporary)
        temporary.replace(path)
        _sync_folder(folder)
        for old in checkpoints(folder)[KEPT:]:
            old.unlink()
    except OSError as error:
        reason = "no space left to write it" if error.errno in _NO_SPACE else "it cannot be written"
        raise CheckpointError(f"{path}: {reason} ({error.strerror}); earlier checkpoints are intact") from error
    finally:
        for left in _matching(folder, _TEMPORARY):  # by this save if it failed, or by one that was killed
            left.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The files `checkpoint-<digits>.pt` of a folder, the highest number first. No other file counts as one."""
    return sorted(_matching(folder, _NAME), key=_number, reverse=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint.

    Args:
        path: The file.

    Returns:
        `config`, `record`, `trainer` and `best`, each a dict.

    Raises:
        CheckpointError: If it is missing, damaged, of another format, a copy under another number, or holds anything
            but plain types and tensors.
    """
    try:
        data = path.read_bytes()
        payload = _unsealed(data)
        content = torch.load(io.BytesIO(payload), weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a damaged or hostile file makes torch raise
        reason = (str(error).splitlines() or [""])[0]
        kind = "" if isinstance(error, _SealError) else f"{type(error).__name__} "
        raise CheckpointError(f"{path} cannot be read: {kind}{reason}".rstrip()) from error
    keys = ("number", *PARTS)
    if not isinstance(content, dict) or set(content) != set(keys):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} must hold {', '.join(keys)}, got {found!r:.200}")
    number = content.pop("number")
    if type(number) is not int or number != _number(path):
        raise CheckpointError(f"{path} must hold the update that its name says, got update {number!r:.100}")
    for name in PARTS:
        if type(content[name]) is not dict:
            raise CheckpointError(f"{path}: {name} must be a dict, got {type(content[name]).__name__}")
    return content


def _content(path: Path, content: dict[str, Any]) -> Any:
    return content


def read_newest(folder: Path, use: Callable[[Path, dict[str, Any]], _Used] = _content) -> tuple[Path, _Used]:
    """Read the newest checkpoint that is intact and fits; warn about each newer one.

    Args:
        folder: The folder of the run.
        use: Called with the file and its content. It raises `CheckpointError` if they do not fit; then the next older
            checkpoint is tried. Any other error propagates.

    Returns:
        The file, and what `use` returned: by default the content.

    Raises:
        CheckpointError: If there is none; the message gives the reason for each.
    """
    reasons = []
    for path in checkpoints(folder):
        try:
            used = use(path, read_checkpoint(path))
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            warnings.warn(f"{reason}; going back to {path.name}", stacklevel=2)
        return path, used
    raise CheckpointError("; ".join(reasons) or f"{folder} holds no checkpoint")


def remove_newer(path: Path) -> None:
    """Delete the checkpoints that are newer than this one."""
    for newer in checkpoints(path.parent):
        if _number(newer) > _number(path):
            newer.unlink()


def require_like(found: Any, expected: Any, where: str) -> None:
    """Check that loaded state has the same structure as the state of the live objects.

    Args:
        found: Nested dicts, lists, numbers, strings and tensors.
        expected: The state of the live objects. Types, keys, shapes, dtypes and strings must be equal; a list holds up
            to 100 floating numbers; integers, counts, variances and the like must not be negative.
        where: What it is, for the message.

    Raises:
        CheckpointError: If it differs, or holds a number that is not finite.
    """
    if type(found) is not type(expected):
        raise CheckpointError(f"{where} must be of type {type(expected).__name__}, got {type(found).__name__}")
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            missing, extra = sorted(expected.keys() - found.keys()), sorted(map(str, found.keys() - expected.keys()))
            raise CheckpointError(f"{where} must have keys {sorted(expected)}, got {extra} extra and {missing} missing")
        for key, value in expected.items():
            require_like(found[key], value, f"{where}.{key}")
        return
    if isinstance(expected, Tensor):
        if _form(found) != _form(expected):
            raise CheckpointError(f"{where} must be a tensor {_form(expected)}, got {_form(found)}")
    elif isinstance(expected, list):
        if len(found) > LONGEST_LIST or not all(type(value) is float for value in found):
            raise CheckpointError(f"{where} must be a list of at most {LONGEST_LIST} numbers, got {found!r:.100}")
    elif isinstance(expected, str) and found != expected:
        raise CheckpointError(f"{where} must be {expected!r}, got {found!r:.100}")
    require_finite(found, where)
    if (isinstance(expected, int) or _NEVER_NEGATIVE.search(where)) and not _least(found) >= 0:
        raise CheckpointError(f"{where} must be at least 0, got {_least(found)}")


def require_finite(value: Any, where: str) -> None:
    """Raise `CheckpointError` if nested state holds a floating number that is not finite."""
    if isinstance(value, dict):
        for key, item in value.items():
            require_finite(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, int):  # there may be thousands
                require_finite(item, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise CheckpointError(f"{where} must be finite, got {value}")
    elif isinstance(value, Tensor) and not value.isfinite().all():
        raise CheckpointError(f"{where} must be finite, got {value[~value.isfinite()].flatten()[0].item()}")


class _SealError(ValueError):
    """The header or the digest is wrong."""


def _unsealed(data: bytes) -> bytes:
    """What follows header and digest."""
    start = len(HEADER) + hashlib.sha256().digest_size
    if data.startswith(b"PK\3\4"):
        raise _SealError(f"it has format 1, from an earlier version, but must have format {FORMAT}")
    if not data.startswith(HEADER):
        raise _SealError(f"it must begin with {HEADER!r}, got {data[: len(HEADER)]!r}")
    if hashlib.sha256(data[start:]).digest() != data[len(HEADER) : start]:
        raise _SealError("it is damaged: its digest is wrong")
    return data[start:]


def _form(tensor: Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f" {tensor.layout}"
    return f"{tensor.dtype} {list(tensor.shape)} on {tensor.device.type}{layout}"


def _least(value: Any) -> float:
    return float(value.min()) if isinstance(value, Tensor) else float(value)


def _number(path: Path) -> int:
    found = _NAME.search(path.name)
    return int(found[1]) if found else -1


def _matching(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """The files of a folder with such a name; none if there is no such folder. Links and folders do not count."""
    try:
        with os.scandir(folder) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            ]
    except (OSError, ValueError):
        return []


def _sync_folder(folder: Path) -> None:
    """Make a renamed file keep its new name through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
