"""Restaurant-v0, scalar and vector. Expected numbers are written out or derived here, never by the shipped rules."""

import copy
import importlib
import inspect
import pickle
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import restaurant_env
from restaurant_env import Restaurant, RestaurantEnv, RestaurantVectorEnv

BOTH = [RestaurantEnv, RestaurantVectorEnv]
MODES = list(AutoresetMode)
SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
CERTAIN = {"large_portion_probability": (0.0, 1.0)}  # Squatch always serves a small order, Norm always a large one
OTHER = {
    "large_portion_probability": (0.25, 0.75),
    "hungry_above": 0.25,
    "reward_scheme": "graded",
    "reward_scale": 3.0,
}


def above(number):
    """The float32 right above."""
    return float(np.nextafter(np.float32(number), np.float32(2)))


def below(number):
    return float(np.nextafter(np.float32(number), np.float32(-1)))


def flip(index):
    """Actions 0 and 1 in turn, for the scalar environment."""
    return index % 2


def scalar_stream(env, visits=20):
    stream = []
    for index in range(visits):
        observation, _ = env.reset()
        stream.append((observation.tolist(), *env.step(flip(index))[1:]))
    return stream


def vector_stream(env, steps=20):
    stream = []
    for index in range(steps):
        if env.metadata["autoreset_mode"] is DISABLED:
            env.reset()
        actions = (np.arange(env.num_envs) + index) % 2
        observations, rewards, terminated, truncated, infos = env.step(actions)
        stream.append((observations.tolist(), rewards.tolist(), terminated.tolist(), truncated.tolist(), plain(infos)))
    return stream


def plain(infos):
    return {key: plain(value) if isinstance(value, dict) else value.tolist() for key, value in infos.items()}


def stream_of(env):
    return vector_stream(env) if isinstance(env, gym.vector.VectorEnv) else scalar_stream(env)


# Making it


@pytest.mark.parametrize(
    ("imports", "name"), [("import restaurant_env", "Restaurant-v0"), ("", "restaurant_env:Restaurant-v0")]
)
def test_is_made_in_a_fresh_process_without_torch_or_a_window(imports, name):
    code = f"""
{imports}
import sys
import gymnasium as gym
env = gym.make({name!r})
print(type(env.unwrapped).__name__, env.reset(seed=1)[0].shape, env.step(1)[2:4])
envs = gym.make_vec({name!r}, num_envs=2)
print(type(envs).__name__, envs.reset(seed=1)[0].shape, envs.step([0, 1])[2])
print([module for module in ("torch", "pygame", "matplotlib", "pgtorch") if module in sys.modules])
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "RestaurantEnv (1,) (True, False)",
        "RestaurantVectorEnv (2, 1) [ True  True]",
        "[]",
    ]


def test_importing_it_again_gives_no_warning():
    spec = gym.registry["Restaurant-v0"]
    importlib.reload(restaurant_env)
    assert gym.registry["Restaurant-v0"] is spec


@pytest.mark.parametrize("settings", [{}, OTHER])
def test_passes_the_checker_of_gymnasium(settings):
    check_env(gym.make("Restaurant-v0", **settings).unwrapped)


@pytest.mark.parametrize("render_mode", [None, "rgb_array", "ansi"])
def test_passes_the_checker_of_stable_baselines(render_mode):
    sb3_check_env(gym.make("Restaurant-v0", render_mode=render_mode))


@pytest.mark.parametrize(
    ("mode", "vector_kwargs"),
    [("sync", None), ("async", None), ("async", {"context": "spawn"}), ("vector_entry_point", None)],
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # of forking, Python 3.12
def test_is_made_in_every_vectorization_mode(mode, vector_kwargs):
    settings = {**CERTAIN, "hungry_above": 1.0, "reward_scale": 2.0}
    envs = gym.make_vec("Restaurant-v0", 3, vectorization_mode=mode, vector_kwargs=vector_kwargs, **settings)
    try:
        assert isinstance(envs.metadata["autoreset_mode"], AutoresetMode)
        observations, _ = envs.reset(seed=1)
        assert observations.shape == (3, 1)
        assert len(set(observations.ravel())) == 3
        _, rewards, terminated, truncated, _ = envs.step(np.array([0, 1, 0]))
        assert rewards.tolist() == [2.0, -2.0, 2.0]
        assert terminated.tolist() == [True] * 3
        assert truncated.tolist() == [False] * 3
    finally:
        envs.close()


@pytest.mark.parametrize("settings", [{}, OTHER])
def test_spec_survives_json(settings):
    env = gym.make("Restaurant-v0", **settings)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    env.reset(seed=7)
    again.reset(seed=7)
    assert scalar_stream(again) == scalar_stream(env)


def test_spec_of_the_vector_environment_survives_json():
    envs = gym.make_vec("Restaurant-v0", num_envs=3, autoreset_mode="NextStep", **OTHER)
    again = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert isinstance(again, RestaurantVectorEnv)
    envs.reset(seed=7)
    again.reset(seed=7)
    assert vector_stream(again) == vector_stream(envs)


# Spaces and types


def test_spaces():
    env, envs = RestaurantEnv(), RestaurantVectorEnv(3)
    assert env.observation_space == envs.single_observation_space == gym.spaces.Box(0, 1, (1,), np.float32)
    assert env.action_space == envs.single_action_space == gym.spaces.Discrete(2)
    assert envs.observation_space == gym.spaces.Box(0, 1, (3, 1), np.float32)
    assert envs.action_space == gym.spaces.MultiDiscrete([2, 2, 2])


def test_places_are_numbered_as_the_actions():
    assert (Restaurant.SQUATCH, Restaurant.NORM) == (0, 1)
    env = RestaurantEnv(**CERTAIN)
    env.reset(seed=0)
    assert env.step(Restaurant.NORM)[4]["large_portion"] is True


@pytest.mark.parametrize("action", [0, 1, np.int64(1), np.uint8(0), np.array(1)])
def test_scalar_types_are_those_of_python(action):
    env = RestaurantEnv()
    observation, info = env.reset(seed=0)
    assert (type(observation), observation.dtype, observation.shape, info) == (np.ndarray, np.float32, (1,), {})
    after, reward, terminated, truncated, info = env.step(action)
    assert (after.dtype, after.shape) == (np.float32, (1,))
    assert after == observation
    assert (type(reward), terminated, truncated) == (float, True, False)
    assert {key: type(value) for key, value in info.items()} == {"large_portion": bool, "hungry": bool}


@pytest.mark.parametrize("actions", [np.array([0, 1]), np.array([1, 0], np.uint8), [0, 1], (1, 1)])
def test_vector_types(actions):
    envs = RestaurantVectorEnv(2)
    observations, info = envs.reset(seed=0)
    assert (observations.dtype, observations.shape, info) == (np.float32, (2, 1), {})
    observations, rewards, terminated, truncated, _ = envs.step(actions)
    assert (observations.dtype, observations.shape) == (np.float32, (2, 1))
    assert (rewards.dtype, rewards.shape) == (np.float64, (2,))
    assert (terminated.dtype, terminated.tolist()) == (np.bool_, [True, True])
    assert (truncated.dtype, truncated.tolist()) == (np.bool_, [False, False])


def test_metadata():
    assert RestaurantEnv.metadata["render_modes"] == ["ansi", "rgb_array"]
    assert RestaurantEnv.metadata["render_fps"] > 0
    for mode in MODES:
        envs = RestaurantVectorEnv(2, autoreset_mode=mode)
        assert envs.autoreset_mode is mode
        assert envs.metadata == {**RestaurantEnv.metadata, "autoreset_mode": mode}
    assert RestaurantVectorEnv.metadata["autoreset_mode"] is RestaurantVectorEnv(2).autoreset_mode is SAME_STEP


@pytest.mark.parametrize(("name", "mode"), [("SameStep", SAME_STEP), ("NextStep", NEXT_STEP), ("Disabled", DISABLED)])
def test_autoreset_mode_may_be_given_by_its_value(name, mode):
    assert gym.make_vec("Restaurant-v0", num_envs=2, autoreset_mode=name).metadata["autoreset_mode"] is mode


# The rules: threshold, hunger, hungry, and the rewards of a small and of a large order, binary and graded

RULES = [
    (0.5, 0.0, False, +1.0, -1.0, +2.0, -2.0),
    (0.5, 0.125, False, +1.0, -1.0, +2.0, -2.0),
    (0.5, 0.25 - 2**-24, False, +1.0, -1.0, +2.0, -2.0),
    (0.5, 0.25, False, +1.0, -1.0, +1.0, -1.0),  # exactly 0.25 away counts once
    (0.5, 0.375, False, +1.0, -1.0, +1.0, -1.0),
    (0.5, below(0.5), False, +1.0, -1.0, +1.0, -1.0),
    (0.5, 0.5, False, +1.0, -1.0, +1.0, -1.0),  # not hungry at the threshold itself
    (0.5, above(0.5), True, -1.0, +1.0, -1.0, +1.0),
    (0.5, 0.625, True, -1.0, +1.0, -1.0, +1.0),
    (0.5, 0.75, True, -1.0, +1.0, -1.0, +1.0),  # exactly 0.25 away counts once
    (0.5, above(0.75), True, -1.0, +1.0, -2.0, +2.0),
    (0.5, 1.0, True, -1.0, +1.0, -2.0, +2.0),
    (0.25, 0.0, False, +1.0, -1.0, +1.0, -1.0),
    (0.25, 0.25, False, +1.0, -1.0, +1.0, -1.0),
    (0.25, 0.5, True, -1.0, +1.0, -1.0, +1.0),
    (0.25, 0.625, True, -1.0, +1.0, -2.0, +2.0),
    (0.0, 0.0, False, +1.0, -1.0, +1.0, -1.0),
    (0.0, 0.25, True, -1.0, +1.0, -1.0, +1.0),
    (0.0, 0.5, True, -1.0, +1.0, -2.0, +2.0),
    (1.0, 1.0, False, +1.0, -1.0, +1.0, -1.0),
    (1.0, 0.75, False, +1.0, -1.0, +1.0, -1.0),
    (1.0, 0.5, False, +1.0, -1.0, +2.0, -2.0),
]


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("scheme", ["binary", "graded"])
@pytest.mark.parametrize("probability", [(0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.5, 1.0])
def test_rules(threshold, probability, scheme, scale):
    rows = [row for row in RULES if row[0] == threshold]
    visits = [(row, action) for row in rows for action in (0, 1)]
    settings = {
        "large_portion_probability": probability,
        "hungry_above": threshold,
        "reward_scheme": scheme,
        "reward_scale": scale,
    }
    env, envs = RestaurantEnv(**settings), RestaurantVectorEnv(len(visits), **settings)
    expected = []
    for (_, hunger, hungry, *rewards), action in visits:
        large = probability[action] == 1.0
        reward = scale * rewards[2 * (scheme == "graded") + large]
        expected.append((reward, {"large_portion": large, "hungry": hungry}))
        observation, _ = env.reset(options={"hunger": hunger})
        assert observation == np.float32(hunger)
        _, got, _, _, info = env.step(action)
        assert (got, info) == expected[-1], (hunger, action)
    observations, _ = envs.reset(options={"hunger": [row[1] for row, _ in visits]})
    assert observations.ravel().tolist() == [np.float32(row[1]) for row, _ in visits]
    _, rewards, _, _, infos = envs.step([action for _, action in visits])
    final = infos["final_info"]
    columns = zip(rewards.tolist(), final["large_portion"].tolist(), final["hungry"].tolist(), strict=True)
    assert [(reward, {"large_portion": large, "hungry": hungry}) for reward, large, hungry in columns] == expected


@pytest.mark.parametrize("environment", BOTH)
def test_defaults_are_the_lesson(environment):
    parameters = inspect.signature(environment).parameters
    assert parameters["large_portion_probability"].default == (0.15, 0.80)
    assert parameters["hungry_above"].default == 0.5
    assert parameters["reward_scheme"].default == "binary"
    assert parameters["reward_scale"].default == 1.0


def test_threshold_and_hunger_that_no_float_holds_exactly_are_equal_in_both_classes():
    for number in (0.1, 0.3, 0.7, 0.9):
        env, envs = RestaurantEnv(hungry_above=number), RestaurantVectorEnv(1, hungry_above=number)
        env.reset(options={"hunger": number})
        envs.reset(options={"hunger": number})
        assert env.step(0)[4]["hungry"] is False
        assert envs.step([0])[4]["final_info"]["hungry"].tolist() == [False]


# Chance. Seeds are fixed; tolerances are 5 standard errors (two-sided p = 6e-7), so another NumPy gives no false alarm


def assert_uniform(sample):
    """Kolmogorov-Smirnov: sqrt(n) D exceeds 2.75 with probability 2 exp(-2 * 2.75^2) = 5e-7."""
    n = len(sample)
    sample = np.sort(sample.astype(np.float64))
    distance = max(np.max(np.arange(1, n + 1) / n - sample), np.max(sample - np.arange(n) / n))
    assert np.sqrt(n) * distance < 2.75


def assert_mean(sample, expected, deviation):
    assert abs(np.mean(sample) - expected) < 5 * deviation / np.sqrt(len(sample))


@pytest.mark.parametrize("mode", MODES)
def test_hunger_is_uniform_and_independent_in_the_vector_environment(mode):
    n = 400_000
    envs = RestaurantVectorEnv(n, autoreset_mode=mode)
    first, _ = envs.reset(seed=0)
    actions = np.zeros(n, np.int64)
    second, *_ = envs.step(actions)
    if mode is NEXT_STEP:
        second, *_ = envs.step(actions)  # the visit's own hunger came first
    elif mode is DISABLED:
        second, _ = envs.reset()
    for hunger in (first, second):
        assert_uniform(hunger.ravel())
        assert hunger.min() >= 0
        assert hunger.max() < 1
    # The mean of a product of two independent uniform numbers is 1/4, its standard deviation sqrt(1/9 - 1/16) = 0.2205.
    assert_mean((first * second).ravel(), 0.25, 0.2205)
    assert_mean((first[1:] * first[:-1]).ravel(), 0.25, 0.2205)


def test_hunger_is_uniform_in_the_scalar_environment():
    env = RestaurantEnv()
    env.reset(seed=0)
    hunger = np.array([env.reset()[0].item() for _ in range(10_000)])
    assert_uniform(hunger)
    assert_mean(hunger[1:] * hunger[:-1], 0.25, 0.2205)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("action", "probability"), [(0, 0.15), (1, 0.80)])
def test_orders_are_large_as_often_as_said_whatever_the_hunger(action, probability, mode):
    n = 200_000
    envs = RestaurantVectorEnv(n, autoreset_mode=mode)
    observations, _ = envs.reset(seed=1)
    _, rewards, _, _, infos = envs.step(np.full(n, action))
    info = infos["final_info"] if mode is SAME_STEP else infos
    hungry = observations.ravel() > 0.5
    assert np.array_equal(info["hungry"], hungry)
    assert np.array_equal(rewards, np.where(info["large_portion"] == hungry, 1.0, -1.0))
    deviation = np.sqrt(probability * (1 - probability))
    for group in (hungry, ~hungry):  # about 100,000 each: 5 standard errors are 0.006
        assert_mean(info["large_portion"][group], probability, deviation)


@pytest.mark.parametrize(("action", "probability"), [(0, 0.15), (1, 0.80)])
def test_orders_are_large_as_often_as_said_in_the_scalar_environment(action, probability):
    env = RestaurantEnv()
    env.reset(seed=2)
    visits = []
    for _ in range(10_000):
        env.reset()
        visits.append(env.step(action)[4])
    for hungry in (False, True):  # about 5,000 each: 5 standard errors are 0.028
        large = [visit["large_portion"] for visit in visits if visit["hungry"] is hungry]
        assert_mean(large, probability, np.sqrt(probability * (1 - probability)))


@pytest.mark.parametrize(
    ("scheme", "action", "expected"),
    [("binary", 0, -0.35), ("binary", 1, 0.30), ("graded", 0, -0.70), ("graded", 1, 0.60)],
)
def test_mean_reward(scheme, action, expected):
    """Threshold 1/4: hungry 3/4 of the time, so the binary mean is (3/4 - 1/4)(2q - 1).

    Graded, half of the time (hunger above 1/2) counts twice: (2/2 + 1/4 - 1/4)(2q - 1) = 2q - 1.
    """
    n = 200_000
    envs = RestaurantVectorEnv(n, hungry_above=0.25, reward_scheme=scheme)
    envs.reset(seed=3)
    mean_square = 1.0 if scheme == "binary" else 2.5  # half of the rewards are +-1, half +-2
    assert_mean(envs.step(np.full(n, action))[1], expected, np.sqrt(mean_square - expected**2))


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP])
def test_an_order_tells_nothing_of_the_next_hunger(mode):
    """Kills one random number that serves for both."""
    n = 200_000
    envs = RestaurantVectorEnv(n, autoreset_mode=mode, large_portion_probability=(0.5, 0.5))
    envs.reset(seed=0)
    actions = np.zeros(n, np.int64)
    observations, *_, infos = envs.step(actions)
    large = infos.get("final_info", infos)["large_portion"]
    if mode is NEXT_STEP:
        observations, *_ = envs.step(actions)
    assert abs(observations[large].mean() - observations[~large].mean()) < 5 * np.sqrt(1 / 12 * 4 / n)


def test_the_hunger_of_a_filler_step_tells_nothing_of_the_order_that_follows():
    """Kills a filler step that draws the order before it is asked for, from the number of the hunger."""
    n = 200_000
    envs = RestaurantVectorEnv(n, autoreset_mode=NEXT_STEP, large_portion_probability=(0.5, 0.5))
    envs.reset(seed=0)
    actions = np.zeros(n, np.int64)
    envs.step(actions)
    observations, *_ = envs.step(actions)
    large = envs.step(actions)[4]["large_portion"]
    assert abs(observations[large].mean() - observations[~large].mean()) < 5 * np.sqrt(1 / 12 * 4 / n)


def test_hunger_and_orders_of_the_scalar_environment_have_their_means():
    n, env = 20_000, RestaurantEnv(large_portion_probability=(0.15, 0.8))
    env.reset(seed=0)
    hunger, large = np.empty(n), np.empty(n)
    for visit in range(n):
        hunger[visit] = env.reset()[0][0]
        large[visit] = env.step(0)[4]["large_portion"]
    assert_mean(hunger, 0.5, np.sqrt(1 / 12))
    assert_mean(large, 0.15, np.sqrt(0.15 * 0.85))


class Dealt:
    """A generator whose numbers are dealt."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self, dtype=np.float64):
        return dtype(self.numbers.pop(0))


@pytest.mark.parametrize(("action", "probability"), [(0, 0.15), (1, 0.80)])
def test_the_scalar_environment_takes_its_numbers_as_they_come(action, probability):
    """Hunger is the first, and an order is large if the second is below the probability; kills any other scale."""
    env = RestaurantEnv(large_portion_probability=(0.15, 0.8))
    for order, large in [(0.0, True), (np.nextafter(probability, 0), True), (probability, False), (0.999, False)]:
        for hunger in (0.0, 0.3125, below(1)):
            env.np_random = dealt = Dealt(hunger, order)
            assert env.reset()[0].tolist() == [hunger]
            assert env.step(action)[4] == {"large_portion": large, "hungry": hunger > 0.5}
            assert dealt.numbers == []


# Forced hunger


@pytest.mark.parametrize("hunger", [0, 1, 0.25, np.float32(0.25), np.array(0.25), np.float64(0.3)])
def test_forced_hunger(hunger):
    env, envs = RestaurantEnv(), RestaurantVectorEnv(3)
    for _ in range(3):
        assert env.reset(options={"hunger": hunger})[0].tolist() == [np.float32(hunger)]
        assert envs.reset(options={"hunger": hunger})[0].tolist() == [[np.float32(hunger)]] * 3
    assert env.reset(seed=1)[0] != np.float32(hunger)
    assert (envs.reset(seed=1)[0] != np.float32(hunger)).all()


@pytest.mark.parametrize("mode", MODES)
def test_reset_mask_leaves_the_others_as_they_were(mode):
    envs = RestaurantVectorEnv(4, autoreset_mode=mode, **CERTAIN)
    envs.reset(options={"hunger": [0.0, 0.25, 0.75, 1.0]})
    mask = np.array([True, False, False, True])
    observations, info = envs.reset(options={"reset_mask": mask, "hunger": [1.0, 0.5, 0.5, 0.125]})
    assert (observations.ravel().tolist(), info) == ([1.0, 0.25, 0.75, 0.125], {})
    drawn, _ = envs.reset(options={"reset_mask": mask})
    assert drawn.ravel()[~mask].tolist() == [0.25, 0.75]
    assert not set(drawn.ravel()[mask]) & {np.float32(1.0), np.float32(0.125)}
    assert envs.step([0, 0, 0, 0])[1].tolist()[1:3] == [1.0, -1.0]


# Autoreset, against Gymnasium's own vector environment of scalar ones


def of_gymnasium(n, mode, **settings):
    return gym.make_vec(
        "Restaurant-v0", n, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **settings
    )


def force(environments, hunger, mask):
    """Reset environment by environment to its own hunger; returns the last observations of each."""
    for index in np.flatnonzero(mask):
        only = np.arange(len(mask)) == index
        options = {"hunger": hunger[index].item(), "reset_mask": only}
        observations = [envs.reset(options=dict(options))[0] for envs in environments]
    return observations


def assert_same_infos(ours, theirs):
    """Equal key by key, types and masks included; `final_obs` is an array of ours and an object array of theirs."""
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, dict):
            assert_same_infos(value, theirs[key])
        elif key == "final_obs":
            assert theirs["_final_obs"].all()
            assert_same(value, np.stack(list(theirs[key])))
        else:
            assert_same(value, theirs[key])


def assert_same(ours, theirs):
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert np.array_equal(ours, theirs)


def assert_same_step(ours, theirs, known):
    """`known` masks the environments whose observation is not drawn by chance."""
    assert_same(ours[0][known], theirs[0][known])
    for mine, its in zip(ours[1:4], theirs[1:4], strict=True):
        assert_same(mine, its)
    assert_same_infos(ours[4], theirs[4])


@pytest.mark.parametrize("scheme", ["binary", "graded"])
@pytest.mark.parametrize("mode", MODES)
def test_forced_visits_are_those_of_gymnasiums_vector_environment(mode, scheme):
    n, rng = 6, np.random.default_rng(5)
    everyone = np.ones(n, np.bool_)
    settings = {**CERTAIN, "reward_scheme": scheme, "reward_scale": 1.5}
    pair = (RestaurantVectorEnv(n, autoreset_mode=mode, **settings), of_gymnasium(n, mode, **settings))
    assert pair[0].metadata == pair[1].metadata
    assert pair[0].observation_space == pair[1].observation_space
    assert pair[0].action_space == pair[1].action_space
    for envs in pair:
        assert envs.reset(seed=1)[1] == {}
    for _ in range(8):
        assert_same(*force(pair, rng.random(n, np.float32), everyone))
        known = everyone if mode is not SAME_STEP else ~everyone
        actions = rng.integers(0, 2, n)
        assert_same_step(*(envs.step(actions) for envs in pair), known)
        some = np.arange(n) % 2 == rng.integers(0, 2)
        ours, theirs = force(pair, rng.random(n, np.float32), some)
        assert_same(ours[known | some], theirs[known | some])
        if mode is NEXT_STEP:  # some play, the others are reset: rewards 0 and no info for these
            actions = rng.integers(0, 2, n)
            assert_same_step(*(envs.step(actions) for envs in pair), some)
        elif mode is DISABLED:
            assert_same(*force(pair, rng.random(n, np.float32), ~some))


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP])
def test_a_long_run_is_that_of_gymnasiums_vector_environment(mode):
    n, rng = 5, np.random.default_rng(6)
    nobody = np.zeros(n, np.bool_)
    settings = {**CERTAIN, "hungry_above": 1.0}  # never hungry: the rewards do not depend on chance
    pair = (RestaurantVectorEnv(n, autoreset_mode=mode, **settings), of_gymnasium(n, mode, **settings))
    for envs in pair:
        envs.reset(seed=2)
    for _ in range(30):
        if rng.random() < 0.3:
            mask = rng.integers(0, 2, n, np.int64) == 1
            mask[rng.integers(n)] = True
            for envs in pair:
                envs.reset(options={"reset_mask": mask.copy()})
        actions = rng.integers(0, 2, n)
        ours, theirs = (envs.step(actions) for envs in pair)
        for step in (ours, theirs):  # drawn by chance
            step[4].pop("final_obs", None)
        assert_same_step(ours, theirs, nobody)


@pytest.mark.parametrize("mode", MODES)
def test_rewards_and_observations_belong_together(mode):
    n, rng = 8, np.random.default_rng(7)
    envs = RestaurantVectorEnv(n, autoreset_mode=mode, **CERTAIN)
    hunger, _ = envs.reset(seed=3)
    for _ in range(20):
        actions = rng.integers(0, 2, n)
        observations, rewards, terminated, truncated, infos = envs.step(actions)
        assert rewards.tolist() == np.where((actions == 1) == (hunger.ravel() > 0.5), 1.0, -1.0).tolist()
        assert terminated.all()
        assert not truncated.any()
        ended = infos["final_obs"] if mode is SAME_STEP else observations
        assert np.array_equal(ended, hunger)
        if mode is NEXT_STEP:
            observations, rewards, terminated, truncated, infos = envs.step(actions)
            assert rewards.tolist() == [0.0] * n
            assert not terminated.any()
            assert not truncated.any()
            assert infos == {}
        elif mode is DISABLED:
            observations, _ = envs.reset()
        assert not np.isin(observations, hunger).any()
        hunger = observations


def test_actions_of_a_filler_step_are_ignored():
    envs = RestaurantVectorEnv(4, autoreset_mode=NEXT_STEP)
    envs.reset(seed=4)
    envs.step([0, 1, 0, 1])
    other = copy.deepcopy(envs)
    observations, rewards, *_ = envs.step([0, 0, 0, 0])
    others, other_rewards, *_ = other.step([1, 1, 1, 1])
    assert np.array_equal(observations, others)
    assert rewards.tolist() == other_rewards.tolist() == [0.0] * 4
    assert vector_stream(envs) == vector_stream(other)


def test_disabled_autoreset_asks_for_a_reset():
    envs = RestaurantVectorEnv(3, autoreset_mode=DISABLED)
    envs.reset(seed=0)
    envs.step([0, 0, 0])
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    with pytest.raises(ResetNeeded, match=r'reset\(options=\{"reset_mask": mask\}\).*here \[0, 2\]'):
        envs.step([0, 0, 0])
    envs.reset(options={"reset_mask": np.array([True, False, True])})
    assert envs.step([0, 0, 0])[2].tolist() == [True] * 3


# Order of calls


@pytest.mark.parametrize(("env", "action"), [(RestaurantEnv(), 0), (RestaurantVectorEnv(2), [0, 0])])
def test_step_and_render_before_reset(env, action):
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        env.step(action)
    env.render_mode = "ansi"
    with pytest.raises(ResetNeeded, match=r"reset\(\)"):
        env.render()


def test_a_visit_is_one_step():
    env = RestaurantEnv()
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(ResetNeeded, match=r"one visit: call reset\(\)"):
        env.step(0)
    env.reset()
    env.step(0)


def test_the_first_reset_is_for_everyone():
    with pytest.raises(ResetNeeded, match="first reset"):
        RestaurantVectorEnv(2).reset(options={"reset_mask": np.array([True, False])})


# Bad input

BAD_SETTINGS = [
    ("large_portion_probability", (-0.1, 0.5), ValueError, r"must be in \[0, 1\], got \(-0\.1, 0\.5\)"),
    ("large_portion_probability", (0.5, 1.5), ValueError, r"must be in \[0, 1\], got \(0\.5, 1\.5\)"),
    ("large_portion_probability", (np.nan, 0.5), ValueError, r"must be in \[0, 1\], got \(nan, 0\.5\)"),
    ("large_portion_probability", (0.5, np.inf), ValueError, r"must be in \[0, 1\], got \(0\.5, inf\)"),
    ("large_portion_probability", 0.5, ValueError, r"must hold two numbers in \[0, 1\].*got 0\.5"),
    (
        "large_portion_probability",
        (0.1, 0.2, 0.3),
        ValueError,
        r"must hold two numbers in \[0, 1\].*got \(0\.1, 0\.2, 0\.3\)",
    ),
    (
        "large_portion_probability",
        [[0.1, 0.2]],
        ValueError,
        r"must hold two numbers in \[0, 1\].*got \[\[0\.1, 0\.2\]\]",
    ),
    ("large_portion_probability", (0.1, (0.2,)), TypeError, r"must .*in \[0, 1\], got \(0\.1, \(0\.2,\)\)"),
    ("large_portion_probability", ("a", "b"), TypeError, r"must .*in \[0, 1\], got \('a', 'b'\)"),
    ("large_portion_probability", (True, False), TypeError, r"must .*in \[0, 1\], got \(True, False\)"),
    ("large_portion_probability", None, TypeError, r"must .*in \[0, 1\], got None"),
    ("hungry_above", -0.5, ValueError, r"must be in \[0, 1\], got -0\.5"),
    ("hungry_above", 1.5, ValueError, r"must be in \[0, 1\], got 1\.5"),
    ("hungry_above", np.nan, ValueError, r"must be in \[0, 1\], got nan"),
    ("hungry_above", -np.inf, ValueError, r"must be in \[0, 1\], got -inf"),
    ("hungry_above", [0.5], ValueError, r"must be one number in \[0, 1\], got \[0\.5\]"),
    ("hungry_above", "0.5", TypeError, r"must be a number in \[0, 1\], got '0\.5'"),
    ("hungry_above", True, TypeError, r"must be a number in \[0, 1\], got True"),
    ("hungry_above", None, TypeError, r"must be a number in \[0, 1\], got None"),
    ("hungry_above", 0.5j, TypeError, r"must be a number in \[0, 1\], got 0\.5j"),
    ("reward_scheme", "Graded", ValueError, r"must be one of \('binary', 'graded'\), got 'Graded'"),
    ("reward_scheme", None, ValueError, r"must be one of \('binary', 'graded'\), got None"),
    ("reward_scheme", 2, ValueError, r"must be one of \('binary', 'graded'\), got 2"),
    ("reward_scale", 0, ValueError, r"must be one finite number above 0, got 0"),
    ("reward_scale", -1.0, ValueError, r"must be one finite number above 0, got -1\.0"),
    ("reward_scale", np.nan, ValueError, r"must be one finite number above 0, got nan"),
    ("reward_scale", np.inf, ValueError, r"must be one finite number above 0, got inf"),
    ("reward_scale", [1.0], ValueError, r"must be one finite number above 0, got \[1\.0\]"),
    ("reward_scale", True, TypeError, r"must be .*number.*got True"),
    ("reward_scale", "1", TypeError, r"must be .*number.*got '1'"),
    ("render_mode", "human", ValueError, r"must be None or one of \['ansi', 'rgb_array'\], got 'human'"),
    ("render_mode", 1, ValueError, r"must be None or one of \['ansi', 'rgb_array'\], got 1"),
]


@pytest.mark.parametrize("environment", BOTH)
@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_SETTINGS)
def test_bad_setting(environment, name, value, error, message):
    with pytest.raises(error, match=f"^{name} {message}") as raised:
        environment(**{name: value})
    assert raised.type is error


def test_bad_setting_through_make():
    with pytest.raises(ValueError, match=r"^hungry_above must be in \[0, 1\], got 1\.5"):
        gym.make("Restaurant-v0", hungry_above=1.5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'hungry_abov'"):
        gym.make("Restaurant-v0", hungry_abov=0.5)


@pytest.mark.parametrize("num_envs", [0, -1, 2.0, True, "2", None, [2]])
def test_bad_number_of_environments(num_envs):
    message = rf"^num_envs must be an integer of at least 1, got {re.escape(repr(num_envs))}"
    with pytest.raises(ValueError, match=message):
        RestaurantVectorEnv(num_envs)


@pytest.mark.parametrize("mode", ["NEXT_STEP", "", None, 1])
def test_bad_autoreset_mode(mode):
    message = rf"^autoreset_mode must be one of .*NextStep.*SameStep.*Disabled.*, got {re.escape(repr(mode))}"
    with pytest.raises(ValueError, match=message):
        RestaurantVectorEnv(2, autoreset_mode=mode)


BAD_HUNGER = [
    (-0.25, ValueError, r"must be in \[0, 1\], got -0\.25"),
    (1.25, ValueError, r"must be in \[0, 1\], got 1\.25"),
    (np.nan, ValueError, r"must be in \[0, 1\], got nan"),
    (np.inf, ValueError, r"must be in \[0, 1\], got inf"),
    ([0.1, 0.2, 0.3, 0.4], ValueError, r"must be one number in \[0, 1\].*, got \[0\.1, 0\.2, 0\.3, 0\.4\]"),
    ([], ValueError, r"must be one number in \[0, 1\].*, got \[\]"),
    (True, TypeError, r"must be a number in \[0, 1\], got True"),
    ("0.5", TypeError, r"must be a number in \[0, 1\], got '0\.5'"),
    (None, TypeError, r"must be a number in \[0, 1\], got None"),
    ([0.5, [0.5]], TypeError, r"must be a number in \[0, 1\], got \[0\.5, \[0\.5\]\]"),
]


@pytest.mark.parametrize("environment", [RestaurantEnv, lambda: RestaurantVectorEnv(3)], ids=["scalar", "vector"])
@pytest.mark.parametrize(("hunger", "error", "message"), BAD_HUNGER)
def test_bad_hunger_is_refused_and_changes_nothing(environment, hunger, error, message):
    env, twin = environment(), environment()
    env.reset(seed=5)
    twin.reset(seed=5)
    with pytest.raises(error, match=f"^hunger {message}") as raised:
        env.reset(seed=6, options={"hunger": hunger})
    assert raised.type is error
    assert stream_of(env) == stream_of(twin)


@pytest.mark.parametrize("hunger", [[0.5], [[0.5, 0.5]], [[0.5], [0.5]], [0.5, 0.5, 0.5]])
def test_bad_shape_of_hunger_for_two_environments(hunger):
    message = rf"^hunger must be one number in \[0, 1\] or 2 of them, got {re.escape(repr(hunger))}"
    with pytest.raises(ValueError, match=message):
        RestaurantVectorEnv(2).reset(options={"hunger": hunger})


@pytest.mark.parametrize("mask", [[True, False], True, np.array([1, 0]), np.array([True]), np.array([[True, False]])])
def test_bad_reset_mask(mask):
    envs = RestaurantVectorEnv(2)
    envs.reset(seed=0)
    message = rf"^reset_mask must be a boolean array of shape \(2,\), got {re.escape(repr(mask))}"
    with pytest.raises(ValueError, match=message):
        envs.reset(options={"reset_mask": mask})


def test_empty_reset_mask():
    envs = RestaurantVectorEnv(2)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"^reset_mask must have at least one True, got array\(\[False, False\]\)"):
        envs.reset(options={"reset_mask": np.zeros(2, np.bool_)})


@pytest.mark.parametrize(
    "action",
    [2, -1, np.int64(5), 1.0, np.float32(1), np.nan, True, False, np.bool_(True), "1", None, [1], np.array([1])],
)
def test_bad_action_is_refused_and_changes_nothing(action):
    env, twin = RestaurantEnv(), RestaurantEnv()
    env.reset(seed=5)
    twin.reset(seed=5)
    message = rf"^action must be 0 \(Squatch\) or 1 \(Norm\), in Discrete\(2\), got {re.escape(repr(action))}"
    with pytest.raises(ValueError, match=message):
        env.step(action)
    assert env.step(1)[1:] == twin.step(1)[1:]
    assert scalar_stream(env) == scalar_stream(twin)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0, 2], r"0 \(Squatch\) or 1 \(Norm\), in MultiDiscrete\(\[2 2\]\), got 2 for environment 1"),
        ([-1, 0], r"0 \(Squatch\) or 1 \(Norm\), in MultiDiscrete\(\[2 2\]\), got -1 for environment 0"),
        ([0.0, 1.0], r"integers of shape \(2,\), got float64 of shape \(2,\)"),
        ([True, False], r"integers of shape \(2,\), got bool of shape \(2,\)"),
        ([np.nan, 0], r"integers of shape \(2,\), got float64 of shape \(2,\)"),
        (["0", "1"], r"integers of shape \(2,\), got <U1 of shape \(2,\)"),
        ([[0], [1]], r"integers of shape \(2,\), got int64 of shape \(2, 1\)"),
        ([0], r"integers of shape \(2,\), got int64 of shape \(1,\)"),
        ([0, 1, 1], r"integers of shape \(2,\), got int64 of shape \(3,\)"),
        (1, r"integers of shape \(2,\), got int64 of shape \(\)"),
        (None, r"integers of shape \(2,\), got object of shape \(\)"),
        ([0, [1]], r"integers of shape \(2,\)"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_bad_actions_are_refused_and_change_nothing(actions, message, mode):
    envs, twin = (RestaurantVectorEnv(2, autoreset_mode=mode) for _ in range(2))
    envs.reset(seed=5)
    twin.reset(seed=5)
    with pytest.raises(ValueError, match=f"^actions must be {message}"):
        envs.step(actions)
    assert vector_stream(envs) == vector_stream(twin)


def test_settings_are_copied():
    """Kills probabilities that are kept by reference."""
    probability = np.array([0.0, 0.0])
    envs = RestaurantVectorEnv(4, large_portion_probability=probability)
    probability[:] = 1
    envs.reset(seed=0)
    assert not envs.step(np.zeros(4, np.int64))[4]["final_info"]["large_portion"].any()


# Seeds, copies, speed

MAKERS = {
    "scalar": RestaurantEnv,
    "made": lambda: gym.make("Restaurant-v0", **OTHER),
    **{mode.value: lambda mode=mode: RestaurantVectorEnv(3, autoreset_mode=mode) for mode in MODES},
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_seeding(maker):
    def seeded(env, seed):
        return [env.reset(seed=seed)[0].tolist(), *stream_of(env)]

    env = maker()
    first = seeded(env, 3)
    assert seeded(env, 3) == first
    assert seeded(maker(), 3) == first
    assert seeded(maker(), 4) != first
    assert seeded(maker(), None) != seeded(maker(), None)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_a_seed_is_not_replayed_by_the_resets_after_it(maker):
    env = maker()
    observations = [env.reset(seed=3)[0].tolist(), *(env.reset()[0].tolist() for _ in range(9))]
    assert len({str(observation) for observation in observations}) == 10


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_a_copy_continues_as_the_original_would(maker, duplicate):
    env = maker()
    env.reset(seed=3)
    stream_of(env)
    env.reset()
    other = duplicate(env)  # before the order
    action = np.array([0, 1, 1]) if isinstance(env, gym.vector.VectorEnv) else 1
    assert str(other.step(action)) == str(env.step(action))
    other = duplicate(env)  # after it
    assert stream_of(other) == stream_of(env)


def spoil(value):
    """Overwrite every array within."""
    if isinstance(value, np.ndarray):
        value[...] = ~value if value.dtype == np.bool_ else 99
    elif isinstance(value, dict):
        for item in value.values():
            spoil(item)
    elif isinstance(value, tuple):
        for item in value:
            spoil(item)


def arrays(value):
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [array for item in value.values() for array in arrays(item)]
    return [array for item in value for array in arrays(item)]


@pytest.mark.parametrize("render_mode", [None, "ansi"])
@pytest.mark.parametrize("mode", MODES)
def test_an_array_that_a_caller_overwrites_spoils_nothing(mode, render_mode):
    envs, twin = (RestaurantVectorEnv(3, autoreset_mode=mode, render_mode=render_mode) for _ in range(2))
    for index in range(8):
        given = {"hunger": np.array([0.125, 0.5, 0.875], np.float32)} if index % 2 == 0 else {}
        if index in {4, 5}:
            given["reset_mask"] = np.array([True, False, True])
        expected = twin.reset(seed=index, options=copy.deepcopy(given))
        got = envs.reset(seed=index, options=given)
        assert np.array_equal(got[0], expected[0])
        spoil(given)
        spoil(got)
        if mode is DISABLED:
            for each in (envs, twin):
                each.reset(options={"reset_mask": np.array([True, True, True]), "hunger": 0.75})
        for _ in range(1 if mode is DISABLED else 3):
            actions = np.array([0, 1, index % 2])
            expected = twin.step(actions.copy())
            got = envs.step(actions)
            assert [array.tolist() for array in arrays(got)] == [array.tolist() for array in arrays(expected)]
            assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays(got)) for b in arrays(got)[:i])
            spoil(actions)
            spoil(got)
            if render_mode:
                assert envs.render() == twin.render()


def test_an_observation_that_a_caller_overwrites_spoils_nothing():
    env = RestaurantEnv(**CERTAIN)
    observation, _ = env.reset(options={"hunger": 0.75})
    observation[:] = 0
    after, reward, *_ = env.step(1)
    assert (after, reward) == (0.75, 1.0)
    after[:] = 0
    env.render_mode = "ansi"
    assert env.render().startswith("hunger 0.75")


def opcodes(function, *arguments, **options):
    """Number of Python instructions that a call runs, in whatever function."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*arguments, **options)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("mode", MODES)
def test_no_loop_over_the_environments(mode):
    counts = {}
    for n in (2, 2_000):
        envs = RestaurantVectorEnv(n, autoreset_mode=mode)
        options = {"reset_mask": np.arange(n) % 2 == 0, "hunger": np.full(n, 0.25)}
        actions = np.arange(n) % 2
        counts[n] = []
        for _ in range(2):  # the first round fills the caches of NumPy
            counts[n] = [opcodes(envs.reset, seed=0), opcodes(envs.step, actions)]
            if mode is NEXT_STEP:
                counts[n] += [opcodes(envs.reset, options=options), opcodes(envs.step, actions)]
    assert counts[2] == counts[2_000]
    assert min(counts[2]) > 50
