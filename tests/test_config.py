import copy
import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import tyro

from pgtorch import TrainConfig
from pgtorch.commands.flags import explanations
from pgtorch.config import GENERAL, TUNED


def test_whole_numbers_become_what_the_setting_is():
    config = TrainConfig(clip_range=10**30, learning_rate=1)
    assert (repr(config.clip_range), repr(config.learning_rate)) == ("1e+30", "1.0")


def test_defaults_are_the_lesson():
    config = TrainConfig()
    assert (config.optimizer, config.learning_rate, config.num_updates) == ("sgd", 1.0, 2000)
    assert (config.num_envs, config.num_steps, config.env_id) == (1, 1, "restaurant_env:Restaurant-v0")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"baseline": "mean"},
            ValueError,
            r"baseline must not be 'mean' if num_envs \* num_steps is 1: a number minus ",
        ),
        (
            {"num_envs": 3, "num_minibatches": 4},
            ValueError,
            r"num_minibatches must not be 4 if num_envs \* num_steps is 3",
        ),
        ({"step_timeout": 5.0}, ValueError, "step_timeout must not be 5.0 if vectorization is not async"),
        (
            {"hidden_sizes": [9]},
            ValueError,
            r"hidden_sizes must not be \(9,\) if policy is bias and no value is learned",
        ),
        (
            {"activation": "relu"},
            ValueError,
            "activation must not be 'relu' if policy is bias and no value is learned",
        ),
        ({"activation": "sine"}, ValueError, r"activation must be one of \('tanh', 'relu', 'elu'\), got 'sine'"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a finite number above 0, got 0.0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be .* got -1.0"),
        ({"learning_rate": -1}, ValueError, "^learning_rate must be a finite number above 0, got -1$"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be .* got nan"),
        ({"learning_rate": float("inf")}, ValueError, "learning_rate must be .* got inf"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number, got 'fast'"),
        ({"num_updates": 0}, ValueError, "num_updates must be at least 1 .*, got 0"),
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1 .*, got 0"),
        ({"num_steps": -3}, ValueError, "num_steps must be at least 1 .*, got -3"),
        ({"num_epochs": 0}, ValueError, "num_epochs must be at least 1 .*, got 0"),
        ({"num_epochs": 10**9}, ValueError, "num_epochs must be at least 1 and at most 10000, got 1000000000"),
        ({"num_minibatches": 0}, ValueError, "num_minibatches must be at least 1 .*, got 0"),
        ({"clip_range": 0.0}, ValueError, "clip_range must be a finite number above 0, got 0.0"),
        ({"num_threads": 0}, ValueError, "num_threads must be at least 1 .*, got 0"),
        ({"num_updates": 1.5}, TypeError, "num_updates must be an integer, got 1.5"),
        ({"num_envs": True}, TypeError, "num_envs must be an integer, got True"),
        ({"seed": -1}, ValueError, "seed must be at least 0 .* got -1"),
        ({"seed": 2**64}, ValueError, "seed must be at least 0 and at most"),
        ({"optimizer": "newton"}, ValueError, "optimizer must be sgd, adam or .*torch.optim.RMSprop, got 'newton'"),
        ({"optimizer": "torch.optim.rms prop"}, ValueError, "optimizer must be .*got 'torch.optim.rms prop'"),
        ({"optimizer": "optim.Adam"}, ValueError, "optimizer must be .*got 'optim.Adam'"),
        ({"optimizer": None}, TypeError, "optimizer must be a str, got None"),
        ({"discount": 1.1}, ValueError, r"discount must be a finite number at least 0 and at most 1, got 1.1"),
        ({"gae_lambda": -0.1}, ValueError, r"gae_lambda must be .* got -0.1"),
        ({"entropy_coefficient": -1.0}, ValueError, "entropy_coefficient must be .* at least 0, got -1.0"),
        ({"value_coefficient": float("nan")}, ValueError, "value_coefficient must be .* got nan"),
        ({"max_gradient_norm": 0.0}, ValueError, "max_gradient_norm must be a finite number above 0, got 0.0"),
        ({"target_return": float("inf")}, ValueError, "target_return must be a finite number at most 3e\\+38, got inf"),
        ({"target_return": float("nan")}, ValueError, "^target_return must be a finite number, got nan$"),
        ({"target_return": -(10**400)}, ValueError, "^target_return must be a finite number, got -1000"),
        ({"gae_lambda": None}, TypeError, "gae_lambda must be a number, got None"),
        ({"hidden_sizes": (64, "64")}, TypeError, "hidden_sizes must be an integer, got '64'"),
        ({"hidden_sizes": "64"}, TypeError, "hidden_sizes must be a sequence of integers, got '64'"),
        ({"hidden_sizes": (0,)}, ValueError, "hidden_sizes must be at least 1, got 0"),
        ({"hidden_sizes": 64}, TypeError, "hidden_sizes must be a sequence of integers, got 64"),
        ({"multiplier": "luck"}, ValueError, "multiplier must be one of .* got 'luck'"),
        ({"standardize": 1}, TypeError, "standardize must be a bool, got 1"),
        ({"env_id": 3}, TypeError, "env_id must be a str, got 3"),
        ({"standardize": True}, ValueError, "standardize needs num_envs \\* num_steps of at least 2"),
        ({"env_kwargs": []}, TypeError, r"env_kwargs must be a dict, got \[\]"),
        ({"pictures": 1}, TypeError, "pictures must be a bool, got 1"),
        ({"learning_rate": 1e39}, ValueError, r"learning_rate must be .* at most 3e\+38, got 1e\+39"),
        ({"num_envs": 10**6, "num_steps": 10**6}, ValueError, r"num_envs \* num_steps must be at most 134217728 rows"),
        ({"run_dir": ""}, ValueError, "run_dir must name a folder, got an empty string"),
        ({"run_dir": 3}, TypeError, "run_dir must be a path, got 3"),
        ({"env_kwargs": {"a": {1}}}, TypeError, r"env_kwargs must be representable as JSON, got \{'a': \{1\}\}"),
        ({"value_learning_rate": 0}, ValueError, "value_learning_rate must be .* above 0, got 0"),
        ({"checkpoint_every": -1}, ValueError, "checkpoint_every must be at least 0, got -1"),
        ({"policy": "mlp", "weight": 3.0}, ValueError, "weight must not be 3.0 if policy is not bias"),
        ({"env_id": "CartPole-v1", "start_bias": 1}, ValueError, "start_bias must not be 1.0 if policy is not bias"),
        ({"policy": "cat"}, ValueError, "policy must be bias, mlp, cnn, auto or the module:Class of .*, got 'cat'"),
        ({"policy": "my module:Mine"}, ValueError, "policy must be .*, got 'my module:Mine'"),
        ({"policy": "mine:"}, ValueError, "policy must be .*, got 'mine:'"),
        (
            {"policy_kwargs": {"a": 1}},
            ValueError,
            r"policy_kwargs must not be \{'a': 1\} if policy is bias: only module:",
        ),
        (
            {"policy": "cnn", "policy_kwargs": {"a": 1}},
            ValueError,
            "if policy is cnn: .*; hidden_sizes sets the layers",
        ),
        ({"policy": "mine:Mine", "policy_kwargs": [1]}, TypeError, r"policy_kwargs must be a dict, got \[1\]"),
        ({"check_gradient": -1}, ValueError, "check_gradient must be at least 0, got -1"),
    ],
)
def test_refuses_what_is_out_of_range(settings, error, message):
    with pytest.raises(error, match=message):
        TrainConfig(**settings)


def test_defaults_follow_the_environment():
    cartpole = TrainConfig("CartPole-v1", seed=3)
    assert (cartpole.policy, cartpole.optimizer, cartpole.multiplier, cartpole.seed) == ("auto", "adam", "gae", 3)
    assert cartpole.num_envs == TUNED["CartPole-v1"]["num_envs"]
    assert TrainConfig(env_id="module:CartPole-v1").num_envs == cartpole.num_envs
    assert TrainConfig("CartPole-v1", num_envs=5).num_envs == 5
    assert TrainConfig("Nobody-tuned-v0") == TrainConfig("Nobody-tuned-v0", **GENERAL)
    assert TrainConfig("Restaurant-v0") == dataclasses.replace(TrainConfig(), env_id="Restaurant-v0")
    assert dataclasses.replace(cartpole, seed=4).num_envs == cartpole.num_envs


def test_a_rollout_smaller_than_the_tables_parts_has_one_row_a_part():
    small = TrainConfig("Nobody-tuned-v0", num_envs=2, num_steps=3)
    assert small.num_minibatches == 6 < GENERAL["num_minibatches"]
    assert TrainConfig(**small.to_dict()) == small
    with pytest.raises(ValueError, match="num_minibatches must not be 7 if num_envs \\* num_steps is 6"):
        TrainConfig("Nobody-tuned-v0", num_envs=2, num_steps=3, num_minibatches=7)


def test_is_plain_json():
    config = TrainConfig(run_dir="somewhere", env_kwargs={"reward_scheme": "graded"})
    assert config.run_dir == Path("somewhere")
    values = json.loads(json.dumps(config.to_dict()))
    assert TrainConfig(**values) == config


@pytest.mark.parametrize(
    ("name", "message"),
    [("learning_rte", "no setting 'learning_rte'; perhaps you meant learning_rate$"), ("spice", "no setting 'spice'$")],
)
def test_an_unknown_setting_gets_the_nearest_name(name, message):
    with pytest.raises(TypeError, match=message):
        TrainConfig("CartPole-v1", **{name: 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"discount": 0, "gae_lambda": 1, "seed": 0, "num_threads": 1024, "num_epochs": 10_000},
        {"seed": 2**63 - 1, "entropy_coefficient": 0, "checkpoint_every": 0, "check_gradient": 0},
        {"policy": "mlp", "hidden_sizes": [], "target_return": -3e38, "learning_rate": 3e38, "num_envs": 2**27},
        {"policy": "my.module:Mine", "policy_kwargs": {"units": [3, 4]}, "check_gradient": None},
        {"optimizer": "torch.optim.RMSprop", "value_learning_rate": None, "max_gradient_norm": 1e-9},
    ],
)
def test_takes_what_is_on_the_edge_of_a_range(settings):
    config = TrainConfig(**settings)
    assert {name: getattr(config, name) for name in settings} == {**settings, **_as_tuples(settings)}


def _as_tuples(settings):
    return {name: tuple(value) for name, value in settings.items() if isinstance(value, list)}


def test_is_an_ordinary_frozen_dataclass():
    config = TrainConfig("CartPole-v1", seed=3)
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == dataclasses.replace(config) == config
    assert config != dataclasses.replace(config, seed=4)
    assert eval(repr(config)) == config
    assert [setting.name for setting in dataclasses.fields(config)] == list(config.to_dict())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4
    with pytest.raises(ValueError, match="seed must be at least 0"):
        dataclasses.replace(config, seed=-1)


def test_no_two_configs_share_their_env_kwargs():
    TrainConfig().env_kwargs["reward_scale"] = 3
    assert TrainConfig().env_kwargs == {}


def test_tyro_takes_it_as_it_is():
    config = tyro.cli(TrainConfig, args=["--env-id", "CartPole-v1", "--learning-rate", "0.5"])
    assert (config.env_id, config.learning_rate) == ("CartPole-v1", 0.5)


def test_every_setting_is_explained():
    """A docstring stands under each field: it is what --help shows."""
    texts = explanations(TrainConfig)
    assert list(texts) == [setting.name for setting in dataclasses.fields(TrainConfig)]
    assert all(len(text) > 20 for text in texts.values())
