"""Fixtures that every test may use; what tests import stands in support.py."""

import pytest
import torch

import restaurant_env  # noqa: F401 -- registers Restaurant-v0

pytest.register_assert_rewrite("support")

import support  # noqa: E402 -- after the line above

torch.set_num_threads(1)  # here, not in a fixture: those of a module come first, and two threads may be far slower


@pytest.fixture
def run_script():
    """Runs a script as a user does, in a process of its own: run_script("train.py", "--seed", 3, cwd=folder)."""
    return support.run_script
