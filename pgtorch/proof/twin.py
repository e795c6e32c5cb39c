"""A trainer and its twin: the reference in the same state, and how far apart the two are after an update."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from pgtorch.device import CPU
from pgtorch.environment.episodes import EpisodeStatistics
from pgtorch.environment.normalization import RewardNormalizer
from pgtorch.gradient_check import GradientMismatchError
from pgtorch.manual_gradient import has_derivation
from pgtorch.optimizers import SCHEDULES, SGD, Adam, make_optimizer
from pgtorch.policies import BiasPolicy
from pgtorch.proof.reference import Bernoullis, Categoricals, Moments, Network, Normals, Reference, Row
from pgtorch.rollout import Rollout
from pgtorch.trainer import Trainer

LIMIT = 1e-9  # of the relative difference after an update, in float64
TRAINING_LIMIT = 1e-6  # while training: where a tanh is saturated, Adam makes much of a gradient that is all rounding
DIFFERENCE = "update/relative_difference"

Numbers = dict[str, NDArray[np.float64]]


def require_twin(trainer: Trainer) -> None:
    """Check that there is a reference for a trainer.

    Raises:
        TypeError: If it has a policy, an optimizer or a schedule that the reference does not implement.
    """
    if not has_derivation(trainer.policy):
        raise TypeError(
            f"check_update must be 0 for {type(trainer.policy).__name__}: the reference has only BiasPolicy and "
            "MLPPolicy"
        )
    for optimizer in trainer.optimizers.values():
        if type(optimizer) not in (SGD, Adam):
            raise TypeError(
                f"check_update must be 0 for {trainer.config.optimizer}: the reference has only sgd and adam"
            )
    if trainer.config.learning_rate_schedule not in SCHEDULES:
        raise TypeError(
            f"check_update must be 0 for learning_rate_schedule {trainer.config.learning_rate_schedule}: the reference "
            f"has only {', '.join(SCHEDULES)}"
        )


def twin_of(trainer: Trainer, envs: Sequence[gym.Env[Any, Any]] = (), mode: str = "same_step") -> Reference:
    """The reference in the state of a trainer.

    Args:
        trainer: What is to be compared; with `envs`, one that has not played yet.
        envs: The environments to play in, one for each of the trainer's; none if rows are given.
        mode: How they begin new episodes: "next_step", "same_step" or "disabled".

    Raises:
        TypeError: If there is no reference for its policy, optimizer or schedule.
    """
    require_twin(trainer)
    networks = {name: _network(trainer, name) for name in trainer.optimizers}
    space = trainer.env.single_action_space
    is_lesson = isinstance(trainer.policy, BiasPolicy)
    distribution = Bernoullis() if is_lesson else _distribution(space)
    policy, value = networks["policy"], networks.get("value")
    config = replace(
        trainer.config,
        learning_rate=trainer.optimizers["policy"].learning_rate,  # None in the settings leaves it to the trainer
        normalize_observations=trainer.collector.normalize_observation is not None,
    )
    twin = Reference(config, policy, value, distribution, space, list(envs), mode, trainer.num_updates)
    if normalizer := trainer.collector.normalize_reward:
        moments = normalizer.moments
        twin.returns = Moments(moments.mean, moments.variance, moments.count)
        twin.discounted = normalizer.discounted.tolist()
    return twin


def rows_of(rollout: Rollout) -> list[Row]:
    """The valid rows of a rollout as the reference learns from them, in order of step and then environment."""
    following = rollout.observation[1:].clone()
    for t, environments, final in rollout.final:
        following[t, environments] = final
    rows = []
    for t, i in rollout.valid.nonzero().tolist():
        action = np.atleast_1d(rollout.action[t, i].double().numpy())
        seen, after = (tensor[t, i].double().numpy() for tensor in (rollout.observation, following))
        ended = bool(rollout.terminated[t, i]), bool(rollout.truncated[t, i])
        rows.append(Row(i, seen, action, rollout.reward[t, i].item(), *ended, after))
    return rows


def state_of(trainer: Trainer) -> Numbers:
    """Everything that a trainer has learned, by name."""
    state: dict[str, Any] = dict(_learned(_modules(trainer)))
    if observations := trainer.collector.normalize_observation:
        state |= {f"observations.{key}": number for key, number in observations.state_dict().items()}
    if rewards := trainer.collector.normalize_reward:
        state |= {f"returns.{key}": number for key, number in rewards.state_dict().items()}
    return {name: torch.as_tensor(number, dtype=torch.float64).clone().numpy() for name, number in state.items()}


def state_of_twin(twin: Reference) -> Numbers:
    """The same of the reference, by the same names."""
    state: dict[str, Any] = dict(_learned(twin.networks))
    if twin.config.normalize_observations:
        state |= {f"observations.{key}": number for key, number in vars(twin.observations).items()}
    if twin.config.normalize_rewards:
        state |= {f"returns.{key}": number for key, number in vars(twin.returns).items()}
        state["returns.discounted"] = twin.discounted
    return {name: np.array(number, np.float64) for name, number in state.items()}


def largest_difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[float, str]:
    """Largest relative difference of two sets of numbers, and where it is.

    Each difference is relative to the largest of the expected numbers of that name, or to 0.001 if they are smaller.
    A name that only one of them has, another shape and NaN count as an infinite difference.
    """
    largest, where = 0.0, ""
    for name in sorted(found.keys() | expected.keys()):
        pair = [np.array(side.get(name, np.nan), np.float64) for side in (found, expected)]
        difference = np.inf
        if pair[0].shape == pair[1].shape and np.isfinite(pair).all():
            one, other = pair
            scale = max(float(np.abs(other).max(initial=0.0)), 1e-3)
            difference = float(np.abs(one - other).max(initial=0.0)) / scale
        if difference > largest:
            largest, where = difference, name
    return largest, where


def side_by_side(trainer: Trainer, twin: Reference, num_updates: int) -> Iterator[tuple[float, str]]:
    """Update both with the same random numbers; yield how far apart they are after each update, and where."""
    config = trainer.config
    for _ in range(num_updates):
        generator = torch.Generator()
        generator.set_state(trainer.generator.get_state())
        noise = trainer.policy.noise(config.num_steps, config.num_envs, generator)
        assert isinstance(noise, torch.Tensor)
        rows, episodes = twin.play(noise.double().numpy())
        expected = twin.learn(rows, _shuffle(generator)) | episodes
        figures = trainer.update()
        found = {tag: figures.get(tag, np.nan) for tag in {*expected, *_own_figures(figures)}}
        recent = {"recent": list(trainer.collector.episodes.recent)}
        yield largest_difference(
            state_of(trainer) | found | recent, state_of_twin(twin) | expected | {"recent": twin.recent}
        )


def checked_update(trainer: Trainer, every: int) -> Callable[[], dict[str, float]]:
    """The trainer's `update`; every so many updates the trainer's code and the reference repeat it in float64.

    Raises:
        TypeError: If there is no reference for the trainer.

    The update raises `GradientMismatchError` if the two differ.
    """
    require_twin(trainer)

    def update() -> dict[str, float]:
        if (trainer.num_updates + 1) % every:
            return trainer.update()
        config, twin, repeated = trainer.config, twin_of(trainer), _copied(trainer)
        trainer_generator = trainer.generator.get_state()
        figures = trainer.update()
        repeated.generator.set_state(trainer_generator)
        trainer.policy.noise(
            config.num_steps, trainer.env.num_envs, repeated.generator
        )  # what its first shard has drawn
        generator = torch.Generator()
        generator.set_state(repeated.generator.get_state())
        assert trainer.collector.rollout is not None
        rollout = _in_float64(trainer.collector.rollout, trainer.collector.normalize_reward)
        repeated.collector = _Played(rollout)  # type: ignore[assignment]
        found = repeated.update()
        expected = twin.learn(rows_of(rollout), _shuffle(generator))
        numbers, wanted = ({**_learned(_modules(repeated)), **found}, {**_learned(twin.networks), **expected})
        difference, where = largest_difference({name: numbers[name] for name in wanted}, wanted)
        if not difference <= TRAINING_LIMIT:
            raise GradientMismatchError(
                f"update {trainer.num_updates}: {where} must be that of the reference to a relative "
                f"{TRAINING_LIMIT:g}, got a difference of {difference:.3g}"
            )
        return figures | {DIFFERENCE: difference}

    return update


class _Played:
    """In place of a collector: gives a rollout that was played before."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout, self.episodes = rollout, EpisodeStatistics(rollout.reward.shape[1])

    def collect(self, *_: object) -> Rollout:
        return self.rollout


def _copied(trainer: Trainer) -> Trainer:
    """A trainer that learns as this one would, in float64; it has no environments of its own."""
    made, config = copy.copy(trainer), trainer.config
    made.generator = torch.Generator()
    made.device = CPU
    made.policy, made.value_function = copy.deepcopy((trainer.policy, trainer.value_function))
    made.optimizers = {}
    for name, module in _modules(made).items():
        before, parameters = trainer.optimizers[name], module.cpu().double().parameters()
        made.optimizers[name] = make_optimizer(config.optimizer, parameters, before.learning_rate)
        made.optimizers[name].load_state_dict(before.state_dict())
    return made


def _in_float64(rollout: Rollout, normalize_reward: RewardNormalizer | None) -> Rollout:
    reward = rollout.reward.double()
    scaled = reward if normalize_reward is None else torch.from_numpy(normalize_reward(reward.numpy()))
    action = rollout.action.double() if rollout.action.is_floating_point() else rollout.action
    final = [(t, environments, last.double()) for t, environments, last in rollout.final]
    observation = rollout.observation.double()
    return rollout._replace(observation=observation, action=action, reward=reward, scaled_reward=scaled, final=final)


def _learned(networks: Mapping[str, nn.Module | Network]) -> Numbers:
    """All parameters, by name."""
    learned: Numbers = {}
    for name, network in networks.items():
        parameters = network.parameters if isinstance(network, Network) else dict(network.named_parameters())
        tensors = {f"{name}.{key}": torch.as_tensor(p).detach().cpu() for key, p in parameters.items()}
        learned |= {key: tensor.double().numpy() for key, tensor in tensors.items()}
    return learned


def _shuffle(generator: torch.Generator) -> Callable[[int], list[int]]:
    return lambda count: torch.randperm(count, generator=generator).tolist()


def _own_figures(figures: Mapping[str, float]) -> list[str]:
    """The tags that the reference has as well: not those of a policy's own, nor of the check by hand."""
    return [
        tag for tag in figures if tag.startswith(("rollout/", "loss/")) or tag in ("policy/entropy", "gradient/norm")
    ]


def _modules(trainer: Trainer) -> dict[str, nn.Module]:
    modules = {"policy": trainer.policy, "value": trainer.value_function}
    return {name: module for name, module in modules.items() if module is not None}


def _network(trainer: Trainer, name: str) -> Network:
    module, optimizer = _modules(trainer)[name], trainer.optimizers[name]
    named = {key: parameter.detach().cpu().double().numpy() for key, parameter in module.named_parameters()}
    weight = module.weight.item() if isinstance(module, BiasPolicy) else np.nan
    network = Network(named, weight, getattr(module, "activation", "tanh"))
    if isinstance(optimizer, Adam):
        network.steps = int(optimizer.steps[0])
        for key, mean, square in zip(named, optimizer.mean, optimizer.mean_square, strict=True):
            network.mean[key], network.square[key] = mean.cpu().double().numpy(), square.cpu().double().numpy()
    return network


def _distribution(space: spaces.Space[Any]) -> Categoricals | Bernoullis | Normals:
    if isinstance(space, spaces.Discrete):
        return Categoricals([int(space.n)], [int(space.start)])
    if isinstance(space, spaces.MultiDiscrete):
        return Categoricals(space.nvec.tolist(), space.start.tolist())
    return Bernoullis() if isinstance(space, spaces.MultiBinary) else Normals()
