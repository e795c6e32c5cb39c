import inspect
import random
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from support import numpy_stream, seeded

from pgtorch import BiasPolicy, MLPPolicy, TrainConfig
from pgtorch.distributions import as_global_stream
from pgtorch.proof.walk import ACTIONS, OBSERVATIONS, WALK, Walk
from pgtorch.record.evaluation import bootstrap_interval, evaluate, play_episodes, watch
from pgtorch.record.trained_run import TrainedRun

LESSON = "restaurant_env:Restaurant-v0"


def lesson(bias=-10.0, **env_kwargs):
    return TrainedRun(config=TrainConfig(env_kwargs=env_kwargs), policy=BiasPolicy(bias=bias))


@pytest.mark.parametrize("mode", [mode.value for mode in AutoresetMode])
def test_mean_return_is_the_exact_one_in_every_mode(mode):
    """n = 20,000 visits, 5 standard errors: 0.56 when drawing at the optimum, 0.65 when always right."""
    for greedy, expected in ((False, 0.5599), (True, 0.65)):
        returns = play_episodes(lesson(autoreset_mode=mode), 20_000, greedy=greedy)
        assert returns.shape == (20_000,)
        assert abs(returns.mean() - expected) < 5 * returns.std() / np.sqrt(20_000)


FIRST = []  # the length of the first episode of each environment


class Varying(gym.Env):
    """Pays 1 a step; each episode has a length of its own."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 20))
        if seed is not None:
            FIRST.append(self.left)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


gym.register("Varying-v0", Varying, disable_env_checker=True)


def test_one_episode_an_environment_counts():
    FIRST.clear()
    run = TrainedRun(config=TrainConfig("Varying-v0"), policy=BiasPolicy())
    assert play_episodes(run, 50, greedy=True).tolist() == FIRST
    assert len(set(FIRST)) > 10


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_returns_are_those_of_environments_played_one_by_one(mode):
    """Episodes of many lengths that end in every way, in every mode."""
    with as_global_stream(seeded()):
        policy = MLPPolicy(OBSERVATIONS["box"], ACTIONS["discrete"])
    expected = []
    for seed in range(5, 25):
        env, total, over = Walk(), 0.0, False
        observation, _ = env.reset(seed=seed)
        while not over:
            action = policy.mode(torch.from_numpy(observation)[None]).item()
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + reward, terminated or truncated
        expected.append(total)
    run = TrainedRun(config=TrainConfig(WALK, env_kwargs={"mode": mode}), policy=policy)
    assert play_episodes(run, 20, greedy=True, seed=5).tolist() == pytest.approx(expected, rel=1e-12)


class GlobalDraws(gym.Env):
    """Pays what it draws from the global streams."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        drawn = random.random() + np.random.random() + torch.rand(()).item()  # noqa: NPY002 -- the global one is meant
        return np.zeros(1, np.float32), drawn, True, False, {}


gym.register("GlobalDraws-v0", GlobalDraws, disable_env_checker=True)


@pytest.mark.parametrize("env_id", [LESSON, "GlobalDraws-v0"])
def test_the_same_seed_plays_the_same_episodes_and_moves_no_global_stream(env_id):
    run = TrainedRun(config=TrainConfig(env_id), policy=BiasPolicy(bias=-10.0))
    before = torch.get_rng_state(), numpy_stream(), random.getstate()
    first, second = (play_episodes(run, 500, greedy=False, seed=3) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, play_episodes(run, 500, greedy=False, seed=4))
    after = torch.get_rng_state(), numpy_stream(), random.getstate()
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]


def test_the_actions_are_drawn_by_the_seed():
    """Not by the run's own generator, which goes on from one evaluation to the next."""
    run = lesson(bias=-5.0, large_portion_probability=(0.0, 1.0))
    state = run.generator.get_state()
    play_episodes(run, 50, greedy=False)
    assert torch.equal(run.generator.get_state(), state)


@pytest.mark.parametrize("number", [0, -1, 1_000_001, 999_999_999_999])
def test_a_number_of_episodes_out_of_range_is_refused(number):
    with pytest.raises(ValueError, match=f"episodes must be at least 1 and at most 1000000, got {number}"):
        play_episodes(lesson(), number, greedy=True)
    with pytest.raises(ValueError, match=f"episodes must be at least 1 and at most 1000000, got {number}"):
        evaluate(lesson(), number)


def test_a_million_episodes_are_not_too_many():
    assert play_episodes(lesson(), 1_000_000, greedy=True).mean() == pytest.approx(0.65, abs=0.005)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        play_episodes(lesson(), 3, greedy=True, max_steps=0)


def test_an_endless_episode_is_cut_off():
    """CliffWalking-v1 has no time limit, and this policy only walks against the wall."""

    class North(BiasPolicy):
        def mode(self, observation):
            return torch.zeros(len(observation), dtype=torch.int64)

    run = TrainedRun(config=TrainConfig("CliffWalking-v1"), policy=North())
    for max_steps in (1, 40):
        assert play_episodes(run, 3, greedy=True, max_steps=max_steps).tolist() == [-max_steps] * 3


def test_the_environments_are_closed_after_an_error(monkeypatch):
    class Fails(BiasPolicy):
        def mode(self, observation):
            raise RuntimeError("stop")

    closed = []
    made = gym.make_vec(LESSON, 3)
    monkeypatch.setattr(made, "close", lambda: closed.append(True))
    monkeypatch.setattr("pgtorch.record.evaluation.make_vector_env", lambda *_, **__: made)
    with pytest.raises(RuntimeError, match="stop"):
        play_episodes(TrainedRun(config=TrainConfig(), policy=Fails()), 3, greedy=True)
    assert closed == [True]


# evaluate


def test_both_ways_are_played():
    """n = 1,000, 5 standard errors."""
    run = lesson()
    found = evaluate(run, 1000)
    assert (found["env_id"], found["episodes"], found["figures"]) == (LESSON, 1000, run.policy.figures())
    for name, expected in (("sampled", 0.5599), ("greedy", 0.65)):
        returns = play_episodes(run, 1000, greedy=name == "greedy", seed=1_000_000)
        assert found[name]["mean_return"] == returns.mean()
        assert found[name]["interval"] == bootstrap_interval(returns)
        assert abs(returns.mean() - expected) < 5 * returns.std() / np.sqrt(1000)


def test_interval_covers_the_mean_and_has_the_right_width():
    values = np.random.default_rng(0).normal(5.0, 2.0, size=400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert bootstrap_interval(np.full(10, 3.0)) == (3.0, 3.0)


def test_the_interval_is_that_of_ten_thousand_resampled_means():
    values, generator = np.arange(30.0) ** 2, np.random.default_rng(0)
    means = [values[generator.integers(30, size=30)].mean() for _ in range(10_000)]
    assert bootstrap_interval(values) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), rel=1e-12)


def test_settings_cannot_be_swapped_by_place():
    for call in (
        lambda: play_episodes(lesson(), 3, True, 7),
        lambda: evaluate(lesson(), 3, 7),
        lambda: watch(lesson(), Watched(), 7),
    ):
        with pytest.raises(TypeError, match="positional"):
            call()


def test_what_is_played_unless_told_otherwise():
    """Other numbers would change every figure that has been reported."""
    defaults = {
        evaluate: {"episodes": 100, "seed": 1_000_000, "max_steps": 10_000},
        play_episodes: {"seed": 0, "max_steps": 10_000},
        watch: {"seed": 0, "episodes": 10, "steps": 500},
    }
    for function, expected in defaults.items():
        parameters = inspect.signature(function).parameters.items()
        assert {name: p.default for name, p in parameters if p.default is not p.empty} == expected


# watch


class Watched(gym.Env):
    """Episodes of three steps, and a ledger."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def __init__(self):
        self.ledger, self.closed = [], False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.ledger.append(("reset", seed))
        return np.array([0.9], np.float32), {}

    def step(self, action):
        self.ledger.append(("step", int(action)))
        steps = sum(kind == "step" for kind, _ in self.ledger)
        return np.array([0.1 * (steps % 2)], np.float32), 1.0, steps % 3 == 0, False, {}

    def close(self):
        self.closed = True


STEPS = [("step", 1), ("step", 0), ("step", 0)]  # hungry, then not


@pytest.mark.parametrize(
    ("limits", "ledger"),
    [
        ({"episodes": 2}, [("reset", 7), *STEPS, ("reset", None), *STEPS]),
        ({"steps": 4}, [("reset", 7), *STEPS, ("reset", None), STEPS[0]]),
        ({"steps": 0}, [("reset", 7)]),
    ],
)
def test_watching_plays_the_likeliest_actions_and_closes(limits, ledger):
    env = Watched()
    watch(lesson(), env, seed=7, **limits)
    assert env.ledger == ledger
    assert env.closed


def test_watching_closes_after_an_error():
    env = Watched()
    with pytest.raises(ZeroDivisionError):
        watch(SimpleNamespace(predict=lambda observation: 1 / 0), env)
    assert env.closed
