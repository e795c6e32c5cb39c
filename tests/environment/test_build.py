import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from pgtorch.environment.build import make_vector_env
from pgtorch.environment.checks import StepContract
from restaurant_env import RestaurantVectorEnv

pytestmark = pytest.mark.filterwarnings(  # of forking, from Python 3.12 on
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)

LESSON = "restaurant_env:Restaurant-v0"


def build(env_id, vectorization="native", num_envs=2, **env_kwargs):
    return make_vector_env(env_id, num_envs=num_envs, env_kwargs=env_kwargs, vectorization=vectorization)


@pytest.mark.parametrize(
    ("env_id", "vectorization", "kind"),
    [
        (LESSON, "native", RestaurantVectorEnv),
        ("Restaurant-v0", "native", RestaurantVectorEnv),
        (LESSON, "sync", SyncVectorEnv),
        ("FrozenLake-v1", "native", SyncVectorEnv),  # which has no vector class of its own
        ("CartPole-v1", "sync", SyncVectorEnv),
        (LESSON, "async", AsyncVectorEnv),
    ],
)
def test_a_vectorization_names_the_class(env_id, vectorization, kind):
    env = build(env_id, vectorization, num_envs=3)
    try:
        assert type(env.unwrapped) is kind
        assert env.num_envs == 3
        assert len(env.reset(seed=0)[0]) == 3
    finally:
        env.close()


def test_native_takes_the_vector_class_of_cartpole():
    env = build("CartPole-v1")
    assert not isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
    env.close()


@pytest.mark.parametrize("vectorization", ["native", "sync", "async"])
def test_settings_reach_the_environment(vectorization):
    env = build(LESSON, vectorization, reward_scale=3.0, large_portion_probability=(0.0, 1.0))
    env.reset(seed=0)
    assert np.abs(env.step(np.array([0, 1]))[1]).tolist() == [3.0, 3.0]
    env.close()


def test_single_environments_are_checked_one_by_one():
    env = build("FrozenLake-v1")
    wrappers = []
    single = env.envs[0]
    while isinstance(single, gym.Wrapper):
        wrappers.append(type(single))
        single = single.env
    assert StepContract in wrappers
    env.close()


def test_a_module_is_imported_for_its_registration(tmp_path, monkeypatch):
    source = "import gymnasium as gym\nfrom restaurant_env import RestaurantEnv\n"
    (tmp_path / "my_environments.py").write_text(source + "gym.register('Mine-v0', RestaurantEnv)\n")
    monkeypatch.syspath_prepend(tmp_path)
    env = build("my_environments:Mine-v0")
    try:
        assert env.reset(seed=0)[0].shape == (2, 1)
    finally:
        env.close()
        del gym.registry["Mine-v0"], sys.modules["my_environments"]


@pytest.mark.parametrize(
    ("env_id", "error", "message"),
    [
        ("Nowhere-v0", gym.error.Error, "Nowhere"),
        ("no_such_module:Restaurant-v0", ImportError, "no_such_module"),
        ("CartPole-v77", gym.error.Error, "CartPole"),
    ],
)
@pytest.mark.parametrize("vectorization", ["native", "sync", "async"])
def test_an_environment_that_does_not_exist_is_an_error(env_id, error, message, vectorization):
    with pytest.raises(error, match=message):
        build(env_id, vectorization)


@pytest.mark.parametrize("vectorization", ["native", "sync"])
def test_a_setting_that_the_environment_lacks_is_an_error(vectorization):
    with pytest.raises(TypeError, match="spice"):
        build(LESSON, vectorization, spice=1)
