"""Fixtures that every test may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import restaurant_env  # noqa: F401 -- registers Restaurant-v0

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # here, not in a fixture: those of a module come first, and two threads may be far slower


@pytest.fixture
def run_script():
    """Runs a script as a user does, in a process of its own: run_script("train.py", "--seed", 3, cwd=folder)."""

    def run(name, *arguments, cwd, **environment):
        command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
        settings = {"cwd": cwd, "env": {**os.environ, **environment}, "timeout": 110}
        return subprocess.run(command, check=False, capture_output=True, text=True, **settings)

    return run
