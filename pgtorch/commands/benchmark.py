"""Measure the speed of this project and of its alternatives in one run, with one torch thread.

Times on a shared machine drift: compare the ratios. Stable-Baselines3 is measured if it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
from torch import nn
from torch.distributions import Categorical

from pgtorch.commands.benchmark_processes import ROWS, sharing_rows
from pgtorch.commands.benchmark_suite import NUM_STEPS, suite_rows
from pgtorch.commands.command_line import parse
from pgtorch.config import TrainConfig
from pgtorch.limits import at_least
from pgtorch.record.evaluation import play_episodes
from pgtorch.record.metrics import MetricsWriter
from pgtorch.record.trained_run import TrainedRun
from pgtorch.run import train
from pgtorch.trainer import Trainer

LARGEST = 1_048_576
SOLVED = 475.0  # CartPole-v1: mean return of 100 episodes


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    seeds: Annotated[int, at_least(1)] = 5
    """Seeds of each measurement; medians are shown."""

    largest: Annotated[int, at_least(1)] = LARGEST
    """Most environments of Restaurant-v0 at once."""

    only: tuple[Literal["cartpole", "learned", "lesson", "processes", "restaurant", "suite"], ...] = (
        "cartpole",
        "learned",
        "lesson",
        "restaurant",
    )
    """What to measure: time to solve CartPole-v1; returns after training; an update of the lesson; many restaurants;
    and, only if asked for: processes that share a gradient; a suite of environments with the general settings, which
    takes hours."""

    suite_steps: Annotated[int, at_least(1)] = NUM_STEPS
    """Environment steps of each training in the suite."""

    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Refuse a flag that would be ignored."""
        if self.largest != LARGEST and "restaurant" not in self.only:
            raise ValueError(f"largest needs 'restaurant' in only, got {' '.join(self.only)}")
        if self.suite_steps != NUM_STEPS and "suite" not in self.only:
            raise ValueError(f"suite_steps needs 'suite' in only, got {' '.join(self.only)}")


@dataclass(frozen=True)
class Measurement:
    """One row: a median over seeds, or a note saying why there is none."""

    work: str
    who: str
    median: float | None
    unit: str
    note: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print."""
    flags = parse(Arguments, __doc__, arguments, default=Arguments())
    torch.set_num_threads(1)
    machine = {
        "machine": f"{platform.machine()}, {platform.system()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gymnasium": gym.__version__,
    }
    if not flags.json:
        print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    done = []
    for row in measurements(flags):
        done.append(row)
        if not flags.json:
            median = "not measured" if row.median is None else f"{row.median:,.3g}"
            print(f"{row.work:52}{row.who:26}{median:>12} {row.unit:14}{row.note}".rstrip(), flush=True)
    if flags.json:
        print(json.dumps({**machine, "rows": [vars(row) for row in done]}, indent=1))
    return 0


def measurements(flags: Arguments) -> Iterator[Measurement]:
    """All rows, ours and the rivals'."""
    seeds = range(flags.seeds)
    groups = {"cartpole": cartpole, "learned": learned, "lesson": lesson_update}
    for name, group in groups.items():
        if name in flags.only:
            yield from group(seeds)
    if "restaurant" in flags.only:
        yield from restaurant(seeds, flags.largest)
    if "processes" in flags.only:
        for units, alone, shared in sharing_rows():
            work = f"gradient step, {ROWS} rows, two layers of {units} units"
            yield Measurement(work, "one process", alone, "ms")
            yield Measurement(work, "two that share it", shared, "ms", f"{alone / shared:.2f} times as fast")
    if "suite" in flags.only:
        yield from suite(seeds, flags.suite_steps)


def cartpole(seeds: range) -> Iterator[Measurement]:
    """Seconds and steps until CartPole-v1 is solved, and steps per second, with everything that a run does."""
    runs = [cartpole_ours(seed) for seed in seeds]
    work = "CartPole-v1 until 475 over 100 episodes"
    solved = sum(steps is not None for _, steps, _ in runs)
    seconds = statistics.median(seconds for seconds, _, _ in runs)
    yield Measurement(work, "pgtorch", seconds, "s", f"{solved} of {len(runs)} seeds, steps {[run[1] for run in runs]}")
    yield from _stable_baselines(work, seeds)
    speed = statistics.median(speed for _, _, speed in runs)
    yield Measurement("CartPole-v1, environment steps while training", "pgtorch", speed, "steps/s")


def cartpole_ours(seed: int) -> tuple[float, int | None, float]:
    """Seconds until a fresh evaluation confirms it, steps (None if it was not solved) and steps per second."""
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            "CartPole-v1", seed=seed, target_return=SOLVED, run_dir=Path(folder) / "run", pictures=False
        )
        start = time.perf_counter()
        result = train(config)
        seconds = time.perf_counter() - start
    return seconds, result.num_env_steps if result.reached_target else None, result.num_env_steps / seconds


def _stable_baselines(work: str, seeds: range) -> Iterator[Measurement]:
    """PPO, with the settings that RL Zoo tuned for CartPole-v1, until it is solved."""
    who = "Stable-Baselines3 PPO"
    if importlib.util.find_spec("stable_baselines3") is None:
        yield Measurement(work, who, None, "s", "stable-baselines3 is not installed")
        return
    runs = [cartpole_ppo(seed) for seed in seeds]
    seconds = statistics.median(seconds for seconds, _ in runs)
    yield Measurement(work, who, seconds, "s", f"steps {[steps for _, steps in runs]}")
    speed = statistics.median(steps / seconds for seconds, steps in runs)
    yield Measurement("CartPole-v1, environment steps while training", who, speed, "steps/s")


def cartpole_ppo(seed: int) -> tuple[float, int]:
    """Seconds and steps, at most 200,000."""
    from stable_baselines3 import PPO  # noqa: PLC0415 -- optional
    from stable_baselines3.common.callbacks import BaseCallback  # noqa: PLC0415
    from stable_baselines3.common.env_util import make_vec_env  # noqa: PLC0415

    class Stop(BaseCallback):  # type: ignore[misc,unused-ignore]
        """Ends training when the last 100 episodes are good enough."""

        def _on_step(self) -> bool:
            buffer = self.model.ep_info_buffer
            return not (buffer and len(buffer) == 100 and statistics.mean(e["r"] for e in buffer) >= SOLVED)  # noqa: PLR2004

    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=seed),
        n_steps=32,
        batch_size=256,
        gae_lambda=0.8,
        gamma=0.98,
        n_epochs=20,
        ent_coef=0.0,
        learning_rate=lambda left: left * 1e-3,
        clip_range=lambda left: left * 0.2,
        seed=seed,
        device="cpu",
    )
    start = time.perf_counter()
    model.learn(200_000, callback=Stop())
    return time.perf_counter() - start, model.num_timesteps


def learned(seeds: range) -> Iterator[Measurement]:
    """Mean return of 100 fresh episodes of likeliest actions, after training with the tuned settings."""
    for env_id, zoo in (("CartPole-v1", 500.0), ("Acrobot-v1", -83.4), ("Pendulum-v1", -163.0)):
        means = [learned_return(env_id, seed) for seed in seeds]
        config = TrainConfig(env_id)
        work = f"{env_id} after {config.num_updates * config.num_envs * config.num_steps:,} steps, greedy"
        yield Measurement(
            work, "pgtorch", statistics.median(means), "mean return", f"seeds {[round(m, 1) for m in means]}"
        )
        yield Measurement(work, "Stable-Baselines3 A2C", zoo, "mean return", "as RL Zoo reports it, not measured here")


def learned_return(env_id: str, seed: int) -> float:
    """Mean return of a policy that was trained with the tuned settings."""
    trainer = Trainer(TrainConfig(env_id, seed=seed))
    with closing(trainer):
        for _ in range(trainer.config.num_updates):
            trainer.update()
    normalize = trainer.collector.normalize_observation
    run = TrainedRun(config=trainer.config, policy=trainer.policy, normalize_observation=normalize)
    first = 1000 * (seed + 1)  # the environments use the seeds after it, so no two seeds play the same episodes
    return float(play_episodes(run, 100, greedy=True, seed=first).mean())


def suite(seeds: range, num_steps: int) -> Iterator[Measurement]:
    """Returns on environments that nobody tuned for, and the time to train, beside Stable-Baselines3's defaults."""
    for env_id, who, results in suite_rows(seeds, num_steps):
        work = f"{env_id} after {num_steps:,} steps"
        if not results:
            yield Measurement(work, who, None, "mean return", "its environment cannot be used here")
            continue
        for kind in ("greedy", "sampled"):
            returns = [getattr(result, kind) for result in results]
            shown = f"seeds {[round(mean, 2) for mean in returns]}"
            yield Measurement(f"{work}, {kind}", who, statistics.median(returns), "mean return", shown)
        yield Measurement(f"{work}, training", who, statistics.median(result.seconds for result in results), "s")


def lesson_update(seeds: range) -> Iterator[Measurement]:
    """One update of the lesson, with every check and tag, beside a loop that writes the same tags by hand."""
    for who, measure in (("pgtorch", lesson_ours), ("hand-written loop", lesson_by_hand)):
        microseconds = statistics.median(measure(seed) for seed in seeds) * 1e6
        yield Measurement("one update of the lesson, all logging on", who, microseconds, "microseconds")


def lesson_ours(seed: int) -> float:
    """Seconds per update, with the gradient check and both logs on."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, writer = Trainer(TrainConfig(seed=seed)), MetricsWriter(Path(folder))

        def update() -> None:
            writer.write(trainer.num_updates + 1, trainer.num_env_steps + 1, trainer.update())

        with writer:
            return _time(update, 2000, writer.flush)


def lesson_by_hand(seed: int) -> float:
    """Seconds per update, in a loop of gym.make, Categorical, torch.optim.SGD and SummaryWriter; 10 tags, no check."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 -- only here

    torch.manual_seed(seed)
    env = gym.make("Restaurant-v0")
    env.reset(seed=seed)
    bias = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([bias], lr=1.0)
    with tempfile.TemporaryDirectory() as folder:
        writer, steps = SummaryWriter(folder), iter(range(10**9))

        def update() -> None:
            step = next(steps)
            observation, _ = env.reset()
            logit = 20 * torch.as_tensor(observation)[0] + bias
            distribution = Categorical(logits=torch.stack([torch.zeros(()), logit]))
            action = distribution.sample()
            _, reward, *_ = env.step(action.item())
            loss = -distribution.log_prob(action) * float(reward)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tags = {f"policy/p_norm/hunger_{h}": torch.sigmoid(20 * h + bias.detach()).item() for h in (0.0, 0.5, 1.0)}
            tags |= {"policy/bias": bias.item(), "policy/entropy": distribution.entropy().item()}
            tags |= {"gradient/autograd": bias.grad.item(), "gradient/norm": bias.grad.norm().item()}  # type: ignore[union-attr]
            tags |= {"rollout/episode_return": float(reward), "rollout/episode_length": 1.0}
            tags |= {"loss/policy_gradient": loss.item()}
            for tag, value in tags.items():
                writer.add_scalar(tag, value, step)

        seconds = _time(update, 2000, writer.flush)
        writer.close()
    return seconds


def restaurant(seeds: range, largest: int) -> Iterator[Measurement]:
    """Samples per second and memory, from 1 environment to the largest number."""
    rivals = {"pgtorch": restaurant_ours, "bare torch, no environment": restaurant_bare}
    count = 1
    while count <= largest:
        work = f"Restaurant-v0, {count:,} environments"
        for who, measure in rivals.items():
            yield Measurement(work, who, statistics.median(measure(seed, count) for seed in seeds), "samples/s")
        if count >= 2**16:
            for who, measure in rivals.items():
                yield Measurement(
                    work, who, peak_memory(measure, count) / count, "bytes/sample", "peak above a run of 16"
                )
        count *= 16


def peak_memory(measure: Callable[[int, int], float], num_envs: int) -> float:
    """Bytes by which a separate process grows from a run of 16 environments to one of many."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        small, large = (pool.apply(_memory_after, (measure, count)) for count in (16, num_envs))
    return large - small


def _memory_after(measure: Callable[[int, int], float], num_envs: int) -> float:
    torch.set_num_threads(1)
    measure(0, num_envs)
    status = Path("/proc/self/status").read_text()  # getrusage gives the parent's if that is higher
    return 1024.0 * int(status.partition("VmHWM:")[2].split()[0])


def restaurant_ours(seed: int, num_envs: int) -> float:
    """Samples per second through environment, loss, backward, gradient check and step."""
    trainer = Trainer(TrainConfig(seed=seed, num_envs=num_envs, learning_rate=0.1))
    return num_envs / _time(trainer.update, _repetitions(num_envs))


def restaurant_bare(seed: int, num_envs: int) -> float:
    """The same arithmetic in bare tensors: draws, rewards, loss, backward, step; no environment, check or metric."""
    torch.manual_seed(seed)
    bias = torch.zeros((), requires_grad=True)
    chance = torch.tensor([0.15, 0.80])

    def update() -> None:
        hunger = torch.rand(num_envs)
        logit = 20 * hunger + bias
        action = torch.rand(num_envs) < torch.sigmoid(logit.detach())
        large = torch.rand(num_envs) < chance[action.long()]
        reward = torch.where(large == (hunger > 0.5), 1.0, -1.0)  # noqa: PLR2004
        log_prob = -nn.functional.binary_cross_entropy_with_logits(logit, action.float(), reduction="none")
        (-(log_prob * reward).mean()).backward()
        with torch.no_grad():
            bias.sub_(0.1 * bias.grad)  # type: ignore[operator]
            bias.grad = None

    return num_envs / _time(update, _repetitions(num_envs))


def _repetitions(num_envs: int) -> int:
    return max(3, min(1000, 2_000_000 // num_envs))


def _time(work: Callable[[], Any], repetitions: int, finish: Callable[[], Any] = bool) -> float:
    """Seconds per call, including `finish` at the end, after a tenth as many warm-up calls."""
    for _ in range(max(1, repetitions // 10)):
        work()
    finish()
    start = time.perf_counter()
    for _ in range(repetitions):
        work()
    finish()
    return (time.perf_counter() - start) / repetitions
