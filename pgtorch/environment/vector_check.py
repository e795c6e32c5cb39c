"""Checks a Gymnasium vector environment, as `gymnasium.utils.env_checker.check_env` checks a single one.

Here trajectories are compared; `vector_play` plays them and checks each call. Legend: N environments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple, cast

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from pgtorch.environment import vector_play
from pgtorch.environment.vector_play import Play, Player, Rows, Single, StopMode, Vector, difference

CHECKS = {  # every check by name, with what it expects
    "runs": "reset, step and close raise nothing",
    "attributes": "num_envs is the number asked for; the batched spaces are batch_space of the single ones",
    "autoreset_mode": 'metadata["autoreset_mode"] is the AutoresetMode asked for',
    "returns": "reset returns (observation, infos), step (observation, reward, terminated, truncated, infos)",
    "observation": "each observation lies in observation_space and has its dtype and shape",
    "reward": "reward is a finite float array [N]",
    "flags": "terminated and truncated are bool arrays [N]",
    "infos": "infos is a dict; each key has N values, and a mask _key, a bool array [N]",
    "actions": "step does not modify the actions",
    "kept": "later calls do not change what reset and step returned",
    "overwritten": "changing returned arrays does not change the environment",
    "same_step": "final_obs and final_info come with masks that are True exactly where an episode ended",
    "next_step": "the step after an episode's end returns reward 0 and False flags",
    "ignored_action": "the step after an episode's end ignores its action",
    "disabled": 'reset(options={"reset_mask": mask}) leaves the observations of the other environments as they were',
    "same_seed": "two instances with the same seed and actions play the same episodes",
    "other_seed": "another seed gives other episodes",
    "restart": "reset(seed=seed) starts afresh, whatever came before",
    "unseeded": "reset() without a seed continues the stream of random numbers",
    "repeated_episode": "the episodes of an environment do not all start with the same observation",
    "rows": "one integer seeds each environment differently",
    "list_of_seeds": "a list of seeds, if accepted, seeds each environment: [seed, seed + 1, ...] is the same as seed",
    "time_limit": "no episode exceeds max_episode_steps, and truncated is True in its last step",
    "single": "environment i plays the episodes of the single environment seeded with seed + i",
    "dynamics": "each step is that of the single environment, put into the same state",
    "modes": "all autoreset modes play the same episodes",
    "close": "close can be called twice, and closed is True afterwards",
}

TOLERANCE = 1e-5  # absolute and relative, between a vector and a single environment: dtypes may differ


class Finding(NamedTuple):
    """One failed check in one autoreset mode; only its first failure is reported."""

    check: str  # a key of CHECKS
    mode: str  # of AutoresetMode
    got: str  # what came, and where

    def __str__(self) -> str:
        """Name, mode, what was expected and what came."""
        return f"{self.check} ({self.mode}): expected: {CHECKS[self.check]}; got: {self.got}"


class VectorEnvReport(NamedTuple):
    """What `check_vector_env` found, and what it could not check."""

    findings: list[Finding]
    skipped: list[str]  # a sentence each, with the reason
    modes: list[str]  # the autoreset modes that were played

    def __str__(self) -> str:
        """A line for each finding and for each thing skipped."""
        lines = [f"{len(self.findings)} findings in {', '.join(self.modes)}", *map(str, self.findings)]
        return "\n".join([*lines, *(f"skipped: {reason}" for reason in self.skipped)])


class VectorEnvError(ValueError):
    """A vector environment failed a check; `report` holds all findings."""

    def __init__(self, report: VectorEnvReport) -> None:
        super().__init__(str(report))
        self.report = report


def check_vector_env(
    make: Callable[..., Vector],
    *,
    make_single: Callable[[], Single] | None = None,
    set_state: Callable[[Single, Any], object] | None = None,
    num_envs: int = 4,
    num_steps: int = 500,
    seed: int = 0,
    raise_errors: bool = True,
) -> VectorEnvReport:
    """Play a vector environment in every autoreset mode that it has, with random actions, and check all of `CHECKS`.

    Seeds, modes and single environments can be compared step by step only if each environment has its own random
    numbers. It is taken to have them if `reset` accepts a list of seeds. Otherwise modes are compared up to the first
    end of an episode, and `set_state` is the way to compare with the single environment.

    Args:
        make: Called as `make(num_envs=N, autoreset_mode=mode)` for each mode. A mode is skipped if this raises
            TypeError, ValueError, AssertionError, NotImplementedError or `gymnasium.error.Error`; if all are,
            `make(num_envs=N)` is checked in its own mode. It is called several times and must not share state.
        make_single: Makes the single environment. By default it is made from the spec of an unwrapped environment.
        set_state: Called as `set_state(single, observation)` after a reset: puts the single environment into the state
            that an observation shows. Only for environments whose next step depends on nothing else.
        num_envs: N, at least 1; 2 or more for the check `rows`.
        num_steps: Steps per trajectory, at least 1; there are about ten trajectories per mode. Episodes should end
            within it: a small `max_episode_steps` helps.
        seed: At least 0.
        raise_errors: Whether to raise instead of returning a report with findings.

    Returns:
        The report. Print it: it also names what was skipped, and why.

    Raises:
        VectorEnvError: If a check failed and `raise_errors` is True.
        ValueError: If `num_envs`, `num_steps` or `seed` is out of range.

    Source: Gymnasium 1.4: vector/vector_env.py, vector/sync_vector_env.py and "Autoreset Mode" in its documentation.
    """
    for name, value, low in (("num_envs", num_envs, 1), ("num_steps", num_steps, 1), ("seed", seed, 0)):
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    checker = _Checker(num_envs, num_steps, seed, make_single, set_state)
    for mode in AutoresetMode:
        build = partial(make, num_envs=num_envs, autoreset_mode=mode)
        try:
            env = build()
        except (TypeError, ValueError, AssertionError, NotImplementedError, gym.error.Error) as error:
            checker.skipped.append(f"{mode.name}: make refused this mode ({type(error).__name__}: {error})")
            continue
        checker.check_mode(env, build, mode)
    if not checker.modes:
        build = partial(make, num_envs=num_envs)
        try:
            checker.check_mode(build(), build, None)
        except Exception as error:
            error.add_note("\n".join(checker.skipped))
            raise
    checker.compare_modes()
    report = VectorEnvReport(checker.findings, checker.skipped, checker.modes)
    if report.findings and raise_errors:
        raise VectorEnvError(report)
    return report


@dataclass
class _Checker:
    """Compares trajectories and collects findings, each check at most once per mode."""

    n: int
    steps: int
    seed: int
    make_single: Callable[[], Single] | None
    set_state: Callable[[Single, Any], object] | None
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    plays: dict[str, Play] = field(default_factory=dict)  # of the modes without findings
    separate: dict[str, bool] = field(default_factory=dict)  # whether each environment has its own random numbers

    def find(self, check: str, got: str) -> None:
        """Add a finding of the present mode."""
        if not any(finding.check == check and finding.mode == self.modes[-1] for finding in self.findings):
            self.findings.append(Finding(check, self.modes[-1], got))

    def skip(self, reason: str) -> None:
        """Say what cannot be checked in the present mode."""
        self.skipped.append(f"{self.modes[-1]}: {reason}")

    def check_mode(self, env: Vector, build: Callable[[], Vector], asked: AutoresetMode | None) -> None:
        """Run all checks in one mode; None: the one that the environment names, else NEXT_STEP."""
        named = env.metadata.get("autoreset_mode")
        mode = asked or (named if isinstance(named, AutoresetMode) else AutoresetMode.NEXT_STEP)
        self.modes.append(mode.name)
        other = build()
        try:
            if named is not mode:
                self.find("autoreset_mode", repr(named))
            if named is mode or not asked:  # else it would play by another mode
                self._check_plays(Player(env, mode, self.n, self.steps, self.seed, self.find), env, other)
        except StopMode:
            self.skip("the remaining checks, after its findings")
        finally:
            for each in (env, other):
                self._check_close(each)

    def _check_plays(self, player: Player, env: Vector, other: Vector) -> None:
        known = len(self.findings)
        player.require_spaces(env)
        play = player.play(env, self.seed)
        if not any(step.ended for row in play.rows for step in row):
            self.skip(f"no episode ended within {self.steps} steps: autoreset is not checked")
        make = self._check_dynamics(play, env)
        self._check_seeds(player, play, env, other)
        if player.mode is AutoresetMode.NEXT_STEP:
            self._compare("ignored_action", play.rows, player.play(other, self.seed, shift=1).rows)
        self._check_list(player, play, env)
        if make and self.separate[self.modes[-1]]:
            actions = [[moment[i] for moment in player.actions[: len(play.rows[i])]] for i in range(self.n)]
            rows = [vector_play.play_single(make, self.seed + i, row) for i, row in enumerate(actions)]
            self._compare("single", play.rows, rows, TOLERANCE)
        elif make and not self.set_state:
            self.skip("the environments share random numbers: pass set_state to compare with the single one")
        self._compare("overwritten", play.rows, player.play(other, self.seed, spoil=True).rows)
        if len(self.findings) == known:
            self.plays[self.modes[-1]] = play

    def compare_modes(self) -> None:
        """Compare the first mode's episodes with those of the others; only modes without findings."""
        for name in list(self.plays)[1:]:
            first = next(iter(self.plays))
            play, other = self.plays[first], self.plays[name]
            whole = self.separate[first] and self.separate[name]
            end = None if whole else min(play.first_end, other.first_end)
            found = difference([row[:end] for row in play.rows], [row[:end] for row in other.rows])
            if found:
                self.findings.append(Finding("modes", f"{first} and {name}", found))
            elif not whole:
                self.skipped.append(f"{first} and {name}: compared only up to the first end of an episode")

    def _compare(self, check: str, rows: Rows, others: Rows, tolerance: float = 0.0) -> bool:
        found = difference(rows, others, tolerance)
        if found:
            self.find(check, found)
        return not found

    def _check_seeds(self, player: Player, play: Play, env: Vector, other: Vector) -> None:
        seed, far = self.seed, self.seed + self.n + 1000
        if not self._compare("same_seed", play.rows, player.play(other, seed).rows):
            raise StopMode
        changed = player.play(env, far)
        unseeded = [player.play(env, None), player.play(env, None, until_end=True)]
        if not self._compare("restart", play.rows, player.play(env, seed).rows):
            raise StopMode
        pairs = list(combinations([play, changed, *unseeded], 2))
        repeats = [not difference(first.rows, second.rows) for first, second in pairs]
        if all(repeats):
            self.skip(f"no randomness within {self.steps} steps: seeds are not checked")
        elif repeats[0]:
            self.find("other_seed", f"seeds {seed} and {far} gave the same episodes")
        elif any(repeats):
            self.find("unseeded", "reset() gave episodes that an earlier reset had given")
        else:
            if vector_play.starts_repeat(play.rows, changed.rows):
                self.find("repeated_episode", "each environment starts all its episodes alike")
            uniform = [player.play(other, each, uniform=True).rows for each in (seed, far)]
            for i, j in combinations(range(self.n), 2):
                if not any(difference([rows[i]], [rows[j]]) for rows in uniform):
                    self.find("rows", f"environments {i} and {j} played the same episodes")

    def _check_list(self, player: Player, play: Play, env: Vector) -> None:
        self.separate[self.modes[-1]] = False
        seeds = [self.seed + i for i in range(self.n)]
        try:
            cast("Any", env).reset(seed=seeds)
        except Exception as error:
            self.skip(f"reset takes no list of seeds ({type(error).__name__}: {error})")
        else:
            self.separate[self.modes[-1]] = self._compare("list_of_seeds", play.rows, player.play(env, seeds).rows)

    def _check_dynamics(self, play: Play, env: Vector) -> Callable[[], Single] | None:
        """Check what needs no seed of a single environment; give what makes one, if anything does."""
        make = self.make_single or vector_play.single_maker(env)
        single = None
        try:
            single = make and make()
        except (TypeError, ValueError, gym.error.Error) as error:
            self.skip(f"the single environment could not be made ({type(error).__name__}: {error})")
        spec = (single and single.spec) or env.spec
        limit = (spec and (spec.kwargs.get("max_episode_steps") or spec.max_episode_steps)) or 0
        found, longest = vector_play.beyond_limit(play.rows, limit)
        if found:
            self.find("time_limit", found)
        elif longest < limit:
            self.skip(f"no episode reached the limit of {limit} steps: the longest had {longest}")
        if not single:
            self.skip("no single environment to compare with: pass make_single")
            return None
        if self.set_state:
            rows = [[vector_play.replay(single, step, self.set_state) for step in row] for row in play.rows]
            self._compare("dynamics", play.rows, rows, TOLERANCE)
        single.close()
        return make

    def _check_close(self, env: Vector) -> None:
        try:
            env.close()
            env.close()
        except Exception as error:
            self.find("close", f"{type(error).__name__}: {error}")
        if env.closed is not True:
            self.find("close", f"closed is {env.closed!r}")
