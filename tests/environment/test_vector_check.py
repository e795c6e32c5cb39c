"""The checker of vector environments: correct ones pass, and each planted fault is caught by the check named for it."""

import itertools
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from pgtorch.environment import check_vector_env
from pgtorch.environment.vector_check import CHECKS, VectorEnvError
from pgtorch.environment.vector_values import info_problem, same

LIMIT = 8
SEEDS = [0, 1, 2, 3, 4]


class Walk(gym.Env):
    """A random walk from a random place; it terminates 2 away from 0."""

    observation_space = spaces.Box(-10, 10, (2,))
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2)
        return self.place.astype(np.float32), {"place": self.place[0]}

    def step(self, action):
        self.place = self.place + 0.5 * (action - 1) + 0.1 * self.np_random.normal(size=2)
        terminated = bool((abs(self.place) > 2).any())
        return self.place.astype(np.float32), float(self.place[1]), terminated, False, {"place": self.place[0]}


class Parts(Walk):
    """The walk, seen in parts and stepped in parts."""

    observation_space = spaces.Dict(
        place=Walk.observation_space, pair=spaces.Tuple([spaces.Discrete(5), spaces.MultiBinary(2)])
    )
    action_space = spaces.Dict(a=spaces.Box(-1, 1, (1,)), b=spaces.MultiDiscrete([3, 2]))

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return self.parts(observation), {"nested": {"place": observation, "word": "start"}}

    def step(self, action):
        observation, *rest, _ = super().step(action["b"][0] + action["a"][0])
        return self.parts(observation), *rest, {}

    def parts(self, observation):
        return {"place": observation, "pair": (int(abs(observation[0])) % 5, (observation > 0).astype(np.int8))}


gym.register("VectorCheckWalk-v0", Walk, max_episode_steps=LIMIT)


def walk(kind=Walk, limit=LIMIT):
    return TimeLimit(kind(), limit)


class Walks(SyncVectorEnv):
    """Correct; each fault below is a subclass."""

    make_one = staticmethod(walk)

    def __init__(self, num_envs, autoreset_mode):
        super().__init__([self.make_one] * num_envs, autoreset_mode=autoreset_mode)


def check(make, *, num_steps=20, **settings):
    return check_vector_env(make, num_steps=num_steps, raise_errors=False, **settings)


def cart_pole(num_envs, **settings):
    return gym.make_vec("CartPole-v1", num_envs, "vector_entry_point", max_episode_steps=12, **settings)


def put_cart(env, observation):
    env.unwrapped.state = observation


@pytest.mark.parametrize("seed", SEEDS)
def test_the_restaurants_pass(seed):
    report = check(partial(gym.make_vec, "restaurant_env:Restaurant-v0"), seed=seed)
    assert report.findings == []
    assert report.modes == ["NEXT_STEP", "SAME_STEP", "DISABLED"]
    assert sum("share random numbers" in reason for reason in report.skipped) == 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_loop_over_environments_passes_and_nothing_is_left_out(seed):
    report = check(Walks, make_single=lambda: gym.make("VectorCheckWalk-v0"), seed=seed)
    assert report == ([], [], ["NEXT_STEP", "SAME_STEP", "DISABLED"])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_gymnasiums_vectors_pass(kind, seed):
    def single():
        return gym.make("CartPole-v1", max_episode_steps=6)

    def make(num_envs, autoreset_mode):
        return kind([single] * num_envs, autoreset_mode=autoreset_mode)

    report = check(make, make_single=single, set_state=put_cart, num_envs=2, num_steps=15, seed=seed)
    assert report == ([], [], ["NEXT_STEP", "SAME_STEP", "DISABLED"])


@pytest.mark.parametrize("seed", SEEDS)
def test_gymnasiums_native_cart_pole_does_not_say_that_it_is_closed(seed):
    """In Gymnasium 1.4.0 `CartPoleVectorEnv.close` overrides `VectorEnv.close` without setting `closed`."""
    report = check(cart_pole, set_state=put_cart, seed=seed)
    assert [(finding.check, finding.got) for finding in report.findings] == [("close", "closed is False")]
    assert report.modes == ["NEXT_STEP"]
    refused = [reason for reason in report.skipped if "make refused this mode (TypeError" in reason]
    assert len(refused) == 3


def test_gymnasiums_processes_without_shared_memory_do_not_restart_after_an_end():
    """In Gymnasium 1.4.0 `_async_worker` clears the autoreset flag at a reset only if `shared_memory` is True."""

    def make(num_envs, autoreset_mode):
        return AsyncVectorEnv([walk] * num_envs, autoreset_mode=autoreset_mode, shared_memory=False)

    report = check(make, num_envs=2, num_steps=15)
    assert [(finding.check, finding.mode) for finding in report.findings] == [("restart", "NEXT_STEP")]


@pytest.mark.parametrize("vectorization", ["sync", "vector_entry_point"])
def test_the_single_environment_is_made_from_the_spec(vectorization):
    report = check(
        lambda num_envs: gym.make_vec("CartPole-v1", num_envs, vectorization, max_episode_steps=12), set_state=put_cart
    )
    assert {finding.check for finding in report.findings} <= {"close"}
    assert not any("no single environment" in reason or "no episode reached" in reason for reason in report.skipped)


def test_observations_actions_and_infos_in_parts_pass():
    class InParts(Walks):
        make_one = staticmethod(partial(walk, Parts))

    assert check(InParts, make_single=InParts.make_one) == ([], [], ["NEXT_STEP", "SAME_STEP", "DISABLED"])


def test_wrappers_pass():
    """Their infos have nested dictionaries without masks."""
    assert check(lambda **settings: RecordEpisodeStatistics(Walks(**settings))).findings == []


# Faults. Each is caught by the check that the table below names, and by no other.


def after_step(change):
    """A correct vector whose `step` returns what `change(env, fields)` makes of it."""

    class Faulty(Walks):
        def step(self, actions):
            self.actions, self.was_resetting = actions, self.resetting
            fields = list(super().step(actions))
            self.resetting = (fields[2] | fields[3]) & (self.autoreset_mode is AutoresetMode.NEXT_STEP)
            return tuple(change(self, fields) or fields)

        def reset(self, *, seed=None, options=None):
            self.resetting = np.zeros(self.num_envs, np.bool_)
            return super().reset(seed=seed, options=options)

    return Faulty


def field(index, change):
    """A correct vector with one field of `step` changed: 0 observation, 1 reward, 2 and 3 flags, 4 infos."""

    def changed(env, fields):
        fields[index] = change(fields[index])

    return after_step(changed)


def info(**items):
    return field(4, lambda infos: {**infos, **items})


def same_step(change):
    """A correct vector whose infos `change` spoils in SAME_STEP when an episode has ended."""

    def changed(env, fields):
        if "final_obs" in fields[4]:
            change(fields[4])

    return after_step(changed)


def seeded(change):
    """A correct vector whose seed is `change(env, seed)`; seed is an int, a list, or None in an unmasked reset."""

    class Faulty(Walks):
        def reset(self, *, seed=None, options=None):
            masked = options is not None and "reset_mask" in options
            return super().reset(seed=seed if masked else change(self, seed), options=options)

    return Faulty


def attribute(**values):
    class Faulty(Walks):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            for name, value in values.items():
                setattr(self, name, value(self))

    return Faulty


class RaisesLater(Walks):
    def step(self, actions):
        self.taken = getattr(self, "taken", 0) + 1
        return super().step(actions) if self.taken < 70 else 1 / 0


class OtherMode(Walks):
    def __init__(self, num_envs, autoreset_mode):
        super().__init__(num_envs, AutoresetMode.NEXT_STEP)


class ModeIsText(Walks):
    def __init__(self, num_envs):
        super().__init__(num_envs, AutoresetMode.NEXT_STEP)
        self.metadata["autoreset_mode"] = "NextStep"


class ResetAlone(Walks):
    def reset(self, **settings):
        return super().reset(**settings)[0]


class ChangesActions(Walks):
    def step(self, actions):
        returned = super().step(actions)
        actions[0] = (actions[0] + 1) % 3
        return returned


class HandsOutItsBuffer(Walks):
    def step(self, actions):
        return (self._observations, *super().step(actions)[1:])


class HandsOutItsState(Walks):
    """A reward of what was shown before; the array is a new one in each step."""

    shown = np.zeros(2)

    def step(self, actions):
        observation, reward, *rest = super().step(actions)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            reward = reward + self.shown.sum()
        self.shown = observation
        return observation, reward, *rest

    def reset(self, **settings):
        self.shown, infos = super().reset(**settings)
        return self.shown, infos


class ResetsAll(Walks):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class InstanceCounts(Walks):
    made = itertools.count()

    def __init__(self, num_envs, autoreset_mode):
        super().__init__(num_envs, autoreset_mode)
        self.envs[1].unwrapped.reset = partial(self.shifted, self.envs[1].unwrapped, next(self.made))

    def shifted(self, env, number, *, seed=None, options=None):
        return Walk.reset(env, seed=None if seed is None else seed + number)


class KeepsPendingResets(Walks):
    def reset(self, *, seed=None, options=None):
        pending = self._autoreset_envs
        returned = super().reset(seed=seed, options=options)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._autoreset_envs = pending
        return returned


class RepeatsStarts(Walks):
    """An episode that follows another starts with the seed of the last full reset."""

    class Repeating(Walk):
        def reset(self, *, seed=None, options=None):
            self.last = self.last if seed is None else seed
            return super().reset(seed=self.last)

    make_one = staticmethod(partial(walk, Repeating))

    def reset(self, *, seed=None, options=None):
        if isinstance(seed, int):
            self.generator = np.random.default_rng(seed)
        if seed is None and options is None:
            seed = int(self.generator.integers(10**6))
        return super().reset(seed=seed, options=options)


class LongerLimit(Walks):
    """It takes no list of seeds, or `single` would see the fault as well."""

    make_one = staticmethod(partial(walk, limit=LIMIT + 1))

    def reset(self, *, seed=None, options=None):
        if isinstance(seed, list):
            raise TypeError("an integer, please")
        return super().reset(seed=seed, options=options)


class Native(CartPoleVectorEnv):
    """Gymnasium's, with the base class's `close`."""

    close = VectorEnv.close

    def __init__(self, num_envs):
        super().__init__(num_envs, max_episode_steps=40)


class Heavier(Native):
    def __init__(self, num_envs):
        super().__init__(num_envs)
        self.gravity = 9.9


class FreezesOthers(Native):
    """As Gymnasium 1.4.0's jax environments: while one is reset the others stand still."""

    def step(self, action):
        before, resetting = self.state.copy(), self.prev_done.copy()
        _, *rest = super().step(action)
        if resetting.any():
            self.state[:, ~resetting] = before[:, ~resetting]
        return self.state.T.astype(np.float32), *rest


class ClosesOnce(Walks):
    def close(self, **settings):
        if self.closed:
            raise RuntimeError("closed already")
        super().close(**settings)


def reset_row(env, seed):
    env.last = env.last if seed is None else seed
    return env.last


def end_of_filler(env, fields):
    """A flag that stays for the filler's step as well."""
    fields[2] = fields[2] | env.was_resetting


def act_on_filler(env, fields):
    fields[0][:, 0] += np.where(env.was_resetting, env.actions, 0) * 0.01


def final_not_first(env, fields):
    if "final_obs" in fields[4]:
        for i in np.flatnonzero(fields[4]["_final_obs"]):
            fields[0][i] = fields[4]["final_obs"][i]


def swap_flags(env, fields):
    fields[2], fields[3] = fields[3], fields[2]


def rows_of(seed, n):
    return seed if seed is None else [seed if isinstance(seed, int) else seed[0]] * n


BOOLS = np.zeros(4, np.bool_)
FAULTS = {
    "step raises": ("runs", RaisesLater),
    "num_envs": ("attributes", attribute(num_envs=lambda env: 3)),
    "action space of one more": ("attributes", attribute(action_space=lambda env: spaces.MultiDiscrete([3] * 5))),
    "bounds": ("attributes", attribute(observation_space=lambda env: spaces.Box(-9, 10, (4, 2)))),
    "another mode": ("autoreset_mode", OtherMode),
    "mode as text": ("autoreset_mode", ModeIsText),
    "reset without infos": ("returns", ResetAlone),
    "step without infos": ("returns", after_step(lambda env, fields: fields[:4])),
    "step as a list": ("returns", attribute(step=lambda env: lambda actions: [1, 2, 3, 4, 5])),
    "float64 observation": ("observation", field(0, lambda value: value.astype(np.float64))),
    "float16 observation": ("observation", field(0, lambda value: value.astype(np.float16))),
    "transposed": ("observation", field(0, np.transpose)),
    "out of bounds": ("observation", field(0, lambda value: value + np.float32(20))),
    "rewards as a list": ("reward", field(1, list)),
    "integer rewards": ("reward", field(1, lambda value: value.astype(int))),
    "rewards in a column": ("reward", field(1, lambda value: value[:, None])),
    "infinite reward": ("reward", field(1, lambda value: np.where(value > 1, np.inf, value))),
    "terminated as numbers": ("flags", field(2, lambda value: value.astype(int))),
    "truncated as a list": ("flags", field(3, list)),
    "one truncated for all": ("flags", field(3, lambda value: value.any())),
    "a list of infos": ("infos", field(4, lambda value: [value] * 4)),
    "a key without a mask": ("infos", info(speed=np.zeros(4))),
    "a mask of numbers": ("infos", info(speed=np.zeros(4), _speed=np.zeros(4))),
    "a short mask": ("infos", info(speed=np.zeros(4), _speed=BOOLS[:3])),
    "a short value": ("infos", info(speed=np.zeros(3), _speed=BOOLS)),
    "a short value inside": ("infos", info(speed={"x": np.zeros(3)}, _speed=BOOLS)),
    "actions changed": ("actions", ChangesActions),
    "observation buffer": ("kept", HandsOutItsBuffer),
    "reward buffer": ("kept", after_step(lambda env, fields: [fields[0], env._rewards, *fields[2:]])),
    "truncated buffer": ("kept", after_step(lambda env, fields: [*fields[:3], env._truncations, fields[4]])),
    "state handed out": ("overwritten", HandsOutItsState),
    "no final_obs": ("same_step", same_step(lambda infos: (infos.pop("final_obs"), infos.pop("_final_obs")))),
    "no final_info": ("same_step", same_step(lambda infos: (infos.pop("final_info"), infos.pop("_final_info")))),
    "final mask everywhere": ("same_step", same_step(lambda infos: infos["_final_obs"].fill(True))),
    "final info's mask": ("same_step", same_step(lambda infos: infos["_final_info"].fill(True))),
    "final_obs of None": ("same_step", same_step(lambda infos: infos["final_obs"].fill(None))),
    "final_info as a list": ("same_step", same_step(lambda infos: infos.update(final_info=np.zeros(4)))),
    "reward of filler": (
        "next_step",
        after_step(lambda env, fields: [fields[0], np.where(env.was_resetting, 1.0, fields[1]), *fields[2:]]),
    ),
    "filler's action counts": ("ignored_action", after_step(act_on_filler)),
    "the mask is ignored": ("disabled", ResetsAll),
    "instances differ": ("same_seed", InstanceCounts),
    "one seed for ever": ("other_seed", seeded(lambda env, seed: seed if seed is None else 7)),
    "a reset is still pending": ("restart", KeepsPendingResets),
    "reset repeats its seed": ("unseeded", seeded(reset_row)),
    "reset has a seed of its own": ("unseeded", seeded(lambda env, seed: 7 if seed is None else seed)),
    "episodes repeat": ("repeated_episode", RepeatsStarts),
    "one seed for all": ("rows", seeded(lambda env, seed: rows_of(seed, 4))),
    "two share a seed": (
        "rows",
        seeded(lambda env, seed: seed if seed is None else [rows_of(seed, 1)[0] + i // 2 for i in range(4)]),
    ),
    "a list is read backwards": (
        "list_of_seeds",
        seeded(lambda env, seed: seed[::-1] if isinstance(seed, list) else seed),
    ),
    "one step too many": ("time_limit", LongerLimit),
    "flags swapped": ("single", after_step(swap_flags)),
    "reward doubled": ("single", field(1, lambda value: 2 * value)),
    "gravity": ("dynamics", Heavier),
    "others stand still": ("dynamics", FreezesOthers),
    "final observation for the first": ("modes", after_step(final_not_first)),
    "close raises": ("close", ClosesOnce),
    "close says nothing": ("close", attribute(close=lambda env: lambda: None)),
}


SETTINGS = {  # what the checker is given beside the vector, if a check needs it
    "dynamics": {
        "make_single": partial(gym.make, "CartPole-v1", max_episode_steps=40),
        "set_state": put_cart,
        "num_steps": 80,
    },
    "repeated_episode": {"num_steps": 80},
    "single": {"make_single": walk},
    "time_limit": {"make_single": partial(gym.make, "VectorCheckWalk-v0")},
}
EVERY_MODE = {
    "autoreset_mode",
    "same_step",
    "disabled",
    "overwritten",
    "modes",
    "dynamics",
}  # the others: NEXT_STEP only


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_by_its_check_alone(name):
    check_name, faulty = FAULTS[name]
    make = faulty if check_name in EVERY_MODE else lambda num_envs: faulty(num_envs, AutoresetMode.NEXT_STEP)
    report = check(make, **SETTINGS.get(check_name, {}))
    assert {finding.check for finding in report.findings} == {check_name}, str(report)


def test_every_check_has_a_fault_that_it_catches():
    assert {check_name for check_name, _ in FAULTS.values()} == set(CHECKS)


# What the report says.


def test_an_error_lists_every_finding_and_what_was_skipped():
    with pytest.raises(VectorEnvError) as caught:
        check_vector_env(FAULTS["rewards as a list"][1], num_steps=5)
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 findings in NEXT_STEP, SAME_STEP, DISABLED"
    start = "reward (NEXT_STEP): expected: reward is a finite float array [N]; got: reward [np.float64("
    assert lines[1].startswith(start)
    assert lines[1].endswith("None from step (call 1)")
    assert lines[4:] == [f"skipped: {reason}" for reason in caught.value.report.skipped]
    assert [finding.mode for finding in caught.value.report.findings] == caught.value.report.modes


def test_what_cannot_be_checked_is_said():
    class Still(Walk):
        def reset(self, *, seed=None, options=None):
            self.place = np.zeros(2)
            return self.place.astype(np.float32), {}

        def step(self, action):
            return self.place.astype(np.float32), 0.0, False, False, {}

    report = check(lambda num_envs: SyncVectorEnv([Still] * num_envs, autoreset_mode="SameStep"), num_steps=5)
    assert (report.findings, report.modes) == ([], ["SAME_STEP"])
    said = " ".join(report.skipped)
    for reason in (
        "DISABLED: make refused this mode (TypeError",
        "SAME_STEP: no episode ended within 5 steps",
        "SAME_STEP: no randomness within 5 steps",
        "SAME_STEP: no single environment to compare with",
    ):
        assert reason in said


def test_a_limit_that_no_episode_reaches_is_said():
    report = check(lambda num_envs: gym.make_vec("CartPole-v1", num_envs), num_steps=20)
    assert any(reason.startswith("NEXT_STEP: no episode reached the limit of 500 steps") for reason in report.skipped)


def test_arrays_may_be_reused_if_the_environment_was_made_so():
    def make(num_envs, autoreset_mode):
        return SyncVectorEnv([walk] * num_envs, autoreset_mode=autoreset_mode, copy=False)

    assert check(make).findings == []


def test_the_environment_is_closed_whatever_happens():
    made = []

    def make(**settings):
        made.append(RaisesLater(**settings))
        return made[-1]

    check(make)
    assert len(made) == 6
    assert all(env.closed for env in made)


@pytest.mark.parametrize("setting", ["num_envs", "num_steps", "seed"])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match=rf"^{setting} must be at least \d, got -1$"):
        check_vector_env(Walks, **{setting: -1})


def test_an_error_of_make_is_the_callers_and_says_which_modes_were_tried():
    def make(num_envs, autoreset_mode=None):
        raise ValueError("no license")

    with pytest.raises(ValueError, match=r"^no license") as caught:
        check_vector_env(make)
    assert "SAME_STEP: make refused this mode (ValueError: no license)" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("value", "other", "equal"),
    [
        ({"a": [np.nan, 1]}, {"a": [np.nan, 1]}, True),
        ({"a": 1}, {"b": 1}, False),
        ([1], [1, 2], False),
        (np.zeros(2), np.zeros((2, 1)), False),
        (np.float32(0.1), 0.1, False),
        (np.array([None, np.zeros(2)], object), np.array([None, np.zeros(2)], object), True),
        (np.array([None, np.zeros(2)], object), np.array([None, np.ones(2)], object), False),
        ("word", "word", True),
        ("word", "ward", False),
        (Walk(), Walk(), True),
    ],
)
def test_same(value, other, equal):
    assert same(value, other) is equal


def test_same_up_to_a_tolerance():
    assert same(np.float32(0.1), 0.1, 1e-5)
    assert not same(np.float32(0.1), 0.1001, 1e-5)
    assert not same(np.ones(2), np.ones(3), 1e-5)


def test_infos_of_gymnasiums_own_form_are_fine():
    mask = np.array([True, False])
    nested = {"x": np.zeros(2), "_x": mask, "y": np.zeros((2, 3)), "deep": {"z": np.array([None, {}], object)}}
    assert info_problem({"a": nested, "_a": mask, "b": np.zeros(2, int), "_b": mask}, 2) == ""
    assert info_problem({"a": {"x": np.zeros(2), "_x": np.zeros(2)}, "_a": mask}, 2).startswith("a: the mask _x")
