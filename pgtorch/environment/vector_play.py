"""Plays vector environments in any autoreset mode for `check_vector_env`, and checks each value that they return.

Legend: N environments; a row is one of them; filler is the row of a step that NEXT_STEP spends on a reset.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple, NoReturn, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from pgtorch.environment.vector_values import info_problem, kind_of, lies_in, overwrite, row_of, same, text, to_numpy

Vector: TypeAlias = VectorEnv[Any, Any, Any]
Single: TypeAlias = gym.Env[Any, Any]

ENOUGH = 20  # repeated starts that are no accident: one in a million if there are two equally likely ones


class Step(NamedTuple):
    """One real step of one environment."""

    observation: Any
    action: Any
    reward: float
    terminated: bool
    truncated: bool
    following: Any  # the observation that the step led to; the final one at an episode's end

    @property
    def ended(self) -> bool:
        """Whether the episode ended."""
        return self.terminated or self.truncated


Rows: TypeAlias = list[list[Step]]  # the steps of each environment


class Play(NamedTuple):
    """What N environments did after one reset."""

    rows: Rows  # of each environment; no filler
    first_end: int  # real steps up to and including the first end of an episode in any environment


class StopMode(Exception):  # noqa: N818 -- no error: the remaining checks of a mode would make no sense
    """A failed check makes the remaining ones of this mode meaningless."""


class Player:
    """Plays the instances of a vector environment that a mode is checked with.

    Args:
        env: One of the instances; the others have the same spaces.
        mode: The autoreset mode of all of them.
        num_envs: N.
        num_steps: Steps per play.
        seed: Of the actions.
        find: Called as `find(check, got)` for each failed check.
    """

    def __init__(
        self,
        env: Vector,
        mode: AutoresetMode,
        num_envs: int,
        num_steps: int,
        seed: int,
        find: Callable[[str, str], None],
    ) -> None:
        self.mode, self.n, self.steps, self._find = mode, num_envs, num_steps, find
        self._blame = ""  # if not empty, the check that every new finding counts for
        self._found: set[str] = set()
        space = deepcopy(env.single_action_space)
        space.seed(seed)
        self.actions = [[space.sample() for _ in range(num_envs)] for _ in range(2 * num_steps + 2)]

    def play(
        self,
        env: Vector,
        seed: int | list[int] | None,
        *,
        spoil: bool = False,
        shift: int = 0,
        uniform: bool = False,
        until_end: bool = False,
    ) -> Play:
        """Reset and step an environment, and check all that it returns.

        Row i takes the action `actions[k][i]` in its k-th real step, whatever the mode.

        Args:
            env: The environment.
            seed: Of the reset.
            spoil: Whether to spoil every returned array after reading it.
            shift: Moves the actions of filler, and of nothing else; 0 or 1.
            uniform: Whether all rows take the actions of row 0.
            until_end: Whether to go on until an episode ends, for twice the steps at most.

        Raises:
            StopMode: If the environment raised, or returned what cannot be read.
        """
        self._blame = "overwritten" if spoil else ""
        calls: list[tuple[Any, Any]] = []  # what was returned, and a copy
        rows: Rows = [[] for _ in range(self.n)]
        resetting, first_end = np.zeros(self.n, np.bool_), 0
        before, _ = self._call(env, calls, spoil, "reset", seed=seed)
        for step in range(2 * self.steps):
            index = [len(row) + shift * int(filler) for row, filler in zip(rows, resetting, strict=True)]
            chosen = [self.actions[k][0 if uniform else i] for i, k in enumerate(index)]
            empty: Any = create_empty_array(env.single_action_space, self.n)
            batch = concatenate(env.single_action_space, chosen, empty)
            sent = deepcopy(batch)
            after, reward, terminated, truncated, infos = self._call(env, calls, spoil, "step", batch)
            if not same(batch, sent):
                self.find("actions", f"{text(sent)} became {text(batch)}")
            ended = terminated | truncated
            if (resetting & ((reward != 0) | ended)).any():
                self.find("next_step", f"reward {text(reward)}, ended {text(ended)} after the ends {text(resetting)}")
            if self.mode is AutoresetMode.SAME_STEP:
                self._require_final(env, ended, infos)
            for i in np.flatnonzero(~resetting).tolist():
                final = ended[i] and self.mode is AutoresetMode.SAME_STEP
                following = row_of(infos["final_obs"], i) if final else after[i]
                fields = float(reward[i]), bool(terminated[i]), bool(truncated[i])
                rows[i].append(Step(before[i], chosen[i], *fields, following))
            first_end = first_end or (step + 1) * bool(ended.any())
            if step + 1 >= self.steps and (ended.any() or not until_end):
                break
            resetting = ended & (self.mode is AutoresetMode.NEXT_STEP)
            before = after
            if self.mode is AutoresetMode.DISABLED and ended.any():
                before, _ = self._call(env, calls, spoil, "reset", options={"reset_mask": ended.copy()})
                changed = [i for i in np.flatnonzero(~ended).tolist() if not same(before[i], after[i])]
                if changed:
                    self.find("disabled", f"environments {changed} changed with the mask {text(ended)}")
        changed = [] if spoil else [k for k, (returned, copy) in enumerate(calls) if not same(returned, copy)]
        if changed and getattr(env.unwrapped, "copy", True):
            self.find("kept", f"{text(calls[changed[0]][1])} of call {changed[0]} became {text(calls[changed[0]][0])}")
        return Play(rows, first_end or self.steps)

    def find(self, check: str, got: str) -> None:
        """Report a failed check."""
        if not self._blame:
            self._found.add(check)
            self._find(check, got)
        elif check not in self._found:
            self._find(self._blame, got)

    def stop(self, check: str, got: str) -> NoReturn:
        """Report a failed check after which nothing more can be read."""
        self.find(check, got)
        raise StopMode

    def require_spaces(self, env: Vector) -> None:
        """Check `num_envs` and the spaces."""
        if env.num_envs != self.n:
            self.stop("attributes", f"num_envs {env.num_envs!r} instead of {self.n}")
        pairs = [("action_space", env.action_space, env.single_action_space)]
        if getattr(env.unwrapped, "observation_mode", "same") == "same":  # SyncVectorEnv can batch differing ones
            pairs.append(("observation_space", env.observation_space, env.single_observation_space))
        for name, batched, single in pairs:
            if batched != batch_space(single, self.n):
                self.stop("attributes", f"{name} {batched}, single_{name} {single}")

    def _call(
        self, env: Vector, calls: list[tuple[Any, Any]], spoil: bool, name: str, *arguments: Any, **keywords: Any
    ) -> Any:
        """Call reset or step, check what it returns, and give a copy with the observations in a list, one a row."""
        call = f"{name} (call {len(calls)})"
        try:
            returned = getattr(env, name)(*arguments, **keywords)
        except Exception as error:
            self.stop("runs", f"{call} raised {type(error).__name__}: {error}")
        if not isinstance(returned, tuple) or len(returned) != (2 if name == "reset" else 5):
            self.stop("returns", f"{text(returned)} from {call}")
        calls.append((returned, deepcopy(returned)))
        observation, *fields, infos = calls[-1][1]
        self._require_observation(env, observation, call)
        for field, value in zip(("reward", "terminated", "truncated"), fields, strict=False):
            kind = "f" if field == "reward" else "b"
            shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
            if shape != (self.n,) or dtype is None or dtype.kind != kind or not np.isfinite(value).all():
                self.stop("reward" if kind == "f" else "flags", f"{field} {text(value)} {dtype} from {call}")
        problem = info_problem(infos, self.n)
        if problem:
            self.stop("infos", f"{problem} from {call}")
        if spoil:
            overwrite(returned)
        return [list(iterate(env.observation_space, observation)), *map(np.asarray, fields), infos]

    def _require_observation(self, env: Vector, observation: Any, call: str) -> None:
        numpy = to_numpy(observation)
        if not lies_in(env.observation_space, numpy, exact=True):
            self.stop("observation", f"{kind_of(numpy)} {text(observation)} from {call}, in {env.observation_space}")

    def _require_final(self, env: Vector, ended: NDArray[np.bool_], infos: dict[str, Any]) -> None:
        for key in ("final_obs", "final_info"):
            mask = infos.get(f"_{key}", np.zeros(self.n, np.bool_))
            if not np.array_equal(mask, ended):
                self.stop("same_step", f"_{key} {text(mask)} where the ends are {text(ended)}")
        for i in np.flatnonzero(ended).tolist():
            final = to_numpy(row_of(infos["final_obs"], i))
            if not lies_in(env.single_observation_space, final, exact=False):
                self.stop("same_step", f"final_obs {text(final)} of environment {i}")
        if ended.any() and not isinstance(infos["final_info"], dict):
            self.stop("same_step", f"final_info {text(infos['final_info'])}")


def play_single(make: Callable[[], Single], seed: int, actions: list[Any]) -> list[Step]:
    """A step for each action in a single environment; it is seeded once and reset after each episode."""
    env, steps = make(), list[Step]()
    before, _ = env.reset(seed=seed)
    for action in actions:
        before = deepcopy(before)
        after, reward, terminated, truncated, _ = env.step(action)
        steps.append(Step(before, action, float(reward), bool(terminated), bool(truncated), deepcopy(after)))
        before = env.reset()[0] if terminated or truncated else after
    env.close()
    return steps


def difference(rows: Rows, others: Rows, tolerance: float = 0.0) -> str:
    """Where the rows first differ, in words; an empty string if they agree as far as both go."""
    for i, (row, other) in enumerate(zip(rows, others, strict=True)):
        for k, (step, second) in enumerate(zip(row, other, strict=False)):
            for field in ("observation", "reward", "terminated", "truncated", "following"):
                values = getattr(step, field), getattr(second, field)
                if not same(*values, tolerance):
                    return f"{field} {text(values[0])} and {text(values[1])} in step {k + 1} of environment {i}"
    return ""


def starts_repeat(rows: Rows, others: Rows) -> bool:
    """Whether all episodes of each environment start alike, though other seeds (`others`) start them differently."""
    starts = [
        [step.observation for last, step in zip([None, *row], row, strict=False) if last is None or last.ended]
        for row in rows
    ]
    if sum(map(len, starts)) - len(rows) < ENOUGH:
        return False
    varied = not any(same(row[0], other[0].observation) for row, other in zip(starts, others, strict=True))
    return varied and all(same(start, row[0]) for row in starts for start in row)


def beyond_limit(rows: Rows, limit: int) -> tuple[str, int]:
    """What breaks a time limit, in words, if anything does (0: no limit); and the steps of the longest episode."""
    longest = 0
    for i, row in enumerate(rows):
        length = 0
        for step in row:
            length += 1
            longest = max(longest, length)
            if limit and (length > limit or (length == limit and not step.truncated)):
                return f"truncated {step.truncated} in step {length} of {limit} of environment {i}", longest
            length *= not step.ended
    return "", longest


def single_maker(env: Vector) -> Callable[[], Single] | None:
    """What makes the single environment of a vector that `gymnasium.make_vec` made; None if it is wrapped."""
    if env.spec is None or env.unwrapped is not env or env.spec.entry_point is None:
        return None
    spec = deepcopy(env.spec)
    kwargs, spec.kwargs = spec.kwargs, {}
    wrappers = kwargs.pop("wrappers", [])
    for name in ("num_envs", "vectorization_mode", "vector_kwargs", "autoreset_mode"):
        kwargs.pop(name, None)

    def make() -> Single:
        single: Single = gym.make(spec, **kwargs)
        for wrapper in wrappers:
            single = wrapper(single)
        return single

    return make


def replay(single: Single, step: Step, set_state: Callable[[Single, Any], object]) -> Step:
    """The step of the single environment from the same state; its time limit counts from there, so it has no say."""
    single.reset(seed=0)
    set_state(single, deepcopy(step.observation))
    after, reward, terminated, _, _ = single.step(step.action)
    return Step(step.observation, step.action, float(reward), bool(terminated), step.truncated, after)
