"""Train a policy by policy gradients. Without arguments: the lesson. --resume DIR goes on with a stopped run."""

from __future__ import annotations

import gc
import os
import signal

gc.disable()  # what imports make, stays: looking for garbage among it takes a fifth of the start-up
for early in (signal.SIGINT, signal.SIGTERM):
    signal.signal(early, lambda number, _: os._exit(128 + number))  # nothing to save yet

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from pgtorch.commands.command_line import FAILED, WRONG_INPUT, StopSignals, complain, parse, warn_in_one_line
from tqdm import tqdm

import restaurant_env  # noqa: F401 -- registers Restaurant-v0, so that its plain id works here
from pgtorch import (
    CheckpointError,
    ContractError,
    GradientMismatchError,
    NonFiniteError,
    SetupError,
    TrainConfig,
    TrainResult,
    resume,
    train,
)
from pgtorch.config import LESSON
from pgtorch.record.folder import RUNS

gc.freeze()
gc.enable()

REDRAW_SECONDS = 0.1
SETTLED = 500  # updates from which on the last half is not the way home any more


@dataclass(frozen=True)
class Resume:
    """Flags with --resume: the run has its own settings."""

    resume: Path
    """Folder of the run to go on with."""

    num_updates: int | None = None
    """Where it is to end; none leaves that as it was."""

    target_return: float | None = None
    """Stop when the mean return of the last 100 episodes reaches this; none leaves that as it was."""


def main() -> int:
    """Parse, train, print."""
    stop = StopSignals()
    warn_in_one_line()
    flags = parse_resume() or parse_config()
    try:
        with tqdm(total=total(flags), unit="update", delay=1e-6) as bar:
            progress = Progress(bar)
            if isinstance(flags, Resume):
                result = resume(
                    flags.resume, flags.num_updates, flags.target_return, callback=progress, should_stop=stop
                )
            else:
                result = train(flags, callback=progress, should_stop=stop)
            progress.finish(result.num_updates)
    except SetupError as error:
        return complain(str(error), WRONG_INPUT)
    except (GradientMismatchError, NonFiniteError, CheckpointError, ContractError, OSError) as error:
        return complain("; ".join([str(error), *getattr(error, "__notes__", [])]), FAILED)
    print(summary(result))
    if not progress.started:
        print("nothing was left to do       --num-updates or --target-return goes further")
    stopped = stop() and result.num_updates != bar.total
    if stopped:
        print(f"stopped early                go on with: python scripts/train.py --resume {result.run_dir}")
    return 128 + stop.number if stopped else 0


def parse_resume() -> Resume | None:
    """What was asked with --resume, None where it is not among the flags."""
    asked = any(flag.partition("=")[0] == "--resume" for flag in sys.argv[1:])
    flags = parse(Resume, __doc__) if asked else None
    if flags is not None and flags.num_updates is not None and flags.num_updates < 1:
        sys.exit(complain(f"num_updates must be at least 1, got {flags.num_updates}", WRONG_INPUT))
    return flags


def total(flags: Resume | TrainConfig) -> int | None:
    """How many updates there will be; None where only the run's own files know."""
    if flags.num_updates is not None:
        return flags.num_updates
    try:
        return int(json.loads((flags.resume / "config.json").read_text())["config"]["num_updates"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def parse_config() -> TrainConfig:
    """Flags to settings: those of the environment that is named, and what the other flags say."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--env-id", "--env_id", nargs="?", default=LESSON, const=LESSON)
    chosen = finder.parse_known_args()[0].env_id
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(json_object)
    return parse(TrainConfig, __doc__, registry, default=TrainConfig(chosen))


def json_object(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Tyro's rule for `env_kwargs`: one argument, a JSON object."""
    if info.type != dict[str, Any]:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=read_object,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def read_object(text: list[str]) -> dict[str, Any]:
    """A JSON object, or a ValueError."""
    value = json.loads(text[0])
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {text[0]}")  # noqa: TRY004 -- tyro reports a ValueError
    return value


class Progress:
    """Moves the bar; shows the bias, if there is one, and the mean return since the bar last moved.

    Args:
        bar: The bar to move.
    """

    def __init__(self, bar: tqdm[Any]) -> None:
        self.bar = bar
        self.started = False
        self.drawn = 0.0
        self.returns: list[float] = []

    def __call__(self, update: int, logged: Mapping[str, float]) -> None:
        """Take in one update; redraw at most ten times a second."""
        if not self.started:
            self.started = True
            self.bar.initial = self.bar.n = self.bar.last_print_n = update - 1  # which a resumed run has done
        if "rollout/episode_return" in logged:
            self.returns.append(logged["rollout/episode_return"])
        now = time.monotonic()
        if now - self.drawn < REDRAW_SECONDS and update != self.bar.total:
            return
        self.drawn = now
        shown = {}
        if "policy/bias" in logged:
            shown["bias"] = f"{logged['policy/bias']:.2f}"
        if self.returns:
            shown["mean return"] = f"{sum(self.returns) / len(self.returns):+.2f}"
            self.returns.clear()
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(update - self.bar.n)

    def finish(self, updates: int) -> None:
        """Show the number of updates that it came to."""
        if self.started:
            self.bar.update(updates - self.bar.n)
            self.bar.refresh()


def summary(result: TrainResult) -> str:
    """What a finished run has to say, a line each."""
    figures = result.summary
    lines = []
    if "bias" in figures:
        at_home = result.num_updates >= SETTLED
        hovers = f"hovers around {figures['late_bias']:.1f}, " if at_home else ""
        lines = [
            f"bias                         {figures['bias']:8.3f}",
            f"  mean over the last half    {figures['late_bias']:8.3f}   {hovers}"
            f"standard deviation {figures['late_bias_deviation']:.1f}",
            f"P(Norm | hunger 0.0)         {figures['p_norm_hunger_0']:8.2f}",
            f"P(Norm | hunger 1.0)         {figures['p_norm_hunger_1']:8.2f}",
        ]
    elif "recent_return" in figures:
        lines = [f"mean return                  {figures['recent_return']:8.2f}   last 100 episodes"]
    lines.append(f"environment steps            {result.num_env_steps:8,}   in {result.num_updates:,} updates")
    if "largest_gradient_difference" in figures:
        difference = figures["largest_gradient_difference"]
        lines.append(f"largest gradient difference  {difference:8.2g}   autograd against the chain rule by hand")
    shown = result.run_dir.parent if result.run_dir.parent == RUNS else result.run_dir
    lines.append(f"run folder                   {result.run_dir}")
    lines.append(f"see it                       tensorboard --logdir {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # at once: while Python shuts down, signals would find no handler any more
