import dataclasses
import json
from pathlib import Path

import pytest

from pgtorch import TrainConfig


def test_defaults_are_the_lesson():
    config = TrainConfig()
    assert (config.optimizer, config.learning_rate, config.num_updates) == ("sgd", 1.0, 2000)
    assert (config.num_envs, config.num_steps, config.env_id) == (1, 1, "restaurant_env:Restaurant-v0")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a finite number above 0, got 0.0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be .* got -1.0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be .* got nan"),
        ({"learning_rate": float("inf")}, ValueError, "learning_rate must be .* got inf"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a number, got 'fast'"),
        ({"num_updates": 0}, ValueError, "num_updates must be at least 1, got 0"),
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1, got 0"),
        ({"num_steps": -3}, ValueError, "num_steps must be at least 1, got -3"),
        ({"num_threads": 0}, ValueError, "num_threads must be at least 1, got 0"),
        ({"num_updates": 1.5}, TypeError, "num_updates must be an integer, got 1.5"),
        ({"num_envs": True}, TypeError, "num_envs must be an integer, got True"),
        ({"seed": -1}, ValueError, "seed must be at least 0 .* got -1"),
        ({"seed": 2**64}, ValueError, "seed must be at least 0 and at most"),
        ({"optimizer": "newton"}, ValueError, "optimizer must be one of .*'sgd', 'adam'.*got 'newton'"),
        ({"env_id": 3}, TypeError, "env_id must be a str, got 3"),
        ({"env_kwargs": []}, TypeError, r"env_kwargs must be a dict, got \[\]"),
        ({"pictures": 1}, TypeError, "pictures must be a bool, got 1"),
        ({"check_gradient": -1}, ValueError, "check_gradient must be at least 0, got -1"),
    ],
)
def test_refuses_what_is_out_of_range(settings, error, message):
    with pytest.raises(error, match=message):
        TrainConfig(**settings)


def test_is_plain_json():
    config = TrainConfig(run_dir="somewhere", env_kwargs={"reward_scheme": "graded"})
    assert config.run_dir == Path("somewhere")
    values = json.loads(json.dumps(config.to_dict()))
    assert TrainConfig(**values) == config


def test_every_setting_is_explained():
    """A line of explanation stands under each field: it is what --help shows."""
    lines = Path(__import__("pgtorch.config").config.__file__).read_text().splitlines()
    for setting in dataclasses.fields(TrainConfig):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"    {setting.name}: "))
        assert lines[at + 1].startswith('    """'), setting.name
