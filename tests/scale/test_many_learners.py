"""Each learner of a sweep is bit for bit the run of its own seed and settings."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from pgtorch import TrainConfig, train
from pgtorch.record.sweeps import spacing
from pgtorch.scale import sweep as module
from pgtorch.scale.sweep import sweep


def swept(configs, seeds, folder, should_stop=lambda: False):
    """The outcomes of a sweep, by number of settings and seed."""
    learners = [(number, seed) for number in range(len(configs)) for seed in seeds]
    return dict(sweep(configs, learners, folder, should_stop))


def alone(config, seed, folder):
    """The same learner, trained by `train`."""
    return train(replace(config, seed=seed, run_dir=folder / f"{seed}", pictures=False, checkpoint_every=0))


def require_same(outcome, result):
    found = (outcome.hash, outcome.summary, outcome.num_updates, outcome.num_env_steps, outcome.error)
    assert found == (result.hash, result.summary, result.num_updates, result.num_env_steps, "")
    assert list(outcome.summary) == list(result.summary)


def test_fifty_learners_of_the_lesson(tmp_path):
    config = TrainConfig(num_updates=60)
    outcomes = swept([config], range(50), tmp_path)
    assert set(outcomes) == {(0, seed) for seed in range(50)}
    for seed in range(50):
        require_same(outcomes[0, seed], alone(config, seed, tmp_path))
    assert len({outcome.hash for outcome in outcomes.values()}) == 50


LESSONS = {
    "weight and start": {"weight": 7.0, "start_bias": -3.3, "learning_rate_schedule": "linear"},
    "negative zero": {"start_bias": -0.0, "weight": 1e-9, "num_updates": 3},
    "wrong sign": {"wrong_sign": True, "num_updates": 200, "learning_rate": 10.0},  # to where P is 0
    "saturated": {"weight": 400.0, "num_updates": 200},  # zeros of both signs
    "no reward": {"multiplier": "one", "learning_rate": 30.0},
    "unequal rewards": {"env_kwargs": {"reward_scheme": "graded", "reward_scale": 0.3}, "learning_rate": 0.1},
    "unequal portions": {"env_kwargs": {"large_portion_probability": [0, 1], "hungry_above": 0.3}},
    "not checked": {"check_gradient": 0},
    "plain id": {"env_id": "Restaurant-v0", "num_updates": 1},
}


@pytest.mark.parametrize("settings", LESSONS.values(), ids=LESSONS)
def test_settings_of_the_lesson(tmp_path, settings, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 1500)  # in parts
    config = TrainConfig(**{"num_updates": 70, **settings})
    assert module.can_train_together(config)
    outcomes = swept([config], [*range(20), 2**63 - 1], tmp_path)
    for seed in (0, 19, 2**63 - 1):
        require_same(outcomes[0, seed], alone(config, seed, tmp_path))


def test_others_are_spread_over_processes(tmp_path):
    """Networks, several environments, and learners of the lesson that fail."""
    configs = [
        TrainConfig(policy="mlp", hidden_sizes=(4,), num_updates=20),
        TrainConfig(num_envs=3, num_updates=20),
        TrainConfig("CartPole-v1", hidden_sizes=(4,), num_envs=2, num_updates=12),
        TrainConfig(num_updates=20),
        TrainConfig(weight=2.0, learning_rate=1e-38, num_updates=3, env_kwargs={"reward_scale": 3e38}),
        TrainConfig(num_updates=3, env_kwargs={"reward_scale": 1e39}),
    ]
    outcomes = swept(configs, [0, 4], tmp_path)
    assert list(tmp_path.iterdir()) == []
    for number, config in enumerate(configs[:-2]):
        (folder := tmp_path / str(number)).mkdir()
        for seed in (0, 4):
            result = alone(config, seed, folder)
            require_same(outcomes[number, seed], result)
    assert outcomes[1, 0].curve[-1][0] == 60
    assert outcomes[1, 0].curve[-1][1] == outcomes[1, 0].summary["bias"]
    assert all(0 < value <= 500 for _, value in outcomes[2, 0].curve)
    assert "NonFiniteError: update 3: loss/policy_gradient must be finite" in outcomes[4, 0].error
    for seed in (0, 4):
        assert "NonFiniteError: reward must be finite, got 1e+39" in outcomes[5, seed].error


def test_what_differs_from_the_lesson_is_not_trained_together():
    for settings in (
        {"policy": "mlp"},
        {"num_envs": 2},
        {"num_steps": 2},
        {"optimizer": "adam"},
        {"multiplier": "return"},
        {"entropy_coefficient": 0.1},
        {"check_gradient": 2},
        {"check_update": 1},
        {"target_return": 0.5},
        {"max_gradient_norm": 1.0},
        {"normalize_rewards": True},
        {"vectorization": "sync"},
        {"num_epochs": 2},
        {"env_id": "CartPole-v1"},
        {"env_kwargs": {"autoreset_mode": "NextStep"}},
    ):
        assert not module.can_train_together(TrainConfig(**settings)), settings


@pytest.mark.parametrize("settings", [{}, {"num_envs": 2}], ids=["together", "in processes"])
def test_a_sweep_stops(tmp_path, settings):
    calls, threads = [], threading.active_count()
    config = TrainConfig(num_updates=10**4, **settings)
    outcomes = swept([config], [0, 1], tmp_path, lambda: calls.append(0) or len(calls) > 5)
    assert outcomes == {}
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


def test_curves_have_at_most_2000_points():
    assert [spacing(number) for number in (1, 2000, 2001, 10**6)] == [1, 1, 2, 500]


def test_no_worker_outlives_its_parent(tmp_path):
    code = """
import multiprocessing, os, pathlib
from pgtorch import TrainConfig
from pgtorch.scale.sweep import sweep


def kill():
    if list(pathlib.Path().glob(".learners-*/*/metrics.jsonl")):
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        os.kill(os.getpid(), 9)


if __name__ == "__main__":
    list(sweep([TrainConfig(num_envs=2, num_updates=10**6)], [(0, 0), (0, 1)], pathlib.Path(), kill))
"""
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout
    for process in done.stdout.split():
        require_gone(int(process))


def require_gone(process, seconds=10):
    """Wait until a process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {process} is still there")
