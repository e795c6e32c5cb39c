"""Policies without their environment: right ones pass, wrong ones fail in the row that is named."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import strangers
import torch
from gymnasium import spaces
from support import seeded
from torch import nn
from torch.distributions import Categorical

from pgtorch import BiasPolicy, MLPPolicy, Policy
from pgtorch.distributions import as_global_stream
from pgtorch.proof import suite
from pgtorch.proof.policy_rows import policy_rows

BOX, CHOICE = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4)
HUNGER = spaces.Box(0.0, 1.0, (1,), np.float32)


class Own(Policy):
    """A policy of a user's own: no derivation by hand, a distribution of torch's."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def distribution(self, observation):
        return Categorical(logits=self.layer(observation.to(self.layer.weight.dtype)))


class TwiceTheEntropy(Categorical):
    def entropy(self):
        return 2 * super().entropy()


def by_check(policy, observation_space=BOX, action_space=CHOICE, seed=0):
    return {row.check: row for row in policy_rows("", policy, observation_space, action_space, seed=seed)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("policy", "observation_space", "action_space"),
    [
        (BiasPolicy(), HUNGER, spaces.Discrete(2)),
        (MLPPolicy(BOX, spaces.Discrete(4, start=2), (5,)), BOX, spaces.Discrete(4, start=2)),
        (
            MLPPolicy(spaces.Discrete(5), spaces.MultiDiscrete([3, 2]), ()),
            spaces.Discrete(5),
            spaces.MultiDiscrete([3, 2]),
        ),
    ],
)
def test_right_policies_pass_with_any_seed(policy, observation_space, action_space, seed):
    assert {row.status for row in by_check(policy, observation_space, action_space, seed).values()} == {"PASS"}


class SharedTrunk(Policy):
    """A policy that brings a value head, on which log pi does not depend; a part of the trunk may be frozen."""

    def __init__(self, observations=3, actions=4, frozen=False):
        super().__init__()
        self.trunk = nn.Linear(observations, 5).requires_grad_(not frozen)
        self.head, self.value_head = nn.Linear(5, actions), nn.Linear(5, 1)

    def distribution(self, observation):
        return Categorical(logits=self.head(torch.tanh(self.trunk(observation))))


class Squashed(Policy):
    """A normal number through a tanh, with the derivative of the tanh in its density or without it."""

    def __init__(self, right):
        super().__init__()
        self.right, self.layer = right, nn.Linear(3, 1)

    def distribution(self, observation):
        normal = torch.distributions.Normal(self.layer(observation), 0.5)
        transforms = [torch.distributions.TanhTransform(cache_size=1)]
        squashed = torch.distributions.TransformedDistribution(normal, transforms)
        if self.right:
            return torch.distributions.Independent(squashed, 1)
        squashed.log_prob = lambda action: normal.log_prob(action.atanh())
        return torch.distributions.Independent(squashed, 1)


@pytest.mark.parametrize("right", [True, False])
def test_a_squashed_normal_needs_the_derivative_of_its_tanh(right):
    policy, space = Squashed(right), spaces.Box(-1.0, 1.0, (1,))
    (row,) = policy_rows("", policy, BOX, space, seed=0, only="probabilities sum to 1")
    assert row.status == ("PASS" if right else "FAIL"), row


@pytest.mark.parametrize("frozen", [False, True])
def test_a_shared_or_frozen_trunk_passes(frozen):
    rows = by_check(SharedTrunk(frozen=frozen))
    assert {row.status for row in rows.values()} == {"PASS", "SKIP"}
    mdp = list(suite.rows(SharedTrunk(16, 4, frozen), "FrozenLake-v1", seed=0, episodes=10_000))
    assert {row.status for row in mdp} == {"PASS", "SKIP", "BIAS"}
    assert all(row.value is None or row.value < float("inf") for row in mdp)


def test_the_lesson_agrees_in_every_bit_and_a_network_within_rounding():
    lesson = policy_rows("", BiasPolicy(), HUNGER, spaces.Discrete(2), seed=0)
    network = policy_rows("", MLPPolicy(BOX, CHOICE, (5,)), BOX, CHOICE, seed=0)
    for dtype in ("float32", "float64"):
        row, other = next(lesson), next(network)
        assert row.check == other.check == f"autograd against manual, {dtype}"
        assert (row.value, row.limit) == (0.0, 0.0)
        assert 0.0 < other.value <= other.limit <= 32.0


def test_the_policy_stays_as_it_was():
    policy = MLPPolicy(BOX, CHOICE, (4,))
    before = [parameter.clone() for parameter in policy.parameters()]
    by_check(policy)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert next(policy.parameters()).dtype == torch.float32


def test_what_cannot_be_computed_is_skipped_with_the_reason():
    rows = by_check(Own())
    assert rows["autograd against manual, float64"].status == "SKIP"
    assert rows["autograd against manual, float64"].note == "there is no derivation by hand for Own"
    assert {row.status for row in rows.values()} == {"PASS", "SKIP"}
    box = by_check(MLPPolicy(BOX, BOX, ()), BOX, BOX)
    assert {check for check, row in box.items() if row.status == "SKIP"} == {
        "samples outside the action space",
        "probabilities sum to 1",
    }


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ({"log_prob": lambda self, o, a: Own.log_prob(self, o, a).detach()}, "autograd against finite differences"),
        ({"log_prob": lambda self, o, a: 2 * Own.log_prob(self, o, a)}, "probabilities sum to 1"),
        ({"sample": lambda self, o, noise: Own.sample(self, o, noise) + 4}, "samples outside the action space"),
        ({"sample": lambda self, o, noise: (Own.sample(self, o, noise) + 1) % 4}, "samples against log-probability"),
        ({"distribution": lambda self, o: TwiceTheEntropy(logits=self.layer(o))}, "samples against entropy"),
        ({"distribution": lambda self, o: Own.distribution(self, o[:, :2])}, "probabilities sum to 1"),
    ],
)
def test_a_wrong_policy_fails(fault, check):
    row = by_check(type("Faulty", (Own,), fault)())[check]
    assert row.status == "FAIL"


def test_a_policy_that_cannot_be_asked_fails_with_its_error():
    class Faulty(Own):
        def distribution(self, observation):
            raise ValueError("no\nsuch  thing")

    rows = by_check(Faulty())
    assert rows["samples against entropy"].status == "FAIL"
    assert rows["samples against entropy"].note == "ValueError: no such thing"


def test_rows_repeat_with_the_seed_and_leave_every_global_stream():
    """Even if the policy samples by torch.distributions and observations are samples of a space."""
    space = spaces.Discrete(3)
    space.seed(0)
    expected = spaces.Discrete(3)
    expected.seed(0)
    policy = Own()
    torch.manual_seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = list(policy_rows("", policy, space, CHOICE, seed=0))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert [space.sample() for _ in range(20)] == [expected.sample() for _ in range(20)]
    torch.manual_seed(2)
    assert list(policy_rows("", policy, space, CHOICE, seed=0)) == one
    assert list(itertools.islice(policy_rows("", policy, space, CHOICE, seed=1), 3))[2] != one[2]


# What strangers bring

SLOPE, ENTROPY_SLOPE = "autograd against finite differences", "entropy against finite differences"
ENVIRONMENTS = ("CartPole-v1", "FrozenLake-v1", "Pendulum-v1", "Images-v0", "ImagesBox-v0")
FIT = [
    (name, env_id)
    for env_id in ENVIRONMENTS
    for name in strangers.RIGHT
    if name not in strangers.ONLY_FOR_NUMBERS or env_id in ("Pendulum-v1", "ImagesBox-v0")
]


def of_a_stranger(kind, env_id, only=None, seed=0):
    """Rows of a policy by its name in `strangers`."""
    env = gym.make(env_id)
    with as_global_stream(seeded(seed)):
        policy = getattr(strangers, kind)(env.observation_space, env.action_space)
    yield from policy_rows(kind, policy, env.observation_space, env.action_space, seed=seed, only=only)


@pytest.mark.parametrize(("kind", "env_id"), FIT)
def test_a_strangers_policy_has_the_right_gradients(kind, env_id):
    """With kinks too. Right ones are off by 1e-10 or so, a thousandth of the limit."""
    for check in (SLOPE, ENTROPY_SLOPE, "clipped objective by autograd", "likelier than the mode"):
        (row,) = of_a_stranger(kind, env_id, check)
        assert row.status == "PASS", row


@pytest.mark.long
@pytest.mark.parametrize(("kind", "env_id"), [(kind, env_id) for kind, env_id in FIT if "Images" not in env_id])
def test_a_strangers_policy_passes_every_row(monkeypatch, kind, env_id):
    """With a tenth of the samples, and without images, whose samples take an hour."""
    monkeypatch.setattr("pgtorch.proof.policy_rows.SAMPLES", 2000)
    assert {row.status for row in of_a_stranger(kind, env_id, seed=1)} <= {"PASS", "SKIP"}


@pytest.mark.parametrize("kind", ["BetaHead", "Squashed"])
def test_densities_with_bounds_and_kinks_pass_where_samples_are_compared(monkeypatch, kind):
    """Kills Stein's identity with a function that does not vanish at the bounds."""
    monkeypatch.setattr("pgtorch.proof.policy_rows.SAMPLES", 1600)
    for check in ("samples against joint probability", "samples against entropy", "probabilities sum to 1"):
        (row,) = of_a_stranger(kind, "Pendulum-v1", check)
        assert row.status == "PASS", row


@pytest.mark.parametrize("env_id", ["CartPole-v1", "ImagesBox-v0"])
def test_what_is_0_on_paper_may_be_rounding(monkeypatch, env_id):
    """The gradient of the bias of an attention's keys: the softmax subtracts it again."""
    monkeypatch.setattr("pgtorch.proof.policy_rows.SAMPLES", 320)
    (row,) = of_a_stranger("Transformer", env_id, "samples against log-probability")
    assert row.status == "PASS", row


@pytest.mark.parametrize(
    ("kind", "env_id", "check"),
    [
        ("WrongLast", "CartPole-v1", SLOPE),
        ("WrongFirst", "CartPole-v1", SLOPE),
        ("WrongFirst", "FrozenLake-v1", SLOPE),
        ("WrongFirst", "Pendulum-v1", SLOPE),
        ("WrongConvolution", "Images-v0", SLOPE),
        ("WrongConvolution", "ImagesBox-v0", SLOPE),
        ("WrongFirst", "CartPole-v1", ENTROPY_SLOPE),
        ("WrongConvolution", "Images-v0", ENTROPY_SLOPE),
        ("DetachedEntropy", "CartPole-v1", ENTROPY_SLOPE),
        ("MissingJacobian", "Pendulum-v1", "probabilities sum to 1"),
        ("MissingJacobian", "ImagesBox-v0", "samples against joint probability"),
        ("NotTheMode", "Pendulum-v1", "likelier than the mode"),
        ("Unlikeliest", "Images-v0", "likelier than the mode"),
    ],
)
def test_a_strangers_fault_is_found(monkeypatch, kind, env_id, check):
    """The gradient by a factor of 1.0001, an entropy without gradient, a density without Jacobian, a mode beside it."""
    monkeypatch.setattr("pgtorch.proof.policy_rows.SAMPLES", 1600)
    (row,) = of_a_stranger(kind, env_id, check)
    assert row.status == "FAIL", row
    assert row.value < float("inf")
    right = getattr(strangers, kind).__mro__[1].__name__
    (row,) = of_a_stranger(right, env_id, check)
    assert row.status == "PASS", row


def test_what_has_too_few_slopes_fails_and_says_so():
    """Kills a check that leaves out every kink until nothing is left: values in float32, which are all kinks."""

    class Coarse(Own):
        def distribution(self, observation):
            return Categorical(logits=self.layer(observation).float().double())

    with as_global_stream(seeded()):
        policy = Coarse()
    (row,) = policy_rows("", policy, BOX, CHOICE, seed=0, only=SLOPE)
    assert (row.status, row.value) == ("FAIL", float("inf"))
    assert row.note.endswith("without a kink: too few; is the policy differentiable, and computed in float64?")


def test_a_distribution_without_a_mode_is_skipped_there():
    class WithoutMode(strangers.Squashed):
        class squash(strangers.SquashedNormal):  # noqa: N801 -- an attribute
            mode = torch.distributions.TransformedDistribution.mode

    policy = WithoutMode(BOX, spaces.Box(-1.0, 1.0, (1,)))
    (row,) = policy_rows("", policy, BOX, spaces.Box(-1.0, 1.0, (1,)), seed=0, only="likelier than the mode")
    assert (row.status, row.note) == ("SKIP", "the distribution has no mode")


def test_observations_are_rows_and_large_ones_come_in_fewer(monkeypatch):
    """As the trainer gives them: flattened. 84 x 84 pixels at 20,000 rows would take gigabytes."""
    seen = []

    class Looks(Policy):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(2))

        def distribution(self, observation):
            seen.append(tuple(observation.shape))
            return Categorical(logits=self.logits.expand(len(observation), 2))

    monkeypatch.setattr("pgtorch.proof.policy_rows.BATCHES", 4)
    pixels = spaces.Box(0, 255, (84, 84), np.uint8)
    for check in (SLOPE, "samples against entropy", "probabilities sum to 1"):
        list(policy_rows("", Looks(), pixels, spaces.Discrete(2), seed=0, only=check))
    assert {len(shape) for shape in seen} == {2}
    assert {shape[1] for shape in seen} == {84 * 84}
    assert max(shape[0] for shape in seen) <= 1024
