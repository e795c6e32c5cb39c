import dataclasses
import json
import re

import pytest
from support import call

from pgtorch import TrainConfig
from pgtorch.commands import benchmark, benchmark_suite
from pgtorch.commands.benchmark_processes import sharing_rows


def test_rows_beside_their_rivals(run_script, tmp_path):
    done = run_script(
        "benchmark.py", "--only", "lesson", "restaurant", "--largest", 20, "--seeds", 1, "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["threads"] == 1
    rows = [(row["work"], row["who"]) for row in found["rows"]]
    for work in (
        "one update of the lesson, all logging on",
        "Restaurant-v0, 1 environments",
        "Restaurant-v0, 16 environments",
    ):
        whos = [who for of, who in rows if of == work]
        assert whos[0] == "pgtorch"
        assert len(whos) == 2
    assert all(row["median"] > 0 and row["unit"] for row in found["rows"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--seeds 0", "seeds must be at least 1, got 0"),
        ("--largest 0", "largest must be at least 1, got 0"),
        ("--only love", "love"),
        ("--only lesson --largest 3", "largest needs 'restaurant' in only, got lesson"),
    ],
)
def test_bad_input_gives_one_line(tmp_path, flags, named):
    status, out, error = call("benchmark", *flags.split(), cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .+\n", error)
    assert named in error


def test_the_suite_has_a_row_for_each_environment_and_learner(monkeypatch):
    monkeypatch.setattr(benchmark_suite, "SUITE", ("FrozenLake-v1", "Blackjack-v1"))
    rows = list(benchmark.suite(range(2), 2048))
    assert [(row.work, row.who) for row in rows[:3]] == [
        (f"FrozenLake-v1 after 2,048 steps, {kind}", "pgtorch") for kind in ("greedy", "sampled", "training")
    ]
    whos = [row.who for row in rows if "Blackjack" in row.work]
    assert whos[:3] == ["pgtorch"] * 3
    assert all(row.median is None and row.note for row in rows if row.who != "pgtorch" and "Blackjack" in row.work)
    assert all(-1 <= row.median <= 1 for row in rows if row.unit == "mean return" and row.median is not None)
    assert re.fullmatch(r"seeds \[[\d.]+, [\d.]+\]", rows[0].note)


def test_the_suite_learns_with_the_general_settings(monkeypatch):
    """Not with those that a table has for its environment."""
    made = []

    class Recorded(benchmark_suite.Trainer):
        def __init__(self, config):
            made.append(config)
            super().__init__(config)

    monkeypatch.setattr(benchmark_suite, "Trainer", Recorded)
    benchmark_suite.learn("CartPole-v1", 3, 2048)
    expected = TrainConfig("Nobody-tuned-v0", seed=3, num_updates=1)
    assert dataclasses.replace(made[0], env_id=expected.env_id) == expected


@pytest.mark.long
def test_two_processes_share_a_gradient():
    (row,) = sharing_rows(units=[8], rows=16, repetitions=3)
    assert row[0] == 8
    assert all(0 < milliseconds < 1000 for milliseconds in row[1:])
