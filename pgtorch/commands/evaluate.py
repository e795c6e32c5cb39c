"""Play fresh episodes with the policy of a run, drawing its actions and taking the likeliest ones."""

from __future__ import annotations

import gc

gc.disable()  # what imports make, stays: looking for garbage among it takes a fifth of the start-up

import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch
import tyro
from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, leave_on_interrupt, parse, warn_in_one_line

import restaurant_env  # noqa: F401 -- registers Restaurant-v0, so that its plain id works here
from pgtorch import BiasPolicy
from pgtorch.record.checkpoint import CheckpointError, SavedRun, checkpoints, load_run
from pgtorch.record.evaluation import bootstrap_interval, play_episodes, watch

gc.freeze()
gc.enable()


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run."""

    episodes: int = 100
    """Fresh episodes to play each way, at least 1."""

    max_steps: int = 10_000
    """Longest that an episode is followed, at least 1: not every environment has a time limit."""

    seed: int = 1_000_000
    """Seed of environments and draws; other than the training's."""

    json: bool = False
    """Print JSON instead of a table."""

    video: bool = False
    """Write a video of the likeliest actions to the run's folder as well; needs the video extra."""

    render: Literal["none", "human"] = "none"
    """human: show the likeliest actions in a window as well; needs the human extra."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be at least 0 and below 2^63, got {self.seed}")


def main() -> int:
    """Parse, play, print."""
    arguments = parse(Arguments, __doc__)
    torch.set_num_threads(1)
    leave_on_interrupt()
    warn_in_one_line()
    try:
        run = load_run(arguments.run_dir)
        found = evaluate(run, arguments.episodes, arguments.seed, arguments.max_steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the folder exists, that a wrapper opens the window, and so on
            if arguments.video:
                found["video"] = str(record(run, arguments))
            if arguments.render == "human":
                show(run, make_env(run, "human"), arguments.seed)
    except gym.error.DependencyNotInstalled:
        extra = "video" if arguments.video else "human"
        return complain(f"--{'video' if arguments.video else 'render'} needs: pip install -e '.[{extra}]'", WRONG_INPUT)
    except CheckpointError as error:
        return complain(str(error), FAILED if checkpoints(arguments.run_dir) else WRONG_INPUT)
    except gym.error.Error as error:
        return complain(str(error), WRONG_INPUT)
    print(json.dumps(found, indent=1) if arguments.json else table(found))
    return 0


def make_env(run: SavedRun, render_mode: str) -> gym.Env[Any, Any]:
    """One environment of the run, to be looked at."""
    settings = {name: value for name, value in run.config.env_kwargs.items() if name != "autoreset_mode"}
    return gym.make(run.config.env_id, render_mode=render_mode, **settings)


def show(run: SavedRun, env: gym.Env[Any, Any], seed: int) -> None:
    """Play in an environment that shows itself: ten episodes, or 500 steps."""
    watch(run.policy, env, seed=seed, normalize_observation=run.normalize_observation)


def record(run: SavedRun, arguments: Arguments) -> Path:
    """Write `policy.mp4` to the run's folder."""
    env = gym.wrappers.RecordVideo(
        make_env(run, "rgb_array"),
        str(arguments.run_dir),
        step_trigger=lambda step: step == 0,
        video_length=10**9,  # one video over all episodes, until it is closed
        name_prefix="policy",
        disable_logger=True,
    )
    show(run, env, arguments.seed)
    return (arguments.run_dir / "policy-step-0.mp4").replace(arguments.run_dir / "policy.mp4")


def evaluate(run: SavedRun, episodes: int, seed: int, max_steps: int) -> dict[str, Any]:
    """Mean return with its interval, sampled and greedy; for the lesson's policy, P(Norm) by hunger as well."""
    found: dict[str, Any] = {"env_id": run.config.env_id, "episodes": episodes}
    for name, greedy in (("sampled", False), ("greedy", True)):
        returns = play_episodes(
            run.policy,
            run.config.env_id,
            episodes,
            greedy=greedy,
            seed=seed,
            max_steps=max_steps,
            env_kwargs=run.config.env_kwargs,
            normalize_observation=run.normalize_observation,
        )
        found[name] = {"mean_return": float(returns.mean()), "interval": bootstrap_interval(returns)}
    if isinstance(run.policy, BiasPolicy):
        hunger = torch.linspace(0, 1, 11).unsqueeze(-1)
        p_norm = torch.sigmoid(run.policy(hunger)).tolist()
        found["p_norm"] = {f"{h:.1f}": p for h, p in zip(hunger.flatten().tolist(), p_norm, strict=True)}
    return found


def table(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{found['env_id']}, {found['episodes']} fresh episodes each way"]
    for name in ("sampled", "greedy"):
        low, high = found[name]["interval"]
        lines.append(f"{name:8} mean return {found[name]['mean_return']:9.2f}   95 % interval {low:.2f} to {high:.2f}")
    if "video" in found:
        lines.append(f"video    {found['video']}")
    if "p_norm" in found:
        lines.append("hunger   " + "  ".join(f"{hunger:>5}" for hunger in found["p_norm"]))
        lines.append("P(Norm)  " + "  ".join(f"{p:5.3f}" for p in found["p_norm"].values()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
