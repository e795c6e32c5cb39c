"""Play fresh episodes with a run's policy, once with drawn actions and once with the likeliest ones."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import torch

from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, describe, parse, printable
from pgtorch.limits import at_least
from pgtorch.record.checkpoint import CheckpointError, checkpoints
from pgtorch.record.evaluation import MOST_EPISODES, evaluate, watch
from pgtorch.record.trained_run import NoBestError, TrainedRun, load_run


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

    which: Literal["both", "last", "best"] = "both"
    """The run's last policy, the best one by its evaluations while training, or both if there is a best one."""

    json: bool = False
    """Print JSON instead of a table."""

    video: bool = False
    """Also write a video of the likeliest actions to the run's folder; needs the video extra. It shows the last policy,
    unless --which is best."""

    render: Literal["none", "human"] = "none"
    """human: also show the likeliest actions in a window; needs the human extra."""

    video_episodes: Annotated[int, at_least(1, MOST_EPISODES)] | None = None
    """Episodes to show in the video or the window. None: at most 10, and at most 500 steps in all."""

    allow_import: tuple[str, ...] = ()
    """Modules to import first, even if they are not installed: one may register the environment. Their code is
    executed."""

    def __post_init__(self) -> None:
        """Refuse a flag that would be ignored."""
        if self.video_episodes is not None and not self.video and self.render == "none":
            raise ValueError("video_episodes needs --video or --render human")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, play, print."""
    flags = parse(Arguments, __doc__, arguments)
    torch.set_num_threads(1)
    try:
        run = load_run(
            flags.run_dir, which="best" if flags.which == "best" else "last", allow_import=flags.allow_import
        )
        found = {"which": "best" if flags.which == "best" else "last", **play(run, flags)}
        best = load_best(flags) if flags.which == "both" else None
        if best is not None:
            same = best.num_updates == run.num_updates
            found["best"] = {"num_updates": best.num_updates} if same else play(best, flags)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gymnasium warns that the folder exists and that a wrapper opens a window
            if flags.video:
                with needing("video"):
                    found["video"] = str(record(run, flags))
            if flags.render == "human":
                with needing("human"):
                    show(run, make_env(run, "human"), flags)
    except MissingExtraError as error:
        return complain(str(error), WRONG_INPUT)
    except ImportError as error:  # of a module that is not trusted, or does not exist
        return complain(describe(error), WRONG_INPUT)
    except NoBestError as error:
        return complain(str(error), WRONG_INPUT)
    except CheckpointError as error:
        return complain(str(error), FAILED if checkpoints(flags.run_dir) else WRONG_INPUT)
    print(json.dumps(found, indent=1) if flags.json else table(found))
    return 0


def play(run: TrainedRun, flags: Arguments) -> dict[str, Any]:
    """Fresh episodes with one policy."""
    return evaluate(run, flags.episodes, seed=flags.seed, max_steps=flags.max_steps)


def load_best(flags: Arguments) -> TrainedRun | None:
    """The best policy of the run; None if none was evaluated."""
    try:
        return load_run(flags.run_dir, which="best", allow_import=flags.allow_import)
    except NoBestError:
        return None


class MissingExtraError(Exception):
    """A flag needs a package that is not installed."""


@contextmanager
def needing(extra: Literal["video", "human"]) -> Iterator[None]:
    """Name the extra that brings a missing package, and what Gymnasium says is missing."""
    try:
        yield
    except gym.error.DependencyNotInstalled as error:
        flag = {"video": "--video", "human": "--render human"}[extra]
        missing = str(error).partition(",")[0]
        raise MissingExtraError(f"{flag} needs: pip install -e '.[{extra}]' ({missing})") from error


def make_env(run: TrainedRun, render_mode: str) -> gym.Env[Any, Any]:
    """One environment of the run that can be rendered."""
    settings = {name: value for name, value in run.config.env_kwargs.items() if name != "autoreset_mode"}
    return gym.make(run.config.env_id, render_mode=render_mode, **settings)


def show(run: TrainedRun, env: gym.Env[Any, Any], flags: Arguments) -> None:
    """Play the episodes that are to be seen."""
    if flags.video_episodes is None:
        watch(run, env, seed=flags.seed)
    else:
        most = flags.video_episodes * flags.max_steps
        watch(run, env, seed=flags.seed, episodes=flags.video_episodes, steps=most)


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
    show(run, env, flags)
    return (flags.run_dir / "policy-step-0.mp4").replace(flags.run_dir / "policy.mp4")


def table(found: dict[str, Any]) -> str:
    """The result as text."""
    about = f"{printable(found['env_id'])}, {found['episodes']} fresh episodes each way"
    lines = [about, f"{found['which']} policy, after update {found['num_updates']:,}", *_rows(found)]
    if "best" in found:
        lines.append(f"best policy, after update {found['best']['num_updates']:,}")
        lines += _rows(found["best"]) if "greedy" in found["best"] else ["the same as the last"]
    if "video" in found:
        lines.append(f"video    {printable(found['video'])}")
    return "\n".join(lines)


def _rows(found: dict[str, Any]) -> list[str]:
    """What one policy plays."""
    lines = []
    for name in ("sampled", "greedy"):
        low, high = found[name]["interval"]
        lines.append(f"{name:8} mean return {found[name]['mean_return']:9.2f}   95 % interval {low:.2f} to {high:.2f}")
    return lines + [f"{tag:26} {value:9.3f}" for tag, value in found["figures"].items()]
