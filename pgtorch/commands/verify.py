"""Verify gradients: autograd against the chain rule by hand, finite differences, exact expectations and samples.

Without flags everything that the project ships is verified. The exit status is 1 if a row fails.

With `--loss module:function --advantages module:function` your own loss and advantages are judged instead: whether the
gradient of the expected loss is the policy gradient, by enumeration. The exit status is 1 if it is biased.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, cast

import torch
from torch import Generator

from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, describe, parse, printable
from pgtorch.config import LESSON
from pgtorch.distributions import as_global_stream
from pgtorch.environment.build import import_named, make_vector_env
from pgtorch.limits import at_least
from pgtorch.networks import make_policy, require_fit
from pgtorch.proof.estimators import verify_estimator
from pgtorch.proof.published import page
from pgtorch.proof.suite import rows, shipped_rows
from pgtorch.proof.table import Row


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    policy: str | None = None
    """What to verify: bias, mlp, cnn, or module:Class. None uses bias in Restaurant-v0; elsewhere cnn if the
    observations are images, else mlp."""

    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class in policy module:Class, as JSON."""

    env_id: str | None = None
    """Gymnasium id of the environment to verify it in. None uses Restaurant-v0."""

    json: bool = False
    """Print a JSON list of rows instead of a table."""

    seed: Annotated[int, at_least(0, 2**63 - 1)] = 0
    """Seed of all random numbers."""

    episodes: Annotated[int, at_least(200, 10_000_000)] = 100_000
    """Episodes to sample if the exact gradient is known."""

    loss: str | None = None
    """module:function, called as loss(log_prob, old_log_prob, advantages, batch); see `pgtorch.proof.estimators`."""

    advantages: str | None = None
    """module:function, called as advantages(batch); it goes with --loss."""

    discount: Annotated[float, at_least(0, 1)] = 1.0
    """gamma of the objective that --loss is compared with; 1 is the undiscounted return."""

    estimators: bool = False
    """Print the table of published estimators, docs/estimators.md."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, verify, print."""
    flags = parse(Arguments, __doc__, arguments, default=Arguments())
    torch.set_num_threads(1)
    try:
        if flags.loss or flags.advantages or flags.estimators:
            judged = judge_estimators(flags)
        else:
            judged, wanted = None, wanted_rows(flags)
    except (Exception, SystemExit) as error:  # whatever a module or a constructor raises
        return complain(describe(error), WRONG_INPUT)
    if judged:
        text, status = judged
        print(text)
        return status
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
    """All rows, or those of one policy in one environment, which are created first to check that they fit."""
    if flags.policy is None and flags.env_id is None and not flags.policy_kwargs:
        return shipped_rows(seed=flags.seed, episodes=flags.episodes)
    env_id = flags.env_id or LESSON
    name = flags.policy or ("bias" if env_id.endswith("Restaurant-v0") else "auto")
    if flags.policy_kwargs and ":" not in name:
        raise ValueError(f"--policy-kwargs goes with --policy module:Class, got {name}")
    with closing(make_vector_env(env_id, num_envs=1, env_kwargs={})) as env:
        spaces = env.single_observation_space, env.single_action_space
    with as_global_stream(Generator().manual_seed(flags.seed)):
        policy = make_policy(name, *spaces, kwargs=flags.policy_kwargs)
    require_fit(policy, 1, *spaces)
    return rows(policy, env_id, seed=flags.seed, episodes=flags.episodes)


def judge_estimators(flags: Arguments) -> tuple[str, int]:
    """The verdict on the user's own estimator, or the table of published ones, and the exit status.

    Raises:
        ValueError: If flags do not go together, or a name is not module:function.
        TypeError: If what is named is not callable.
        Exception: Whatever the module or a function raises.
    """
    if flags.policy or flags.env_id:
        raise ValueError("--loss, --advantages and --estimators do not go with --policy and --env-id")
    if flags.estimators:
        if flags.loss or flags.advantages:
            raise ValueError("--estimators does not go with --loss and --advantages")
        return page().rstrip(), 0
    if not (flags.loss and flags.advantages):
        raise ValueError("--loss and --advantages go together, got only one of them")
    functions = load_function("loss", flags.loss), load_function("advantages", flags.advantages)
    report = verify_estimator(*functions, discount=flags.discount)
    text = json.dumps(report.as_dict(), indent=1) if flags.json else str(report)
    return text, FAILED if report.kind == "biased" else 0


def load_function(flag: str, name: str) -> Callable[..., Any]:
    """The function that module:function names."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{flag} must be module:function, got {name!r}")
    function = getattr(import_named(module), attribute)
    if not callable(function):
        raise TypeError(f"{flag} must be a function, got {name}, which is {type(function).__name__}")
    return cast(Callable[..., Any], function)


def line(row: Row) -> str:
    """A row of the table."""
    value = "" if row.value is None else f"{row.value:.3g}"
    limit = "" if row.value is None or row.known_bias else f"<= {row.limit:g}"
    text = f"{row.status}  {row.subject:33}{row.check:48}{value:>9} {limit:9} {row.unit:16}{row.note}"
    return printable(text.rstrip())
