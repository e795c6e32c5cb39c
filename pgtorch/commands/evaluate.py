"""Play fresh episodes with a run's policy, once with drawn actions and once with the likeliest ones."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch

from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, parse, printable
from pgtorch.limits import at_least
from pgtorch.record.checkpoint import CheckpointError, checkpoints
from pgtorch.record.evaluation import MOST_EPISODES, evaluate, watch
from pgtorch.record.trained_run import TrainedRun, load_run
from pgtorch.record.trust import UntrustedModuleError


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    run_dir: Path
    """Folder of a run."""

    episodes: Annotated[int, at_least(1, MOST_EPISODES)] = 100
    """Fresh episodes to play each way."""

    max_steps: Annotated[int, at_least(1)] = 10_000
    """Steps after which an episode is cut off: not every environment has a time limit."""

    seed: Annotated[int, at_least(0, 2**63 - 1)] = 1_000_000
    """Seed of environments and draws; not the training seed."""

    json: bool = False
    """Print JSON instead of a table."""

    video: bool = False
    """Also write a video of the likeliest actions to the run's folder; needs the video extra."""

    render: Literal["none", "human"] = "none"
    """human: also show the likeliest actions in a window; needs the human extra."""

    allow_import: tuple[str, ...] = ()
    """Modules to import if the run names them, even if they are not installed. Their code is executed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, play, print."""
    flags = parse(Arguments, __doc__, arguments)
    torch.set_num_threads(1)
    try:
        run = load_run(flags.run_dir, allow_import=flags.allow_import)
        found = evaluate(run, flags.episodes, seed=flags.seed, max_steps=flags.max_steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium warns that the folder exists and that a wrapper opens a window
            if flags.video:
                found["video"] = str(record(run, flags))
            if flags.render == "human":
                watch(run, make_env(run, "human"), seed=flags.seed)
    except gym.error.DependencyNotInstalled:
        extra = "video" if flags.video else "human"
        return complain(f"--{'video' if flags.video else 'render'} needs: pip install -e '.[{extra}]'", WRONG_INPUT)
    except UntrustedModuleError as error:
        return complain(str(error), WRONG_INPUT)
    except CheckpointError as error:
        return complain(str(error), FAILED if checkpoints(flags.run_dir) else WRONG_INPUT)
    print(json.dumps(found, indent=1) if flags.json else table(found))
    return 0


def make_env(run: TrainedRun, render_mode: str) -> gym.Env[Any, Any]:
    """One environment of the run that can be rendered."""
    settings = {name: value for name, value in run.config.env_kwargs.items() if name != "autoreset_mode"}
    return gym.make(run.config.env_id, render_mode=render_mode, **settings)


def record(run: TrainedRun, flags: Arguments) -> Path:
    """Write `policy.mp4` to the run's folder; return its path."""
    env = gym.wrappers.RecordVideo(
        make_env(run, "rgb_array"),
        str(flags.run_dir),
        step_trigger=lambda step: step == 0,
        video_length=10**9,  # one video of all episodes, until it is closed
        name_prefix="policy",
        disable_logger=True,
    )
    watch(run, env, seed=flags.seed)
    return (flags.run_dir / "policy-step-0.mp4").replace(flags.run_dir / "policy.mp4")


def table(found: dict[str, Any]) -> str:
    """The result as text."""
    lines = [f"{printable(found['env_id'])}, {found['episodes']} fresh episodes each way"]
    for name in ("sampled", "greedy"):
        low, high = found[name]["interval"]
        lines.append(f"{name:8} mean return {found[name]['mean_return']:9.2f}   95 % interval {low:.2f} to {high:.2f}")
    lines += [f"{tag:26} {value:9.3f}" for tag, value in found["figures"].items()]
    if "video" in found:
        lines.append(f"video    {printable(found['video'])}")
    return "\n".join(lines)
