"""Verify gradients: autograd against the chain rule by hand, finite differences, exact expectations and samples.

Without arguments everything that the project ships is verified. Exit status 1 where a row fails.
"""

from __future__ import annotations

import gc

gc.disable()  # what imports make, stays: looking for garbage among it takes a fifth of the start-up

import importlib
import json as json_module
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import torch
from command_line import FAILED, WRONG_INPUT, complain, parse

import restaurant_env  # noqa: F401 -- registers Restaurant-v0, so that its plain id works here
from pgtorch import BiasPolicy, MLPPolicy, Policy
from pgtorch.verification import Row
from pgtorch.verifier import rows, shipped_rows

gc.freeze()
gc.enable()


def verify(
    policy: str | None = None, env_id: str | None = None, json: bool = False, seed: int = 0, episodes: int = 100_000
) -> int:
    """Verify gradients.

    Args:
        policy: What to verify: bias, mlp, or module:Class of your own; the default fits the environment.
        env_id: Gymnasium id of the environment to verify it in; the default is Restaurant-v0.
        json: Print a JSON list of rows instead of a table.
        seed: Of everything that is drawn.
        episodes: Episodes that are sampled where the exact gradient is known, at least 200.

    Returns:
        The exit status.
    """
    torch.set_num_threads(1)
    try:
        found = (
            shipped_rows(seed, episodes) if policy is env_id is None else chosen_rows(policy, env_id, seed, episodes)
        )
        done = [show(row, json) for row in found]
    except (ValueError, TypeError, ImportError, AttributeError, gym.error.Error) as error:
        return complain(str(error), WRONG_INPUT)
    failed = sum(row.status == "FAIL" for row in done)
    if json:
        print(json_module.dumps([asdict(row) | {"status": row.status} for row in done], indent=1))
    else:
        print(f"{len(done)} rows, {failed} failed")
    return FAILED if failed else 0


def chosen_rows(policy: str | None, env_id: str | None, seed: int, episodes: int) -> Iterator[Row]:
    """The rows of one policy in one environment."""
    env_id = env_id or "restaurant_env:Restaurant-v0"
    if policy is None:
        policy = "bias" if env_id.endswith("Restaurant-v0") else "mlp"
    env = gym.make(env_id)
    spaces = env.observation_space, env.action_space
    env.close()
    return rows(make_policy(policy, *spaces), env_id, seed, episodes)


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
    try:
        policy = made(observation_space, action_space)
    except TypeError:
        policy = made()
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a subclass of pgtorch.Policy, got {made!r}")
    return policy


def show(row: Row, json: bool) -> Row:
    """Print a row of the table, and give it back."""
    if not json:
        value = "" if row.value is None else f"{row.value:.3g}"
        limit = "" if row.value is None or row.known_bias else f"<= {row.limit:g}"
        print(f"{row.status}  {row.subject:33}{row.check:48}{value:>9} {limit:9} {row.unit:16}{row.note}", flush=True)
    return row


if __name__ == "__main__":
    sys.exit(parse(verify, None))
