"""Training beside a second implementation of it: whatever the settings, both learn and log the same numbers."""

import ast
import inspect

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgtorch import TrainConfig, train
from pgtorch.gradient_check import GradientMismatchError
from pgtorch.proof import reference, twin
from pgtorch.proof.update_rows import reference_row, update_rows, walk_config
from pgtorch.proof.walk import ACTIONS, OBSERVATIONS, WALK, Walk
from pgtorch.record.metrics import read_metrics
from pgtorch.run import SetupError, resume
from pgtorch.trainer import Trainer

FAST = {"num_envs": 2, "num_steps": 4, "num_updates": 3, "hidden_sizes": (4,), "pictures": False}
some = st.sampled_from


@st.composite
def configs(draw):
    """Any settings that the reference knows, in any variant of the walk."""
    multiplier = draw(some(["gae", "return", "reward-to-go", "reward", "one"]))
    ends = draw(some([(0.1, 0.1, 0.05), (0.3, 0.0, 0.0), (0.0, 0.4, 0.0), (0.0, 0.0, 0.5), (0.5, 0.4, 0.1)]))
    num_envs, num_steps = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    baselines = ["none", "value", "mean"][: 2 + (num_envs * num_steps > 1)]
    baseline = "value" if multiplier == "gae" else draw(some(baselines))
    activation = draw(some(["tanh", "relu", "elu"]))
    return walk_config(
        env_kwargs={
            "mode": draw(some(["same_step", "next_step", "disabled"])),
            "observations": draw(some(sorted(OBSERVATIONS))),
            "actions": draw(some(sorted(ACTIONS))),
            "ends": list(ends),
        },
        seed=draw(st.integers(0, 2**31)),
        multiplier=multiplier,
        baseline=baseline,
        wrong_sign=draw(st.booleans()),
        discount=draw(some([0.0, 0.9, 1.0])),
        gae_lambda=draw(some([0.0, 0.8, 1.0])),
        standardize=num_envs * num_steps > 1 and draw(st.booleans()),
        entropy_coefficient=draw(some([0.0, 0.02, 1.0])),
        value_coefficient=draw(some([0.1, 0.5, 3.0])),
        max_gradient_norm=draw(some([None, 0.05, 0.5])),
        learning_rate_schedule=draw(st.sampled_from(["constant", "linear", "cosine"])),
        num_epochs=draw(st.integers(1, 3)),
        num_minibatches=draw(st.integers(1, min(4, num_envs * num_steps))),
        clip_range=draw(some([0.01, 0.2])),
        normalize_observations=draw(st.booleans()),
        normalize_rewards=draw(st.booleans()),
        optimizer=draw(some(["sgd", "adam"])),
        learning_rate=draw(some([0.003, 0.02])) if activation == "tanh" else 0.003,  # others are unbounded and diverge
        value_learning_rate=draw(some([None, 0.01])),
        num_envs=num_envs,
        num_steps=num_steps,
        num_updates=draw(st.integers(1, 4)),
        hidden_sizes=draw(some([(), (3,), (5, 4)])),
        activation=activation,
        check_gradient=draw(some([0, 2])),
    )


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(configs())
def test_training_is_that_of_the_reference(config):
    row = reference_row("", config, num_updates=config.num_updates)
    assert row.status == "PASS", row


@pytest.mark.long
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(configs())
def test_training_is_that_of_the_reference_for_many_more_settings(config):
    test_training_is_that_of_the_reference.hypothesis.inner_test(config)


@pytest.mark.parametrize("seed", range(3))
def test_every_shipped_configuration_passes(seed):
    before = torch.get_rng_state(), torch.get_default_dtype()
    rows = list(update_rows(seed=seed))
    assert {row.status for row in rows} == {"PASS"}
    assert len(rows) >= 20
    assert before[1] == torch.get_default_dtype()
    assert torch.equal(before[0], torch.get_rng_state())


def test_the_reference_is_independent_and_short():
    source = inspect.getsource(reference)
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= {"__future__", "collections", "dataclasses", "gymnasium", "itertools", "math", "numpy", "typing"}
    assert len(source.splitlines()) < 350


def test_the_walk_ends_in_every_way():
    env, seen = Walk(), set()
    env.reset(seed=0)
    for _ in range(300):
        _, _, terminated, truncated, _ = env.step(1)
        seen.add((terminated, truncated))
        if terminated or truncated:
            env.reset()
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("found", "expected", "difference", "where"),
    [
        ({"a": 1.0}, {"a": 1.0}, 0.0, ""),
        ({"a": [2.0, 4.4]}, {"a": [2.0, 4.0]}, 0.1, "a"),
        ({"a": 1e-4}, {"a": 0.0}, 0.1, "a"),  # a number near 0 is compared with 0.001
        ({"a": 1.0, "b": 2.0}, {"a": 1.1, "b": 4.0}, 0.5, "b"),
        ({"a": 1.0}, {"b": 1.0}, np.inf, "a"),
        ({"a": np.nan}, {"a": np.nan}, np.inf, "a"),
        ({"a": [1.0]}, {"a": [1.0, 1.0]}, np.inf, "a"),
    ],
)
def test_the_largest_difference(found, expected, difference, where):
    assert twin.largest_difference(found, expected) == (pytest.approx(difference), where)


# While training


def test_a_checked_run_is_the_run(tmp_path):
    """The check draws nothing and changes nothing, and each so many updates its figure is logged."""
    for name, every in (("plain", 0), ("checked", 2)):
        train(TrainConfig("CartPole-v1", run_dir=tmp_path / name, check_update=every, **{**FAST, "num_updates": 6}))
    plain, checked = read_metrics(tmp_path / "plain"), read_metrics(tmp_path / "checked")
    logged = [line.pop(twin.DIFFERENCE, None) for line in checked]
    assert [difference is not None for difference in logged] == [False, True] * 3
    assert max(filter(None, logged)) <= twin.TRAINING_LIMIT
    assert plain == checked


@pytest.mark.parametrize(
    ("env_id", "config"),
    [
        (WALK, {"normalize_observations": True, "normalize_rewards": True}),
        (WALK, {"num_epochs": 3, "num_minibatches": 2, "env_kwargs": {"actions": "box", "mode": "next_step"}}),
        ("restaurant_env:Restaurant-v0", {"num_updates": 300}),
        ("restaurant_env:Restaurant-v0", {"num_envs": 5, "reward": "graded"}),
        ("FrozenLake-v1", {"optimizer": "sgd"}),
        ("FrozenLake-v1", {"activation": "relu"}),
    ],
)
def test_no_false_alarm_while_training(env_id, config):
    settings = {**({} if "Restaurant" in env_id else FAST), "num_updates": 20, **config}
    if settings.pop("reward", None):
        settings["env_kwargs"] = {"reward_scheme": "graded"}
    trainer = Trainer(TrainConfig(env_id, **settings))
    update = twin.checked_update(trainer, 1)
    assert max(update()[twin.DIFFERENCE] for _ in range(settings["num_updates"])) <= twin.TRAINING_LIMIT


@pytest.mark.parametrize("what", ["gae_lambda", "value_coefficient", "entropy_coefficient"])
def test_a_wrong_update_stops_the_run(tmp_path, monkeypatch, what):
    make, changed = twin.twin_of, {"gae_lambda": 0.9, "value_coefficient": 0.6, "entropy_coefficient": 0.02}

    def wrong(trainer, *arguments):  # the other of the two has another setting
        made = make(trainer, *arguments)
        made.config = TrainConfig(**{**trainer.config.to_dict(), what: changed[what]})
        return made

    monkeypatch.setattr(twin, "twin_of", wrong)
    config = TrainConfig(
        "CartPole-v1", check_update=2, run_dir=tmp_path, optimizer="sgd", max_gradient_norm=None, **FAST
    )
    with pytest.raises(
        GradientMismatchError, match=r"update 2: \S+ must be that of the reference to a relative 1e-06, got a"
    ):
        train(config)


def test_what_the_reference_lacks_is_refused(tmp_path):
    with pytest.raises(
        SetupError, match=r"check_update must be 0 for torch\.optim\.RMSprop: the reference has only sgd and"
    ):
        train(TrainConfig(check_update=1, optimizer="torch.optim.RMSprop", run_dir=tmp_path / "run"))
    with pytest.raises(
        SetupError, match="check_update must be 0 for learning_rate_schedule math:exp: the reference has"
    ):
        train(TrainConfig(check_update=1, learning_rate_schedule="math:exp", run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_is_checked_too(tmp_path):
    train(TrainConfig("CartPole-v1", check_update=3, run_dir=tmp_path, **FAST))
    resume(tmp_path, num_updates=6)
    assert [line["update"] for line in read_metrics(tmp_path) if twin.DIFFERENCE in line] == [3, 6]
