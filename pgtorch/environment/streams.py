"""The global random streams of Python, NumPy and torch. Environments may draw from them; pgtorch itself never does."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# ruff: noqa: NPY002 -- NumPy's global stream is meant

_WORDS = 624  # of a Mersenne Twister


def take_global_streams() -> dict[str, Any]:
    """The states of the three global generators: two as JSON, torch's (for the CPU) as a tensor."""
    legacy: Any = np.random.get_state()
    name, key, *rest = legacy
    python, numpy = json.dumps(random.getstate()), json.dumps([name, key.tolist(), *rest])
    return {"random": python, "numpy": numpy, "torch": torch.get_rng_state()}


def put_global_streams(state: object) -> None:
    """Restore the three global generators.

    Args:
        state: What `take_global_streams` returned.

    Raises:
        ValueError: If it is anything else; then nothing has changed.
    """
    trial, legacy_trial = random.Random(), np.random.RandomState()
    try:
        match state:
            case {"random": str(python_text), "numpy": str(numpy_text), "torch": stream}:
                version, words, gauss = json.loads(python_text)
                name, key, position, *rest = json.loads(numpy_text)
            case _:
                raise TypeError("not the states of three")  # noqa: TRY301
        if not 0 <= position <= _WORDS:  # NumPy would read beyond its memory
            raise ValueError(f"position {position}")  # noqa: TRY301
        trial.setstate((version, tuple(words), gauss))
        legacy_trial.set_state((name, key, position, *rest))
        torch.Generator().set_state(stream)
    except (TypeError, ValueError, RuntimeError, OverflowError, AttributeError, LookupError) as error:
        raise ValueError(f"what was saved is not a state of the global random streams ({error})") from error
    legacy: Any = legacy_trial.get_state()
    if legacy[1].tolist() != key:
        raise ValueError(f"what was saved is not a state of the global random streams ({len(key)} words)")
    random.setstate(trial.getstate())
    np.random.set_state(legacy)
    torch.set_rng_state(stream)


def seed_global_streams(seed: int) -> None:
    """Seed the three global generators.

    Args:
        seed: Any integer; only its lowest 32 bits are used.
    """
    random.seed(seed % 2**32)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed % 2**32)


@contextmanager
def own_streams(seed: int) -> Iterator[None]:
    """Give the body its own seeded global streams, and restore the caller's at the end.

    Args:
        seed: As for `seed_global_streams`.
    """
    before = take_global_streams()
    seed_global_streams(seed)
    try:
        yield
    finally:
        put_global_streams(before)


class OwnStreams:
    """Global streams of its own, which go on where they were each time that this is entered as a context.

    Args:
        seed: As for `seed_global_streams`.
    """

    def __init__(self, seed: int) -> None:
        with own_streams(seed):
            self._state = _take()

    def __enter__(self) -> None:
        """Put the caller's streams aside, and its own in their place."""
        self._before = _take()
        _put(self._state)

    def __exit__(self, *_: object) -> None:
        """Restore the caller's."""
        self._state = _take()
        _put(self._before)


def _take() -> tuple[Any, ...]:
    """As `take_global_streams`, as it comes, which is ten times as fast."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _put(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
