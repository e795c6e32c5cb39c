"""Runs that must learn, with the settings of the table."""

from contextlib import closing

import numpy as np
import pytest

from pgtorch import TrainConfig, train
from pgtorch.config import settings_for
from pgtorch.record.metrics import read_metrics
from pgtorch.trainer import Trainer


def test_cartpole_is_solved(tmp_path):
    result = train(TrainConfig("CartPole-v1", seed=1, target_return=475.0, run_dir=tmp_path / "run", pictures=False))
    lines = read_metrics(result.run_dir)
    assert result.num_updates < settings_for("CartPole-v1")["num_updates"]  # it stopped because the target was reached
    assert lines[-1]["update"] == result.num_updates
    assert any("gradient/difference_in_units_of_u_c" in line for line in lines)
    assert lines[-1]["loss/value"] > 0


def recent_return(env_id, num_env_steps, **changes):
    """Mean return of the last 100 episodes after so many environment steps, with the tuned settings but for changes."""
    with closing(Trainer(TrainConfig(env_id, check_gradient=0, **changes))) as trainer:
        while trainer.num_env_steps < num_env_steps:
            trainer.update()
        return np.mean(trainer.collector.episodes.recent)


@pytest.mark.parametrize("seed", range(2))
def test_cartpole_learns_fast(seed):
    assert recent_return("CartPole-v1", 100_000, seed=seed) > 475


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 3e-2},
        {"learning_rate": 3e-4},
        {"value_learning_rate": 1e-3},
        {"num_envs": 640},
        {"num_envs": 6},
        {"num_steps": 160},
        {"num_steps": 1},
        {"discount": 0.9},
        {"discount": 0.099},
        {"hidden_sizes": (320, 320)},
        {"hidden_sizes": (3, 3)},
        {"gae_lambda": 0.095},
    ],
    ids=str,
)
def test_a_number_of_cartpoles_that_is_off_by_ten_is_noticed(change):
    """So `test_cartpole_learns_fast` fails if one of these numbers is mistyped.

    It does not notice a larger value_learning_rate, discount 0.999, or another max_gradient_norm: they learn as well.
    """
    assert recent_return("CartPole-v1", 100_000, seed=0, **change) < 475


@pytest.mark.parametrize(
    ("multiplier", "baseline", "standardize"),
    [
        ("return", "none", False),
        ("return", "mean", False),
        ("return", "value", True),
        ("reward-to-go", "none", True),
        ("reward-to-go", "mean", False),
        ("reward-to-go", "value", True),
        ("gae", "value", False),
        ("gae", "value", True),
    ],
)
def test_every_multiplier_learns(tmp_path, multiplier, baseline, standardize):
    """CartPole-v1 from about 25 to more than 60 in 25,600 steps."""
    config = TrainConfig(
        "CartPole-v1",
        seed=1,
        multiplier=multiplier,
        baseline=baseline,
        standardize=standardize,
        num_envs=16,
        num_steps=64,
        num_updates=25,
        learning_rate=1e-2,
        learning_rate_schedule="constant",
        entropy_coefficient=0.001,
        check_gradient=20,
        run_dir=tmp_path / "run",
        pictures=False,
    )
    returns = [line.get("rollout/episode_return", np.nan) for line in read_metrics(train(config).run_dir)]
    assert np.nanmean(returns[:3]) < 35
    assert np.nanmean(returns[-5:]) > 60
