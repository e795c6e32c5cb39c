"""One folder a run: never two runs in one, nothing written before the run may start."""

from __future__ import annotations

import json
import platform
import re
import secrets
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from pgtorch.config import TrainConfig

RUNS = Path("runs")
CONFIG = "config.json"
PACKAGES = ("pgtorch", "torch", "gymnasium", "numpy", "tensorboard")


def create_run_folder(config: TrainConfig) -> Path:
    """Make the run's folder, and in it `config.json`: settings, command line and versions.

    Args:
        config: Its `run_dir` names the folder; None makes a fresh one under `runs/`, named after environment, time
            and seed with a random suffix, so that two runs of the same second do not meet.

    Returns:
        The folder.

    Raises:
        OSError: Where the folder cannot be made or written, or already holds something.
    """
    folder = config.run_dir or RUNS / _fresh_name(config)
    try:
        folder.mkdir(parents=True, exist_ok=config.run_dir is not None)
        occupied = any(folder.iterdir()) or not _claim(folder / CONFIG)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise OSError(f"run_dir must be a folder that can be made, got {str(folder)!r}: {error}") from error
    if occupied:
        raise OSError(f"run_dir must be new or empty, one run a folder, got {str(folder)!r}, which holds something")
    write_config(folder, config)
    return folder


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write `config.json`: settings, command line and versions."""
    record = {
        "config": config.to_dict(),
        "command": sys.argv,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    (folder / CONFIG).write_text(json.dumps(record, indent=2) + "\n")


def note_resumption(folder: Path, config: TrainConfig) -> None:
    """Add the command that goes on with a run to its `config.json`, and the settings if they are others now."""
    try:
        record = json.loads((folder / CONFIG).read_text())
        record["config"], record["resumed"] = config.to_dict(), [*record.get("resumed", []), sys.argv]
        (folder / CONFIG).write_text(json.dumps(record, indent=2) + "\n")
    except (OSError, ValueError, TypeError, AttributeError):  # it is lost; the checkpoint has the settings
        write_config(folder, config)


def _claim(path: Path) -> bool:
    """Make an empty file; of two that try at once, only one is told that it did."""
    try:
        path.open("x").close()
    except FileExistsError:
        return False
    return True


def _fresh_name(config: TrainConfig) -> str:
    environment = re.sub(r"[^A-Za-z0-9_.-]", "_", config.env_id.rpartition(":")[2])[:80]
    moment = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return f"{environment}-{moment}-seed{config.seed}-{secrets.token_hex(3)}"
