"""Verify gradients: autograd against the chain rule by hand, finite differences, exact expectations and samples.

Without arguments everything that the project ships is verified. Exit status 1 where a row fails.
"""

from __future__ import annotations

import gc

gc.disable()  # what imports make, stays: looking for garbage among it takes a fifth of the start-up

import importlib
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import torch
from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, leave_on_interrupt, parse

import restaurant_env  # noqa: F401 -- registers Restaurant-v0, so that its plain id works here
from pgtorch import BiasPolicy, MLPPolicy, Policy
from pgtorch.environment.build import require_fit
from pgtorch.proof.policy_rows import Row
from pgtorch.proof.suite import rows, shipped_rows

gc.freeze()
gc.enable()


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    policy: str | None = None
    """What to verify: bias, mlp, or module:Class of your own; the default fits the environment."""

    env_id: str | None = None
    """Gymnasium id of the environment to verify it in; the default is Restaurant-v0."""

    json: bool = False
    """Print a JSON list of rows instead of a table."""

    seed: int = 0
    """Seed of everything that is drawn."""

    episodes: int = 100_000
    """Episodes that are sampled where the exact gradient is known, 200 to 10,000,000."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be at least 0 and below 2^63, got {self.seed}")
        if not 200 <= self.episodes <= 10**7:  # noqa: PLR2004
            raise ValueError(f"episodes must be at least 200 and at most 10000000, got {self.episodes}")


def main() -> int:
    """Parse, verify, print."""
    arguments = parse(Arguments, __doc__)
    torch.set_num_threads(1)
    leave_on_interrupt()
    torch.manual_seed(arguments.seed)
    try:
        done = [show(row, arguments.json) for row in wanted_rows(arguments)]
    except (ValueError, TypeError, ImportError, AttributeError, RuntimeError, SyntaxError, gym.error.Error) as error:
        return complain(str(error), WRONG_INPUT)
    failed = sum(row.status == "FAIL" for row in done)
    if arguments.json:
        print(json.dumps([asdict(row) | {"status": row.status} for row in done], indent=1))
    else:
        print(f"{len(done)} rows, {failed} failed")
    return FAILED if failed else 0


def wanted_rows(arguments: Arguments) -> Iterator[Row]:
    """All rows, or those of one policy in one environment."""
    name, env_id = arguments.policy, arguments.env_id
    if name is None and env_id is None:
        return shipped_rows(arguments.seed, arguments.episodes)
    env_id = env_id or "restaurant_env:Restaurant-v0"
    if name is None:
        name = "bias" if env_id.endswith("Restaurant-v0") else "mlp"
    env = gym.make_vec(env_id, 1)
    policy = make_policy(name, env.single_observation_space, env.single_action_space)
    require_fit(policy, env)
    env.close()
    return rows(policy, env_id, arguments.seed, arguments.episodes)


def make_policy(name: str, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> Policy:
    """bias, mlp, or a class of one's own, which is given both spaces if it takes arguments."""
    if name == "bias":
        return BiasPolicy()
    if name == "mlp":
        return MLPPolicy(observation_space, action_space)
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"policy must be bias, mlp or module:Class, got {name!r}")
    sys.path.insert(0, "")  # a module beside the user, as python -m would find it
    made = getattr(importlib.import_module(module), attribute)
    if not (isinstance(made, type) and issubclass(made, Policy)):
        raise TypeError(f"policy must be a subclass of pgtorch.Policy, got {name}")
    needed = [
        p
        for p in inspect.signature(made).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    takes_spaces = len(needed) > 0
    policy: Policy = made(observation_space, action_space) if takes_spaces else made()
    return policy


def show(row: Row, as_json: bool) -> Row:
    """Print a row of the table, and give it back."""
    if not as_json:
        value = "" if row.value is None else f"{row.value:.3g}"
        limit = "" if row.value is None or row.known_bias else f"<= {row.limit:g}"
        line = f"{row.status}  {row.subject:33}{row.check:48}{value:>9} {limit:9} {row.unit:16}{row.note}"
        print(line.rstrip(), flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
