"""Play T steps in N environments and keep what happened, on the CPU; the policy may be on another device.

The environments are cut into S equal shards. Each draws from its own generators and chooses its actions in a batch of
its own, so that other processes can play some of them without changing a number.

Legend: T steps, N environments, D numbers of a flattened observation, B = valid rows among the T * N, ordered by step,
then by environment; n = N / S environments of a shard.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Generator, Tensor

from pgtorch.device import CPU, fetched
from pgtorch.environment.autoreset import make_stepper
from pgtorch.environment.checks import ObservationBounds
from pgtorch.environment.episodes import EpisodeStatistics
from pgtorch.environment.normalization import ObservationNormalizer, RewardNormalizer
from pgtorch.environment.streams import OwnStreams
from pgtorch.policies import Policy


class Rollout(NamedTuple):
    """What happened in T steps of N environments; never changed once made.

    A row is filler if the environment spent the step on resetting itself (autoreset mode NEXT_STEP): its action was
    ignored and its reward means nothing, so it must never reach a loss.
    """

    observation: Tensor  # float32 [T + 1, N, D], what the policy saw, and after the last step what it will see
    action: Tensor  # [T, N, *action_shape], what it did
    reward: Tensor  # float32 [T, N], as the environment paid it
    scaled_reward: Tensor  # float32 [T, N], what is learned from: the same, unless rewards are normalized
    terminated: Tensor  # bool [T, N]: the episode ended by its own rules
    truncated: Tensor  # bool [T, N]: it was cut off, by a time limit for instance
    valid: Tensor  # bool [T, N]: False on filler rows
    final: list[tuple[int, Tensor, Tensor]]
    """(t, environments [C], their final observations [C, D]) of cut-off episodes that the next row no longer shows."""
    all_valid: bool  # there is no filler

    def rows(self, values: Tensor) -> Tensor:
        """The valid rows of [T, N, ...] values, ordered by step, then by environment: [B, ...]."""
        flat = values.flatten(0, 1)
        return flat if self.all_valid else flat[self.valid.flatten()]

    @torch.no_grad()
    def values(self, value_function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The value of each observation, and of the one that the step led to: the *final* one if the episode ended.

        Args:
            value_function: [B, D] -> [B]; the result may be on another device.

        Returns:
            Both [T, N], on the CPU, without gradient.
        """
        rows = [self.observation.flatten(0, 1), *(final for _, _, final in self.final)]
        value, *ends = fetched([value_function(part) for part in rows])
        value = value.reshape(self.observation.shape[:2])  # [T + 1, N]
        following = value[1:].clone()
        for (t, environments, _), end in zip(self.final, ends, strict=True):
            following[t, environments] = end
        return value[:-1], following


@dataclass(slots=True)
class Batch:
    """B rows of a rollout, as a gradient step uses them."""

    observation: Tensor  # [B, D]
    action: Tensor  # [B, *action_shape]
    multiplier: Tensor  # [B], of log pi
    target: Tensor | None = None  # [B], what the value function should return; None without one
    old_log_prob: Tensor | None = None  # [B], log pi when they were played; None with one step per rollout

    def __getitem__(self, rows: Tensor) -> Batch:
        """Some of the rows."""
        target, old_log_prob = (None if part is None else part[rows] for part in (self.target, self.old_log_prob))
        return Batch(self.observation[rows], self.action[rows], self.multiplier[rows], target, old_log_prob)

    def split(self, parts: int) -> Iterator[Batch]:
        """The rows in this many parts, in order, as equal as can be; no row is copied."""
        columns = self.observation, self.action, self.multiplier, self.target, self.old_log_prob
        split = (itertools.repeat(None) if column is None else column.tensor_split(parts) for column in columns)
        return itertools.starmap(Batch, zip(*split, strict=False))

    def to(self, device: torch.device) -> Batch:
        """The same rows on a device."""
        if device.type == "cpu":
            return self
        columns = self.observation, self.action, self.multiplier, self.target, self.old_log_prob
        return Batch(*(None if column is None else column.to(device) for column in columns))  # type: ignore[arg-type]

    def __len__(self) -> int:
        """B."""
        return self.multiplier.shape[0]  # len() of a tensor takes longer


class Played(NamedTuple):
    """What one shard did in T steps, in arrays; `joined` puts those of several side by side."""

    observation: NDArray[Any]  # [T + 1, n, D], what the policy saw, and after the last step what it will see
    raw: NDArray[Any] | None  # [T, n, D], the same before normalization; None without one
    action: NDArray[Any]  # [T, n, *action_shape]
    reward: NDArray[np.float64]  # [T, n]
    terminated: NDArray[np.bool_]  # [T, n]
    truncated: NDArray[np.bool_]  # [T, n]
    valid: NDArray[np.bool_]  # [T, n]
    final: list[tuple[int, NDArray[np.int64], NDArray[Any]]]  # as in `Rollout`


def joined(parts: Sequence[Played]) -> Played:
    """The steps of S shards side by side, with n = N."""
    if len(parts) == 1:
        return parts[0]
    *columns, finals = zip(*parts, strict=True)
    size = parts[0].reward.shape[1]
    final = [(t, who + i * size, last) for i, part in enumerate(finals) for t, who, last in part]
    return Played._make([*(None if column[0] is None else np.concatenate(column, 1) for column in columns), final])


class Shard:
    """n of a run's environments, with everything that they and their actions are drawn from.

    Args:
        make_env: Makes them.
        seed: Of the run.
        number: i, from 0. The first shard draws from the learner's generator and from the process's global streams,
            like a run of one shard; the others have their own.
    """

    def __init__(self, make_env: Callable[[], VectorEnv[Any, Any, Any]], seed: int, number: int = 0) -> None:
        self.number, self._seed = number, seed
        self.generator = Generator().manual_seed(self.seed()) if number else None
        self.streams: AbstractContextManager[None] = OwnStreams(self.seed()) if number else nullcontext()
        with self.streams:
            self.env = make_env()

    def seed(self, updates: int = 0) -> int:
        """The seed of its environments if their episodes begin after so many updates: below 2^31, but for the first."""
        run = self._seed + updates
        return int(np.random.SeedSequence([run, self.number]).generate_state(1)[0] >> 1) if self.number else run

    def start(self) -> None:
        """Begin the first episodes."""
        with self.streams:
            self.stepper = make_stepper(self.env)
            self._bounds = ObservationBounds(self.env.single_observation_space)
            self._size = spaces.flatdim(self.env.single_observation_space)
            self.stepper.reset(self.seed())

    def play(
        self,
        policy: Policy,
        generator: Generator,
        num_steps: int,
        normalize: ObservationNormalizer | None,
        device: torch.device,
    ) -> Played:
        """Play T steps; `generator` is the learner's, and `device` where the policy is."""
        if self.generator is None:
            return self._play(policy, generator, num_steps, normalize, device)
        try:
            with self.streams:
                return self._play(policy, self.generator, num_steps, normalize, device)
        except Exception as error:
            first = self.number * self.env.num_envs
            error.add_note(f"in shard {self.number}, where environment 0 is number {first} of the run")
            raise

    def _play(
        self,
        policy: Policy,
        generator: Generator,
        num_steps: int,
        normalize: ObservationNormalizer | None,
        device: torch.device,
    ) -> Played:
        stepper, shape = self.stepper, (num_steps, self.env.num_envs)
        dtype = torch.empty(0).numpy().dtype  # float32, unless the host changed torch's default
        observation = np.empty((num_steps + 1, shape[1], self._size), dtype)
        raw = observation[:num_steps] if normalize is None else np.empty((*shape, self._size), dtype)
        reward = np.empty(shape)
        terminated, truncated, valid = (np.empty(shape, np.bool_) for _ in range(3))
        seen = torch.from_numpy(observation)  # the same memory
        actions, final = [], []
        noise = policy.noise(num_steps, shape[1], generator)
        noise = noise.to(device) if isinstance(noise, Tensor) else noise
        for t in range(num_steps):
            raw[t] = stepper.observation
            if normalize is not None:
                observation[t] = normalize(stepper.observation)
            action = policy.sample(seen[t].to(device), noise[t]).cpu().numpy()
            actions.append(action)
            step = stepper.step(action)
            reward[t], terminated[t], truncated[t], valid[t] = step.reward, step.terminated, step.truncated, step.valid
            if step.final is not None:
                who, last = step.final
                final.append((t, who, (last if normalize is None else normalize(last)).astype(dtype, copy=False)))
        observation[-1] = stepper.observation if normalize is None else normalize(stepper.observation)
        self._bounds.require(raw, stepper.steps_taken - num_steps)
        kept = None if normalize is None else raw
        return Played(observation, kept, np.array(actions), reward, terminated, truncated, valid, final)


class Exchange(Protocol):
    """The processes that play a run's shards; rank 0 learns."""

    def hosted(self, num_shards: int) -> range:
        """The numbers of the shards that this process plays."""

    def play(self, collector: RolloutCollector, policy: Policy, generator: Generator) -> list[Played]:
        """Let every process play its shards with this policy, here by `collector.play`; what all of them did."""

    def everywhere(self, work: Callable[..., list[Any]], collector: RolloutCollector, *arguments: Any) -> list[Any]:
        """Call a function in every process with its own collector; what it returned, in order of rank."""


class RolloutCollector:
    """Steps vector environments with a policy.

    Args:
        env: Any `gymnasium.vector.VectorEnv` of supported spaces, in any autoreset mode; or the shards that this
            process plays.
        num_steps: T, at least 1.
        seed: For the environment's first and only seeded reset; shards have their own.
        num_shards: S, of all processes; None if this one plays all.
        exchange: Reaches the other processes; None if there are none.
        normalize_observation: Scales flattened observations, [N, D]; None leaves them.
        normalize_reward: Scales rewards; None leaves them. Episode statistics use the original rewards.
        device: Where the policy is.

    Raises:
        TypeError: If a space is not supported.
        ContractError, NonFiniteError: If the environment violates its spaces; `collect` raises them too.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any] | Sequence[Shard],
        *,
        num_steps: int,
        seed: int = 0,
        num_shards: int | None = None,
        exchange: Exchange | None = None,
        normalize_observation: ObservationNormalizer | None = None,
        normalize_reward: RewardNormalizer | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.shards = [Shard(lambda: env, seed)] if isinstance(env, VectorEnv) else env
        for shard in self.shards:
            shard.start()
        self.stepper = self.shards[0].stepper
        self.episodes = EpisodeStatistics(self.shards[0].env.num_envs * (num_shards or len(self.shards)))
        self.normalize_observation, self.normalize_reward = normalize_observation, normalize_reward
        self.rollout: Rollout | None = None
        self.exchange = exchange
        self._num_steps, self._device = num_steps, device

    def collect(self, policy: Policy, generator: Generator) -> Rollout:
        """Play T steps; the rollout is also kept as `self.rollout`.

        Args:
            policy: Chooses the actions.
            generator: The source of its random numbers, asked once for all steps.

        Returns:
            A rollout with at least one valid row in each step.
        """
        self.rollout = None  # frees the memory of the previous one
        exchange = self.exchange
        parts = self.play(policy, generator) if exchange is None else exchange.play(self, policy, generator)
        self.rollout = self._complete(joined(parts))
        return self.rollout

    def play(self, policy: Policy, generator: Generator) -> list[Played]:
        """Play T steps in the shards of this process; normalizers do not change."""
        arguments = policy, generator, self._num_steps, self.normalize_observation, self._device
        return [shard.play(*arguments) for shard in self.shards]

    def everywhere(self, work: Callable[..., list[Any]], *arguments: Any) -> list[Any]:
        """What a function of a collector returns, in this process and then in the others, one after another."""
        exchange = self.exchange
        return work(self, *arguments) if exchange is None else exchange.everywhere(work, self, *arguments)

    def _complete(self, played: Played) -> Rollout:
        """Count the episodes, update the normalizers, scale the rewards: scales change between rollouts only."""
        ended = played.terminated | played.truncated
        for t, reward in enumerate(played.reward):
            self.episodes.record(reward, valid=played.valid[t], ended=ended[t])
        rewards = played.reward.astype(played.observation.dtype, copy=False)
        paid = scaled = torch.from_numpy(rewards)
        if self.normalize_observation is not None and played.raw is not None:
            self.normalize_observation.moments.update(played.raw[played.valid])
        if self.normalize_reward is not None:
            self.normalize_reward.update(rewards, ended=ended, valid=played.valid)
            scaled = torch.from_numpy(self.normalize_reward(rewards))
        return Rollout(
            observation=torch.from_numpy(played.observation),
            action=torch.from_numpy(played.action),
            reward=paid,
            scaled_reward=scaled,
            terminated=torch.from_numpy(played.terminated),
            truncated=torch.from_numpy(played.truncated),
            valid=torch.from_numpy(played.valid),
            final=[(t, torch.from_numpy(who), torch.from_numpy(last)) for t, who, last in played.final],
            all_valid=np.count_nonzero(played.valid) == played.valid.size,
        )
