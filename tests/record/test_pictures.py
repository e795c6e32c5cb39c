import math

import matplotlib.image
import numpy as np
import pytest

from pgtorch import BiasPolicy, MLPPolicy, TrainConfig, train
from pgtorch.record import pictures
from pgtorch.environment.build import make_env

LESSON = {"bias.png", "p_norm.png", "expected_reward.png", "gradient.png"}


def lines(end, updates=100):
    """A run whose bias goes in a straight line."""
    return [
        {"update": i, "policy/bias": end * i / updates, "gradient/autograd": 1 / i, "gradient/manual": 1 / i}
        for i in range(1, updates)
    ]


def pixels(path):
    return matplotlib.image.imread(path)


def test_pictures_follow_the_run(tmp_path):
    """Another course of the bias, another picture; but the gradients were the same."""
    shown = []
    for end in (-10.0, -5.0):
        drawn = pictures.draw(tmp_path, lines(end), TrainConfig(), BiasPolicy())
        assert {path.name for path in drawn.values()} == LESSON
        shown.append({tag: pixels(path) for tag, path in drawn.items()})
    for tag, first in shown[0].items():
        assert first.shape == shown[1][tag].shape
        assert len(np.unique(first.reshape(-1, 4), axis=0)) > 10  # there is something on it
        assert np.array_equal(first, shown[1][tag]) == (tag == "pictures/gradient"), tag


def test_a_gradient_that_is_off_leaves_the_diagonal(tmp_path):
    run = lines(-10.0)
    right = pixels(pictures.draw(tmp_path, run, TrainConfig(), BiasPolicy())["pictures/gradient"])
    run[50]["gradient/autograd"] += 0.3
    assert not np.array_equal(
        right, pixels(pictures.draw(tmp_path, run, TrainConfig(), BiasPolicy())["pictures/gradient"])
    )


def test_the_optimum_is_that_of_the_runs_own_environment(tmp_path):
    shown = []
    for threshold in (0.5, 0.4):
        config = TrainConfig(env_kwargs={"hungry_above": threshold, "autoreset_mode": "NextStep"})
        shown.append(pixels(pictures.draw(tmp_path, lines(-10.0), config, BiasPolicy())["pictures/bias"]))
    assert not np.array_equal(*shown)


def test_another_environment_has_no_exact_answer(tmp_path):
    drawn = pictures.draw(tmp_path, lines(-10.0), TrainConfig("Other-v0", policy="bias"), BiasPolicy())
    assert {path.name for path in drawn.values()} == LESSON - {"expected_reward.png"}


def test_episode_returns_of_other_policies(tmp_path):
    config = TrainConfig("CartPole-v1", num_envs=2)
    env = make_env(config)
    policy = MLPPolicy(env.single_observation_space, env.single_action_space)
    env.close()
    assert pictures.draw(tmp_path, [{"update": 1, "env_steps": 9}], config, policy) == {}
    assert not list(tmp_path.iterdir())
    run = [{"update": i, "env_steps": 10 * i, "rollout/episode_return": math.sqrt(i)} for i in range(1, 60)]
    drawn = pictures.draw(tmp_path, run, config, policy)
    assert [path.name for path in drawn.values()] == ["episode_return.png"]


@pytest.mark.parametrize("updates", [1, 2, 9000])
def test_short_and_long_runs(tmp_path, updates):
    assert len(pictures.draw(tmp_path, lines(-1.0, updates + 1), TrainConfig(), BiasPolicy())) == 4


def test_a_run_draws_what_it_has(tmp_path):
    run = train(TrainConfig(num_updates=3, run_dir=tmp_path / "run")).run_dir
    assert {path.name for path in run.glob("*.png")} == LESSON


def test_a_long_run_is_thinned_to_its_end(tmp_path):
    few = pictures._thinned(lines(-1.0, 9002))
    assert len(few) <= 4000
    assert few[-1]["update"] == 9001
