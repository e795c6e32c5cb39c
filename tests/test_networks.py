import math
import sys
import types

import numpy as np
import pytest
import torch
from gymnasium import spaces
from support import seeded
from torch import nn

from pgtorch import BiasPolicy, MLPPolicy, Policy
from pgtorch.distributions import as_global_stream
from pgtorch.networks import ACTIVATIONS, ValueFunction, make_layers, make_policy, require_fit

BOX = spaces.Box(-1.0, 1.0, (4,))
DISCRETE, HUNGER = spaces.Discrete(2), spaces.Box(0, 1, (1,))
KINDS = [
    (spaces.Discrete(3, start=-1), (), 3),
    (spaces.MultiDiscrete([2, 3], start=[0, 5]), (2,), 5),
    (spaces.MultiBinary(4), (4,), 4),
    (spaces.Box(-1.0, 1.0, (2,)), (2,), 2),
]


def network(*arguments, seed=0, **settings):
    """An `MLPPolicy` whose first weights come from a seed."""
    with as_global_stream(seeded(seed)):
        return MLPPolicy(*arguments, **settings)


@pytest.mark.parametrize(("action_space", "shape", "outputs"), KINDS, ids=lambda value: type(value).__name__)
def test_network_acts_in_its_space(action_space, shape, outputs):
    policy, observation = network(BOX, action_space), torch.randn(500, 4, generator=seeded())
    assert policy(observation).shape == (500, outputs)
    action = policy.sample(observation, seeded(1))
    assert action.shape == policy.mode(observation).shape == (500, *shape)
    assert not action.requires_grad
    if not isinstance(action_space, spaces.Box):
        assert all(action_space.contains(row) for row in action.numpy().astype(action_space.dtype))
        assert len(np.unique(action.numpy(), axis=0)) == np.prod(getattr(action_space, "nvec", 16 if shape else 3))
    distribution = policy.distribution(observation)
    log_prob, entropy = policy.log_prob(observation, action), distribution.entropy()
    assert log_prob.shape == entropy.shape == (500,)
    log_prob.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


@pytest.mark.parametrize(("action_space", "shape", "outputs"), KINDS, ids=lambda value: type(value).__name__)
def test_network_draws_its_noise_at_once_and_leaves_the_global_stream_alone(action_space, shape, outputs):
    policy, observation = network(BOX, action_space), torch.randn(50, 4, generator=seeded())
    before = torch.get_rng_state()
    noise = list(policy.noise(6, 50, seeded(1)))
    assert [row.shape for row in noise] == [(50, outputs)] * 6
    actions = [policy.sample(observation, row) for row in noise]
    assert torch.equal(actions[0], policy.sample(observation, noise[0]))  # nothing else is drawn
    assert not torch.equal(actions[0], actions[1])
    assert torch.equal(policy.sample(observation, seeded(1)), policy.sample(observation, seeded(1)))
    generator = seeded(1)
    step_by_step = [policy.sample(observation, generator) for _ in range(6)]
    if not isinstance(action_space, spaces.Box):  # torch draws normal numbers in another order if there are more
        assert torch.equal(torch.stack(actions), torch.stack(step_by_step))
    assert torch.equal(torch.get_rng_state(), before)


def test_network_starts_near_uniform():
    policy = network(BOX, spaces.Discrete(3))
    assert (policy.distribution(torch.randn(100, 4, generator=seeded())).probs - 1 / 3).abs().max() < 0.02


def test_first_weights_are_orthogonal_with_small_last_ones():
    """Gains sqrt(2), sqrt(2) and 0.01, and a standard deviation of 1; kills another initialization or other sizes."""
    policy = network(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)))
    assert [layer.out_features for layer in policy.layers] == [64, 64, 2]
    assert policy.log_std.tolist() == [0, 0]
    for layer, square in zip(policy.layers, (2.0, 2.0, 1e-4), strict=True):
        weight = layer.weight if layer.weight.shape[0] < layer.weight.shape[1] else layer.weight.T
        torch.testing.assert_close(weight @ weight.T, square * torch.eye(len(weight)), rtol=1e-4, atol=1e-5)
        assert not layer.bias.any()


def test_two_layers_of_64_units_unless_told_otherwise():
    for made in (make_policy("mlp", BOX, DISCRETE), MLPPolicy(BOX, DISCRETE), ValueFunction(BOX)):
        assert [layer.out_features for layer in made.layers[:-1]] == [64, 64]


def test_network_is_layers_of_tanh():
    policy, observation = network(BOX, spaces.Discrete(3), hidden_sizes=(5,)), torch.randn(7, 4, generator=seeded())
    first, last = policy.layers
    expected = torch.tanh(observation @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(policy(observation), expected)
    assert len(network(BOX, spaces.Discrete(3), hidden_sizes=()).layers) == 1


@pytest.mark.parametrize(("name", "module"), [("tanh", nn.Tanh()), ("relu", nn.ReLU()), ("elu", nn.ELU())])
def test_the_activation_of_hidden_layers(name, module):
    """Between layers only, not after the last; of policy and value function alike."""
    policy = network(BOX, spaces.Discrete(3), (5, 6), activation=name)
    with as_global_stream(seeded()):
        value_function = ValueFunction(BOX, (5, 6), name)
    observation = torch.randn(7, 4, generator=seeded())
    for found, layers in ((policy(observation), policy.layers), (value_function(observation), value_function.layers)):
        expected = nn.Sequential(layers[0], module, layers[1], module, layers[2])(observation)
        torch.testing.assert_close(found, expected.reshape(found.shape))
    assert make_policy("mlp", BOX, DISCRETE, (7,), name).activation == name
    assert set(ACTIVATIONS) == {"tanh", "relu", "elu"}


@pytest.mark.parametrize(
    "make", [lambda a: MLPPolicy(BOX, DISCRETE, activation=a), lambda a: ValueFunction(BOX, (), a)]
)
def test_an_unknown_activation_is_refused(make):
    with pytest.raises(ValueError, match="activation must be one of tanh, relu, elu, got 'sine'"):
        make("sine")


def test_an_output_of_nan_stays_nan():
    """Kills a clamp or a nan_to_num in the forward pass."""
    assert network(BOX, DISCRETE)(torch.full((1, 4), math.nan)).isnan().all()


def test_a_large_standard_deviation_is_not_clipped():
    policy = network(BOX, spaces.Box(-1, 1, (1,)))
    policy.log_std.data.fill_(6.0)
    entropy = policy.distribution(torch.zeros(1, 4)).entropy().item()
    assert entropy == pytest.approx(6 + 0.5 * math.log(2 * math.pi * math.e))


def test_discrete_observations_become_one_hot():
    policy = network(spaces.Discrete(6, start=4), DISCRETE, ())
    states = torch.arange(4, 10)
    assert torch.equal(policy.features(states), torch.eye(6))
    assert torch.equal(policy(states), policy(torch.eye(6)))


def test_observations_of_any_shape_are_flattened():
    policy = network(spaces.Box(0, 1, (2, 3)), DISCRETE)
    observation = torch.rand(5, 2, 3, generator=seeded())
    assert torch.equal(policy(observation), policy(observation.flatten(1)))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Graph(BOX, BOX),
        spaces.Box(-1.0, 1.0, (2, 2)),
        spaces.MultiDiscrete([[2, 3]]),
        spaces.MultiBinary((2, 2)),
    ],
    ids=str,
)
def test_network_refuses_actions_it_cannot_draw(space):
    with pytest.raises(TypeError, match=rf"action space must be .* one dimension, got {type(space).__name__}"):
        MLPPolicy(BOX, space)


@pytest.mark.parametrize("space", [spaces.Graph(BOX, BOX), spaces.Sequence(BOX)], ids=str)
def test_network_refuses_observations_it_cannot_flatten(space):
    with pytest.raises(TypeError, match=rf"observation space must be Box, .* got {type(space).__name__}"):
        MLPPolicy(space, DISCRETE)


def test_values_are_those_of_layers_of_tanh():
    with as_global_stream(seeded()):
        value_function = ValueFunction(spaces.Discrete(5), (6,))
    observation = torch.eye(5)
    first, last = value_function.layers
    expected = torch.tanh(observation @ first.weight.T + first.bias) @ last.weight.T + last.bias
    values = value_function(observation)
    torch.testing.assert_close(values, expected.squeeze(1))
    assert values.shape == (5,)
    torch.testing.assert_close(last.weight.norm().item(), 1.0)  # values that start at the scale of the observations


def test_layers_take_their_gain_by_their_place():
    with as_global_stream(seeded()):
        layers = make_layers([8, 8, 8, 8], last_gain=0.5)
    norms = [torch.linalg.matrix_norm(layer.weight, ord=2).item() for layer in layers]
    assert norms == pytest.approx([math.sqrt(2), math.sqrt(2), 0.5], rel=1e-5)


# A policy by name


class Mine(Policy):
    """A policy of a user's own, that takes no argument."""

    def __init__(self, size=2):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(size))

    def distribution(self, observation):
        return torch.distributions.Categorical(logits=self.logits.expand(len(observation), -1))


class Free(Mine):
    """One that takes anything and needs nothing."""

    def __init__(self, *numbers, **settings):
        assert not numbers
        assert not settings
        super().__init__()


class Fitted(Mine):
    """One that takes the spaces."""

    def __init__(self, observation_space, action_space):
        super().__init__(int(action_space.n))
        self.observation_space = observation_space


class ByPlace(Fitted):
    """One that takes them by place only."""

    def __init__(self, observation_space, action_space, /):
        super().__init__(observation_space, action_space)


@pytest.fixture
def own_module(monkeypatch):
    """A module of a user's own, by the name `own_policies`."""
    module = types.ModuleType("own_policies")
    module.Mine, module.Free, module.Fitted, module.ByPlace = Mine, Free, Fitted, ByPlace
    module.Other, module.number = nn.Linear, 3
    monkeypatch.setitem(sys.modules, "own_policies", module)


def test_a_policy_is_made_by_its_name(own_module):
    assert type(make_policy("bias", HUNGER, DISCRETE)) is BiasPolicy
    network = make_policy("mlp", BOX, DISCRETE, (7,))
    assert type(network) is MLPPolicy
    assert [layer.out_features for layer in network.layers] == [7, 2]
    assert type(make_policy("own_policies:Mine", BOX, DISCRETE)) is Mine
    actor = make_policy("own:Actor", BOX, DISCRETE, kwargs={"units": 3})
    assert (actor.trunk.in_features, actor.trunk.out_features) == (4, 3)
    given = make_policy("own:Actor", BOX, DISCRETE, kwargs={"observation_space": HUNGER, "action_space": DISCRETE})
    assert given.trunk.in_features == 1  # all are named, so the spaces are not given again
    with pytest.raises(TypeError, match="unexpected keyword argument 'unit'"):
        make_policy("own:Actor", BOX, DISCRETE, kwargs={"unit": 3})
    assert type(make_policy("own_policies:Free", BOX, DISCRETE)) is Free
    for kind in (Fitted, ByPlace):
        fitted = make_policy(f"own_policies:{kind.__name__}", BOX, spaces.Discrete(5))
        assert (type(fitted), fitted.observation_space, len(fitted.logits)) == (kind, BOX, 5)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("own_policies:Other", TypeError, "policy must be a subclass of pgtorch.Policy, got own_policies:Other"),
        ("own_policies:number", TypeError, "policy must be a subclass of pgtorch.Policy, got own_policies:number"),
        ("own_policies:Missing", AttributeError, "Missing"),
        ("no_such_module:Mine", ImportError, "no_such_module"),
        ("cnn9", ValueError, "policy must be bias, mlp, cnn, auto or module:Class, got 'cnn9'"),
        (":Mine", ValueError, "policy must be .* got ':Mine'"),
        ("own_policies:", ValueError, "policy must be .* got 'own_policies:'"),
    ],
)
def test_a_name_that_stands_for_no_policy_is_refused(own_module, name, error, message):
    with pytest.raises(error, match=message):
        make_policy(name, BOX, DISCRETE)


@pytest.mark.parametrize(
    ("observation_space", "action_space"),
    [(BOX, DISCRETE), (HUNGER, spaces.Discrete(3)), (spaces.Discrete(1), DISCRETE)],
)
def test_the_bias_policy_is_for_the_lesson_only(observation_space, action_space):
    with pytest.raises(TypeError, match=r"policy 'bias' takes .* but the environment has ") as caught:
        make_policy("bias", observation_space, action_space)
    assert f"{observation_space} and {action_space}" in str(caught.value)


# A policy that fits


@pytest.mark.parametrize(("action_space", "shape", "outputs"), KINDS, ids=lambda value: type(value).__name__)
def test_a_network_fits_its_spaces(action_space, shape, outputs):
    before = torch.get_rng_state()
    require_fit(network(BOX, action_space), 3, BOX, action_space)
    assert torch.equal(torch.get_rng_state(), before)


class Column(Mine):
    """Its log-probabilities are [B, 1]."""

    def distribution(self, observation):
        distribution = super().distribution(observation)
        distribution.log_prob = lambda action: type(distribution).log_prob(distribution, action)[:, None]
        return distribution


class Scalar(Mine):
    """Its entropy is one number for all rows."""

    def distribution(self, observation):
        distribution = super().distribution(observation)
        distribution.entropy = lambda: type(distribution).entropy(distribution).mean()
        return distribution


class Frozen(Mine):
    """Nothing to learn."""

    def __init__(self):
        super().__init__()
        self.logits.requires_grad_(False)


class Failing(Mine):
    """Cannot be asked."""

    def distribution(self, observation):
        raise KeyError("lamp")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (BiasPolicy(), r"BiasPolicy fails on observations \[3, 4\]: observation must have shape \[\.\.\., 1\]"),
        (Failing(), r"Failing fails on observations \[3, 4\]: 'lamp'"),
        (network(BOX, spaces.MultiBinary(2)), r"MLPPolicy must return actions \[3\] .* got action \[3, 2\]"),
        (Column(), r"Column must return .* log_prob and entropy \[3\] .* got .* log_prob \[3, 1\], entropy \[3\]"),
        (Scalar(), r"Scalar must return .* log_prob and entropy \[3\] .* got .* log_prob \[3\], entropy \[\]"),
        (Frozen(), "Frozen has nothing to learn: log_prob has no gradient"),
    ],
    ids=["BiasPolicy", "Failing", "MLPPolicy", "Column", "Scalar", "Frozen"],
)
def test_a_policy_that_does_not_fit_is_found_at_once(policy, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        require_fit(policy, 3, BOX, DISCRETE)


def test_what_a_policy_must_return_is_named_for_actions_of_several_numbers():
    with pytest.raises(
        TypeError, match=r"return actions \[3, 2\] with log_prob and entropy \[3\] for .* got action \[3\]"
    ):
        require_fit(Mine(), 3, BOX, spaces.MultiBinary(2))
