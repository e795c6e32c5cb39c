"""Train a policy by policy gradients. Without flags: the lesson. --resume DIR continues a stopped run."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tqdm import tqdm

from pgtorch.commands.command_line import WRONG_INPUT, complain, parse, printable
from pgtorch.config import LESSON, TrainConfig
from pgtorch.limits import at_least
from pgtorch.manual_gradient import has_derivation
from pgtorch.record.folder import RUNS
from pgtorch.run import SetupError, TrainResult, resume, train
from pgtorch.scale.peers import rank

REDRAW_SECONDS = 0.1
SETUP_SECONDS = 3.0  # an environment may hang while it is made
SETTLED = 500  # updates before which nothing is said about how the bias moves
HOVERS = 1.0  # largest `Curve.drift` of what hovers; of a straight line it is 1.7


@dataclass(frozen=True)
class Resume:
    """Flags allowed with --resume: the run has its own settings."""

    resume: Path = Path()
    """Folder of the run to continue."""

    num_updates: Annotated[int, at_least(1)] | None = None
    """New number of updates. A run that has reached its target continues without one, unless --target-return gives
    another. None keeps the run's own."""

    target_return: float | None = None
    """New target return. None keeps the run's own."""

    device: Literal["cpu", "cuda", "mps", "auto"] | None = None
    """New device. None keeps the run's own."""

    allow_import: tuple[str, ...] = ()
    """Modules to import first, even if they are not installed: one may register the environment. Their code is
    executed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, print."""
    stop = StopSignals()
    flags = read_flags(sys.argv[1:] if arguments is None else arguments)
    if isinstance(flags, TrainConfig) and rank() == 0 and (divided := division(flags)):
        print(f"processes                    {divided}", flush=True)
    try:
        with tqdm(total=total(flags), unit="update", delay=1e-6, disable=rank() > 0) as bar:
            progress = Progress(bar)
            if isinstance(flags, Resume):
                result = resume(
                    flags.resume,
                    flags.num_updates,
                    flags.target_return,
                    callback=progress,
                    should_stop=stop,
                    allow_import=flags.allow_import,
                    device=flags.device,
                )
            else:
                result = train(flags, callback=progress, should_stop=stop)
            progress.finish(result.num_updates)
    except SetupError as error:
        return complain(str(error), WRONG_INPUT)
    done, config = result.num_updates, result.config
    stopped = done != config.num_updates and not result.reached_target  # by a signal, here or in another process
    if rank() == 0:
        print(summary(result))
        if not progress.started and not stopped:
            print("nothing left to do           raise --num-updates or --target-return to continue")
        if stopped:
            print(f"stopped early                continue with: pgtorch train --resume {printable(result.run_dir)}")
    return 128 + (stop.number or signal.SIGTERM) if stopped else 0


def read_flags(words: Sequence[str]) -> TrainConfig | Resume:
    """Settings from flags; a new run has the defaults of its environment."""
    flags = [word.partition("=")[0] for word in words]
    if "--resume" in flags:
        hint = " with --resume, which allows only --num-updates, --target-return, --device and --allow-import"
        return parse(Resume, __doc__, words, hint=hint)
    return read_settings(words, __doc__, "train")


def read_settings(words: Sequence[str], description: str | None, command: str) -> TrainConfig:
    """Settings from flags, with the defaults of their environment; description and command are for --help."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--env-id", "--env_id", nargs="?", default=LESSON, const=LESSON)
    chosen = finder.parse_known_args(words)[0].env_id
    return parse(TrainConfig, description, words, command=command, default=TrainConfig(chosen))


def total(flags: Resume | TrainConfig) -> int | None:
    """The total number of updates; None if the run's config.json does not say."""
    if flags.num_updates is not None:
        return flags.num_updates
    path = flags.resume / "config.json"
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return int(json.loads(path.read_text())["config"]["num_updates"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def division(config: TrainConfig) -> str:
    """How the environments are divided among the processes of torchrun; empty if they are not."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    shards = config.num_shards or processes
    if shards == 1 or config.num_envs % shards or shards % processes:
        return ""
    each = f"{config.num_envs // processes} environments each, in shards of {config.num_envs // shards}"
    return f"{processes:8}   {each}; rank 0 learns and writes"


class StopSignals:
    """Catches Ctrl-C and SIGTERM: after the first, calling this returns True; a second ends the process.

    If nobody has called yet, the run is being set up and has nothing to save: it has `SETUP_SECONDS` to get that far.

    Attributes:
        number: Of the signal received; 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self._owner = os.getpid()
        self._has_begun = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        """Whether to stop."""
        self._has_begun = True
        return self.number != 0

    def _receive(self, number: int, _frame: object) -> None:
        if os.getpid() != self._owner:  # a worker, which inherits this and ends with its parent
            return
        if self.number:
            os._exit(128 + number)
        self.number = number
        if not self._has_begun:
            by_force = threading.Timer(SETUP_SECONDS, self._give_up)
            by_force.daemon = True
            by_force.start()

    def _give_up(self) -> None:
        if not self._has_begun:
            os._exit(128 + self.number)


class Progress:
    """Moves the bar; shows the bias, if there is one, and the mean return since the bar was last drawn.

    Args:
        bar: The bar to move.
    """

    def __init__(self, bar: tqdm[Any]) -> None:
        self.bar = bar
        self.started = False
        self.drawn = 0.0
        self.returns: list[float] = []

    def __call__(self, update: int, logged: Mapping[str, float]) -> None:
        """Count one update; redraw at most ten times a second."""
        if not self.started:
            self.started = True
            self.bar.initial = self.bar.n = self.bar.last_print_n = update - 1  # done before, in a resumed run
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
        """Show the final number of updates."""
        if self.started:
            self.bar.update(updates - self.bar.n)
            self.bar.refresh()


def summary(result: TrainResult) -> str:
    """The result of a run, one figure per line."""
    figures = result.summary
    lines = []
    if "bias" in figures:
        lines = [
            f"bias                         {figures['bias']:8.3f}",
            f"  mean over the last half    {figures['late_bias']:8.3f}   {_movement(result)}"
            f"standard deviation {figures['late_bias_deviation']:.1f}",
            f"P(Norm | hunger 0.0)         {figures['p_norm_hunger_0']:8.2f}",
            f"P(Norm | hunger 1.0)         {figures['p_norm_hunger_1']:8.2f}",
        ]
    elif "recent_return" in figures:
        count = int(figures["recent_episodes"])
        episodes = "the only training episode" if count == 1 else f"last {count} training episodes"
        lines = [f"mean return                  {figures['recent_return']:8.2f}   {episodes}"]
    lines += _evaluation(result)
    lines.append(f"environment steps            {result.num_env_steps:8,}   in {result.num_updates:,} updates")
    if "largest_gradient_difference" in figures:
        difference = figures["largest_gradient_difference"]
        lines.append(f"largest gradient difference  {difference:8.2g}   autograd against the chain rule by hand")
    elif result.config.check_gradient is None and not has_derivation(result.policy):
        lines.append(
            f"gradient check                    off   no derivation by hand for {type(result.policy).__name__}"
        )
    shown = result.run_dir.parent if result.run_dir.parent == RUNS else result.run_dir
    lines.append(f"run folder                   {printable(result.run_dir)}")
    lines.append(f"hash                         {result.hash[:16]}   of metrics and parameters")
    lines.append(f"see it                       tensorboard --logdir {printable(shown)}")
    return "\n".join(lines)


def _movement(result: TrainResult) -> str:
    """Whether the bias hovers: whether the two halves of the last half agree within its deviation."""
    if result.num_updates < SETTLED:
        return ""
    hovers = result.summary["late_bias_drift"] < HOVERS
    return f"hovers around {result.summary['late_bias']:.1f}, " if hovers else "still moves, "


def _evaluation(result: TrainResult) -> list[str]:
    """The last evaluation, whether it confirms the target, and the best one."""
    figures, target, lines = result.summary, result.config.target_return, []
    if "evaluation_update" in figures:
        count = result.config.evaluation_episodes
        lines = [
            f"evaluation, greedy           {figures['evaluation_return_greedy']:8.2f}   "
            f"{count:,} fresh episodes each way, after update {figures['evaluation_update']:,}",
            f"evaluation, sampled          {figures['evaluation_return_sampled']:8.2f}",
        ]
        if figures["best_update"] != figures["evaluation_update"]:
            lines.append(
                f"best evaluation              {figures['best_return_greedy']:8.2f}   "
                f"greedy, {figures['best_return_sampled']:.2f} sampled, after update {figures['best_update']:,}"
            )
    if target is not None:
        reached = "reached, in training and in the evaluation" if result.reached_target else "not reached"
        lines.append(f"target return                {target:8.2f}   {reached}")
    return lines
