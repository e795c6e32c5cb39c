"""The suite of `pgtorch benchmark --only suite`: returns on environments that nobody tuned for, beside a rival's."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pgtorch.config import GENERAL, TrainConfig
from pgtorch.record.evaluation import play_episodes
from pgtorch.record.trained_run import TrainedRun
from pgtorch.trainer import Trainer

NUM_STEPS, NUM_EPISODES = 500_000, 100
MAX_STEPS = 1000  # of an episode without a time limit
SUITE = (
    "LunarLander-v3",
    "Acrobot-v1",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "HalfCheetah-v5",
    "Taxi-v4",
    "FrozenLake-v1",
    "CliffWalking-v1",
    "Blackjack-v1",
    "CartPole-v1",
)


class Learned(NamedTuple):
    """What a trained policy brings on fresh episodes, and how long it took to train."""

    greedy: float  # mean return of the likeliest actions
    sampled: float  # of drawn ones
    seconds: float


def learners() -> dict[str, Callable[[str, int, int], Learned]]:
    """Functions of environment id, seed and steps: ours, and Stable-Baselines3's if it is installed."""
    rivals = {"Stable-Baselines3 PPO, defaults": learn_with_ppo}
    return {"pgtorch": learn, **(rivals if importlib.util.find_spec("stable_baselines3") else {})}


def is_available(env_id: str) -> bool:
    """Whether the packages of an environment are installed: box2d and mujoco are extras of Gymnasium."""
    try:
        gym.make(env_id).close()
    except (gym.error.DependencyNotInstalled, ImportError):
        return False
    return True


def learn(env_id: str, seed: int, num_steps: int) -> Learned:
    """Train with the general settings, whatever the tables say of this environment."""
    untuned = {"hidden_sizes": TrainConfig.hidden_sizes, **GENERAL}
    num_updates = max(1, num_steps // (GENERAL["num_envs"] * GENERAL["num_steps"]))
    trainer = Trainer(TrainConfig(env_id, **{**untuned, "seed": seed, "num_updates": num_updates}))
    start = time.perf_counter()
    with closing(trainer):
        for _ in range(num_updates):
            trainer.update()
    seconds = time.perf_counter() - start
    normalize = trainer.collector.normalize_observation
    run = TrainedRun(config=trainer.config, policy=trainer.policy, normalize_observation=normalize)
    greedy, sampled = (
        float(play_episodes(run, NUM_EPISODES, greedy=greedy, seed=_fresh(seed), max_steps=MAX_STEPS).mean())
        for greedy in (True, False)
    )
    return Learned(greedy, sampled, seconds)


def learn_with_ppo(env_id: str, seed: int, num_steps: int) -> Learned:
    """The same with Stable-Baselines3's PPO and its default settings. It takes no Tuple observations."""
    from stable_baselines3 import PPO  # noqa: PLC0415 -- optional

    model = PPO("MlpPolicy", env_id, seed=seed, device="cpu")
    start = time.perf_counter()
    model.learn(num_steps)
    seconds = time.perf_counter() - start
    greedy, sampled = (_play(model, env_id, greedy=greedy, seed=_fresh(seed)).mean() for greedy in (True, False))
    return Learned(float(greedy), float(sampled), seconds)


def _play(model: Any, env_id: str, *, greedy: bool, seed: int) -> NDArray[np.float64]:
    """Returns of fresh episodes, one per environment, as `play_episodes` has them."""
    total, playing = np.zeros(NUM_EPISODES), np.ones(NUM_EPISODES, np.bool_)
    with closing(gym.make_vec(env_id, NUM_EPISODES, vectorization_mode="sync")) as env:
        observation, _ = env.reset(seed=seed)
        for _ in range(MAX_STEPS):
            action, _ = model.predict(observation, deterministic=greedy)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += reward * playing
            playing &= ~(terminated | truncated)
            if not playing.any():
                break
    return total


def _fresh(seed: int) -> int:
    """The first seed of the fresh episodes: no two seeds play the same ones."""
    return 1000 * (seed + 1)


def takes(who: str, env_id: str) -> bool:
    """Whether a learner can be given an environment."""
    with closing(gym.make(env_id)) as env:
        return who == "pgtorch" or not isinstance(env.observation_space, gym.spaces.Tuple)


def suite_rows(seeds: range, num_steps: int = NUM_STEPS) -> Iterator[tuple[str, str, list[Learned]]]:
    """Environment, learner, and its result for each seed; an empty list if it could not be measured."""
    for env_id in SUITE:
        for who, learn_it in learners().items():
            possible = is_available(env_id) and takes(who, env_id)
            yield env_id, who, [learn_it(env_id, seed, num_steps) for seed in seeds] if possible else []
