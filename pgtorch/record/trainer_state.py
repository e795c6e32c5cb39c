"""The state of a trainer: everything that its next update depends on, saved and restored."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pgtorch.environment.checks import NonFiniteError
from pgtorch.environment.state import CannotContinueError, UnknownStateError, put_state, take_state
from pgtorch.environment.streams import put_global_streams, take_global_streams
from pgtorch.networks import MLPPolicy
from pgtorch.record.checkpoint import CheckpointError, require_like
from pgtorch.rollout import RolloutCollector
from pgtorch.trainer import Trainer


def take_trainer_state(trainer: Trainer) -> dict[str, Any]:
    """Everything that the next update depends on, as plain types and tensors.

    Returns:
        Nested dicts. All tensors are on the CPU, so that a run can continue on another device. `environment` holds the
        state of the environments, or why it cannot be saved.
    """
    modules = {"policy": trainer.policy, "value_function": trainer.value_function}
    state: dict[str, Any] = {
        name: {"class": class_of(module), "parameters": copied(module.state_dict())}
        for name, module in modules.items()
        if module is not None
    }
    state["optimizers"] = {name: copied(optimizer.state_dict()) for name, optimizer in trainer.optimizers.items()}
    state["collector"] = {name: part.state_dict() for name, part in _parts(trainer).items()}
    state |= {"num_updates": trainer.num_updates, "num_env_steps": trainer.num_env_steps}
    state["generator"] = trainer.generator.get_state()
    state["shards"] = trainer.collector.everywhere(_take_shards)  # but the first
    return state | {"streams": take_global_streams(), "environment": _take_environment(trainer.env)}


def put_trainer_state(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Restore what `take_trainer_state` returned; an error leaves a trainer of one shard as it was.

    If the state of an environment cannot be saved, new episodes begin in all; a warning says so.

    Args:
        trainer: Made with the same settings.
        state: The state.

    Raises:
        CheckpointError: If the state does not fit; the message names the part.
    """
    live, saved = take_trainer_state(trainer), dict(state)
    for name in ("streams", "environment"):
        if name not in saved:
            raise CheckpointError(f"trainer must have the key {name!r}")
        del live[name]  # checked below, when it is restored
    streams, environment = saved.pop("streams"), saved.pop("environment")
    shards, others = saved.pop("shards", None), len(live.pop("shards"))
    if not isinstance(shards, list) or len(shards) != others:
        raise CheckpointError(f"trainer.shards must be the states of {others} shards, got {shards!r:.100}")
    for name, optimizer in trainer.optimizers.items():
        with contextlib.suppress(KeyError, TypeError):  # which `require_like` reports
            live["optimizers"][name] = copied(optimizer.expected_state(saved["optimizers"][name]))
    require_like(saved, live, "trainer")
    try:
        torch.Generator().set_state(saved["generator"])
    except RuntimeError as error:
        raise CheckpointError(f"trainer.generator: {error}") from error
    before = take_global_streams()
    try:
        put_global_streams(streams)
    except ValueError as error:
        raise CheckpointError(f"trainer.streams: {error}") from error
    try:
        reasons = [_put_environment(trainer.env, environment), *trainer.collector.everywhere(_put_shards, shards)]
    except CheckpointError:
        put_global_streams(before)
        raise
    lost = next(filter(None, reasons), "")
    if lost:
        trainer.collector.stepper.reset(trainer.config.seed + saved["num_updates"])  # other episodes than at the start
        warnings.warn(f"{lost}: new episodes begin, so the run does not continue bit for bit", stacklevel=2)
    for name in ("policy", "value_function"):
        if name in saved:
            getattr(trainer, name).load_state_dict(saved[name]["parameters"])
    for name, optimizer in trainer.optimizers.items():
        optimizer.load_state_dict(saved["optimizers"][name])
    for name, part in _parts(trainer).items():
        part.load_state_dict(saved["collector"][name], mid_episode=not lost)
    trainer.num_updates, trainer.num_env_steps = saved["num_updates"], saved["num_env_steps"]
    trainer.generator.set_state(saved["generator"])
    trainer.collector.everywhere(_settle_shards, shards, bool(lost), saved["num_updates"])
    put_global_streams(streams)  # last: new episodes may have drawn from them


def require_finite_state(trainer: Trainer) -> None:
    """Raise `NonFiniteError` if a parameter, a buffer, or the state of an optimizer is not finite."""
    found = find_not_finite(trainer, gradients=False)
    if found:
        raise NonFiniteError(
            f"update {trainer.num_updates}, step {trainer.num_env_steps}: {found}; is learning_rate too high?"
        )


def find_not_finite(trainer: Trainer, *, gradients: bool = True) -> str:
    """The first tensor that is not finite, in words; an empty string if all are.

    Args:
        trainer: Parameters and buffers of its networks are searched, then gradients, then the state of the optimizers.
        gradients: Search these too; one whose norm is too large for its dtype counts.
    """
    networks = {name: getattr(trainer, "value_function" if name == "value" else name) for name in trainer.optimizers}
    for name, network in networks.items():
        for key, tensor in network.state_dict().items():
            if not tensor.isfinite().all():
                return f"{name} {key} must be finite, got {_first_not_finite(tensor)}"
    for name, network in networks.items() if gradients else ():
        for key, parameter in network.named_parameters():
            if parameter.grad is not None and not torch.linalg.vector_norm(parameter.grad).isfinite():
                return f"gradient of {name} {key} must be finite, got {_first_not_finite(parameter.grad)}"
    for name, optimizer in trainer.optimizers.items():
        keys = [key for key, _ in networks[name].named_parameters()]
        for slot, tensor in optimizer.state_dict().items():
            if not tensor.isfinite().all():
                kind, _, index = slot.rpartition(".")
                return (
                    f"optimizer's {kind} of {name} {keys[int(index)]} must be finite, got {_first_not_finite(tensor)}"
                )
    return ""


def _first_not_finite(tensor: Tensor) -> str:
    """The first value that is not finite, with its index; or that the norm is not."""
    where = (~tensor.isfinite()).nonzero()
    if not len(where):
        return f"norm {torch.linalg.vector_norm(tensor).item()}"
    index = where[0].tolist()
    return f"{tensor[tuple(index)].item()}" + (f" at index {index}" if index else "")


def class_of(module: nn.Module) -> str:
    """What a module with these parameters computes: its class, and the activation of an `MLPPolicy` unless tanh."""
    name = type(module).__name__
    activation = next((part.activation for part in module.modules() if isinstance(part, MLPPolicy)), "tanh")
    return name if activation == "tanh" else f"{name}, {activation}"


def _parts(trainer: Trainer) -> dict[str, Any]:
    """The parts of the collector that have state, by name."""
    collector = trainer.collector
    parts = {
        "stepper": collector.stepper,
        "episodes": collector.episodes,
        "normalize_observation": collector.normalize_observation,
        "normalize_reward": collector.normalize_reward,
    }
    return {name: part for name, part in parts.items() if part is not None}


def _take_shards(collector: RolloutCollector) -> list[dict[str, Any]]:
    """The states of the shards in this process; that of the first is the trainer's own."""
    states = []
    for shard in collector.shards:
        if shard.generator is not None:
            with shard.streams:
                streams = take_global_streams()
                environment = _take_environment(shard.env)
            state = {"generator": shard.generator.get_state(), "stepper": shard.stepper.state_dict()}
            states.append(state | {"streams": streams, "environment": environment})
    return states


def _put_shards(collector: RolloutCollector, states: list[Any]) -> list[str]:
    """Restore the environments of this process's shards; return what is lost, as `_put_environment`."""
    lost = []
    for shard in collector.shards:
        if shard.generator is not None:
            where, saved = f"trainer.shards[{shard.number - 1}]", states[shard.number - 1]
            live = {"generator": shard.generator.get_state(), "stepper": shard.stepper.state_dict()}
            if not isinstance(saved, dict) or saved.keys() != {*live, "streams", "environment"}:
                raise CheckpointError(f"{where} must have the keys of a shard, got {saved!r:.100}")
            require_like({name: saved[name] for name in live}, live, where)
            try:
                with shard.streams:
                    put_global_streams(saved["streams"])
                    lost.append(_put_environment(shard.env, saved["environment"]))
                shard.generator.set_state(saved["generator"])
            except (RuntimeError, ValueError) as error:
                raise CheckpointError(f"{where}: {error}") from error
    return lost


def _settle_shards(collector: RolloutCollector, states: list[Any], lost: bool, num_updates: int) -> list[None]:
    """Restore the rest of this process's shards; if environments are lost, new episodes begin."""
    for shard in collector.shards:
        if shard.generator is not None:
            with shard.streams:
                if lost:
                    shard.stepper.reset(shard.seed(num_updates))
                put_global_streams(states[shard.number - 1]["streams"])
            shard.stepper.load_state_dict(states[shard.number - 1]["stepper"], mid_episode=not lost)
    return []


def _take_environment(env: Any) -> dict[str, str]:
    """The state of the environments, or why it cannot be saved."""
    try:
        return {"state": take_state(env)}
    except UnknownStateError as error:
        return {"unknown": str(error)}


def _put_environment(env: Any, saved: Any) -> str:
    """Restore the environments; return why that is impossible, or an empty string if it worked."""
    match saved:
        case {"unknown": str(why_not)}:
            return f"{env.spec.id if env.spec else type(env).__name__} cannot save its state, {why_not}"
        case {"state": state}:
            try:
                put_state(env, state)
            except CannotContinueError as error:
                return str(error)
            except ValueError as error:
                raise CheckpointError(f"trainer.environment: {error}") from error
            return ""
    raise CheckpointError(f"trainer.environment must be a state, or why there is none, got {saved!r:.100}")


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, without gradient."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
