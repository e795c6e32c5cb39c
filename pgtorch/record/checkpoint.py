"""Checkpoints: written so that a crash at any moment loses none, read so that a damaged one never passes for whole.

A checkpoint is one file of plain types and tensors. It is written beside its place, read back, and only then moved
there; the two newest are kept. It is what `torch.save` writes, with a checksum of the whole file as the zip's comment;
nothing in it is ever run.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from pgtorch.config import TrainConfig
from pgtorch.environment.normalization import ObservationNormalizer
from pgtorch.policies import BiasPolicy, MLPPolicy, Policy

FORMAT = 1
KEPT = 2
SEAL = b"sha256 "
_SEAL_SIZE = len(SEAL) + 64
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(ValueError):
    """A checkpoint cannot be written or loaded; the message names the file and what is wrong with it."""


def save_checkpoint(folder: Path, number: int, content: Mapping[str, Any]) -> Path:
    """Write a checkpoint; the older ones stay whole until it is in its place.

    Args:
        folder: The run's folder.
        number: Of the update, from 0; the newest checkpoint is the one of the highest number.
        content: Nested dicts, lists, numbers, strings and tensors.

    Returns:
        The file.

    Raises:
        CheckpointError: Where it cannot be written, or holds numbers that are not finite.
    """
    path = folder / f"checkpoint-{number:09d}.pt"
    require_finite(content.get("trainer"), f"{path}: trainer")
    saved = io.BytesIO()
    torch.save({"format": FORMAT, **content}, saved)
    temporary = folder / f".{path.name}.tmp"
    try:
        with temporary.open("wb") as file:
            file.write(_sealed(saved.getvalue()))
            file.flush()
            os.fsync(file.fileno())
        read_checkpoint(temporary)
        temporary.replace(path)
        _sync_folder(folder)
        for old in checkpoints(folder)[KEPT:]:
            old.unlink()
    except OSError as error:
        reason = "no space left to write it" if error.errno in _NO_SPACE else "it cannot be written"
        raise CheckpointError(f"{path}: {reason} ({error.strerror}); the checkpoints before it are whole") from error
    finally:
        for left in folder.glob(".checkpoint-*.tmp"):  # of this save where it failed, or of one that was killed
            left.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint, all of it or nothing.

    Args:
        path: The file.

    Raises:
        CheckpointError: Where it is missing, damaged, of another format, or holds anything but plain types and tensors.
    """
    try:
        data = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip() or ("" if _is_whole(data) else path.name)
        content = None if damaged else torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file makes zipfile and torch raise
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__} {reason}".rstrip()) from error
    if damaged:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} is wrong")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} must be a checkpoint of format {FORMAT}, got {found!r}")
    return content


def read_newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Read the newest checkpoint that is whole; warns of each newer one that is not.

    Raises:
        CheckpointError: Where there is none.
    """
    reasons = []
    for path in checkpoints(folder):
        try:
            content = read_checkpoint(path)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            warnings.warn(f"{reason}; going back to {path.name}", stacklevel=2)
        return path, content
    raise CheckpointError("; ".join(reasons) or f"{folder} holds no checkpoint")


def require_like(found: Any, expected: Any, where: str) -> None:
    """See that something loaded is built like something that is known to be right.

    Args:
        found: Nested dicts, lists, numbers, strings and tensors.
        expected: The same of the live objects. Types, keys, shapes and dtypes must be equal, strings too; a list is one
            of numbers, of any length.
        where: What it is, for the message.

    Raises:
        CheckpointError: Where it is not, or holds a number that is not finite.
    """
    if type(found) is not type(expected):
        raise CheckpointError(f"{where} must be a {type(expected).__name__}, got {type(found).__name__}")
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            missing, extra = sorted(expected.keys() - found.keys()), sorted(map(str, found.keys() - expected.keys()))
            raise CheckpointError(
                f"{where} must have keys {sorted(expected)}, missing {missing}, more than that {extra}"
            )
        for key, value in expected.items():
            require_like(found[key], value, f"{where}.{key}")
    elif isinstance(expected, Tensor):
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            raise CheckpointError(
                f"{where} must be {expected.dtype} of shape {list(expected.shape)}, "
                f"got {found.dtype} of shape {list(found.shape)}"
            )
    elif isinstance(expected, list) and not all(type(value) is float for value in found):
        raise CheckpointError(f"{where} must be a list of numbers, got {found!r:.100}")
    elif isinstance(expected, str) and found != expected:
        raise CheckpointError(f"{where} must be {expected!r}, got {found!r:.100}")
    elif isinstance(expected, int) and found < 0:
        raise CheckpointError(f"{where} must be at least 0, got {found}")
    require_finite(found, where)


def require_finite(value: Any, where: str) -> None:
    """Raise `CheckpointError` where a nested value holds a floating number that is not finite."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "environment":  # which may well hold infinities, as bounds for instance
                require_finite(item, f"{where}.{key}")
    elif isinstance(value, Tensor | float | list):
        numbers = torch.as_tensor(value)
        if numbers.is_floating_point() and not numbers.isfinite().all():
            raise CheckpointError(f"{where} must be finite, got {numbers[~numbers.isfinite()].flatten()[0].item()}")


@dataclass(frozen=True)
class SavedRun:
    """What is left of a run: enough to play its policy."""

    config: TrainConfig
    policy: Policy
    normalize_observation: ObservationNormalizer | None


def load_run(folder: Path, policy: Policy | None = None) -> SavedRun:
    """Load the policy of a run from its newest checkpoint.

    Args:
        folder: The run's folder.
        policy: For a policy of one's own: one of its class, whose parameters are replaced.

    Returns:
        Its settings, its policy and its normalizer, frozen.

    Raises:
        CheckpointError: Where there is no checkpoint, it is damaged, or the policy is of a class that this library
            cannot make.
    """
    path, content = read_newest(folder)
    config = read_config(path, content)
    try:
        saved, collector = content["trainer"]["policy"], content["trainer"]["collector"]
        policy = policy or _make_policy(config, saved["class"])
        state = {"class": type(policy).__name__, "parameters": dict(policy.state_dict())}
        require_like(saved, state, f"{path}: policy")
        normalizer = None
        if config.normalize_observations:
            moments = collector["observation_moments"]
            normalizer = ObservationNormalizer(len(moments["mean"]))
            require_like(moments, normalizer.moments.state_dict(), f"{path}: observation_moments")
            normalizer.moments.load_state_dict(moments)
    except (KeyError, TypeError, gym.error.Error) as error:
        raise CheckpointError(f"{path} does not hold a run: {error}") from error
    policy.load_state_dict(saved["parameters"])
    return SavedRun(config, policy, normalizer)


def read_config(path: Path, content: Mapping[str, Any]) -> TrainConfig:
    """The settings in a checkpoint; one that is newer than it takes its own default, which changes nothing.

    Raises:
        CheckpointError: Where they are none.
    """
    try:
        unknown_then = {
            setting.name: setting.default for setting in fields(TrainConfig) if setting.default is not MISSING
        }
        return TrainConfig(**{**unknown_then, **content["config"], "run_dir": path.parent})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: config: {error}") from error


def _make_policy(config: TrainConfig, name: str) -> Policy:
    if name == "BiasPolicy":
        return BiasPolicy()
    if name != "MLPPolicy":
        raise CheckpointError(f"the policy is a {name}, which only its own code can make: pass one")
    settings = {key: value for key, value in config.env_kwargs.items() if key != "autoreset_mode"}
    env = gym.make(config.env_id, **settings)
    env.close()
    return MLPPolicy(env.observation_space, env.action_space, config.hidden_sizes)


def _sealed(data: bytes) -> bytes:
    """A zip file with a checksum of all of it as its comment: the format's own do not cover its directory."""
    comment = SEAL + hashlib.sha256(data).hexdigest().encode()
    return data[:-2] + len(comment).to_bytes(2, "little") + comment


def _is_whole(data: bytes) -> bool:
    """Whether the checksum is right; of a file without one, as `torch.save` leaves it, nobody can tell."""
    body, comment = data[:-_SEAL_SIZE], data[-_SEAL_SIZE:]
    if not comment.startswith(SEAL):
        return True
    return hashlib.sha256(body[:-2] + b"\0\0").hexdigest().encode() == comment.removeprefix(SEAL)


def _sync_folder(folder: Path) -> None:
    """See that a renamed file is found under its new name after a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
