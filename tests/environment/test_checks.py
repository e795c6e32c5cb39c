"""Environments that do not keep to their spaces, numbers that are not finite: named, and never learned from."""

import re
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgtorch import ContractError, MLPPolicy, NonFiniteError, SetupError, TrainConfig, Trainer, train
from pgtorch.environment.checks import MOST, ObservationBounds, require_finite
from pgtorch.record.checkpoint import checkpoints, read_checkpoint, read_newest
from pgtorch.record.metrics import read_metrics

BOX = spaces.Box(-10.0, 10.0, (3,), np.float32)
UNBOUNDED = spaces.Box(-np.inf, np.inf, (3,), np.float32)
PLAN = {}  # what the environments below do; empty: nothing wrong
LENGTH = 5


class Faulty(gym.Env):
    """Episodes of five steps. At step `at`, counted over episodes, the fault replaces one field of what comes.

    PLAN: space and action_space; `fault`, a field and what becomes of its value; `at`; `index`, of the environment;
    reward; `reset`, what the second reset gives instead.
    """

    made = 0

    def __init__(self):
        self.observation_space = PLAN.get("space", BOX)
        self.action_space = PLAN.get("action_space", spaces.Discrete(2))
        self.index, Faulty.made = Faulty.made, Faulty.made + 1
        self.steps = self.resets = 0

    def observe(self):
        self.observation_space.seed(self.steps)
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets, self.at = self.resets + 1, 0
        wrong = PLAN.get("reset") if self.resets == 2 else None
        return wrong(self.observe()) if wrong else (self.observe(), {})

    def step(self, action):
        self.steps, self.at = self.steps + 1, self.at + 1
        fields = {
            "observation": self.observe(),
            "reward": PLAN.get("reward", 1.0),
            "terminated": self.at == PLAN.get("length", LENGTH),
            "truncated": False,
            "info": {},
        }
        if self.steps == PLAN.get("at", 3) and self.index == PLAN.get("index", 0) and "fault" in PLAN:
            field, wrong = PLAN["fault"]
            if field is None:
                return wrong(tuple(fields.values()))
            fields[field] = wrong(fields[field])
        return tuple(fields.values())


class FaultyVector(VectorEnv):
    """The same, many at once and without episodes; the fault replaces a whole batch."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 -- Gymnasium declares it so

    def __init__(self, num_envs=2):
        self.num_envs, self.steps = num_envs, 0
        self.single_observation_space, self.single_action_space = PLAN.get("space", BOX), spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def observe(self):
        self.observation_space.seed(self.steps)
        return self.observation_space.sample()

    def reset(self, *, seed=None, options=None):
        wrong = PLAN.get("reset")
        return wrong(self.observe()) if wrong else (self.observe(), {})

    def step(self, actions):
        self.steps, none = self.steps + 1, np.zeros(self.num_envs, np.bool_)
        fields = {"observation": self.observe(), "reward": np.ones(self.num_envs)}
        fields |= {"terminated": none, "truncated": none.copy(), "info": {}}
        if self.steps == PLAN.get("at", 3) and "fault" in PLAN:
            field, wrong = PLAN["fault"]
            if field is None:
                return wrong(tuple(fields.values()))
            fields[field] = wrong(fields[field])
        return tuple(fields.values())


gym.register("Faulty-v0", Faulty, disable_env_checker=True)
gym.register("FaultyVector-v0", vector_entry_point=FaultyVector)
TINY = {"num_envs": 2, "num_steps": 4, "num_updates": 6, "hidden_sizes": (4,), "pictures": False, "check_gradient": 1}


@pytest.fixture(autouse=True)
def plan():
    """Set what the environments do; undone after the test."""

    def set_plan(**planned):
        PLAN.clear()
        PLAN.update(planned)
        Faulty.made = 0

    set_plan()
    yield set_plan
    PLAN.clear()


def config_of(folder, env_id="Faulty-v0", **changes):
    return TrainConfig(env_id, run_dir=folder, **{**TINY, **changes})


def values(policy):
    return [parameter.detach().clone() for parameter in policy.parameters()]


# Numbers that are not finite.


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    env_id=st.sampled_from(["Faulty-v0", "FaultyVector-v0"]),
    field=st.sampled_from(["observation", "reward"]),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    at=st.integers(1, 16),
    index=st.integers(0, 1),
    scaled=st.booleans(),
)
def test_numbers_that_are_not_finite_are_named_and_not_learned_from(plan, env_id, field, value, at, index, scaled):
    def spoil(good):
        if env_id == "Faulty-v0":
            return value if field == "reward" else np.array([0.0, value, 0.0], np.float32)
        bad = good.copy()
        bad[(index, 1) if field == "observation" else index] = value
        return bad

    plan(fault=(field, spoil), at=at, index=index, space=UNBOUNDED, length=100)
    policy, seen = MLPPolicy(UNBOUNDED, spaces.Discrete(2), (4,)), []
    scales = {"normalize_observations": scaled, "normalize_rewards": scaled}
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(Path(folder), env_id, checkpoint_every=1, **scales)
        seen.append(values(policy))
        place = r" at index \[1\]" if field == "observation" else ""
        with pytest.raises(
            NonFiniteError,
            match=rf"^{field} must be finite, got {value}{place}, of environment {index} at step {at}\nin update",
        ):
            train(config, policy=policy, callback=lambda update, figures: seen.append(values(policy)))
        done = (at - 1) // 4
        assert len(seen) == done + 1
        assert all(torch.equal(*pair) for pair in zip(values(policy), seen[-1], strict=True))
        assert len(read_metrics(Path(folder))) == done
        assert (int(checkpoints(Path(folder))[0].stem[11:]) if done else 0) == done
        if done:
            saved = read_newest(Path(folder))[1]["trainer"]["policy"]["parameters"].values()
            assert all(torch.equal(*pair) for pair in zip(saved, seen[-1], strict=True))


@pytest.mark.parametrize("env_id", ["Faulty-v0", "FaultyVector-v0"])
def test_infinities_of_both_signs_are_named_without_a_warning(tmp_path, plan, env_id):
    plan(
        fault=("observation", lambda good: np.where(np.arange(3) < 2, [np.inf, -np.inf, 0], good).astype(np.float32)),
        space=UNBOUNDED,
    )
    with pytest.raises(
        NonFiniteError, match=r"observation must be finite, got inf at index \[0\], of environment 0 at step 3"
    ):
        train(config_of(tmp_path, env_id))


def test_numbers_too_large_for_a_sum_are_finite(tmp_path, plan):
    plan(fault=("observation", lambda good: np.full(3, 3e38, np.float32)), space=UNBOUNDED)
    assert train(config_of(tmp_path)).num_updates == 6


def test_a_reward_beyond_single_precision_is_named(tmp_path, plan):
    plan(fault=("reward", lambda good: 1e300))
    with pytest.raises((NonFiniteError, ContractError), match=r"^reward must be .* at step 3"):
        train(config_of(tmp_path))


def test_an_observation_beyond_single_precision_is_named(tmp_path, plan):
    plan(fault=("observation", lambda good: np.full(3, 1e200)), space=spaces.Box(-np.inf, np.inf, (3,), np.float64))
    with pytest.raises((NonFiniteError, ContractError), match=r"^observation must be .* at step 3"):
        train(config_of(tmp_path))


def test_a_first_observation_that_is_not_finite_writes_nothing(tmp_path, plan):
    plan(space=UNBOUNDED, reset=lambda good: (good * np.nan, {}))
    message = r"observation must be finite, got nan at index \[0\], of environment 0 at step 0$"
    with pytest.raises(SetupError, match=message) as caught:
        train(config_of(tmp_path / "run", "FaultyVector-v0"))
    assert type(caught.value.__cause__) is NonFiniteError
    assert not (tmp_path / "run").exists()


def test_the_first_observation_of_a_later_episode_is_looked_at_too(tmp_path, plan):
    plan(space=UNBOUNDED, length=2, reset=lambda good: (good * np.nan, {}))
    message = r"observation must be finite, got nan at index \[0\], of environment 0 at step \d\nin update"
    with pytest.raises(NonFiniteError, match=message):
        train(config_of(tmp_path / "run"))


def test_a_number_within_a_dict_is_named(tmp_path, plan):
    space = spaces.Dict(a=UNBOUNDED, b=spaces.Discrete(3))
    plan(space=space, fault=("observation", lambda good: {**good, "a": good["a"] * np.nan}))
    with pytest.raises(NonFiniteError, match=r"observation must be finite, got nan .*of environment 0 at step 3"):
        train(config_of(tmp_path))


# Steps that cannot be taken.


@pytest.mark.parametrize("rate", [1e30, 1e38, 3e38])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "restaurant_env:Restaurant-v0"])
def test_a_huge_learning_rate_goes_well_or_is_named(tmp_path, env_id, optimizer, rate):
    """If a step leads beyond all numbers, the error says so, not one about environment or disk."""
    settings = {"learning_rate": rate, "optimizer": optimizer, "checkpoint_every": 1, "run_dir": tmp_path}
    tiny = {name: value for name, value in TINY.items() if name != "hidden_sizes" or "Restaurant" not in env_id}
    config = TrainConfig(env_id, **settings, **tiny)
    try:
        train(config)
    except NonFiniteError as error:
        assert re.search(r"^update \d+(, step \d+)?: .*learning_rate", str(error))  # noqa: PT017 -- it may go well
    for path in checkpoints(tmp_path):
        parameters = read_checkpoint(path)["trainer"]["policy"]["parameters"]
        assert all(torch.isfinite(value).all() for value in parameters.values())


def test_a_gradient_that_is_not_finite_moves_nothing(tmp_path):
    """A policy whose gradient is not finite although its loss is."""
    policy = MLPPolicy(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), (4,))
    config = TrainConfig("CartPole-v1", run_dir=tmp_path, checkpoint_every=1, **{**TINY, "check_gradient": 0})
    calls = []
    policy.layers[0].weight.register_hook(lambda grad: calls.append(1) or (grad * np.inf if len(calls) == 3 else grad))
    seen = []
    with pytest.raises(NonFiniteError, match=r"^update 3, step 24: .*gradient.* must be finite, got .*policy.*inf"):
        train(config, policy=policy, callback=lambda update, figures: seen.append(values(policy)))
    assert len(seen) == len(read_metrics(tmp_path)) == 2
    assert all(torch.equal(*pair) for pair in zip(values(policy), seen[-1], strict=True))
    assert read_newest(tmp_path)[1]["trainer"]["num_updates"] == 2


# Batches that are hard to learn from.


@pytest.mark.parametrize(
    ("standardize", "batch"),
    [(False, {}), (True, {}), (False, {"num_envs": 1, "num_steps": 1}), (True, {"num_envs": 1, "num_steps": 2})],
    ids=["eight", "eight, standardized", "one", "two, standardized"],
)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("multiplier", "baseline"), [("reward", "none"), ("return", "mean"), ("reward-to-go", "value"), ("gae", "value")]
)
@pytest.mark.parametrize("reward", [0.0, 1.0, 1e8, 1e-8, -1e8])
def test_hard_batches_give_finite_updates(plan, reward, multiplier, baseline, scaled, standardize, batch):
    """Constant rewards, of any size; no episode ever ends."""
    plan(reward=reward, length=10**9)
    if batch == {"num_envs": 1, "num_steps": 1} and baseline == "mean":  # which would leave nothing to learn from
        baseline = "none"
    given = {"multiplier": multiplier, "baseline": baseline, "normalize_rewards": scaled, "standardize": standardize}
    trainer = Trainer(TrainConfig("Faulty-v0", **{**TINY, **given, **batch}))
    for _ in range(2):
        logged = trainer.update()
        assert np.isfinite(list(logged.values())).all()
        assert "rollout/episode_return" not in logged
    assert all(torch.isfinite(value).all() for value in values(trainer.policy))
    trainer.close()


def test_one_row_cannot_be_standardized():
    with pytest.raises((ValueError, SetupError), match="standardize"):
        TrainConfig("Faulty-v0", **{**TINY, "num_envs": 1, "num_steps": 1, "standardize": True})


def test_one_row_among_filler_does_not_end_a_run(tmp_path, plan):
    """Two environments, one step: while one is reset, the other's row is alone."""
    plan(length=3)
    given = {"num_steps": 1, "num_updates": 30, "vectorization": "sync", "standardize": True}
    PLAN["fault"] = "terminated", lambda good: True  # at step 3 of environment 0 anyway
    PLAN["at"] = 2
    assert train(config_of(tmp_path, **given)).num_updates == 30


# The contract of one environment.


WRONG_STEPS = {
    "shape": ("observation", lambda good: good[:2], r"observation must be in Box.*, got float32 \(2,\)"),
    "list": ("observation", lambda good: good.tolist(), r"observation must be in Box.*, got list \(3,\)"),
    "object": ("observation", lambda good: good.astype(object), r"observation must be in Box.*, got object \(3,\)"),
    "text": ("observation", lambda good: good.astype(str), r"observation must be in Box.*, got <U\d+ \(3,\)"),
    "None": ("observation", lambda good: None, r"observation must be in Box.*, got NoneType \(\): None"),
    "bounds": (
        "observation",
        lambda good: good + 40,
        r"observation must be in \[-10, 10\] at index 0, got .*, of environment 1",
    ),
    "reward text": ("reward", lambda good: "1", r"reward must be .*, got str '1'"),
    "reward None": ("reward", lambda good: None, r"reward must be .*, got NoneType None"),
    "reward list": ("reward", lambda good: [1.0], r"reward must be .*, got list \[1\.0\]"),
    "reward array": ("reward", lambda good: np.ones(1), r"reward must be .*, got ndarray array\(\[1\.\]\)"),
    "reward complex": ("reward", lambda good: 1j, r"reward must be .*, got complex 1j"),
    "terminated int": ("terminated", lambda good: 1, r"terminated must be .*, got int 1"),
    "terminated None": ("terminated", lambda good: None, r"terminated must be .*, got NoneType None"),
    "truncated text": ("truncated", lambda good: "", r"truncated must be .*, got str ''"),
    "reward text array": ("reward", lambda good: np.array("x"), r"reward must be "),
    "reward beyond float": ("reward", lambda good: 10**400, r"reward must be "),
}


@pytest.mark.parametrize("name", WRONG_STEPS)
def test_a_broken_step_is_named(tmp_path, plan, name):
    field, wrong, message = WRONG_STEPS[name]
    plan(fault=(field, wrong), at=11, index=1)
    with pytest.raises(ContractError, match=rf"^{message}.* at step 11$"):
        train(config_of(tmp_path, checkpoint_every=1, normalize_observations=False, num_steps=3))
    done = len(read_metrics(tmp_path))
    assert done >= 3
    assert read_newest(tmp_path)[1]["trainer"]["num_updates"] == done


WIDER = {
    "double": ("observation", lambda good: good.astype(np.float64)),
    "integers": ("observation", lambda good: good.astype(np.int64)),
    "reward int": ("reward", lambda good: 3),
    "reward bool": ("reward", lambda good: True),
    "reward 0-d": ("reward", lambda good: np.array(1.0)),
    "reward float16": ("reward", lambda good: np.float16(1.0)),
    "terminated numpy": ("terminated", np.bool_),
    "just beyond": ("observation", lambda good: np.full(3, 10.0001, np.float32)),
}


@pytest.mark.parametrize("name", WIDER)
def test_what_means_the_same_passes(tmp_path, plan, name):
    plan(fault=WIDER[name])
    assert train(config_of(tmp_path)).num_updates == 6


@pytest.mark.parametrize("number", [0, 3, 4, 6])
def test_a_step_of_another_length_is_named(tmp_path, plan, number):
    plan(fault=(None, lambda fields: (*fields, *fields)[:number]))
    message = (
        r"must be a tuple \(observation, reward, terminated, truncated, info\), got tuple .*, of Faulty-v0 at step 3$"
    )
    with pytest.raises(ContractError, match=message):
        train(config_of(tmp_path))


def test_an_environment_that_exits_is_named(tmp_path, plan):
    plan(fault=(None, lambda fields: sys.exit(3)))
    with pytest.raises(ContractError, match=r"^sys\.exit\(3\) was called by Faulty-v0 at step 3$"):
        train(config_of(tmp_path))


def test_an_error_of_the_environment_stays_what_it_is(tmp_path, plan):
    def fail(fields):
        raise KeyError("lamp")

    plan(fault=(None, fail))
    with pytest.raises(KeyError, match="lamp") as caught:
        train(config_of(tmp_path, checkpoint_every=1, num_steps=1))
    assert "raised by Faulty-v0 at step 3" in caught.value.__notes__[0]
    assert read_newest(tmp_path)[1]["trainer"]["num_updates"] == 2
    assert len(read_metrics(tmp_path)) == 2


def test_a_little_outside_its_bounds_is_a_warning_once(tmp_path, plan):
    """As LunarLander-v3 and BipedalWalker-v3 are at times."""
    plan(fault=("observation", lambda good: good * 0 - 29), at=3, index=1)
    message = r"observation must be in \[-10, 10\] at index 0, got -29\.0, of environment 1 at step 3; the run goes on"
    with pytest.warns(UserWarning, match=message) as caught:
        result = train(config_of(tmp_path))
    assert len(caught) == 1
    assert result.num_updates == config_of(tmp_path).num_updates


@pytest.mark.parametrize(
    ("low", "high", "inside", "near", "far"),
    [
        (0.0, 1.0, [0.0, 1.0, 1.001], [-0.9, 1.9], [-1.1, 2.1]),
        (0.0, np.inf, [0.0, 1e30], [-0.9], [-1.1]),
        (-np.inf, 5.0, [-1e30, 5.0], [5.1, 10.9], [11.1]),
        (-np.inf, np.inf, [-1e30, 1e30], [], []),
    ],
)
def test_how_far_outside_is_an_error(low, high, inside, near, far):
    space = spaces.Box(low, high, (1,), np.float32)
    rows = [np.full((1, 1, 1), value, np.float32) for value in (*inside, *near, *far)]
    for number, row in enumerate(rows):
        bounds = ObservationBounds(space)
        if number < len(inside):
            bounds.require(row, 0)
        elif number < len(inside) + len(near):
            with pytest.warns(UserWarning, match="the run goes on"):
                bounds.require(row, 0)
            bounds.require(row, 1)  # once is enough
        else:
            with pytest.raises(ContractError, match=r"^observation must be in .* at step 0$"):
                bounds.require(row, 0)


WRONG_RESETS = {
    "no tuple": lambda good: good,
    "shape": lambda good: (good[:2], {}),
    "None": lambda good: (None, {}),
    "info": lambda good: (good, None),
    "bounds": lambda good: (good + 40, {}),
}


@pytest.mark.parametrize("name", WRONG_RESETS)
def test_a_broken_reset_is_named(tmp_path, plan, name):
    plan(reset=WRONG_RESETS[name])
    with pytest.raises(ContractError, match=r"must be .*, of (Faulty-v0 at reset|environment 0 at step \d+)$"):
        train(config_of(tmp_path, normalize_observations=False))


# The contract of an environment that is many at once.


WRONG_BATCHES = {
    "reward shape": (
        "reward",
        lambda good: good[:, None],
        r"reward must be an array of shape \[2\], got shape \[2, 1\]",
    ),
    "reward list": ("reward", lambda good: good.tolist(), r"reward must be an array of shape \[2\], got list"),
    "terminated short": (
        "terminated",
        lambda good: good[:1],
        r"terminated must be an array of shape \[2\], got shape \[1\]",
    ),
    "bounds": (
        "observation",
        lambda good: good + 40,
        r"observation must be in \[-10, 10\] at index 0, got .* of environment 0",
    ),
    "terminated int": ("terminated", lambda good: good.astype(np.int64), r"terminated must be "),
    "observation thin": ("observation", lambda good: good[:, :1], r"observation must be "),
    "observation flat": ("observation", lambda good: good.reshape(-1), r"observation must be "),
    "observation complex": ("observation", lambda good: good.astype(complex), r"observation must be "),
    "observation narrow": ("observation", lambda good: good[:, :2], r"observation must be "),
    "observation one": ("observation", lambda good: good[:1], r"observation must be "),
    "observation None": ("observation", lambda good: None, r"observation must be "),
    "observation text": ("observation", lambda good: good.astype(str), r"observation must be "),
    "reward object": ("reward", lambda good: np.array([None, 1.0]), r"reward must be "),
    "reward text": ("reward", lambda good: good.astype(str), r"reward must be "),
    "reward complex": ("reward", lambda good: good + 1j, r"reward must be "),
    "terminated float": ("terminated", lambda good: good.astype(float), r"terminated must be "),
}


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("name", WRONG_BATCHES)
def test_a_broken_batch_is_named(tmp_path, plan, name):
    field, wrong, message = WRONG_BATCHES[name]
    plan(fault=(field, wrong))
    with pytest.raises(ContractError, match=rf"^{message}.* at step 3$"):
        train(config_of(tmp_path, "FaultyVector-v0"))


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_choice_that_is_none_is_named(tmp_path, plan, wrong):
    plan(fault=("observation", lambda good: np.full(2, wrong)), space=spaces.Discrete(3))
    with pytest.raises(ContractError, match=r"^observation must be .* at step 3"):
        train(config_of(tmp_path, "FaultyVector-v0"))


# Spaces that no policy fits.

GRAPH = spaces.Graph(spaces.Box(0, 1, (2,)), None)
NO_OBSERVATIONS = [spaces.Text(5), GRAPH, spaces.Sequence(spaces.Discrete(2)), spaces.OneOf([spaces.Discrete(2), BOX])]
NO_OBSERVATIONS += [spaces.Dict(a=spaces.Text(3)), spaces.Tuple([BOX, GRAPH])]
NO_ACTIONS = [spaces.Text(5), GRAPH, spaces.Sequence(spaces.Discrete(2)), spaces.Dict(a=spaces.Discrete(3))]
NO_ACTIONS += [
    spaces.Tuple([spaces.Discrete(2)]),
    spaces.Box(0, 1, (2, 2)),
    spaces.MultiBinary([2, 2]),
    spaces.Box(0, 1, ()),
]


@pytest.mark.parametrize("space", NO_OBSERVATIONS, ids=lambda space: type(space).__name__)
def test_observations_that_no_policy_takes_are_named(tmp_path, plan, space):
    plan(space=space)
    with pytest.raises(SetupError, match=r"observation space must be Box, Discrete, .*, got") as caught:
        train(config_of(tmp_path / "run"))
    inner = {"Dict": "Text", "Tuple": "Graph"}.get(type(space).__name__, str(space))
    assert inner in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("space", NO_ACTIONS, ids=lambda space: type(space).__name__)
def test_actions_that_no_policy_gives_are_named(tmp_path, plan, space):
    plan(action_space=space)
    with pytest.raises(SetupError, match=r"action space must be Discrete, .*, got") as caught:
        train(config_of(tmp_path / "run"))
    assert str(space) in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 300, 3)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_what_is_not_finite_is_found_in_every_precision(dtype, shape):
    good = np.random.default_rng(0).normal(size=shape).astype(dtype)
    require_finite(good, "reward", 7)
    for value in (np.inf, -np.inf, np.nan):
        place = tuple(size - 1 for size in shape)
        for bad in (good.copy(), good.copy(order="F"), np.repeat(good, 2, axis=-1)[..., ::2]):  # of any layout
            bad[place] = value
            inner = rf" at index {re.escape(str(list(place[1:])))}" if place[1:] else ""
            message = rf"^reward must be finite, got {value}{inner}, of environment 1 at step 7$"
            with pytest.raises(NonFiniteError, match=message):
                require_finite(bad, "reward", 7)


@pytest.mark.parametrize(
    "values",
    [
        np.full(3, 6e4, np.float16),  # whose squares none of these types can hold
        np.full(3, -3.4e38, np.float32),
        np.full(3, MOST),
        np.full(3, np.iinfo(np.int64).max),
        np.full(3, 255, np.uint8),
        np.array([True, False]),
        np.zeros((0, 3), np.float32),
    ],
    ids=lambda values: str(values.dtype),
)
def test_large_numbers_are_finite(values):
    require_finite(values, "reward", 7)


@pytest.mark.parametrize("value", [3.5e38, -3.5e38, 1e200])
def test_numbers_beyond_single_precision_are_not(value):
    with pytest.raises(NonFiniteError, match=rf"reward must be finite, got {re.escape(str(value))}, of environment 1"):
        require_finite(np.array([1.0, value]), "reward", 7)
