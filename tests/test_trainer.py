import itertools
import json
import math
import subprocess
import sys

import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import pgtorch.gradient_check
from pgtorch import BiasPolicy, GradientMismatchError, MLPPolicy, SetupError, TrainConfig, Trainer, train
from pgtorch.record.metrics import read_metrics

SHORT = {"num_updates": 40, "pictures": False}


def test_a_run_leaves_its_record(tmp_path):
    result = train(TrainConfig(num_updates=25, run_dir=tmp_path / "run"))
    assert (result.num_updates, result.num_env_steps) == (25, 25)
    assert result.run_dir == tmp_path / "run"
    names = {path.name.partition(".")[0] for path in result.run_dir.iterdir()}
    pictures = {"bias", "p_norm", "expected_reward", "gradient"}
    assert names == {"config", "metrics", "events", "checkpoint-000000025"} | pictures
    assert result.summary["bias"] == result.policy.bias.item() == read_metrics(result.run_dir)[-1]["policy/bias"]


def test_update_is_the_lessons_step():
    """Every update moves the bias by -learning rate x reward x the lesson's derivative, for the visit just paid."""
    trainer = Trainer(TrainConfig(seed=5, learning_rate=0.5))
    for _ in range(50):
        before = trainer.policy.bias.item()
        trainer.update()
        visit = trainer.collector.rollout
        hunger, action, reward = visit.observation[0].item(), visit.action.item(), visit.reward.item()
        p_norm = 1 / (1 + math.exp(-(20 * hunger + before)))
        derivative = -(1 - p_norm) if action == 1 else p_norm
        assert trainer.policy.bias.item() == pytest.approx(before - 0.5 * reward * derivative, abs=1e-5)


def test_x_axis_is_environment_steps(tmp_path):
    result = train(TrainConfig(num_envs=3, num_steps=4, run_dir=tmp_path / "run", **SHORT))
    assert [line["env_steps"] for line in read_metrics(result.run_dir)] == [12 * i for i in range(1, 41)]
    assert result.num_env_steps == 480


def test_filler_rows_are_not_counted(tmp_path):
    """NEXT_STEP in one-step episodes: every other row would be filler."""
    kwargs = {"autoreset_mode": AutoresetMode.NEXT_STEP.value}
    config = TrainConfig(num_envs=4, num_steps=6, env_kwargs=kwargs, run_dir=tmp_path / "run", **SHORT)
    for line in read_metrics(train(config).run_dir):
        assert line["rollout/episode_length"] == 1.0
        assert -1.0 <= line["rollout/episode_return"] <= 1.0


def test_many_learners_rows_move_the_one_bias(tmp_path):
    config = TrainConfig(num_envs=64, num_steps=4, num_updates=400, pictures=False, run_dir=tmp_path / "run")
    assert train(config).summary["late_bias"] == pytest.approx(-10.0, abs=0.5)


def test_several_passes_are_ppo():
    """Three passes in five parts each, beside the objective as its paper has it."""
    settings = {"num_envs": 4, "num_steps": 8, "optimizer": "sgd", "learning_rate": 1.0, "value_learning_rate": 1.0}
    own = {"max_gradient_norm": None, "learning_rate_decay": False, "check_gradient": 1}
    config = TrainConfig("CartPole-v1", num_epochs=3, num_minibatches=5, clip_range=0.1, **settings, **own)
    ours = Trainer(config)
    logged = ours.update()  # the gradient of each part is checked
    assert logged["gradient/difference_in_units_of_u_c"] < 32

    theirs = Trainer(config)
    batch = theirs._weigh(theirs.collector.collect(theirs.policy))
    policy, value_function = theirs.policy, theirs.value_function
    optimizer = torch.optim.SGD([*policy.parameters(), *value_function.parameters()], lr=1.0)
    played, cut_off = policy.log_prob(batch.observation, batch.action).detach(), 0
    for _ in range(3):
        for rows in torch.randperm(32).split([7, 7, 6, 6, 6]):
            log_prob = policy.log_prob(batch.observation[rows], batch.action[rows])
            ratio, advantage = (log_prob - played[rows]).exp(), batch.multiplier[rows]
            clipped = ratio.clamp(0.9, 1.1)
            cut_off += int((clipped * advantage < ratio * advantage).sum())
            objective = torch.min(ratio * advantage, clipped * advantage).mean()
            error = (value_function(batch.observation[rows]) - batch.target[rows]).square().mean()
            optimizer.zero_grad()
            (0.5 * error - objective).backward()
            optimizer.step()
    assert cut_off > 0
    for one, other in ((ours.policy, policy), (ours.value_function, value_function)):
        for name, parameter in one.named_parameters():
            assert torch.allclose(parameter, other.get_parameter(name), rtol=1e-4, atol=1e-5), name


def test_the_largest_difference_of_several_steps_is_kept(monkeypatch):
    found = itertools.cycle([1.0, 3.0, 2.0])
    tags = ("gradient/absolute_difference", "gradient/difference_in_units_of_u_c")
    monkeypatch.setattr("pgtorch.trainer.check_gradient", lambda *_: dict.fromkeys(tags, next(found)))
    trainer = Trainer(TrainConfig(check_gradient=2, num_epochs=3))
    assert not set(tags) & trainer.update().keys()
    logged = trainer.update()
    assert [logged[tag] for tag in tags] == [3.0, 3.0]


def test_no_more_parts_than_rows():
    trainer = Trainer(TrainConfig(num_envs=3, num_minibatches=8))
    sizes = []
    evaluate = trainer.policy.evaluate
    trainer.policy.evaluate = lambda *batch: (sizes.append(len(batch[0])), evaluate(*batch))[1]
    trainer.update()
    assert sizes == [3, 1, 1, 1]  # all of them once, for what they were played with


def test_settings_reach_the_environment(tmp_path):
    kwargs = {"reward_scheme": "graded", "reward_scale": 2.0}
    config = TrainConfig(env_kwargs=kwargs, run_dir=tmp_path / "run", **SHORT)
    returns = {line["rollout/episode_return"] for line in read_metrics(train(config).run_dir)}
    assert returns == {-4.0, -2.0, 2.0, 4.0}


PROGRAM = """
import sys, pathlib
from pgtorch import TrainConfig, train
train(TrainConfig(num_updates=60, seed=int(sys.argv[2]), run_dir=pathlib.Path(sys.argv[1]), pictures=False))
assert "torch._dynamo" not in sys.modules, "importing it takes as long as the lesson"
"""


def lines_of_another_process(folder, seed, hash_seed):
    command = [sys.executable, "-c", PROGRAM, str(folder), str(seed)]
    subprocess.run(command, check=True, env={"PYTHONHASHSEED": hash_seed}, timeout=100)
    return (folder / "metrics.jsonl").read_bytes()


def test_same_seed_same_numbers_in_another_process(tmp_path):
    here = train(TrainConfig(num_updates=60, seed=7, run_dir=tmp_path / "here", pictures=False)).run_dir
    there = lines_of_another_process(tmp_path / "there", 7, hash_seed="1")
    assert (here / "metrics.jsonl").read_bytes() == there
    assert lines_of_another_process(tmp_path / "other", 8, hash_seed="1") != there


def test_watching_changes_nothing(tmp_path):
    ends = set()
    for number, settings in enumerate([{}, {"pictures": False}, {"check_gradient": 0}]):
        config = TrainConfig(num_updates=30, run_dir=tmp_path / str(number), **settings)
        ends.add(train(config, callback=lambda update, logged: None).policy.bias.item())
    assert len(ends) == 1


def test_callback_sees_every_update(tmp_path):
    seen = []
    train(TrainConfig(run_dir=tmp_path / "run", **SHORT), callback=lambda update, logged: seen.append((update, logged)))
    assert [update for update, _ in seen] == list(range(1, 41))
    assert [logged["policy/bias"] for _, logged in seen] == [
        line["policy/bias"] for line in read_metrics(tmp_path / "run")
    ]


def test_trains_the_policy_it_is_given(tmp_path):
    policy = BiasPolicy(weight=10.0, bias=-3.0)
    result = train(TrainConfig(run_dir=tmp_path / "run", **SHORT), policy=policy)
    assert result.policy is policy
    assert policy.bias.item() != -3.0
    assert policy.weight.item() == 10.0


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


def test_a_network_is_checked_every_k_updates(tmp_path):
    policy = MLPPolicy(spaces.Box(0, 1, (1,)), spaces.Discrete(2), (8,))
    config = TrainConfig(check_gradient=3, num_envs=8, learning_rate=0.1, run_dir=tmp_path / "run", **SHORT)
    lines = read_metrics(train(config, policy=policy).run_dir)
    units = {line["update"]: line.get("gradient/difference_in_units_of_u_c") for line in lines}
    assert [update for update, unit in units.items() if unit is not None] == list(range(3, 41, 3))
    assert all(unit < 32 for unit in units.values() if unit is not None)
    assert any(unit for unit in units.values())


def test_a_policy_without_derivation_says_so(tmp_path):
    class Mine(BiasPolicy):
        """No derivation by hand."""

    with pytest.raises(SetupError, match="check_gradient must be 0 for Mine: there is no derivation by hand"):
        train(TrainConfig(run_dir=tmp_path / "run", **SHORT), policy=Mine())
    assert not list(tmp_path.iterdir())
    train(TrainConfig(check_gradient=0, run_dir=tmp_path / "run", **SHORT), policy=Mine())


def test_gradient_check_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setattr(pgtorch.gradient_check, "manual_gradient", None)
    result = train(TrainConfig(check_gradient=0, run_dir=tmp_path / "run", **SHORT))
    assert not any("gradient/manual" in line for line in read_metrics(result.run_dir))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": "Nowhere-v0"}, "Nowhere"),
        ({"env_id": "no_such_module:Restaurant-v0"}, "no_such_module"),
        ({"env_kwargs": {"reward_scale": -1}}, "reward_scale must be"),
        ({"env_kwargs": {"spice": 1}}, "spice"),
        ({"env_id": "CartPole-v1", "policy": "bias"}, "policy 'bias' takes .* CartPole-v1 has Box"),
        ({"multiplier": "gae", "num_threads": 1, "env_id": "Nowhere-v0", "policy": "mlp"}, "Nowhere"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SetupError, match=message):
        train(TrainConfig(**settings))
    assert not list(tmp_path.iterdir())


def test_an_occupied_folder_is_refused(tmp_path):
    config = TrainConfig(run_dir=tmp_path / "run", **SHORT)
    before = (train(config).run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(SetupError, match="new or empty"):
        train(config)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["num_updates"] == 40
