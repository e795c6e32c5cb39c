"""What a run is made of: its environments and its policy, and whether they fit."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv

from pgtorch.config import TrainConfig
from pgtorch.environment.checks import StepContract
from pgtorch.environment.workers import StepTimeout
from pgtorch.policies import BiasPolicy, MLPPolicy, Policy


def make_env(config: TrainConfig) -> VectorEnv[Any, Any, Any]:
    """The vector environment of a run: native where there is one, unless the settings say otherwise."""
    mode: str = config.vectorization
    if mode == "native":
        module, _, name = config.env_id.rpartition(":")
        if module:
            importlib.import_module(module)
        mode = "sync" if gym.spec(name).vector_entry_point is None else "vector_entry_point"
    wrappers = {} if mode == "vector_entry_point" else {"wrappers": [StepContract]}
    settings: dict[str, Any] = {"num_envs": config.num_envs, "vectorization_mode": mode, **wrappers}
    env = gym.make_vec(config.env_id, **settings, **config.env_kwargs)
    return StepTimeout(env) if mode == "async" else env


def require_fit(policy: Policy, env: VectorEnv[Any, Any, Any]) -> None:
    """Ask the policy once, without leaving a trace, so that one that does not fit is found before anything is written.

    Raises:
        TypeError: Where it cannot be asked, or gives what does not fit.
    """
    observation = torch.zeros(env.num_envs, gym.spaces.flatdim(env.single_observation_space))
    name = type(policy).__name__
    with torch.random.fork_rng(devices=[]):
        try:
            action = policy.sample(observation)
            log_prob, entropy = policy.evaluate(observation, action)
        except Exception as error:
            raise TypeError(f"{name} fails on observations {list(observation.shape)}: {error}") from error
    shapes = {"action": action.shape, "log_prob": log_prob.shape, "entropy": entropy.shape}
    wanted = (env.num_envs, *(env.single_action_space.shape or ()))
    if shapes != {"action": wanted, "log_prob": wanted[:1], "entropy": wanted[:1]}:
        found = ", ".join(f"{field} {list(shape)}" for field, shape in shapes.items())
        raise TypeError(
            f"{name} must give actions {list(wanted)} with log_prob and entropy {list(wanted[:1])} "
            f"for observations {list(observation.shape)}, got {found}"
        )
    if not log_prob.requires_grad:
        raise TypeError(f"{name} has nothing to learn: log_prob has no gradient")


def make_policy(config: TrainConfig, env: VectorEnv[Any, Any, Any]) -> Policy:
    """The policy that the settings name.

    Args:
        config: Settings of the run.
        env: Its environment.

    Raises:
        TypeError: Where it does not fit the environment; the message names the spaces.
    """
    observation_space, action_space = env.single_observation_space, env.single_action_space
    if config.policy == "mlp":
        return MLPPolicy(observation_space, action_space, config.hidden_sizes)
    if observation_space.shape == (1,) and action_space == Discrete(2):
        return BiasPolicy()
    raise TypeError(
        f"policy 'bias' takes observations of shape [1] and Discrete(2) actions, but {config.env_id} has "
        f"{observation_space} and {action_space}"
    )
