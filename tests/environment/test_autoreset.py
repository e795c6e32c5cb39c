"""The three ways to start new episodes say the same of the same environments, beside plain loops over these."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support import ENDS, MODES, CountingEnv, counting

from pgtorch.environment import autoreset
from pgtorch.environment.autoreset import Disabled, NextStep, SameStep, make_stepper
from pgtorch.environment.checks import ContractError, NonFiniteError

STEPS, NUM_ENVS = 40, 3


def alone(index, ends, steps):
    """What one environment does: (observation, reward, terminated, truncated, observation that the step led to)."""
    env, rows = CountingEnv(index, ends), []
    observation, _ = env.reset()
    for _ in range(steps):
        after, reward, terminated, truncated, _ = env.step(0)
        rows.append((observation.tolist(), reward, terminated, truncated, after.tolist()))
        observation = env.reset()[0] if terminated or truncated else after
    return rows


def stepped(stepper, steps=STEPS):
    """The real steps of each environment, as above; what a termination leads to is not asked for."""
    rows, waiting = [[] for _ in range(NUM_ENVS)], {}
    for _ in range(steps):
        before = stepper.observation.copy()
        step = stepper.step(np.zeros(NUM_ENVS, np.int64))
        led_to = {} if step.final is None else dict(zip(step.final[0].tolist(), step.final[1].tolist(), strict=True))
        assert not led_to.keys() & np.flatnonzero(step.terminated | ~step.truncated)
        assert np.array_equal(step.ended, step.terminated | step.truncated)
        for i in range(NUM_ENVS):
            if i in waiting:  # what the row before led to is what this one shows
                rows[i].append((*waiting.pop(i), before[i].tolist()))
            if step.valid[i]:
                row = before[i].tolist(), step.reward[i], step.terminated[i], step.truncated[i]
                if i in led_to or step.terminated[i]:
                    rows[i].append((*row, led_to.get(i)))
                else:
                    waiting[i] = row
            else:
                assert (step.reward[i], step.ended[i]) == (0, False)
    return rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_every_mode_gives_the_steps_of_the_environments_alone(mode, ends):
    """None is missing, none comes twice, and each leads to its own episode's next or final observation."""
    stepper = make_stepper(counting(mode, NUM_ENVS, ends))
    stepper.reset(seed=0)
    for index, rows in enumerate(stepped(stepper)):
        expected = alone(index, ends, len(rows))
        assert len(rows) >= STEPS * 0.6
        assert [row[:4] for row in rows] == [row[:4] for row in expected]
        kept = [i for i, row in enumerate(expected) if not row[2]]
        assert [rows[i][4] for i in kept] == [expected[i][4] for i in kept]
    assert stepper.steps_taken == STEPS


@pytest.mark.parametrize("mode", MODES)
def test_one_ends_while_another_is_cut_off_in_the_same_step(mode):
    """In the third step environment 0 terminates and environment 2 is cut off; environment 1 plays on."""

    class Third(CountingEnv):
        def step(self, action):
            observation, reward, *_ = super().step(action)
            third = self.at == 3 and self.episode == 0
            return observation, reward, third and self.index == 0, third and self.index == 2, {}

    makers = [lambda index=index: Third(index) for index in range(3)]
    stepper = make_stepper(SyncVectorEnv(makers, autoreset_mode=mode))
    stepper.reset(seed=0)
    steps = [stepper.step(np.zeros(3, np.int64)) for _ in range(3)]
    assert [step.ended.tolist() for step in steps] == [[False] * 3, [False] * 3, [True, False, True]]
    assert (steps[2].terminated.tolist(), steps[2].truncated.tolist()) == ([True, False, False], [False, False, True])
    if mode is AutoresetMode.NEXT_STEP:
        assert steps[2].final is None  # the next row shows it
        assert stepper.observation.tolist() == [[0, 0, 3], [1, 0, 3], [2, 0, 3]]
        assert stepper.step(np.zeros(3, np.int64)).valid.tolist() == [False, True, False]
        assert stepper.observation.tolist() == [[0, 1, 0], [1, 0, 4], [2, 1, 0]]
    else:
        who, final = steps[2].final
        assert (who.tolist(), final.tolist()) == ([2], [[2, 0, 3]])
        assert stepper.observation.tolist() == [[0, 1, 0], [1, 0, 3], [2, 1, 0]]


@pytest.mark.parametrize("ends", ["terminated", "truncated", "both"])
def test_where_all_end_at_once_no_mode_stores_filler(ends):
    """NEXT_STEP would spend a whole step on resets; it is stepped over, and its final observations are handed out."""

    class Twos(CountingEnv):
        def step(self, action):
            observation, reward, *_ = super().step(action)
            over = self.at == 2
            return observation, reward, over and ends != "truncated", over and ends != "terminated", {}

    for mode in MODES:
        makers = [lambda index=index: Twos(index) for index in range(2)]
        stepper = make_stepper(SyncVectorEnv(makers, autoreset_mode=mode))
        stepper.reset(seed=0)
        for episode in range(3):
            for at in range(2):
                assert stepper.observation.tolist() == [[i, episode, at] for i in range(2)]
                step = stepper.step(np.zeros(2, np.int64))
                assert step.valid.all()
                assert step.ended.all() == (at == 1)
                assert (step.final is not None) == (at == 1 and ends == "truncated")
                if step.final is not None:
                    assert step.final[0].tolist() == [0, 1]
                    assert step.final[1].tolist() == [[i, episode, 2] for i in range(2)]
        assert not stepper.resetting.any()


def test_each_mode_has_its_class():
    kinds = {AutoresetMode.SAME_STEP: SameStep, AutoresetMode.NEXT_STEP: NextStep, AutoresetMode.DISABLED: Disabled}
    assert {mode: type(make_stepper(counting(mode, 1))) for mode in MODES} == kinds


OBSERVATIONS = spaces.Dict(
    {
        "box": spaces.Box(-1, 1, (2, 2)),
        "bits": spaces.MultiBinary(2),
        "place": spaces.Discrete(3, start=5),
        "pair": spaces.Tuple([spaces.Discrete(2), spaces.MultiDiscrete([2, 3], start=[1, 0])]),
    }
)


class Sampling(gym.Env):
    """Observations of any space; each episode is cut off after two steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, index=0):
        self.observation_space, self.index, self.shown = space, index, []

    def observe(self):
        self.observation_space.seed(100 * self.index + len(self.shown))
        self.shown.append(self.observation_space.sample())
        return self.shown[-1]

    def reset(self, *, seed=None, options=None):
        self.at = 0
        return self.observe(), {}

    def step(self, action):
        self.at += 1
        return self.observe(), 1.0, False, self.at == 2, {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "space", [OBSERVATIONS, *OBSERVATIONS.values(), spaces.Box(-1, 1, (3,))], ids=lambda space: type(space).__name__
)
def test_final_observations_of_every_space(mode, space):
    makers = [lambda index=index: Sampling(space, index) for index in range(2)]
    env = SyncVectorEnv(makers, autoreset_mode=mode)
    stepper = make_stepper(env)
    stepper.reset(seed=0)
    for _ in range(3):
        stepper.step(np.zeros(2, np.int64))
        step = stepper.step(np.zeros(2, np.int64))
        who, final = step.final
        assert who.tolist() == [0, 1]
        shown = [sub.shown[-2:] for sub in env.envs]  # the final one, and the first of the next episode
        assert np.array_equal(final, [spaces.flatten(space, last) for last, _ in shown])
        assert np.array_equal(stepper.observation, [spaces.flatten(space, first) for _, first in shown])


def test_final_observations_of_an_environment_that_is_many_at_once():
    """It gives them as one batch, where Gymnasium's own vector gives an array of objects."""
    env = gym.make_vec("Restaurant-v0", num_envs=3, autoreset_mode="SameStep")
    stepper = make_stepper(env)
    stepper.reset(seed=0)
    hunger = stepper.observation.copy()

    step = env.step

    def cut_off(actions):
        observation, reward, _, _, infos = step(actions)
        return observation, reward, np.zeros(3, np.bool_), np.array([True, False, True]), infos

    env.step = cut_off
    who, final = stepper.step(np.zeros(3, np.int64)).final
    assert who.tolist() == [0, 2]
    assert np.array_equal(final, hunger[[0, 2]])
    env.close()


def test_actions_are_clipped_to_their_box_and_have_its_dtype():
    class Echo(CountingEnv):
        action_space = spaces.Box(-0.5, 0.5, (2,), np.float32)

        def step(self, action):
            assert self.action_space.contains(action)
            self.taken = action
            return self._observation(), 0.0, False, False, {}

    env = SyncVectorEnv([Echo])
    stepper = make_stepper(env)
    stepper.reset(seed=0)
    action = np.array([[3.0, -0.2]])
    stepper.step(action)
    assert env.envs[0].taken.tolist() == pytest.approx([0.5, -0.2])
    assert action.tolist() == [[3.0, -0.2]]  # the policy's own is what its log-probability belongs to


@pytest.mark.parametrize("mode", MODES)
def test_reset_starts_new_episodes_everywhere_and_gives_up_those_under_way(mode):
    stepper = make_stepper(counting(mode, NUM_ENVS))
    stepper.reset(seed=0)
    stepper.step(np.zeros(NUM_ENVS, np.int64))  # environment 0 has ended
    stepper.reset()
    assert stepper.observation[:, 2].tolist() == [0, 0, 0]
    assert not stepper.resetting.any()
    assert stepper.step(np.zeros(NUM_ENVS, np.int64)).valid.all()


@pytest.mark.parametrize("mode", MODES)
def test_state_is_taken_and_put_without_sharing(mode):
    stepper, other = (make_stepper(counting(mode, NUM_ENVS)) for _ in range(2))
    for each in (stepper, other):
        each.reset(seed=0)
    stepper.step(np.zeros(NUM_ENVS, np.int64))
    state = stepper.state_dict()
    observation, resetting = stepper.observation.copy(), stepper.resetting.copy()
    assert resetting.any() == (mode is AutoresetMode.NEXT_STEP)
    other.load_state_dict(state, mid_episode=False)
    assert (other.steps_taken, other.observation[:, 2].tolist()) == (1, [0, 0, 0])
    assert not other.resetting.any()
    other.load_state_dict(state, mid_episode=True)
    for value in state.values():
        if isinstance(value, torch.Tensor):
            value.fill_(True)
    for each in (stepper, other):
        assert np.array_equal(each.observation, observation)
        assert np.array_equal(each.resetting, resetting)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda last: last * np.nan, NonFiniteError, "^final observation must be finite, got nan .* at step 3"),
        (lambda last: last + 1e39, NonFiniteError, "^final observation must be finite"),
    ],
)
def test_a_final_observation_that_is_not_finite_is_named(spoil, error, message):
    """In SAME_STEP mode it comes beside the observation, and could slip past the check of that."""
    env = counting(AutoresetMode.SAME_STEP, NUM_ENVS, ["truncated"])
    stepper = make_stepper(env)
    stepper.reset(seed=0)
    step = env.step

    def spoiled(actions):
        *fields, infos = step(actions)
        if len(env.envs[2].episodes) == 1:  # in the third step
            infos["final_obs"][2] = spoil(infos["final_obs"][2].astype(np.float64))
        return (*fields, infos)

    env.step = spoiled
    for _ in range(2):
        stepper.step(np.zeros(NUM_ENVS, np.int64))
    with pytest.raises(error, match=message):
        stepper.step(np.zeros(NUM_ENVS, np.int64))


@pytest.mark.parametrize("returned", [None, [1, 2, 3, 4, 5], (1, 2, 3, 4)])
def test_a_step_that_returns_something_else_is_named(returned):
    env = counting(AutoresetMode.NEXT_STEP, 2)
    stepper = make_stepper(env)
    stepper.reset(seed=0)
    env.step = lambda actions: returned
    with pytest.raises(ContractError, match=r"^step must return \(observation, .*\), got .*, at step 1$"):
        stepper.step(np.zeros(2, np.int64))


def test_one_environment_of_a_batch_in_parts():
    """As native vector environments batch a `Tuple` or `Dict`: a part each, not an environment each."""
    batch = {"a": np.array([1, 2]), "b": (np.array([3, 4]), np.array([[5], [6]]))}
    one = autoreset._one(batch, 1)
    assert one["a"] == 2
    assert isinstance(one["b"], tuple)
    assert one["b"][0] == 4
    assert one["b"][1].tolist() == [6]
