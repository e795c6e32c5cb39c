"""Evaluations while training: what they play, that they change nothing, what stops a run, and the best policy."""

import itertools
import json
import re
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from support import leaves
from torch import nn

from pgtorch import (
    BiasPolicy,
    CheckpointError,
    NonFiniteError,
    Policy,
    SetupError,
    TrainConfig,
    Trainer,
    load_run,
    resume,
    train,
)
from pgtorch.record.checkpoint import read_newest, save_checkpoint
from pgtorch.record.evaluation import play_episodes
from pgtorch.record.evaluator import Evaluator, _seed_of
from pgtorch.record.metrics import GREEDY, SAMPLED, read_metrics
from pgtorch.record.trained_run import NoBestError

LESSON = "restaurant_env:Restaurant-v0"
SMALL = {"num_envs": 2, "num_steps": 8, "num_updates": 12, "hidden_sizes": (4,), "check_gradient": 4}
OFTEN = {"evaluate_every": 3, "evaluation_episodes": 5}


def evaluated(folder):
    """The lines of `metrics.jsonl` that hold an evaluation."""
    return [line for line in read_metrics(folder) if GREEDY in line]


# What an evaluation plays


def test_it_plays_fresh_episodes_greedy_and_sampled(tmp_path):
    """The greedy half is played by environments seeded like those of `play_episodes`, so it is the same to the bit."""
    config = TrainConfig("Pendulum-v1", run_dir=tmp_path, pictures=False, **{**SMALL, **OFTEN, "num_updates": 3})
    result = train(config)
    (line,) = evaluated(tmp_path)
    seed = _seed_of(config.seed, 3)
    assert line[GREEDY] == play_episodes(result, 5, greedy=True, seed=seed).mean()
    assert line[GREEDY] != line[SAMPLED] != play_episodes(result, 5, greedy=False, seed=seed).mean()


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_its_means_are_the_exact_ones_in_every_mode(mode):
    """n = 20,000 visits, 5 standard errors: 0.65 when always right, 0.56 when drawing at the optimum."""
    config = TrainConfig(evaluate_every=1, evaluation_episodes=20_000, env_kwargs={"autoreset_mode": mode})
    trainer = Trainer(config, BiasPolicy(bias=-10.0))
    found = Evaluator(trainer).evaluate()
    assert found[GREEDY] == pytest.approx(0.65, abs=5 * 0.76 / 20_000**0.5)
    assert found[SAMPLED] == pytest.approx(0.5599, abs=5 * 0.83 / 20_000**0.5)


class Endless(gym.Env):
    """Pays 1 a step and never ends, unless `length` says so; each environment has its own length."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def __init__(self, ends=True):
        self.ends = ends

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 9))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.ends and self.left == 0, False, {}


gym.register("EndlessOrNot-v0", Endless, disable_env_checker=True)
PLAIN = {"policy": "bias", "check_gradient": 0, "normalize_observations": False, "normalize_rewards": False}


def test_one_episode_of_each_environment_counts(monkeypatch):
    config = TrainConfig("EndlessOrNot-v0", num_updates=1, **PLAIN, **OFTEN)
    evaluator = Evaluator(Trainer(config))
    found = evaluator.evaluate()
    generators = [np.random.default_rng(np.random.SeedSequence(_seed_of(0, 0) + i)) for i in range(10)]
    lengths = [int(generator.integers(1, 9)) for generator in generators]
    assert (found[GREEDY], found[SAMPLED]) == (np.mean(lengths[:5]), np.mean(lengths[5:]))


def test_an_endless_episode_is_cut_off(monkeypatch):
    monkeypatch.setattr("pgtorch.record.evaluator.MOST_STEPS", 40)
    config = TrainConfig("EndlessOrNot-v0", env_kwargs={"ends": False}, **PLAIN, **OFTEN)
    assert Evaluator(Trainer(config)).evaluate() == {GREEDY: 40.0, SAMPLED: 40.0}


def test_each_evaluation_has_other_episodes_and_the_same_ones_again():
    trainer = Trainer(TrainConfig("Pendulum-v1", **SMALL, **OFTEN))
    first, again = Evaluator(trainer).evaluate(), Evaluator(trainer).evaluate()
    trainer.num_updates += 1
    assert first == again != Evaluator(trainer).evaluate()


# What it changes: nothing


class Global(gym.Env):
    """Pays what it draws from torch's global stream; the constructor draws too."""

    observation_space, action_space = spaces.Box(-9, 9, (1,)), spaces.Discrete(2)

    def __init__(self):
        self.first = torch.rand(()).item()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(1, self.first, np.float32), {}

    def step(self, action):
        return (
            np.full(1, torch.rand(()).item(), np.float32),
            torch.rand(()).item(),
            torch.rand(()).item() < 0.3,
            False,
            {},
        )


class Counting(Policy):
    """Its layer keeps statistics of every batch, and dropout draws from the global stream."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(1, momentum=0.3), nn.Linear(1, 2)

    def distribution(self, observation):
        return torch.distributions.Categorical(logits=nn.functional.dropout(self.layer(self.norm(observation)), 0.1))


def counting():
    torch.manual_seed(0)
    return Counting()


gym.register("GlobalStream-v0", Global, disable_env_checker=True)
OWN = {"check_gradient": 0, "num_envs": 3, "num_updates": 12}
CASES = {
    "lesson": (LESSON, {"num_updates": 12}, lambda: None),
    "cart": ("CartPole-v1", SMALL, lambda: None),
    "carts one by one": ("CartPole-v1", {**SMALL, "vectorization": "sync"}, lambda: None),
    "minibatches": ("Pendulum-v1", {**SMALL, "num_epochs": 2, "num_minibatches": 2}, lambda: None),
    "global streams": ("GlobalStream-v0", {**SMALL, "check_gradient": 0}, lambda: None),
    "batch norm, dropout": (LESSON, OWN, counting),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_with_evaluations_is_the_same_run(tmp_path, case):
    """The same bytes once the two tags are taken out, and the same state of the trainer in every bit."""
    env_id, settings, make = CASES[case]
    shared = {"seed": 3, "pictures": False, "checkpoint_every": 5, **settings}
    for name, own in (("with", OFTEN), ("without", {})):
        train(TrainConfig(env_id, run_dir=tmp_path / name, **shared, **own), policy=make())
    assert [line["update"] for line in evaluated(tmp_path / "with")] == [3, 6, 9, 12]
    lines = map(json.loads, (tmp_path / "with/metrics.jsonl").read_text().splitlines())
    stripped = [{tag: value for tag, value in line.items() if tag not in (GREEDY, SAMPLED)} for line in lines]
    assert "".join(json.dumps(line) + "\n" for line in stripped) == (tmp_path / "without/metrics.jsonl").read_text()
    states = [leaves(read_newest(tmp_path / name)[1]["trainer"]) for name in ("with", "without")]
    assert states[0] == states[1]


def trained(folder, **settings):
    return train(TrainConfig("CartPole-v1", run_dir=folder, pictures=False, **{**SMALL, **OFTEN, **settings}))


class Stop:
    """A `should_stop` that says so at the n-th call within an evaluation: there it is called at every step."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self):
        self.left -= 1
        return self.left < 0


def test_stopped_in_an_evaluation_it_goes_on_as_if_never_stopped(tmp_path):
    """At several moments, also twice in one evaluation; the callback sees the same."""
    settings = {**SMALL, **OFTEN, "num_updates": 7, "pictures": False, "seed": 5}
    seen = {"straight": [], "stopped": []}
    config = TrainConfig("CartPole-v1", **settings, run_dir=tmp_path / "straight")
    train(config, callback=lambda update, figures: seen["straight"].append((update, dict(figures))))

    def see(update, figures):
        seen["stopped"].append((update, dict(figures)))

    stops, inside = 0, 0
    run = train(
        TrainConfig("CartPole-v1", **settings, run_dir=tmp_path / "stopped"), callback=see, should_stop=Stop(10)
    )
    while run.num_updates < 7 or read_newest(run.run_dir)[1]["record"]["pending"]:
        stops += 1
        inside += bool(read_newest(run.run_dir)[1]["record"]["pending"])
        run = resume(run.run_dir, callback=see, should_stop=Stop(15 * stops))
    assert stops > inside > 2, (stops, inside)
    assert seen["stopped"] == seen["straight"]
    assert (tmp_path / "stopped/metrics.jsonl").read_bytes() == (tmp_path / "straight/metrics.jsonl").read_bytes()
    ours, theirs = (read_newest(tmp_path / name)[1] for name in ("stopped", "straight"))
    assert leaves([ours["trainer"], ours["best"]]) == leaves([theirs["trainer"], theirs["best"]])


# When


def test_it_is_due_at_multiples(tmp_path):
    trained(tmp_path, evaluate_every=5)
    assert [line["update"] for line in evaluated(tmp_path)] == [5, 10]


def test_to_track_the_best_policy_it_is_due_every_twentieth_of_the_run(tmp_path):
    assert TrainConfig(track_best=True, num_updates=45).evaluate_every == 2
    assert TrainConfig(track_best=True, num_updates=19).evaluate_every == 1
    assert TrainConfig(track_best=True, num_updates=45, evaluate_every=7).evaluate_every == 7
    trained(tmp_path, track_best=True, evaluate_every=0)
    assert [line["update"] for line in evaluated(tmp_path)] == list(range(1, 13))


def test_without_a_target_and_an_interval_nothing_is_evaluated(tmp_path):
    result = trained(tmp_path, evaluate_every=0)
    assert evaluated(tmp_path) == []
    assert not result.reached_target
    assert not {name for name in result.summary if name.startswith(("evaluation", "best"))}


def lesson_that_is_spoiled(folder, **settings):
    """The lesson from its optimum with tiny steps; just before the 100th episode the policy turns bad."""
    policy = BiasPolicy(bias=-10.0)

    def spoil(update, figures):
        if update == 99:
            policy.bias.data.fill_(40.0)  # always Norm: exactly 0 on average

    config = TrainConfig(
        num_updates=200, learning_rate=1e-6, target_return=0.3, pictures=False, run_dir=folder, **settings
    )
    return train(config, policy=policy, callback=spoil)


def test_what_old_policies_have_played_stops_no_run(tmp_path):
    """The mean of the last 100 episodes is at the target, but 99 of them are of the policy as it was."""
    result = lesson_that_is_spoiled(tmp_path)
    returns = [line["rollout/episode_return"] for line in read_metrics(tmp_path)]
    at_target = [i for i in range(100, len(returns) + 1) if np.mean(returns[i - 100 : i]) >= 0.3]
    assert (result.num_updates, result.reached_target) == (200, False)
    lines = evaluated(tmp_path)
    assert lines[0]["update"] == at_target[0] == 100
    assert all(min(line[GREEDY], line[SAMPLED]) < 0.3 for line in lines)
    assert {line["update"] for line in lines} <= set(at_target)
    for line, following in itertools.pairwise(lines):  # not at each update
        assert following["update"] >= 1.1 * line["update"]
    assert 1 < len(lines) < 6


def test_a_run_stops_where_both_training_and_evaluation_are_at_the_target(tmp_path):
    config = TrainConfig(num_updates=400, target_return=0.3, pictures=False, run_dir=tmp_path)
    result = train(config)
    assert result.reached_target
    assert result.num_updates < 400
    line = evaluated(tmp_path)[-1]
    assert line["update"] == result.num_updates == result.summary["evaluation_update"]
    assert min(line[GREEDY], line[SAMPLED]) >= 0.3
    assert result.summary["evaluation_return_greedy"] == line[GREEDY]
    assert result.summary["recent_return"] >= 0.3


@pytest.mark.parametrize("figures", [{GREEDY: 0.9, SAMPLED: 0.2}, {GREEDY: 0.2, SAMPLED: 0.9}, {}])
def test_both_ways_of_playing_must_be_at_the_target(figures):
    trainer = Trainer(TrainConfig(target_return=0.3))
    trainer.collector.episodes.recent.extend([1.0] * 100)
    evaluator = Evaluator(trainer)
    assert evaluator.has_reached_target({GREEDY: 0.3, SAMPLED: 0.3})
    assert not evaluator.has_reached_target(figures)


def test_too_few_episodes_of_training_say_nothing():
    trainer = Trainer(TrainConfig(target_return=0.3))
    trainer.collector.episodes.recent.extend([1.0] * 99)
    evaluator = Evaluator(trainer)
    assert not evaluator.is_due()
    assert not evaluator.has_reached_target({GREEDY: 1.0, SAMPLED: 1.0})


# Going on past the target


@pytest.fixture(scope="module")
def reached(tmp_path_factory):
    config = TrainConfig(num_updates=400, target_return=0.3, pictures=False, run_dir=tmp_path_factory.mktemp("run"))
    return train(config)


def test_a_run_that_has_reached_its_target_has_nothing_left_to_do(reached, tmp_path):
    folder = shutil.copytree(reached.run_dir, tmp_path / "run")
    result = resume(folder)
    assert (result.num_updates, result.reached_target) == (reached.num_updates, True)
    assert result.hash == reached.hash


def test_more_updates_lead_past_the_target(reached, tmp_path):
    folder = shutil.copytree(reached.run_dir, tmp_path / "run")
    with pytest.warns(UserWarning, match="has reached its target return, 0.3: it continues without one, to update 600"):
        result = resume(folder, num_updates=600)
    assert (result.num_updates, result.config.target_return, result.reached_target) == (600, None, False)
    assert json.loads((folder / "config.json").read_text())["config"]["target_return"] is None
    straight = train(TrainConfig(num_updates=600, pictures=False, run_dir=tmp_path / "straight"))
    assert straight.policy.bias.item() == result.policy.bias.item()


def test_a_higher_target_leads_past_the_first(reached, tmp_path):
    folder = shutil.copytree(reached.run_dir, tmp_path / "run")
    result = resume(folder, target_return=2.0, num_updates=410)
    assert (result.num_updates, result.config.target_return, result.reached_target) == (410, 2.0, False)


def test_a_target_that_is_not_reached_stays(tmp_path):
    train(TrainConfig(num_updates=20, target_return=2.0, pictures=False, run_dir=tmp_path))
    assert resume(tmp_path, num_updates=30).config.target_return == 2.0


# The best policy


def test_the_best_policy_is_the_one_that_was_evaluated(tmp_path):
    kept = {}
    trainer = Trainer(TrainConfig("CartPole-v1", **{**SMALL, **OFTEN, "num_updates": 60}))
    config = TrainConfig("CartPole-v1", run_dir=tmp_path, pictures=False, **{**SMALL, **OFTEN, "num_updates": 60})
    result = train(config)
    lines = evaluated(tmp_path)
    best = max(lines, key=lambda line: (line[GREEDY], line[SAMPLED], -line["update"]))
    assert 3 < best["update"] < 60  # or the test says little
    for _ in range(60):
        trainer.update()
        normalizer = trainer.collector.normalize_observation.state_dict()
        kept[trainer.num_updates] = leaves([dict(trainer.policy.state_dict()), normalizer])
    found = load_run(tmp_path, which="best")
    assert found.num_updates == result.summary["best_update"] == best["update"]
    assert result.summary["best_return_greedy"] == best[GREEDY]
    assert result.summary["best_return_sampled"] == best[SAMPLED]
    stored = leaves([dict(found.policy.state_dict()), found.normalize_observation.state_dict()])
    assert stored == kept[best["update"]] != kept[60]
    last = load_run(tmp_path)
    assert last.num_updates == 60
    assert leaves(dict(last.policy.state_dict())) == leaves(dict(result.policy.state_dict()))


def test_of_equals_the_earliest_is_best():
    trainer = Trainer(TrainConfig("EndlessOrNot-v0", env_kwargs={"ends": False}, **PLAIN, **OFTEN))
    evaluator = Evaluator(trainer, should_stop=lambda: False)
    evaluator._play = lambda count: np.full(2 * count, 7.0)
    for update in (1, 2):
        trainer.num_updates = update
        evaluator.evaluate()
    assert evaluator.summary() == {"best_update": 1, "best_return_greedy": 7.0, "best_return_sampled": 7.0}


def test_a_run_without_evaluations_has_no_best_policy(tmp_path):
    trained(tmp_path, evaluate_every=0)
    with pytest.raises(NoBestError, match="holds no best policy: none was evaluated"):
        load_run(tmp_path, which="best")
    with pytest.raises(ValueError, match="which must be 'last' or 'best', got 'worst'"):
        load_run(tmp_path, which="worst")


FORGED = {
    "a shape": lambda best: best["policy"]["parameters"].update({"head.bias": torch.zeros(7)}),
    "a number": lambda best: best["collector"]["normalize_observation"]["mean"].fill_(float("nan")),
    "the update": lambda best: best.update(num_updates="x"),
    "a part": lambda best: best["policy"].pop("parameters"),
    "the class": lambda best: best["policy"].update({"class": "Other"}),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_best_policy_is_refused(tmp_path, name):
    trained(tmp_path)
    path, content = read_newest(tmp_path)
    FORGED[name](content["best"])
    for old in tmp_path.glob("checkpoint-*"):
        old.unlink()
    save_checkpoint(tmp_path, int(path.stem[-9:]), **content)
    with pytest.raises(CheckpointError):
        load_run(tmp_path, which="best")
    with pytest.raises(CheckpointError, match="best"):
        resume(tmp_path)


def test_a_best_policy_of_the_future_is_refused(tmp_path):
    trained(tmp_path)
    path, content = read_newest(tmp_path)
    content["best"]["num_updates"] = 13
    path.unlink()
    save_checkpoint(tmp_path, 12, **content)
    with pytest.raises(CheckpointError, match="best must be of an update so far, got 13"):
        resume(tmp_path)


# What cannot be evaluated


class Modeless(Policy):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def distribution(self, observation):
        return NoMode(logits=self.layer(observation))


class NoMode(torch.distributions.Categorical):
    @property
    def mode(self):
        raise NotImplementedError("no mode here")


def test_a_policy_without_a_mode_is_refused_before_anything_is_written(tmp_path):
    settings = {"check_gradient": 0, "num_updates": 3, "pictures": False}
    with pytest.raises(SetupError, match="Modeless must have a mode, to be evaluated greedily: NotImplementedError no"):
        train(TrainConfig(target_return=1.0, run_dir=tmp_path / "run", **settings), policy=Modeless())
    assert not list(tmp_path.iterdir())
    train(TrainConfig(run_dir=tmp_path / "run", **settings), policy=Modeless())


class Breaks(Endless):
    """Pays NaN from the 30th step in any environment on."""

    steps = 0

    def step(self, action):
        Breaks.steps += 1
        observation, _, *rest = super().step(action)
        return observation, 1.0 if Breaks.steps < 30 else np.nan, *rest


gym.register("Breaks-v0", Breaks, disable_env_checker=True)


def test_an_error_in_an_evaluation_says_so(tmp_path):
    Breaks.steps = 0
    config = TrainConfig("Breaks-v0", num_envs=2, num_steps=1, run_dir=tmp_path, **PLAIN, **OFTEN)
    with pytest.raises(NonFiniteError, match=r"reward must be finite, got nan, of environment \d") as caught:
        train(config)
    notes = "; ".join(caught.value.__notes__)
    assert re.search(r"in the evaluation after update 3; in update 3; last good checkpoint: none yet", notes)
    assert len(read_metrics(tmp_path)) == 2
