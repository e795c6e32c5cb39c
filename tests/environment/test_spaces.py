import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from pgtorch.environment.spaces import clipper, flattener, is_one_hot, seed_spaces

BOX = spaces.Box(-1, 1, (2, 3), np.float32)
KINDS = [
    BOX,
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([2, 3, 4], start=[0, 5, -1]),
    spaces.MultiBinary(5),
    spaces.Tuple([spaces.Discrete(3), BOX]),
    spaces.Dict({"z": spaces.Discrete(2), "a": spaces.Dict({"inner": BOX, "bits": spaces.MultiBinary(2)})}),
]


@pytest.mark.parametrize("space", KINDS, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("n", [1, 7])
def test_a_batch_is_flattened_as_gymnasium_flattens_each(space, n):
    space.seed(0)
    samples = [space.sample() for _ in range(n)]
    batch = concatenate(space, samples, create_empty_array(space, n))
    flat = flattener(space)(batch, n)
    assert flat.shape == (n, spaces.flatdim(space))
    assert np.array_equal(flat, np.stack([spaces.flatten(space, sample) for sample in samples]))
    assert batch_space(space, n).contains(batch)


@pytest.mark.parametrize("space", [spaces.Text(4), spaces.Graph(BOX, None), spaces.Sequence(BOX), spaces.OneOf([BOX])])
def test_refuses_what_has_no_fixed_size(space):
    with pytest.raises(TypeError, match=rf"observation space must be Box, .* got {type(space).__name__}"):
        flattener(space)
    with pytest.raises(TypeError, match="observation space must be Box"):
        flattener(spaces.Dict({"in": space}))
    with pytest.raises(TypeError, match=rf"action space must be Discrete, .* got {type(space).__name__}"):
        clipper(space)


def test_box_actions_are_clipped_for_the_environment_only():
    action = np.array([[-3.0, 0.2], [0.4, 9.0]])
    played = clipper(spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64))(action)
    assert played.tolist() == [[-1.0, 0.2], [0.4, 9.0]]
    assert action.tolist() == [[-3.0, 0.2], [0.4, 9.0]]


def test_actions_have_the_dtype_of_their_space():
    env = gym.make_vec("CartPole-v1", num_envs=2)
    assert env.action_space.contains(clipper(env.single_action_space)(np.array([0, 1], np.int64)))
    bits = spaces.MultiBinary(2)
    assert clipper(bits)(np.array([[0, 1]], np.int8)).dtype == bits.dtype


class Base(gym.Env):
    """Its spaces belong to its class."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    action_space = spaces.Discrete(1000)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


class Inheriting(Base):
    """They belong to the class that it inherits from."""


class Own(Base):
    """They are its own."""

    def __init__(self):
        self.observation_space = spaces.Dict(a=BOX, b=spaces.Tuple([spaces.Discrete(9), spaces.MultiBinary(30)]))
        self.action_space = spaces.Discrete(1000)


def unseed(space):
    """As a fresh space is, which seeds itself from the operating system."""
    for inner in getattr(space, "spaces", {}).values() if isinstance(space, spaces.Dict) else ():
        unseed(inner)
    space._np_random = None


@pytest.mark.parametrize("kind", [Base, Inheriting, Own])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_spaces_of_an_environment_are_seeded_with_it(kind, wrapped):
    """Also within wrappers; the same seed makes the same samples, and no two environments the same ones."""

    def samples(seed):
        makers = [lambda: gym.wrappers.TimeLimit(kind(), 9) if wrapped else kind()] * 2
        env = SyncVectorEnv(makers)
        for space in (Base.observation_space, Base.action_space):
            unseed(space)
        seed_spaces(env, seed)
        found = [env.observation_space, env.action_space, env.single_observation_space, env.single_action_space]
        found += [space for sub in env.envs for space in (sub.observation_space, sub.unwrapped.action_space)]
        return [str(space.sample()) for space in found]

    first = samples(3)
    assert first == samples(3)
    assert first != samples(4)
    if kind is Own:
        assert first[2] != first[6]  # the first observations of the two environments


def test_a_large_seed_is_a_seed_too():
    env = SyncVectorEnv([Own])
    seed_spaces(env, 2**63 - 1)
    assert env.action_space.sample().shape == (1,)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Discrete(3), True),
        (spaces.MultiDiscrete([2, 3]), True),
        (spaces.MultiBinary(3), True),
        (spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)]), True),
        (spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(0, 1, (1,))}), False),
        (spaces.Box(0, 255, (5, 5, 3), np.uint8), False),
    ],
    ids=str,
)
def test_one_hot_observations_are_told_from_numbers(space, expected):
    assert is_one_hot(space) is expected
