"""Runs as a library gives them: what they leave on disk, and how they leave the process that called them."""

import json
import random
import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from support import HOST, leaves, run_python, stop_after
from torch import nn

import pgtorch.gradient_check
from pgtorch import BiasPolicy, GradientMismatchError, NonFiniteError, Policy, SetupError, TrainConfig, resume, train
from pgtorch.record.checkpoint import checkpoints, read_newest
from pgtorch.record.metrics import read_metrics

SHORT = {"num_updates": 40, "pictures": False}


def test_a_run_leaves_its_record(tmp_path):
    result = train(TrainConfig(num_updates=25, run_dir=tmp_path / "run"))
    assert (result.num_updates, result.num_env_steps) == (25, 25)
    assert result.run_dir == tmp_path / "run"
    names = {path.name.partition(".")[0] for path in result.run_dir.iterdir()}
    pictures = {"bias", "p_norm", "expected_reward", "gradient"}
    assert names >= {"config", "metrics", "events", "checkpoint-000000025"} | pictures
    assert result.summary["bias"] == result.policy.bias.item() == read_metrics(result.run_dir)[-1]["policy/bias"]


def test_without_a_folder_a_run_makes_one_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(TrainConfig(**SHORT))
    assert result.run_dir.parent.resolve() == tmp_path / "runs"
    assert len(read_metrics(result.run_dir)) == 40


def test_without_settings_it_is_the_lesson(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(should_stop=stop_after(3))
    assert type(result.policy) is BiasPolicy
    assert (result.config.env_id, result.num_updates) == (TrainConfig().env_id, 3)


def test_x_axis_is_environment_steps(tmp_path):
    result = train(TrainConfig(num_envs=3, num_steps=4, run_dir=tmp_path / "run", **SHORT))
    lines = read_metrics(result.run_dir)
    assert [line["env_steps"] for line in lines] == [12 * i for i in range(1, 41)]
    assert [line["update"] for line in lines] == list(range(1, 41))
    assert result.num_env_steps == 480


def test_filler_rows_are_not_counted(tmp_path):
    """NEXT_STEP in one-step episodes: every other row would be filler."""
    kwargs = {"autoreset_mode": AutoresetMode.NEXT_STEP.value}
    config = TrainConfig(num_envs=4, num_steps=6, env_kwargs=kwargs, run_dir=tmp_path / "run", **SHORT)
    for line in read_metrics(train(config).run_dir):
        assert line["rollout/episode_length"] == 1.0
        assert -1.0 <= line["rollout/episode_return"] <= 1.0


def test_the_rows_of_many_environments_move_the_one_bias(tmp_path):
    config = TrainConfig(num_envs=64, num_steps=4, num_updates=400, pictures=False, run_dir=tmp_path / "run")
    assert train(config).summary["late_bias"] == pytest.approx(-10.0, abs=0.5)


def test_settings_reach_the_environment(tmp_path):
    kwargs = {"reward_scheme": "graded", "reward_scale": 2.0}
    config = TrainConfig(env_kwargs=kwargs, run_dir=tmp_path / "run", **SHORT)
    returns = {line["rollout/episode_return"] for line in read_metrics(train(config).run_dir)}
    assert returns == {-4.0, -2.0, 2.0, 4.0}


def test_the_summary_has_the_mean_return_of_the_last_hundred_episodes(tmp_path):
    result = train(TrainConfig(num_updates=130, pictures=False, run_dir=tmp_path / "run"))
    returns = [line["rollout/episode_return"] for line in read_metrics(result.run_dir)]
    assert result.summary["recent_return"] == pytest.approx(np.mean(returns[-100:]))
    assert result.summary["recent_episodes"] == 100


def test_a_run_stops_at_its_target(tmp_path):
    """Not before 100 episodes; what else it takes is tested in record/test_evaluator.py."""
    for target, last in ((-1.0, 100), (2.0, 300)):
        config = TrainConfig(num_updates=300, target_return=target, pictures=False, run_dir=tmp_path / str(target))
        result = train(config)
        assert (result.num_updates, result.reached_target) == (last, last == 100)


PROGRAM = """
import pathlib, sys
from pgtorch import TrainConfig, train
result = train(TrainConfig(num_updates=60, seed=int(sys.argv[2]), run_dir=pathlib.Path(sys.argv[1]), pictures=False))
print(result.hash)
assert not {"torch._dynamo", "matplotlib"} & set(sys.modules), "importing them takes as long as the lesson"
"""


def run_of_another_process(folder, seed):
    done = run_python("-c", PROGRAM, folder, seed, env={"PYTHONHASHSEED": "1"})
    assert done.returncode == 0, done.stderr
    return (folder / "metrics.jsonl").read_bytes(), done.stdout.strip()


def test_same_seed_same_numbers_in_another_process(tmp_path):
    torch.manual_seed(5)  # which no run may depend on
    here = train(TrainConfig(num_updates=60, seed=7, run_dir=tmp_path / "here", pictures=False))
    there = run_of_another_process(tmp_path / "there", 7)
    assert ((here.run_dir / "metrics.jsonl").read_bytes(), here.hash) == there
    other = run_of_another_process(tmp_path / "other", 8)
    assert other[0] != there[0]
    assert other[1] != there[1]


def test_watching_changes_nothing(tmp_path):
    ends = set()
    for number, settings in enumerate([{}, {"pictures": False}, {"check_gradient": 0}]):
        config = TrainConfig(num_updates=30, run_dir=tmp_path / str(number), **settings)
        ends.add(train(config, callback=lambda update, figures: None).policy.bias.item())
    assert len(ends) == 1


def test_callback_sees_every_update(tmp_path):
    seen = []
    train(TrainConfig(run_dir=tmp_path / "run", **SHORT), callback=lambda *given: seen.append(given))
    assert [update for update, _ in seen] == list(range(1, 41))
    biases = [figures["policy/bias"] for _, figures in seen]
    assert biases == [line["policy/bias"] for line in read_metrics(tmp_path / "run")]


def test_trains_the_policy_it_is_given(tmp_path):
    policy = BiasPolicy(weight=10.0, bias=-3.0)
    result = train(TrainConfig(run_dir=tmp_path / "run", **SHORT), policy=policy)
    assert result.policy is policy
    assert policy.bias.item() != -3.0
    assert policy.weight.item() == 10.0


def test_a_result_acts_as_its_policy_does(tmp_path):
    result = train(TrainConfig(num_updates=300, pictures=False, run_dir=tmp_path / "run"))
    assert [int(result.predict(np.array([hunger], np.float32))) for hunger in (0.0, 1.0)] == [0, 1]


def test_checkpoints_come_as_often_as_asked(tmp_path):
    seen = []

    def look(update, figures):
        seen.append([int(path.stem[11:]) for path in checkpoints(tmp_path / "run")])

    train(TrainConfig(checkpoint_every=10, run_dir=tmp_path / "run", num_updates=25, pictures=False), callback=look)
    assert (seen[9], seen[10], seen[20]) == ([], [10], [20, 10])
    assert [int(path.stem[11:]) for path in checkpoints(tmp_path / "run")] == [25, 20]


# The check of the gradient


def test_a_wrong_gradient_stops_the_run(tmp_path, monkeypatch):
    right, calls = pgtorch.gradient_check.manual_gradient, []

    def wrong_at_the_tenth(*arguments):
        calls.append(arguments)
        gradient = right(*arguments)
        return {"bias": -gradient["bias"]} if len(calls) == 10 else gradient

    monkeypatch.setattr(pgtorch.gradient_check, "manual_gradient", wrong_at_the_tenth)
    policy = BiasPolicy()
    with pytest.raises(GradientMismatchError, match=r"step 10, .*hunger.*gradient of bias by autograd .*, manual "):
        train(TrainConfig(run_dir=tmp_path / "run", **SHORT), policy=policy)
    lines = read_metrics(tmp_path / "run")
    assert len(lines) == 9  # the files were closed, and the tenth step was not taken
    assert policy.bias.item() == lines[-1]["policy/bias"]


def test_a_policy_without_a_derivation_is_refused_or_trained_unchecked(tmp_path):
    class Mine(BiasPolicy):
        """No derivation by hand."""

    with pytest.raises(SetupError, match="check_gradient must be 0 for Mine: there is a derivation by hand for "):
        train(TrainConfig(check_gradient=1, run_dir=tmp_path / "run", **SHORT), policy=Mine())
    assert not list(tmp_path.iterdir())
    train(TrainConfig(run_dir=tmp_path / "run", **SHORT), policy=Mine())


def test_the_gradient_check_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setattr(pgtorch.gradient_check, "manual_gradient", None)
    result = train(TrainConfig(check_gradient=0, run_dir=tmp_path / "run", **SHORT))
    assert not any("gradient/manual" in line for line in read_metrics(result.run_dir))


# Numbers that are not finite


class Spoiled(gym.Env):
    """Pays 1 for action 1. From step 60 on, what it returns is spoiled in one field."""

    observation_space, action_space = gym.spaces.Box(-1e30, 1e30, (2,)), gym.spaces.Discrete(2)

    def __init__(self, field=""):
        self.field, self.steps = field, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        bad = self.field if self.steps >= 60 else ""
        observation = np.array([1.0, np.nan if bad == "observation" else 1.0], np.float32)
        reward = {"reward": np.inf, "huge reward": 1e38}.get(bad, float(action))
        return observation, reward, self.steps % 3 == 0, False, {}


gym.register("Spoiled-v0", Spoiled, disable_env_checker=True)
SPOILED = {"num_envs": 2, "num_steps": 3, "hidden_sizes": (4,), "normalize_rewards": False, "pictures": False}


def spoiled(folder, **settings):
    settings = {"normalize_observations": False, "num_updates": 40, "checkpoint_every": 6, **SPOILED, **settings}
    with pytest.raises(NonFiniteError) as caught:
        train(TrainConfig("Spoiled-v0", run_dir=folder, **settings))
    return "; ".join([str(caught.value), *caught.value.__notes__])


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("observation", r"observation must be finite, got nan at index \[1\], of environment 0 at step 60"),
        ("reward", r"reward must be finite, got inf, of environment 0 at step 60"),
        ("huge reward", r"update 20, step 120: .*; gradient of (policy|value) layers\.0\.weight must be finite, got "),
    ],
)
def test_a_number_that_is_not_finite_is_named_with_update_and_checkpoint(tmp_path, field, named):
    settings = {"standardize": False, "max_gradient_norm": None}
    told = spoiled(tmp_path, env_kwargs={"field": field}, **settings)
    newest = checkpoints(tmp_path)[0]
    assert newest.name == "checkpoint-000000018.pt"
    assert re.match(rf"{named}.*; in update 20; last good checkpoint: {re.escape(str(newest))}$", told), told
    assert len(read_metrics(tmp_path)) == 19
    resume(tmp_path, should_stop=stop_after(1))


def test_before_the_first_checkpoint_there_is_none_to_go_back_to(tmp_path):
    assert spoiled(tmp_path, env_kwargs={"field": "reward"}, checkpoint_every=0).endswith(
        "last good checkpoint: none yet"
    )


def test_a_parameter_that_overflows_is_named(tmp_path):
    """The gradient was finite; the step was not."""
    with pytest.raises(NonFiniteError) as caught:
        train(TrainConfig(learning_rate=3e38, env_kwargs={"reward_scale": 1e10}, run_dir=tmp_path))
    told = "; ".join([str(caught.value), *caught.value.__notes__])
    assert re.match(
        r"update \d+: policy/bias must be finite, got -?inf.*; policy bias must be finite, got -?inf; in up", told
    )
    assert all(np.isfinite(line["policy/bias"]) for line in read_metrics(tmp_path))


def test_a_policy_that_turns_to_nan_is_named_whatever_error_that_causes(tmp_path):
    """torch's own distributions refuse NaN themselves, as a ValueError that names no parameter."""
    policy = Mine()

    def spoil(update, figures):
        if update == 7:
            policy.layer.bias.data[1] = np.nan

    config = TrainConfig(check_gradient=0, run_dir=tmp_path, **SHORT)
    with pytest.raises(ValueError, match="logits") as caught:
        train(config, policy=policy, callback=spoil)
    notes = "; ".join(caught.value.__notes__)
    assert (
        notes == "policy layer.bias must be finite, got nan at index [1]; in update 8; last good checkpoint: none yet"
    )


def test_other_errors_get_no_such_note(tmp_path):
    def fail(update, figures):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut") as caught:
        train(TrainConfig(run_dir=tmp_path, **SHORT), callback=fail)
    assert not hasattr(caught.value, "__notes__")


# A value baseline for the lesson


@pytest.mark.parametrize("seed", range(3))
def test_the_lesson_learns_with_a_value_baseline(tmp_path, seed):
    """The lesson's learning rate of 1 is for one bias; a value network has its own."""
    result = train(TrainConfig(baseline="value", seed=seed, pictures=False, run_dir=tmp_path))
    assert result.summary["late_bias"] == pytest.approx(-10.0, abs=1.0)


# What cannot be done is refused before anything is written.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": "Nowhere-v0"}, "Nowhere"),
        ({"env_id": "no_such_module:Restaurant-v0"}, "no_such_module"),
        ({"env_kwargs": {"reward_scale": -1}}, "reward_scale must be"),
        ({"env_kwargs": {"spice": 1}}, "spice"),
        ({"env_id": "CartPole-v1", "policy": "bias"}, "policy 'bias' takes .* but the environment has Box"),
        ({"multiplier": "gae", "num_threads": 1, "env_id": "Nowhere-v0", "policy": "mlp"}, "Nowhere"),
        ({"optimizer": "torch.optim.LBFGS"}, "LBFGS cannot be used"),
        ({"optimizer": "torch.optim.Newton"}, "optimizer must be"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match=message):
        train(TrainConfig(**settings))
    assert not list(tmp_path.iterdir())


def refuses_to_be_made():
    raise AssertionError


def test_an_error_without_a_message_says_where(tmp_path):
    gym.register("Refuses-v0", refuses_to_be_made)
    line = refuses_to_be_made.__code__.co_firstlineno + 1
    with pytest.raises(SetupError, match=rf"^AssertionError \({__file__}, line {line}\)"):
        train(TrainConfig("Refuses-v0", run_dir=tmp_path / "run"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": {"seed": 3}}, r"config must be a TrainConfig, got \{'seed': 3\}"),
        ({"policy": nn.Linear(1, 2)}, "policy must be a pgtorch.Policy, got Linear"),
        ({"policy": "mlp"}, "policy must be a pgtorch.Policy, got 'mlp'"),
        ({"callback": 3}, "callback must be callable, got 3"),
    ],
)
def test_arguments_of_another_type_are_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match=message):
        train(**{"config": TrainConfig(**SHORT), **arguments})
    assert not list(tmp_path.iterdir())


def test_an_occupied_folder_is_refused(tmp_path):
    config = TrainConfig(run_dir=tmp_path / "run", **SHORT)
    before = (train(config).run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(SetupError, match="new or empty"):
        train(config)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["num_updates"] == 40


# A library leaves the process that calls it as it was.


class Careless(gym.Env):
    """It draws from all global streams, and seeds them at each reset."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002 -- the global one is meant
        torch.manual_seed(3)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        draw = random.random() + float(np.random.random()) + torch.rand(()).item()  # noqa: NPY002
        return np.full(1, draw / 3, np.float32), draw, self.steps % 7 == 0, False, {}


gym.register("Careless-v0", Careless, disable_env_checker=True)
CARELESS = {"num_envs": 2, "num_steps": 4, "num_updates": 6, "hidden_sizes": (4,), "num_threads": 2, "pictures": False}
CALLS = ["train", "train, with pictures", "resume", "train that fails", "train that is refused", "resume that fails"]


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    """What the process was like before and after each call, and within it: three dicts by the names of HOST."""
    found, within = {}, {}
    folder = tmp_path_factory.mktemp("host")

    def look(update, figures):
        within.update({name: read() for name, read in HOST.items()})

    def fail(update, figures):
        raise KeyError("power cut")

    def call(kind):
        careless = TrainConfig("Careless-v0", run_dir=folder / kind, **CARELESS)
        if kind == "train":
            train(careless, should_stop=stop_after(3), callback=look)
        elif kind == "train, with pictures":
            train(TrainConfig(num_updates=20, num_threads=2, run_dir=folder / kind), callback=look)
        elif kind == "resume":
            resume(folder / "train", should_stop=stop_after(1), callback=look)
        elif kind == "train that fails":
            train(careless, callback=fail)
        elif kind == "resume that fails":
            resume(folder / "train", callback=fail)
        else:
            train(replace(careless, env_kwargs={"spice": 1}))

    for kind in CALLS:
        within.clear()
        before = {name: read() for name, read in HOST.items()}
        try:
            call(kind)
            assert "fails" not in kind
            assert "refused" not in kind
        except KeyError:
            assert "fails" in kind
        except SetupError:
            assert "refused" in kind
        found[kind] = before, {name: read() for name, read in HOST.items()}, dict(within)
    return found


@pytest.mark.parametrize("name", HOST)
@pytest.mark.parametrize("call", CALLS)
def test_a_run_leaves_its_host_as_it_was(around, call, name):
    before, after, _ = around[call]
    assert after[name] == before[name]


@pytest.mark.parametrize("name", ["torch's global stream", "numpy's global stream", "python's global stream"])
@pytest.mark.parametrize("call", ["train", "resume"])
def test_within_a_run_the_global_streams_are_its_own(around, call, name):
    """So the test above would see it if they were not put back."""
    before, _, within = around[call]
    assert within[name] != before[name]


def test_within_a_run_torch_has_the_threads_that_a_setting_asks_for(around):
    before, _, within = around["train"]
    assert (before["torch's threads"], within["torch's threads"]) == (1, 2)


def test_an_environment_that_draws_from_the_global_streams_repeats_with_the_seed(tmp_path):
    """Also if the run is stopped and resumed; whatever the caller's streams are."""
    ends = []
    for number in range(2):
        torch.manual_seed(number)
        random.seed(number)
        settings = {**CARELESS, "seed": 5, "run_dir": tmp_path / str(number)}
        train(TrainConfig("Careless-v0", **settings), should_stop=stop_after(6 if number else 3))
        resume(tmp_path / str(number))
        ends.append(leaves(read_newest(tmp_path / str(number))[1]["trainer"]))
    assert ends[0] == ends[1]


class Mine(Policy):
    """A policy of a user's own whose first weights come from the global stream, and whose distribution is torch's."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def distribution(self, observation):
        return torch.distributions.Categorical(logits=nn.functional.dropout(self.layer(observation), 0.1))


def test_a_policy_of_a_users_own_repeats_with_the_seed(tmp_path):
    """Its dropout draws from the global stream, which is the run's own while it lasts."""
    biases = []
    for number in range(2):
        torch.manual_seed(0)
        policy = Mine()
        torch.manual_seed(number)
        train(TrainConfig(check_gradient=0, num_envs=4, run_dir=tmp_path / str(number), **SHORT), policy=policy)
        biases.append(leaves(list(policy.parameters())))
    assert biases[0] == biases[1]
