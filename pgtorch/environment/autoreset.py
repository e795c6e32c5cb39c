"""Steps a vector environment in any autoreset mode, checks what it returns, and starts new episodes.

Gymnasium's vector environments start new episodes in three ways; there is a class for each. After a step all of them
report the same: what happened, which rows were real steps, and the observation for the next actions.

Legend: N environments, D numbers of a flattened observation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from pgtorch.environment.checks import ContractError, describe, require_batch, require_fields, require_finite
from pgtorch.environment.spaces import clipper, flattener, seed_spaces


class Transition(NamedTuple):
    """One step of N environments."""

    reward: NDArray[Any]  # [N], as paid
    terminated: NDArray[np.bool_]  # [N]: the episode ended by its own rules
    truncated: NDArray[np.bool_]  # [N]: it was cut off, by a time limit for instance
    ended: NDArray[np.bool_]  # [N]: one of the two
    valid: NDArray[np.bool_]  # [N]: False on filler, a step that the environment spent on resetting itself
    final: tuple[NDArray[np.int64], NDArray[Any]] | None
    """Environments [C] that were cut off and whose next row shows another episode; their final observations [C, D]."""


class Stepper:
    """Steps a vector environment. A subclass knows how one autoreset mode starts new episodes.

    Args:
        env: Any `gymnasium.vector.VectorEnv` of supported spaces.

    Attributes:
        observation: What the next actions are chosen for, flattened, [N, D].
        steps_taken: In each environment.

    Raises:
        TypeError: If a space is not supported.

    `reset` and `step` raise `ContractError` and `NonFiniteError` if the environment violates its spaces.
    """

    observation: NDArray[Any]

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self.env = env
        self.steps_taken = 0
        self.resetting = np.zeros(env.num_envs, np.bool_)  # [N]: whose next step is filler
        self._flatten, self._clip = flattener(env.single_observation_space), clipper(env.single_action_space)
        self._all_valid = np.ones(env.num_envs, np.bool_)
        self._all_valid.flags.writeable = False

    def reset(self, seed: int | None = None) -> None:
        """Start a new episode in every environment; those in progress are abandoned.

        Args:
            seed: For the environments and their spaces' generators; None keeps their present state.
        """
        if seed is not None:
            seed_spaces(self.env, seed)
        self.resetting = np.zeros(self.env.num_envs, np.bool_)
        self._take(self.env.reset(seed=seed)[0])

    def step(self, action: NDArray[Any]) -> Transition:
        """Play one step.

        Args:
            action: As the policy gave it, [N, *action_shape]; a `Box` action is clipped to its space.
        """
        valid = self._valid()
        self.steps_taken += 1
        observation, reward, terminated, truncated, infos = self._step(action)
        require_fields(self.env.num_envs, self.steps_taken, reward, terminated, truncated)
        require_finite(reward, "reward", self.steps_taken)
        self._take(observation)
        ended = terminated | truncated
        final = None
        if np.count_nonzero(ended):
            cut = np.flatnonzero(truncated & ~terminated) if np.count_nonzero(truncated) else _NONE
            final = self._start_episodes(action, infos, ended, cut)
            if final is not None:
                require_finite(final, "final observation", self.steps_taken)
        else:
            self.resetting = ended
        return Transition(
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            ended=ended,
            valid=valid,
            final=None if final is None else (cut, final),
        )

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on besides the environment, as plain types and tensors; all copies."""
        return {
            "observation": torch.from_numpy(self.observation.copy()),
            "resetting": torch.from_numpy(self.resetting.copy()),
            "steps_taken": self.steps_taken,
        }

    def load_state_dict(self, state: dict[str, Any], *, mid_episode: bool) -> None:
        """Restore what `state_dict` returned; without `mid_episode` new episodes have begun."""
        self.steps_taken = state["steps_taken"]
        if mid_episode:
            self.observation = state["observation"].numpy().copy()
            self.resetting = state["resetting"].numpy().copy()

    def _valid(self) -> NDArray[np.bool_]:
        return self._all_valid

    def _start_episodes(
        self, action: NDArray[Any], infos: dict[str, Any], ended: NDArray[np.bool_], cut: NDArray[np.int64]
    ) -> NDArray[Any] | None:
        """Start new episodes after the ended ones.

        Args:
            action: Of the step.
            infos: Of the step.
            ended: Which episodes ended, [N]; at least one.
            cut: The environments whose episode was cut off, [C].

        Returns:
            Final observations of those that were cut off, [C, D]; None if there are none or the next row shows them.
        """
        raise NotImplementedError

    def _step(self, action: NDArray[Any]) -> tuple[Any, ...]:
        returned = self.env.step(self._clip(action))
        if not isinstance(returned, tuple) or len(returned) != 5:  # noqa: PLR2004
            raise ContractError(
                "step must return (observation, reward, terminated, truncated, info), "
                f"got {describe(returned)}, at step {self.steps_taken}"
            )
        return returned

    def _take(self, observation: Any) -> None:
        require_batch(self.env.single_observation_space, observation, self.env.num_envs, self.steps_taken)
        self.observation = self._flatten(observation, self.env.num_envs)
        require_finite(self.observation, "observation", self.steps_taken)


_NONE = np.zeros(0, np.int64)


class SameStep(Stepper):
    """The environment returns the new episode's first observation at once, and the final one in its info."""

    def _start_episodes(
        self, action: NDArray[Any], infos: dict[str, Any], ended: NDArray[np.bool_], cut: NDArray[np.int64]
    ) -> NDArray[Any] | None:
        if not len(cut):
            return None
        return np.concatenate([self._flatten(_one(infos["final_obs"], int(i)), 1) for i in cut])


class NextStep(Stepper):
    """The environment returns the final observation, and spends its next step on the reset: a row of filler."""

    def _valid(self) -> NDArray[np.bool_]:
        return ~self.resetting

    def _start_episodes(
        self, action: NDArray[Any], infos: dict[str, Any], ended: NDArray[np.bool_], cut: NDArray[np.int64]
    ) -> NDArray[Any] | None:
        if not ended.all():
            self.resetting = ended  # the next row shows the final observation
            return None
        final = self.observation[cut] if len(cut) else None
        self._take(self._step(action)[0])  # a row of only filler would teach nothing: skip it
        self.resetting = np.zeros_like(ended)
        return final


class Disabled(Stepper):
    """The environment waits to be reset."""

    def _start_episodes(
        self, action: NDArray[Any], infos: dict[str, Any], ended: NDArray[np.bool_], cut: NDArray[np.int64]
    ) -> NDArray[Any] | None:
        final = self.observation[cut] if len(cut) else None
        self._take(self.env.reset(options={"reset_mask": ended})[0])
        return final


def make_stepper(env: VectorEnv[Any, Any, Any]) -> Stepper:
    """The stepper for a vector environment's own autoreset mode."""
    steppers = {AutoresetMode.SAME_STEP: SameStep, AutoresetMode.NEXT_STEP: NextStep, AutoresetMode.DISABLED: Disabled}
    return steppers[env.metadata["autoreset_mode"]](env)


def _one(batch: Any, index: int) -> Any:
    """One environment's observation in a batch, from a native environment or in Gymnasium's array of objects."""
    if isinstance(batch, dict):
        return {key: _one(part, index) for key, part in batch.items()}
    return tuple(_one(part, index) for part in batch) if isinstance(batch, tuple) else batch[index]
