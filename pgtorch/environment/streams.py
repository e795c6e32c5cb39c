"""The global random streams of Python, NumPy and torch. Environments may draw from them; pgtorch itself never does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# ruff: noqa: NPY002 -- NumPy's global stream is meant

_WORDS = 624  # of a Mersenne Twister


def take_global_streams() -> dict[str, Any]:
    """The states of the three global generators, torch's that of the CPU, as plain types and a tensor."""
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state()
    name, key, *rest = legacy
    return {
        "random": [version, list(words), gauss],
        "numpy": [name, key.tolist(), *rest],
        "torch": torch.get_rng_state(),
    }


def put_global_streams(state: object) -> None:
    """Restore the three global generators.

    Args:
        state: What `take_global_streams` returned.

    Raises:
        ValueError: If it is anything else. Nothing has changed then.
    """
    match state:
        case {
            "random": [version, list(words), gauss],
            "numpy": [name, list(key), int(position), *rest],
            "torch": stream,
        }:
            python, numpy = (version, tuple(words), gauss), (name, key, position, *rest)
        case _:
            raise ValueError("what was saved are no states of global random streams")
    trial, legacy_trial = random.Random(), np.random.RandomState()
    try:
        if not 0 <= position <= _WORDS:  # NumPy would read beyond its memory
            raise ValueError(f"position {position}")  # noqa: TRY301
        trial.setstate(python)
        legacy_trial.set_state(numpy)
        torch.Generator().set_state(stream)
    except (TypeError, ValueError, RuntimeError, OverflowError, AttributeError, LookupError) as error:
        raise ValueError(f"what was saved are no states of global random streams ({error})") from error
    legacy: Any = legacy_trial.get_state()
    if trial.getstate() != python or legacy[1].tolist() != key:
        raise ValueError("what was saved are no states of global random streams")
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(stream)


def seed_global_streams(seed: int) -> None:
    """Seed the three global generators.

    Args:
        seed: Any integer; its lowest 32 bits count.
    """
    random.seed(seed % 2**32)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed % 2**32)


@contextmanager
def own_streams(seed: int) -> Iterator[None]:
    """Give the body global streams of its own, seeded. The caller's return at the end, as they were.

    Args:
        seed: As for `seed_global_streams`.
    """
    before = take_global_streams()
    seed_global_streams(seed)
    try:
        yield
    finally:
        put_global_streams(before)
