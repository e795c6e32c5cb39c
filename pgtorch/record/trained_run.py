"""A trained run: a policy with everything it needs to play, and how to load one from its folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import concatenate, create_empty_array
from torch import Generator

from pgtorch.config import TrainConfig
from pgtorch.device import device_of
from pgtorch.distributions import as_global_stream
from pgtorch.environment.build import make_vector_env
from pgtorch.environment.normalization import ObservationNormalizer
from pgtorch.environment.spaces import clipper, flattener, is_one_hot
from pgtorch.networks import policy_of
from pgtorch.policies import Policy
from pgtorch.record.checkpoint import CheckpointError, read_newest, require_like
from pgtorch.record.folder import require_no_links
from pgtorch.record.metrics import check_record
from pgtorch.record.trainer_state import class_of
from pgtorch.record.trust import import_allowed, require_trusted


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A trained policy with its settings and its normalizer, whose statistics no longer change.

    Attributes:
        num_updates: Updates that the policy has learned from.
        generator: What `predict` draws from by default.
    """

    config: TrainConfig
    policy: Policy
    normalize_observation: ObservationNormalizer | None = None
    num_updates: int = 0
    generator: Generator = field(default_factory=lambda: Generator().manual_seed(0), repr=False, compare=False)

    def predict(self, observation: Any, deterministic: bool = True, generator: Generator | None = None) -> Any:
        """The policy's action for an observation, or its N actions for a batch of N.

        Args:
            observation: As the environment returns it, or a batch as a vector environment returns it.
            deterministic: Take the likeliest action; otherwise draw one.
            generator: What to draw from; None is `self.generator`.

        Returns:
            In the environment's format: of the action space's shape and dtype, and within its bounds.

        Raises:
            ValueError: If the observation does not have the space's shape.
        """
        space = self.spaces[0]
        flatten, clip = self._converters
        size = _batch_size(space, observation)
        rows = flatten(_batch_of_one(space, observation), 1) if size is None else flatten(observation, size)
        if self.normalize_observation is not None:
            rows = self.normalize_observation(rows)
        seen = torch.as_tensor(rows, dtype=torch.get_default_dtype()).to(device_of(self.policy))
        with torch.no_grad():
            action = self.policy.mode(seen) if deterministic else self.policy.sample(seen, generator or self.generator)
        taken = clip(action.cpu().numpy())
        return taken[0] if size is None else taken

    @cached_property
    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """The spaces of one observation and of one action; creates an environment to read them."""
        return _spaces_of(self.config)

    @cached_property
    def _converters(self) -> tuple[Any, Any]:
        observation_space, action_space = self.spaces
        return flattener(observation_space), clipper(action_space)


class NoBestError(CheckpointError):
    """The best policy of a run is asked for, and no policy of it was evaluated."""


def load_run(
    run_dir: Path | str,
    policy: Policy | None = None,
    *,
    which: Literal["last", "best"] = "last",
    allow_import: Collection[str] = (),
) -> TrainedRun:
    """Load the policy of a run from its newest checkpoint.

    Args:
        run_dir: The folder of the run.
        policy: For your own policy that no setting names: an instance of its class, whose parameters are replaced.
        which: The last policy, or the best one by evaluation, as of that checkpoint.
        allow_import: Modules to import first, even if they are not installed: they may register the environment.

    Returns:
        The policy, on the CPU wherever it was trained, its settings and its normalizer.

    Raises:
        CheckpointError: If there is no checkpoint, it is damaged, its environment or policy cannot be created, or the
            best policy is asked for and none was evaluated (`NoBestError`).
        UntrustedModuleError: If the run names an untrusted module.
        ValueError: If `which` is something else.
    """
    if which not in ("last", "best"):
        raise ValueError(f"which must be 'last' or 'best', got {which!r}")
    folder = Path(run_dir)
    try:
        require_no_links(folder)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{str(folder)!r} must be the folder of a run: {reason}") from error

    def checked(_path: Path, content: dict[str, Any]) -> dict[str, Any]:
        check_record(folder, content["record"])
        return content

    path, content = read_newest(folder, checked)
    config = read_config(path, content)
    for name in config.imports:
        require_trusted(name, folder, allow_import)
    import_allowed(allow_import)
    state = content["best" if which == "best" else "trainer"]
    if which == "best" and not state:
        raise NoBestError(f"{path} holds no best policy: none was evaluated (evaluate_every, target_return)")
    run = TrainedRun(config=config, policy=_make_policy(path, config) if policy is None else policy)
    try:
        saved, collector = state["policy"], state["collector"]
        require_like(state["num_updates"], 0, f"{path}: num_updates")
        run = replace(run, num_updates=state["num_updates"])
        if class_of(run.policy) != saved["class"]:
            raise CheckpointError(f"{path}: the policy is a {saved['class']}, which only you can create: pass one")
        require_like(saved["parameters"], dict(run.policy.state_dict()), f"{path}: trainer.policy.parameters")
        if config.normalize_observations and not is_one_hot(run.spaces[0]):
            moments = collector["normalize_observation"]
            normalizer = ObservationNormalizer(len(moments["mean"]))
            require_like(moments, normalizer.state_dict(), f"{path}: trainer.collector.normalize_observation")
            normalizer.load_state_dict(moments, mid_episode=True)
            run = replace(run, normalize_observation=normalizer)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} does not hold the state of a run: {error}") from error
    run.policy.load_state_dict(saved["parameters"])
    return run


def read_config(path: Path, content: Mapping[str, Any]) -> TrainConfig:
    """The settings in a checkpoint, with its folder as `run_dir`.

    Raises:
        CheckpointError: If one is missing, unknown or out of range.
    """
    expected, found = {setting.name for setting in fields(TrainConfig)}, content["config"].keys()
    if found != expected:
        missing, extra = sorted(expected - found), sorted(map(str, found - expected))
        raise CheckpointError(f"{path}: config must hold every setting, got {extra} extra and {missing} missing")
    try:
        return TrainConfig(**{**content["config"], "run_dir": path.parent})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: config: {error}") from error


def _spaces_of(config: TrainConfig) -> tuple[gym.Space[Any], gym.Space[Any]]:
    vectorization = "native" if config.vectorization == "native" else "sync"
    env = make_vector_env(config.env_id, num_envs=1, env_kwargs=config.env_kwargs, vectorization=vectorization)
    with closing(env):
        return env.single_observation_space, env.single_action_space


def _make_policy(path: Path, config: TrainConfig) -> Policy:
    try:
        spaces = _spaces_of(config)
        with as_global_stream(Generator()):  # the initial weights, which the saved ones replace
            return policy_of(config, *spaces)
    except (Exception, SystemExit) as error:  # whatever a module or a constructor raises
        reason = f"{type(error).__name__} {error}"
        if isinstance(error, gym.error.UnregisteredEnv):
            reason += " If a module of yours registers it, import it first, or name it with --allow-import"
        raise CheckpointError(f"{path}: its environment or policy cannot be created: {reason}") from error


def _batch_of_one(space: gym.Space[Any], observation: Any) -> Any:
    empty: Any = create_empty_array(space, 1)
    return concatenate(space, [observation], empty)


def _batch_size(space: gym.Space[Any], observation: Any) -> int | None:
    """N of a batch; None for one observation."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        keys: list[Any] = list(space.spaces) if isinstance(space, gym.spaces.Dict) else list(range(len(space.spaces)))
        sizes = {_batch_size(space[key], observation[key]) for key in keys}
        if len(sizes) > 1:
            raise ValueError(f"observation must be one or a batch in every part, got {sizes} rows")
        return sizes.pop()
    shape, expected = np.shape(observation), space.shape or ()
    if shape == expected:
        return None
    if shape[1:] != expected:
        raise ValueError(f"observation must have shape {list(expected)}, or with N in front, got {list(shape)}")
    return int(shape[0])
