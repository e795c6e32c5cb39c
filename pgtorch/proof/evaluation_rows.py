"""Rows about what is done with a trained policy: it is played, and it sees what it saw in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Generator, Tensor

from pgtorch.proof.measures import in_float64
from pgtorch.proof.table import Row
from pgtorch.proof.twin import LIMIT, twin_of
from pgtorch.proof.update_rows import scalar_envs, walk_config
from pgtorch.record.evaluation import play_episodes
from pgtorch.record.trained_run import TrainedRun
from pgtorch.trainer import Trainer

EPISODES = 20
MOST_STEPS = 30


def evaluation_rows(subject: str, *, seed: int) -> Iterator[Row]:
    """Evaluation against episodes played by hand, one environment at a time; and what a trained policy is shown.

    Args:
        subject: What the rows are about.
        seed: Of all random numbers.
    """
    for actions in ("discrete", "box"):
        for mode in ("same_step", "next_step", "disabled"):
            about = f"{subject}, {actions}, {mode}"
            config = walk_config(seed=seed, env_kwargs={"actions": actions, "mode": mode}, learning_rate=0.1)
            with in_float64(), closing(Trainer(config)) as trainer:
                trainer.update()
                run = TrainedRun(
                    config=config, policy=trainer.policy, normalize_observation=trainer.collector.normalize_observation
                )
                for greedy in (True, False):
                    evaluated = play_episodes(run, EPISODES, greedy=greedy, seed=seed + 1, max_steps=MOST_STEPS)
                    by_hand = _played_by_hand(trainer, run, seed + 1, greedy=greedy)
                    check = f"evaluation against by hand: {'greedy' if greedy else 'sampled'}"
                    error = float(np.abs(evaluated - by_hand).max())
                    note = f"{EPISODES} episodes"
                    yield Row(about, check, error, limit=LIMIT, unit="absolute", note=note)
                yield _seen_row(about, trainer, run)


def _played_by_hand(trainer: Trainer, run: TrainedRun, seed: int, *, greedy: bool) -> NDArray[np.float64]:
    """Returns of episodes that are played one at a time, with the reference's network."""
    envs, _ = scalar_envs(replace(run.config, num_envs=EPISODES))
    generator, twin, normalizer = Generator().manual_seed(seed), twin_of(trainer), run.normalize_observation
    noise = [torch.as_tensor(trainer.policy.noise(1, EPISODES, generator))[0].numpy() for _ in range(MOST_STEPS)]
    returns = []
    for i, env in enumerate(envs):
        seen, total, space = env.reset(seed=seed + i)[0], 0.0, env.action_space
        for drawn in noise:
            if normalizer is not None:
                deviation = np.sqrt(normalizer.moments.variance + 1e-8)
                seen = np.clip((seen - normalizer.moments.mean) / deviation, -10, 10)
            z, _ = twin.policy.forward(np.array(seen, np.float64))
            action = np.array(twin.distribution.sample(z, 0 * drawn[i] if greedy else drawn[i]))  # no noise: the mode
            if isinstance(space, spaces.Box):
                action = np.clip(action, space.low, space.high)
            seen, reward, terminated, truncated, _ = env.step(action.astype(space.dtype).reshape(space.shape or ())[()])
            total += float(reward)
            if terminated or truncated:
                break
        returns.append(total)
    return np.array(returns)


def _seen_row(subject: str, trainer: Trainer, run: TrainedRun) -> Row:
    """The same observations, once through `predict` and once in the next rollout."""
    seen: list[Tensor] = []
    handle = run.policy.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone()))
    run.predict(np.array(trainer.collector.stepper.observation, np.float32))
    handle.remove()
    in_training = trainer.collector.collect(trainer.policy, trainer.generator).observation[0]
    error = float((seen[0] - in_training).abs().max())
    check = "evaluation sees what training saw"
    return Row(subject, check, error, limit=0.0, unit="absolute", note=f"{len(in_training)} normalized observations")
