"""The global random streams: a run has its own, they are restored, and the caller's are left alone."""

import contextlib
import copy
import json
import random

import numpy as np
import pytest
import torch

from pgtorch.environment.streams import own_streams, put_global_streams, seed_global_streams, take_global_streams

# ruff: noqa: NPY002 -- NumPy's global stream is meant


def draw():
    """A number of each kind from each stream; the normal ones come in pairs, of which the second is kept."""
    uniform = random.random(), np.random.rand(), torch.rand(()).item()
    return *uniform, random.gauss(0, 1), np.random.randn(), torch.randn(()).item()


@pytest.fixture(autouse=True)
def _as_found():
    with own_streams(0):
        yield


def test_what_was_taken_is_put_back():
    draw()
    state = copy.deepcopy(take_global_streams())
    once = [draw() for _ in range(3)]
    seed_global_streams(5)
    put_global_streams(state)
    assert [draw() for _ in range(3)] == once


def test_a_seed_repeats_and_another_differs_in_every_stream():
    drawn = []
    for seed in (3, 3, 4, -1, 2**40 + 3):
        seed_global_streams(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[1] == drawn[4]
    assert not set(drawn[0]) & set(drawn[2])
    assert not set(drawn[0]) & set(drawn[3])


@pytest.mark.parametrize("ends", ["well", "with an error"])
def test_the_callers_streams_return(ends):
    before = copy.deepcopy(take_global_streams())
    expected = draw()
    put_global_streams(before)
    with contextlib.suppress(KeyError), own_streams(3):
        inside = draw()
        if ends == "with an error":
            {}["key"]
    assert draw() == expected
    assert not set(inside) & set(expected)


def changed(part, place, value):
    """A state with another value at a place of a part."""

    def change(state):
        items = json.loads(state[part])
        items[place] = value(items[place]) if callable(value) else value
        return state | {part: json.dumps(items)}

    return change


WRONG = {
    "none": lambda state: None,
    "empty": lambda state: {},
    "no text": lambda state: state | {"random": [3, [], None]},
    "no JSON": lambda state: state | {"numpy": "x"},
    "too short": lambda state: state | {"numpy": "[1]"},
    "python": changed("random", 1, [1, 2]),
    "python's version": changed("random", 0, 1),
    "words": changed("numpy", 1, [1, 2]),
    "more words": changed("numpy", 1, lambda words: [*words, 1]),
    "name": changed("numpy", 0, "PCG64"),
    "beyond": changed("numpy", 2, 10**9),  # NumPy accepts it
    "before": changed("numpy", 2, -1),
    "torch": lambda state: state | {"torch": state["torch"][:-1]},
    "no tensor": lambda state: state | {"torch": [1, 2]},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_states_are_refused_and_nothing_changes(name):
    state = take_global_streams()
    expected = draw()
    put_global_streams(state)
    with pytest.raises(ValueError, match="what was saved is not a state of the global random streams"):
        put_global_streams(WRONG[name](state))
    assert draw() == expected
