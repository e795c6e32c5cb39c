"""Train a policy by policy gradients. Without arguments: the lesson."""

from __future__ import annotations

import gc

gc.disable()  # what imports make, stays: looking for garbage among it takes a fifth of the start-up

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import tyro
from command_line import FAILED, WRONG_INPUT, complain, parse
from tqdm import tqdm

import restaurant_env  # noqa: F401 -- registers Restaurant-v0, so that its plain id works here
from pgtorch import GradientMismatchError, SetupError, TrainConfig, TrainResult, train
from pgtorch.config import LESSON
from pgtorch.run_folder import RUNS

gc.freeze()
gc.enable()

REDRAW_SECONDS = 0.1


def main() -> int:
    """Parse, train, print."""
    config = parse_config()
    try:
        with tqdm(total=config.num_updates, unit="update", delay=1e-6) as bar:
            result = train(config, callback=Progress(bar, config.num_updates))
    except SetupError as error:
        return complain(str(error), WRONG_INPUT)
    except GradientMismatchError as error:
        return complain(str(error), FAILED)
    print(summary(result))
    return 0


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
        num_updates: Where it ends.
    """

    def __init__(self, bar: tqdm[Any], num_updates: int) -> None:
        self.bar = bar
        self.num_updates = num_updates
        self.drawn = 0.0
        self.returns: list[float] = []

    def __call__(self, update: int, logged: Mapping[str, float]) -> None:
        """Take in one update; redraw at most ten times a second."""
        if "rollout/episode_return" in logged:
            self.returns.append(logged["rollout/episode_return"])
        now = time.monotonic()
        if now - self.drawn < REDRAW_SECONDS and update < self.num_updates:
            return
        self.drawn = now
        shown = {}
        if "policy/bias" in logged:
            shown["bias"] = f"{logged['policy/bias']:.2f}"
        if self.returns:
            shown["mean reward"] = f"{sum(self.returns) / len(self.returns):+.2f}"
            self.returns.clear()
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(update - self.bar.n)


def summary(result: TrainResult) -> str:
    """What a finished run has to say, a line each."""
    figures = result.summary
    lines = []
    if "bias" in figures:
        lines = [
            f"bias                         {figures['bias']:8.3f}",
            f"  mean over the last half    {figures['late_bias']:8.3f}   hovers around {figures['late_bias']:.1f}, "
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
    sys.exit(main())
