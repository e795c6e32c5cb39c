"""Makes the vector environment of a run."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from pgtorch.environment.checks import StepContract
from pgtorch.environment.workers import make_async


def import_named(name: str) -> ModuleType:
    """Import a module that the user has named, also from the current folder, which comes last.

    That folder is put on the path only if the module is nowhere else, so that libraries find nothing there by accident.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if error.name is None or not f"{name}.".startswith(f"{error.name}.") or here in sys.path:
            raise
        sys.path.append(here)
        return importlib.import_module(name)


def make_vector_env(
    env_id: str,
    *,
    num_envs: int,
    env_kwargs: dict[str, Any],
    vectorization: str = "native",
    step_timeout: float = 60.0,
) -> VectorEnv[Any, Any, Any]:
    """N environments that are stepped together.

    Args:
        env_id: Gymnasium id; `module:Id-v0` imports the module that registers it.
        num_envs: N.
        env_kwargs: Keyword arguments of the environment.
        vectorization: "native" for the environment's own vector class, "sync" if it lacks one; "sync"; or "async", one
            process each.
        step_timeout: Longest wait for one step of environments in other processes, in seconds.

    Raises:
        gymnasium.error.Error, ImportError: If there is no such environment. Its constructor may raise anything.
    """
    if module := env_id.rpartition(":")[0]:
        import_named(module)
    if vectorization == "async":
        return make_async(env_id, num_envs, env_kwargs, step_timeout=step_timeout)
    mode = vectorization
    if mode == "native":
        name = env_id.rpartition(":")[2]
        mode = "sync" if gym.spec(name).vector_entry_point is None else "vector_entry_point"
    checked = {} if mode == "vector_entry_point" else {"wrappers": [StepContract]}
    settings: dict[str, Any] = {"num_envs": num_envs, "vectorization_mode": mode, **checked}
    env: VectorEnv[Any, Any, Any] = gym.make_vec(env_id, **settings, **env_kwargs)
    return env
