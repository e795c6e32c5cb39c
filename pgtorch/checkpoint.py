"""A trained policy on disk, and back."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from pgtorch.config import TrainConfig
from pgtorch.normalization import ObservationNormalizer
from pgtorch.policies import BiasPolicy, MLPPolicy, Policy

POLICY_FILE = "policy.pt"
FORMAT = 1


class CheckpointError(ValueError):
    """A run's files cannot be loaded; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class SavedRun:
    """What is left of a run: enough to play its policy."""

    config: TrainConfig
    policy: Policy
    normalize_observation: ObservationNormalizer | None


def save_policy(folder: Path, policy: Policy, normalize_observation: ObservationNormalizer | None) -> Path:
    """Write a policy's parameters, and the statistics that its observations were normalised with.

    Args:
        folder: The run's folder.
        policy: The policy.
        normalize_observation: As in training, or None.

    Returns:
        The file, `policy.pt` in the folder.
    """
    moments = None if normalize_observation is None else normalize_observation.moments
    content = {
        "format": FORMAT,
        "class": type(policy).__name__,
        "parameters": policy.state_dict(),
        "mean": None if moments is None else torch.as_tensor(moments.mean),
        "variance": None if moments is None else torch.as_tensor(moments.variance),
    }
    path = folder / POLICY_FILE
    torch.save(content, path)
    return path


def load_run(folder: Path) -> SavedRun:
    """Load the policy of a finished run.

    Args:
        folder: The run's folder.

    Returns:
        Its settings, its policy and its normaliser, frozen.

    Raises:
        CheckpointError: Where a file is missing or damaged, or the policy is of a class that this library cannot make.
    """
    try:
        return _load_run(folder)
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise CheckpointError(f"{folder} holds no run that can be loaded: {error}") from error


_DAMAGE = (OSError, KeyError, TypeError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile)


def _load_run(folder: Path) -> SavedRun:
    config = TrainConfig(**json.loads((folder / "config.json").read_text())["config"])
    content = torch.load(folder / POLICY_FILE, weights_only=True)
    policy: Policy
    if content["class"] == "BiasPolicy":
        policy = BiasPolicy()
    elif content["class"] == "MLPPolicy":
        env = gym.make(config.env_id, **_scalar_settings(config))
        policy = MLPPolicy(env.observation_space, env.action_space, config.hidden_sizes)
        env.close()
    else:
        raise CheckpointError(f"{folder}: the policy is a {content['class']}, which only its own code can make")
    policy.load_state_dict(content["parameters"])
    normalizer = None
    if content["mean"] is not None:
        normalizer = ObservationNormalizer(len(content["mean"]))
        normalizer.moments.mean = content["mean"].numpy()
        normalizer.moments.variance = content["variance"].numpy()
    return SavedRun(config, policy, normalizer)


def _scalar_settings(config: TrainConfig) -> dict[str, Any]:
    """The environment's settings without those that only its vector class has."""
    return {name: value for name, value in config.env_kwargs.items() if name != "autoreset_mode"}
