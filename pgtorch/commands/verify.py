"""Verify gradients: autograd against the chain rule by hand, finite differences, exact expectations and samples.

Without flags everything that the project ships is verified. The exit status is 1 if a row fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Annotated

import torch
from torch import Generator

from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, describe, parse, printable
from pgtorch.config import LESSON
from pgtorch.distributions import as_global_stream
from pgtorch.environment.build import make_vector_env
from pgtorch.limits import at_least
from pgtorch.networks import make_policy, require_fit
from pgtorch.proof.suite import rows, shipped_rows
from pgtorch.proof.table import Row


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    policy: str | None = None
    """What to verify: bias, mlp, or module:Class. None takes bias in Restaurant-v0, mlp elsewhere."""

    env_id: str | None = None
    """Gymnasium id of the environment to verify it in. None takes Restaurant-v0."""

    json: bool = False
    """Print a JSON list of rows instead of a table."""

    seed: Annotated[int, at_least(0, 2**63 - 1)] = 0
    """Seed of everything that is drawn."""

    episodes: Annotated[int, at_least(200, 10_000_000)] = 100_000
    """Episodes to sample if the exact gradient is known."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, verify, print."""
    flags = parse(Arguments, __doc__, arguments, default=Arguments())
    torch.set_num_threads(1)
    try:
        wanted = wanted_rows(flags)
    except (Exception, SystemExit) as error:  # whatever a module or a constructor raises
        return complain(describe(error), WRONG_INPUT)
    done = []
    for row in wanted:
        done.append(row)
        if not flags.json:
            print(line(row), flush=True)
    failed = sum(row.status == "FAIL" for row in done)
    if flags.json:
        print(json.dumps([asdict(row) | {"status": row.status} for row in done], indent=1))
    else:
        print(f"{len(done)} rows, {failed} failed")
    return FAILED if failed else 0


def wanted_rows(flags: Arguments) -> Iterator[Row]:
    """All rows, or those of one policy in one environment, which are made at once to see whether they fit."""
    if flags.policy is None and flags.env_id is None:
        return shipped_rows(seed=flags.seed, episodes=flags.episodes)
    env_id = flags.env_id or LESSON
    name = flags.policy or ("bias" if env_id.endswith("Restaurant-v0") else "mlp")
    with closing(make_vector_env(env_id, num_envs=1, env_kwargs={})) as env:
        spaces = env.single_observation_space, env.single_action_space
    with as_global_stream(Generator().manual_seed(flags.seed)):
        policy = make_policy(name, *spaces)
    require_fit(policy, 1, *spaces)
    return rows(policy, env_id, seed=flags.seed, episodes=flags.episodes)


def line(row: Row) -> str:
    """A row of the table."""
    value = "" if row.value is None else f"{row.value:.3g}"
    limit = "" if row.value is None or row.known_bias else f"<= {row.limit:g}"
    text = f"{row.status}  {row.subject:33}{row.check:48}{value:>9} {limit:9} {row.unit:16}{row.note}"
    return printable(text.rstrip())
