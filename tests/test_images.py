import gymnasium as gym
import numpy as np
import own
import pytest
import torch
from gymnasium import spaces
from support import seeded

from pgtorch import CNNPolicy, MLPPolicy, TrainConfig, load_run, train
from pgtorch.images import Convolutions, image_shape
from pgtorch.networks import CNNValueFunction, ValueFunction, make_policy, value_function_of
from pgtorch.record.evaluation import play_episodes

SMALL = {"num_envs": 2, "num_steps": 4, "hidden_sizes": (4,), "num_updates": 6, "pictures": False}


def image(*shape, dtype=np.uint8):
    return spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (image(210, 160, 3), (3, 210, 160)),
        (image(4, 84, 84), (4, 84, 84)),
        (image(7, 7, 3), (3, 7, 7)),
        (image(5, 9, 1), (1, 5, 9)),
        (image(10, 10, 6, dtype=np.bool_), (6, 10, 10)),
        (image(5, 5, 5), (5, 5, 5)),
        (image(16, 30, 20), (16, 30, 20)),
        (image(17, 30, 20), None),
        (image(20, 30, 17), None),
        (image(4, 9, 1), None),
        (image(84, 84), None),
        (image(2, 9, 9, 3), None),
        (spaces.Box(0, 1, (9, 9, 3)), None),
        (spaces.Box(0, 255, (9, 9, 3), np.int32), None),
        (spaces.MultiBinary((9, 9, 3)), None),
        (spaces.Dict({"image": image(9, 9, 3)}), None),
    ],
    ids=str,
)
def test_what_counts_as_an_image(space, shape):
    assert image_shape(space) == shape


@pytest.mark.parametrize(
    "shape", [(5, 5, 1), (7, 7, 3), (10, 11, 2), (35, 36, 1), (36, 36, 1), (3, 84, 84), (37, 50, 1)], ids=str
)
def test_every_pixel_counts(shape):
    torch.manual_seed(0)
    space = image(*shape)
    network = Convolutions(space, 1.0)
    for layer in network.layers:
        torch.nn.init.uniform_(layer.weight, 0.1, 1.0)  # so that no ReLU is off
    pixels = torch.rand(2, spaces.flatdim(space), generator=seeded()).requires_grad_()
    features = network(pixels)
    assert features.shape == (2, *network.output_space.shape)
    features[1].sum().backward()
    assert pixels.grad[0].abs().max() == 0  # rows do not mix
    assert pixels.grad[1].abs().min() > 0


def test_both_orders_of_axes_see_the_same():
    last, first = Convolutions(image(7, 9, 3), 1 / 255), Convolutions(image(3, 7, 9), 1 / 255)
    first.load_state_dict(last.state_dict())
    pixels = torch.randint(256, (4, 7, 9, 3), generator=seeded(), dtype=torch.uint8)
    torch.testing.assert_close(first(pixels.permute(0, 3, 1, 2)), last(pixels))
    torch.testing.assert_close(last(pixels.flatten(1).float()), last(pixels))


@pytest.mark.parametrize(
    ("space", "normalized", "scale"),
    [
        (image(7, 7, 3), False, 1 / 255),
        (image(7, 7, 3), True, 1.0),
        (image(7, 7, 3, dtype=np.bool_), False, 1.0),
    ],
    ids=["pixels", "normalized", "bool"],
)
def test_pixels_are_scaled_once(space, normalized, scale):
    policy = make_policy("cnn", space, spaces.Discrete(2), (4,), normalized=normalized)
    value_function = value_function_of(TrainConfig("Dot-v0", normalize_observations=normalized), policy, space)
    assert policy.convolutions.pixel_scale == value_function.convolutions.pixel_scale == scale


def test_a_policy_and_a_value_function_are_chosen_by_the_observations():
    config, actions = TrainConfig("Dot-v0"), spaces.Discrete(2)
    box = spaces.Box(-1, 1, (3,))
    for name, space, kind, value_kind in (
        ("auto", image(7, 7, 3), CNNPolicy, CNNValueFunction),
        ("cnn", image(7, 7, 3), CNNPolicy, CNNValueFunction),
        ("mlp", image(7, 7, 3), MLPPolicy, ValueFunction),
        ("own:Actor", image(7, 7, 3), own.Actor, CNNValueFunction),
        ("auto", box, MLPPolicy, ValueFunction),
    ):
        policy = make_policy(name, space, actions)
        assert (type(policy), type(value_function_of(config, policy, space))) == (kind, value_kind)
    with pytest.raises(
        TypeError, match=r"policy 'cnn' takes images, a Box of uint8 .* but the environment has Box\(-1"
    ):
        make_policy("cnn", box, actions)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3, start=2), spaces.Box(-1, 1, (2,))], ids=str)
def test_a_cnn_acts_in_its_space(action_space):
    policy = CNNPolicy(image(7, 7, 3), action_space, (5,))
    rows = 255 * torch.rand(50, 147, generator=seeded())
    action = policy.sample(rows, seeded(1))
    assert torch.equal(action, policy.sample(rows, policy.noise(1, 50, seeded(1))[0]))
    assert action.shape == (50, *action_space.shape)
    assert policy(rows).shape == (50, 3 if action_space.shape == () else 2)
    policy.log_prob(rows, action).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in policy.parameters())


@pytest.mark.parametrize("normalize", [True, False])
def test_it_learns_from_images(tmp_path, normalize):
    settings = {"num_updates": 10, "hidden_sizes": (16,), "env_kwargs": {"shape": [6, 6, 1]}, "pictures": False}
    settings |= {"num_epochs": 4, "num_minibatches": 8, "learning_rate": 2e-3}  # convolutions take long
    config = TrainConfig("Dot-v0", seed=1, normalize_observations=normalize, run_dir=tmp_path / "run", **settings)
    train(config)
    run = load_run(tmp_path / "run")
    assert type(run.policy) is CNNPolicy
    assert run.config.policy == "auto"
    assert play_episodes(run, 200, greedy=True).mean() > 0.97


def test_gymnasiums_own_wrappers_make_images(tmp_path):
    def stacked():
        env = gym.wrappers.GrayscaleObservation(gym.make("Dot-v0", shape=(9, 8, 3)))
        return gym.wrappers.FrameStackObservation(env, 4)

    gym.register("Stack-v0", stacked)
    result = train(TrainConfig("Stack-v0", run_dir=tmp_path / "stack", **SMALL))
    assert result.policy.convolutions.shape == (4, 9, 8)


def test_a_scale_given_by_hand_is_saved(tmp_path):
    """The settings do not name it: the policy that they make divides by 255."""
    with gym.make("Dot-v0") as env:
        policy = CNNPolicy(env.observation_space, env.action_space, (4,), pixel_scale=0.5)
    train(TrainConfig("Dot-v0", run_dir=tmp_path, **SMALL), policy=policy)
    assert load_run(tmp_path).policy.convolutions.pixel_scale == 0.5
