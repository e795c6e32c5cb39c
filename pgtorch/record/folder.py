"""The folder of a run: one run per folder, one process at a time, nothing written before the run may start."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from io import FileIO
from pathlib import Path
from typing import Any

from pgtorch.config import TrainConfig

RUNS = Path("runs")
CONFIG = "config.json"
LOCK = ".lock"
PACKAGES = ("pgtorch", "torch", "gymnasium", "numpy", "tensorboard")


@contextmanager
def new_run_folder(config: TrainConfig) -> Iterator[Path]:
    """Create the folder of a run, hold its lock, and write `config.json`: settings, command line and versions.

    Args:
        config: Its `run_dir` names the folder. None creates a new one under `runs/`, named after environment, time and
            seed with a random suffix, so that two runs started in the same second get different folders.

    Yields:
        The folder.

    Raises:
        OSError: If the folder cannot be created or written, is in use, or is not empty.
    """
    with new_folder(config, f"seed{config.seed}") as folder:
        _write_config(folder, _about(config))
        yield folder


@contextmanager
def new_folder(config: TrainConfig, kind: str) -> Iterator[Path]:
    """As `new_run_folder`, but empty; `kind` stands in its name if `run_dir` does not name it."""
    folder = config.run_dir or RUNS / _fresh_name(config.env_id, kind)
    if folder == Path():
        raise OSError("run_dir must name a folder, got an empty name or '.'")
    try:
        folder.mkdir(parents=True, exist_ok=config.run_dir is not None)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise OSError(f"run_dir must be a folder that can be created, got {str(folder)!r}: {error}") from error
    with locked(folder):
        if any(entry.name != LOCK for entry in folder.iterdir()):
            raise OSError(f"run_dir must be new or empty, one run per folder, got {str(folder)!r}, which is not empty")
        yield folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. A crash of any kind releases it.

    Args:
        folder: The folder, which exists.

    Raises:
        OSError: If the folder is in use (the message names the process, its host and since when), cannot be written, or
            contains a symbolic link.
    """
    try:
        require_no_links(folder)
        file = _lock(folder / LOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{str(folder)!r} must be a folder that this run may write to: {reason}") from error
    holder = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
    try:
        _held.add(file)
        with naming(folder / LOCK):
            file.truncate(0)
            file.write(holder.encode())
        yield
    finally:
        if not file.closed:  # else this is a forked child, and the lock is its parent's
            with suppress(OSError):
                (folder / LOCK).unlink()
        _held.discard(file)
        file.close()


_held: set[FileIO] = set()


def _close_in_child() -> None:
    """Keep a forked child, such as an environment worker, from holding the lock longer than its parent."""
    for file in _held:
        file.close()


os.register_at_fork(after_in_child=_close_in_child)


def _lock(path: Path) -> FileIO:
    """Open and lock a file; retry if its last holder has deleted it in between."""
    while True:
        if path.exists() and (not path.is_file() or path.stat().st_nlink > 1):
            raise OSError(f"its {path.name} must be its own file, not a hard link, a pipe or a folder")
        file = path.open("ab+", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            file.close()
            raise OSError(f"it is in use by {holder}") from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def is_new(folder: Path) -> bool:
    """Whether a folder does not exist, or holds nothing but a lock."""
    return not folder.exists() or (folder.is_dir() and all(entry.name == LOCK for entry in folder.iterdir()))


def clear_beginning(folder: Path) -> None:
    """Delete what a run has written that was killed before its first checkpoint."""
    if folder.is_dir():
        with locked(folder):
            for path in folder.iterdir():
                if path.name != LOCK and path.is_file():
                    path.unlink()


def require_no_links(folder: Path) -> None:
    """Raise `OSError` if a folder contains a symbolic link: its target would be read, truncated or overwritten."""
    for path in folder.iterdir():
        if path.is_symlink():
            raise OSError(f"it holds a symbolic link, {path.name!r}, and links are not followed")
        if not path.is_file() and not path.is_dir():
            raise OSError(f"it holds {path.name!r}, which is neither a file nor a folder")


def note_resumption(folder: Path, config: TrainConfig) -> None:
    """Add the command that resumes a run to its `config.json`, and the settings, which may have changed."""
    record = _about(config) | _read_config(folder)  # if the file is damaged, the checkpoint still has the settings
    before = record.get("resumed")
    resumed = [*(before if isinstance(before, list) else []), sys.argv]
    record.pop("hash", None)  # of the run as it was
    _write_config(folder, record | {"config": config.to_dict(), "resumed": resumed})


def note_hash(folder: Path, digest: str) -> None:
    """Write the hash of a run, from `MetricsWriter.hash`, to its `config.json`."""
    _write_config(folder, _read_config(folder) | {"hash": digest})


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an `OSError` that lacks one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, f"{error.strerror}; is the disk full?", str(path)) from error


def _about(config: TrainConfig) -> dict[str, Any]:
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return {"config": config.to_dict(), "command": sys.argv, "versions": versions}


def _read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` holds; empty if it is missing or damaged."""
    try:
        record = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _write_config(folder: Path, record: dict[str, Any]) -> None:
    """Replace `config.json`; after an error the old one is still intact."""
    temporary = folder / f".{CONFIG}.tmp"
    try:
        with naming(folder / CONFIG):
            temporary.write_text(json.dumps(record, indent=2) + "\n")
            temporary.replace(folder / CONFIG)
    finally:
        temporary.unlink(missing_ok=True)


def _fresh_name(env_id: str, kind: str) -> str:
    environment = re.sub(r"[^A-Za-z0-9_.-]", "_", env_id.rpartition(":")[2])[:80]
    moment = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return f"{environment}-{moment}-{kind}-{secrets.token_hex(3)}"
