"""A run's policy in one file that needs only PyTorch, with the normalizer and the clipping of actions inside."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from pgtorch.environment.normalization import CLIP, EPSILON
from pgtorch.record.folder import naming
from pgtorch.record.trained_run import TrainedRun, load_run


class ExportError(ValueError):
    """A policy cannot be exported, or not to that path; the message says why."""


def export(
    run: TrainedRun | Path | str, path: Path | str = "policy.pt2", *, allow_import: Collection[str] = ()
) -> Path:
    """Write the likeliest actions of a run's policy as a program of `torch.export`; an older file is replaced.

        program = torch.export.load(path).module()
        actions = program(observations)

    The program takes a batch of raw observations, [N, *observation_shape] with any N of at least 1, of the observation
    space's dtype, and returns the environment's actions, [N, *action_shape], of the action space's dtype: the same as
    `TrainedRun.predict`. A Dict or Tuple observation must be flattened, [N, D], by `gymnasium.spaces.flatten`.

    Args:
        run: From `train`, `resume` or `load_run`; or the folder of a run.
        path: The file to write.
        allow_import: As for `load_run`.

    Returns:
        The file.

    Raises:
        ExportError: If the policy cannot be traced, or the path is not one for such a file.
        OSError: If the file cannot be written.
        CheckpointError, UntrustedModuleError: As for `load_run`.
    """
    path = Path(path)
    if path.suffix != ".pt2" or path.is_dir() or not path.parent.is_dir():  # torch loads no other suffix
        raise ExportError(f"path must name a file that ends in .pt2, in a folder that exists, got {str(path)!r}")
    if not isinstance(run, TrainedRun):
        run = load_run(run, allow_import=allow_import)
    file = io.BytesIO()
    torch.export.save(exported_program(run), file)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            temporary.write_bytes(file.getbuffer())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def exported_program(run: TrainedRun) -> torch.export.ExportedProgram:
    """The program that `export` writes.

    Raises:
        ExportError: If the policy cannot be traced.
    """
    program = Predictor(run).eval()
    example = np.stack([program.observation_space.sample() for _ in range(2)])
    rows = torch.export.Dim("N", min=1)
    try:
        with torch.no_grad(), _without_argument_checks():
            return torch.export.export(program, (torch.as_tensor(example),), dynamic_shapes=({0: rows},))
    except Exception as error:  # whatever a policy does that cannot be traced
        reason = (str(error).splitlines() or [""])[0]
        if "N as dynamic" in str(error):
            reason = "it fixes the number of rows; write observation.shape[0], not len(observation)"
        raise ExportError(f"{type(run.policy).__name__} cannot be exported: {reason}") from error


def input_space(run: TrainedRun) -> gym.Space[Any]:
    """The space of what an exported program takes, for one observation: a Dict or Tuple is flattened."""
    space = run.spaces[0]
    return spaces.flatten_space(space) if isinstance(space, spaces.Dict | spaces.Tuple) else space


class Predictor(nn.Module):
    """`TrainedRun.predict` for a batch, as a module: raw observations in, the environment's actions out.

    Args:
        run: A trained run.

    Attributes:
        observation_space: The space of what it takes, for one observation.
        action_space: The space of one action.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        self.policy = copy.deepcopy(run.policy).cpu().requires_grad_(False)
        self.observation_space, self.action_space = input_space(run), run.spaces[1]
        self.is_normalized = run.normalize_observation is not None
        if run.normalize_observation is not None:
            moments = run.normalize_observation.moments
            self.register_buffer("mean", torch.from_numpy(moments.mean.copy()))
            self.register_buffer("deviation", torch.from_numpy(np.sqrt(moments.variance + EPSILON)))
        if isinstance(self.action_space, spaces.Box):
            self.register_buffer("low", torch.from_numpy(self.action_space.low.astype(np.float64)))
            self.register_buffer("high", torch.from_numpy(self.action_space.high.astype(np.float64)))
        self.dtype = torch.as_tensor(np.empty(0, self.action_space.dtype)).dtype

    def forward(self, observation: Tensor) -> Tensor:
        """Actions [N, *action_shape] for raw observations [N, *observation_shape]."""
        rows = self._flat(observation)
        if self.is_normalized:
            rows = ((rows - self.mean) / self.deviation).clamp(-CLIP, CLIP)
        action = self.policy.mode(rows.to(torch.get_default_dtype()))
        if isinstance(self.action_space, spaces.Box):
            action = action.double().clamp(self.low, self.high)
        return action.to(self.dtype)

    def _flat(self, observation: Tensor) -> Tensor:
        """[N, D], flattened as Gymnasium does."""
        space = self.observation_space
        if isinstance(space, spaces.Discrete):
            return functional.one_hot((observation - int(space.start)).long(), int(space.n))
        if isinstance(space, spaces.MultiDiscrete):
            choices = zip(observation.flatten(1).unbind(1), space.start.flat, space.nvec.flat, strict=True)
            parts = [functional.one_hot((part - int(start)).long(), int(size)) for part, start, size in choices]
            return torch.cat(parts, dim=1)
        return observation.flatten(1) if observation.ndim > 1 else observation.unsqueeze(1)


@contextmanager
def _without_argument_checks() -> Iterator[None]:
    """Switch off the checks in `torch.distributions`, which depend on the data and cannot be traced."""
    distribution = torch.distributions.Distribution
    before = distribution._validate_args
    distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distribution.set_default_validate_args(before)
