"""A trainer's state, taken and put into a fresh trainer: its next updates are those of the first, to the last bit."""

import copy
import math
import random
import types
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from support import HOST, disturb_global_streams, leaves, numpy_stream
from torch import nn

from pgtorch import BiasPolicy, CheckpointError, ContractError, NonFiniteError, Policy, TrainConfig, Trainer
from pgtorch.record.trainer_state import put_trainer_state, require_finite_state, take_trainer_state

LESSON = "restaurant_env:Restaurant-v0"
SMALL = {"num_envs": 2, "num_steps": 8, "num_updates": 20, "hidden_sizes": (4,), "check_gradient": 4}
SMALL |= {"num_epochs": 1, "num_minibatches": 1}
CASES = {
    "lesson": (LESSON, {}),
    "restaurants": (LESSON, {"num_envs": 5, "num_steps": 3}),
    "next step": (LESSON, {"num_envs": 3, "env_kwargs": {"autoreset_mode": "NextStep"}}),
    "disabled": (LESSON, {"num_envs": 3, "env_kwargs": {"autoreset_mode": "Disabled"}}),
    "cart": ("CartPole-v1", SMALL),
    "carts one by one": ("CartPole-v1", {**SMALL, "vectorization": "sync"}),
    "cart, plain": ("CartPole-v1", {**SMALL, "normalize_observations": False, "normalize_rewards": False}),
    "cart, AdamW": ("CartPole-v1", {**SMALL, "optimizer": "torch.optim.AdamW"}),
    "pendulum": ("Pendulum-v1", SMALL),
    "several passes": ("Acrobot-v1", {**SMALL, "num_epochs": 3, "num_minibatches": 4}),
    "lake": ("FrozenLake-v1", SMALL),
}


def trainer_of(case, policy=None, **settings):
    env_id, own = CASES.get(case, (f"{case}State-v0", SMALL))  # the latter are registered below
    return Trainer(TrainConfig(env_id, **{"seed": 3, "num_updates": 20, **own, **settings}), policy)


def after(trainer, updates):
    """What comes of some more updates: their figures and the state at the end."""
    figures = [trainer.update() for _ in range(updates)]
    return figures, leaves(take_trainer_state(trainer))


@pytest.fixture(scope="module")
def states():
    """The state of each case after 8 updates."""
    taken = {}

    def state(case):
        if case not in taken:
            trainer = trainer_of(case)
            for _ in range(8):
                trainer.update()
            taken[case] = take_trainer_state(trainer)
        return copy.deepcopy(taken[case])

    return state


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("updates", [0, 1, 8])
def test_a_fresh_trainer_continues_as_the_first_would(case, updates):
    first, fresh = trainer_of(case), trainer_of(case)
    for _ in range(updates):
        first.update()
    state = take_trainer_state(first)
    expected = after(first, 5)
    disturb_global_streams()
    put_trainer_state(fresh, state)
    assert after(fresh, 5) == expected
    assert (fresh.num_updates, fresh.num_env_steps) == (first.num_updates, first.num_env_steps)


@pytest.mark.parametrize("case", ["cart", "carts one by one", "pendulum"])
def test_the_states_above_lie_within_episodes(states, case):
    assert states(case)["collector"]["episodes"]["length"].min() > 0


def test_a_state_above_waits_for_a_reset():
    """NEXT_STEP: one cart has fallen, and its next step is filler."""
    first, fresh = (trainer_of("carts one by one", num_envs=9, num_steps=1) for _ in range(2))
    while not (state := take_trainer_state(first))["collector"]["stepper"]["resetting"].any():
        first.update()
    put_trainer_state(fresh, state)
    assert after(fresh, 8) == after(first, 8)


@pytest.mark.parametrize("case", CASES)
def test_a_state_shares_nothing_with_a_trainer(states, case):
    state = states(case)
    kept, trainer = leaves(state), trainer_of(case)
    put_trainer_state(trainer, state)
    taken = take_trainer_state(trainer)
    assert leaves(taken) == kept
    expected = after(trainer, 3)
    assert leaves(state) == leaves(taken) == kept
    again = trainer_of(case)
    put_trainer_state(again, state)
    for tensor in tensors(state):
        tensor.zero_()
    assert after(again, 3) == expected


def tensors(state):
    """Every tensor of a nested state."""
    for value in state.values():
        if isinstance(value, dict):
            yield from tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value


@pytest.mark.parametrize("case", ["lesson", "cart"])
def test_taking_a_state_moves_nothing(case):
    watched, alone = trainer_of(case), trainer_of(case)
    before = {name: read() for name, read in HOST.items()}
    for _ in range(6):
        take_trainer_state(watched)
        assert watched.update() == alone.update()
    take_trainer_state(watched)
    assert {name: read() for name, read in HOST.items()} == before


# Every part is needed.

WHOLE = ("environment", "streams")  # parts that are not looked into here


def parts(state, path=()):
    """Paths of all parts."""
    for key, value in state.items():
        if isinstance(value, dict) and key not in WHOLE:
            yield from parts(value, (*path, key))
        else:
            yield (*path, key)


def holder(state, way):
    for key in way:
        state = state[key]
    return state


def altered(state, path):
    """The state with the part at `path` replaced by another that is as good in form."""
    state = copy.deepcopy(state)
    *way, last = path
    value = holder(state, way)[last]
    if last == "generator":
        other = torch.Generator().manual_seed(1).get_state()
    elif last == "environment":
        other = {"unknown": "for a test"}
    elif last == "streams":
        other = {**value, "torch": torch.Generator().manual_seed(1).get_state()}
    elif last == "shards":
        other = [*value, {}]  # one too many
    elif last == "recent":
        other = [item + 1.0 for item in value]
    elif isinstance(value, torch.Tensor) and value.is_floating_point():
        other = value + 0.01 * torch.arange(1, value.numel() + 1).reshape(value.shape)  # two logits may move together
    elif isinstance(value, torch.Tensor):
        other = ~value if value.dtype == torch.bool else value + 1
    else:
        other = value + 1 if not isinstance(value, str) else value + "x"
    holder(state, way)[last] = other
    return state


IDLE = {  # what changes nothing but itself
    "num_env_steps",  # which is counted for the record
    "collector.stepper.steps_taken",  # which only messages show; see below
    "collector.episodes.recent",  # which only `target_return` looks at; see test_resume
    "streams",  # which these environments do not draw from; see below
}


@pytest.mark.parametrize(("case", "updates"), [("lesson", 30), ("carts one by one", 6), ("cart, AdamW", 3)])
@pytest.mark.filterwarnings("ignore:.*new episodes begin")
def test_no_part_of_the_state_is_idle(states, case, updates):
    """With another value of any part the trainer refuses it or ends as another one, in more than that part itself."""

    def outcome(state):
        trainer = trainer_of(case)
        put_trainer_state(trainer, state)
        return after(trainer, updates)

    right, idle, found = outcome(states(case)), set(), list(parts(states(case)))
    assert len(found) == len(set(found)) > (10 if case == "lesson" else 25)
    for part in found:
        try:
            figures, state = outcome(altered(states(case), part))
        except (CheckpointError, ContractError):
            continue
        name = ".".join(part)
        elsewhere = {path for path in state if state[path] != right[1].get(path) and not path.startswith(name)}
        if not elsewhere and figures == right[0]:
            idle.add(name)
    of_the_lesson = {"collector.stepper.resetting", "num_updates"}  # for NEXT_STEP, and for a rate that decays
    assert idle == IDLE | (of_the_lesson if case == "lesson" else set())


@pytest.mark.parametrize("case", ["lesson", "carts one by one", "cart", "cart, AdamW"])
def test_no_part_of_the_state_can_be_left_out(states, case):
    for *way, last in parts(states(case)):
        without, trainer = states(case), trainer_of(case)
        del holder(without, way)[last]
        before = leaves(take_trainer_state(trainer))
        with pytest.raises(CheckpointError, match=rf"^trainer.*{last}"):
            put_trainer_state(trainer, without)
        assert leaves(take_trainer_state(trainer)) == before


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("generator",), torch.zeros(3, dtype=torch.uint8), r"trainer\.generator"),
        (("num_updates",), -1, r"trainer\.num_updates must be at least 0, got -1"),
        (("num_updates",), 1.5, r"trainer\.num_updates must be of type int, got float"),
        (("policy", "class"), "MLP", r"trainer\.policy\.class must be 'MLPPolicy', got 'MLP'"),
        (
            ("policy", "parameters", "layers.0.bias"),
            torch.zeros(5),
            r"trainer\.policy\.parameters\.layers\.0\.bias must",
        ),
        (("policy", "parameters", "layers.0.bias"), torch.full((4,), math.nan), r"layers\.0\.bias must be finite"),
        (("optimizers", "policy", "steps.0"), torch.tensor(-1.0), r"optimizers\.policy\.steps\.0 must be at least 0"),
        (("collector", "normalize_observation", "variance"), -torch.ones(4).double(), "variance must be at least 0"),
        (("collector", "episodes", "recent"), [math.inf], "recent must be finite"),
        (("streams",), {}, r"trainer\.streams"),
        (("streams", "torch"), torch.zeros(3, dtype=torch.uint8), r"trainer\.streams"),
        (("environment",), {}, r"trainer\.environment must be a state, or why there is none, got \{\}"),
        (("environment",), {"state": "{}"}, r"trainer\.environment"),
        (("environment",), {"state": 3}, r"trainer\.environment"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_what_does_not_fit_is_named_and_changes_nothing(states, path, value, message):
    """Neither the trainer nor the global streams."""
    state, trainer, host = states("cart"), trainer_of("cart"), HOST
    *way, last = path
    holder(state, way)[last] = value
    disturb_global_streams()
    before = leaves(take_trainer_state(trainer)), {name: read() for name, read in host.items()}
    with pytest.raises(CheckpointError, match=message):
        put_trainer_state(trainer, state)
    assert (leaves(take_trainer_state(trainer)), {name: read() for name, read in host.items()}) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"num_envs": 3},
        {"hidden_sizes": (5,)},
        {"optimizer": "sgd"},
        {"optimizer": "torch.optim.Adam"},
        {"normalize_observations": False},
        {"normalize_rewards": False},
        {"multiplier": "reward", "baseline": "none"},
    ],
    ids=str,
)
def test_the_state_of_a_trainer_of_other_settings_is_refused(states, settings):
    trainer = trainer_of("cart", **settings)
    before = leaves(take_trainer_state(trainer))
    with pytest.raises(CheckpointError, match=r"^trainer\b"):
        put_trainer_state(trainer, states("cart"))
    assert leaves(take_trainer_state(trainer)) == before


class Partly(Policy):
    """A policy of a user's own; one of its parameters never has a gradient."""

    def __init__(self):
        super().__init__()
        self.layer, self.spare = nn.Linear(4, 2), nn.Parameter(torch.ones(3))

    def distribution(self, observation):
        return torch.distributions.Categorical(logits=self.layer(observation))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "torch.optim.RMSprop", "torch.optim.AdamW"])
def test_a_parameter_that_is_never_used_is_no_hindrance(optimizer):
    settings = {"check_gradient": 0, "optimizer": optimizer}
    first, fresh = (trainer_of("cart", Partly(), **settings) for _ in range(2))
    for _ in range(3):
        first.update()
    put_trainer_state(fresh, take_trainer_state(first))
    assert after(fresh, 3) == after(first, 3)


# Environments that draw from the global streams, or cannot give their state.


class Walk(gym.Env):
    """A random walk."""

    observation_space = gym.spaces.Box(-100.0, 100.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    factor = 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = float(self.np_random.normal())
        return np.array([self.at], np.float32), {}

    def step(self, action):
        self.change()
        self.at += 2 * int(action) - 1
        return np.array([self.at], np.float32), self.at * self.factor, abs(self.at) > 5, False, {}

    def change(self):
        """What else happens in a step."""


class Global(Walk):
    """It draws from all three global streams."""

    def change(self):
        self.at += random.random() + float(np.random.random()) + torch.rand(()).item() - 1.5  # noqa: NPY002


class Opaque(Walk):
    """It holds an open file."""

    def __init__(self):
        self.file = open("/dev/null")  # noqa: SIM115 -- held on purpose

    def close(self):
        self.file.close()


class Drawing(Opaque):
    """It also draws from the global streams when an episode begins."""

    def reset(self, *, seed=None, options=None):
        random.random()
        torch.rand(())
        return super().reset(seed=seed, options=options)


class Growing(Walk):
    """Objects and an attribute come into being as it is played."""

    def __init__(self):
        self.foes = []

    def change(self):
        self.foes.append(types.SimpleNamespace(at=self.at))
        self.late = self.at


for kind in (Walk, Global, Opaque, Drawing, Growing):
    gym.register(f"{kind.__name__}State-v0", kind, max_episode_steps=30, disable_env_checker=True)


@pytest.mark.parametrize("stream", ["random", "numpy", "torch"])
def test_the_global_streams_are_part_of_the_state(stream):
    """Kills a stream that is left out: the environment draws from all three."""
    first, fresh, spoiled = (trainer_of("Global") for _ in range(3))
    for _ in range(4):
        first.update()
    state = take_trainer_state(first)
    expected = after(first, 4)
    disturb_global_streams()
    put_trainer_state(fresh, state)
    assert after(fresh, 4) == expected
    disturb_global_streams()
    other = take_trainer_state(spoiled)["streams"][stream]
    put_trainer_state(spoiled, {**state, "streams": {**state["streams"], stream: other}})
    assert after(spoiled, 4) != expected


@pytest.mark.parametrize("case", ["lesson", "Drawing"])
@pytest.mark.filterwarnings("ignore:.*new episodes begin")
def test_the_global_streams_are_where_the_state_says(case):
    """Also if new episodes begin, with an environment that draws as they do."""
    trainer = trainer_of(case)
    expected = [random.getstate(), numpy_stream(), torch.get_rng_state().tolist()]
    state = take_trainer_state(trainer)
    disturb_global_streams()
    put_trainer_state(trainer, state)
    assert [random.getstate(), numpy_stream(), torch.get_rng_state().tolist()] == expected
    trainer.close()


def test_new_episodes_begin_if_the_environment_cannot_give_its_state():
    first, fresh = trainer_of("Opaque"), trainer_of("Opaque")
    start = fresh.collector.stepper.observation.copy()
    for _ in range(8):
        first.update()
    state = take_trainer_state(first)
    assert state["environment"].keys() == {"unknown"}
    message = r"OpaqueState-v0 cannot save its state, .*file is a _io.TextIOWrapper: new episodes begin"
    with pytest.warns(UserWarning, match=message):
        put_trainer_state(fresh, state)
    found = take_trainer_state(fresh)
    assert not found["collector"]["episodes"]["length"].any()
    assert not np.array_equal(fresh.collector.stepper.observation, start)  # other ones than at the start
    kept = {"policy", "value_function", "optimizers", "generator", "streams", "num_updates", "num_env_steps"}
    assert leaves({key: state[key] for key in kept}) == leaves({key: found[key] for key in kept})
    assert found["collector"]["episodes"]["recent"] == state["collector"]["episodes"]["recent"]
    assert leaves(found["collector"]["normalize_observation"]) == leaves(state["collector"]["normalize_observation"])
    fresh.update()
    for trainer in (first, fresh):
        trainer.close()


def test_an_environment_that_grows_is_continued_or_starts_new_episodes():
    first, fresh = trainer_of("Growing"), trainer_of("Growing")
    for _ in range(8):
        first.update()
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        put_trainer_state(fresh, take_trainer_state(first))
    assert all("new episodes begin" in str(warning.message) for warning in given)
    if not given:
        assert after(fresh, 5) == after(first, 5)
    assert np.isfinite(list(fresh.update().values())).all()


def test_messages_count_steps_from_the_beginning(monkeypatch):
    """The one use of the stepper's `steps_taken`."""
    first, fresh = trainer_of("Walk"), trainer_of("Walk")
    for _ in range(8):
        first.update()
    put_trainer_state(fresh, take_trainer_state(first))
    monkeypatch.setattr(Walk, "factor", np.nan)
    with pytest.raises(NonFiniteError, match="reward must be finite, got nan, of environment 0 at step 65"):
        fresh.update()


# What may not be saved


def test_parameters_that_are_not_finite_are_named():
    trainer = trainer_of("cart")
    trainer.update()
    require_finite_state(trainer)
    trainer.value_function.layers[1].weight.data[0, 2] = math.nan
    message = (
        r"^update 1, step \d+: value layers\.1\.weight must be finite, got nan at index \[0, 2\]; is learning_rate "
    )
    with pytest.raises(NonFiniteError, match=message):
        require_finite_state(trainer)


def test_an_optimizer_that_remembers_what_is_not_finite_is_named():
    trainer = trainer_of("cart")
    trainer.update()
    trainer.optimizers["policy"].mean[1].fill_(math.inf)
    message = r"optimizer's mean of policy layers\.0\.bias must be finite, got inf at index \[0\]"
    with pytest.raises(NonFiniteError, match=message):
        require_finite_state(trainer)


def test_a_policy_that_is_put_into_is_the_one_that_was_handed_in(states):
    policy = BiasPolicy(bias=5.0)
    trainer = trainer_of("lesson", policy)
    put_trainer_state(trainer, states("lesson"))
    assert trainer.policy is policy
    assert policy.bias.item() == states("lesson")["policy"]["parameters"]["bias"].item() != 5.0
