import dataclasses
import json
import re

import pytest
from support import call

from pgtorch import TrainConfig
from pgtorch.record.metrics import read_metrics


def test_the_lesson_in_the_terminal(run_script, tmp_path):
    done = run_script("train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    lines = read_metrics(run)
    biases = [line["policy/bias"] for line in lines]
    late = sum(biases[1000:]) / 1000
    for expected in (
        rf"bias +{biases[-1]:.3f}\n",
        rf"mean over the last half +{late:.3f} +hovers around {late:.1f}, standard deviation \d\.\d\n",
        r"P\(Norm \| hunger 0\.0\) +0\.00\n",
        r"P\(Norm \| hunger 1\.0\) +1\.00\n",
        r"largest gradient difference +0 ",
        rf"run folder +runs/{run.name}\n",
        r"tensorboard --logdir runs\n",
    ):
        assert re.search(expected, done.stdout), expected
    assert re.search(r"2000/2000 .*bias=-\d+\.\d\d, mean return=[+-]\d\.\d\d", done.stderr)
    assert (run / "bias.png").exists()


@pytest.mark.parametrize(("rate", "words"), [(1.0, "hovers around -10"), (0.1, "still moves, standard deviation")])
def test_a_bias_that_still_moves_is_not_said_to_hover(tmp_path, rate, words):
    """At a tenth of the rate it is at about -9 after 2,000 updates, and on its way; measured over 12 seeds."""
    _, out, _ = call("train", "--learning-rate", rate, "--run-dir", "run", "--no-pictures", cwd=tmp_path)
    assert words in out
    assert ("hovers" in out) == (rate == 1.0)


def test_too_short_a_run_says_nothing_about_how_the_bias_moves(tmp_path):
    _, out, _ = call("train", "--num-updates", 100, "--run-dir", "run", "--no-pictures", cwd=tmp_path)
    assert re.search(r"mean over the last half +-\d\.\d+   standard deviation", out)


CARTS = ["--env-id", "CartPole-v1", "--num-envs", "2", "--num-steps", "64", "--no-pictures", "--run-dir", "run"]


def test_the_mean_return_says_how_many_episodes_it_covers(tmp_path):
    """Not 'last 100 episodes' of fewer."""
    _, out, _ = call("train", *CARTS, "--num-updates", 3, cwd=tmp_path)
    count = int(re.search(r"mean return +[\d.]+   last (\d+) training episodes", out)[1])
    lines = read_metrics(tmp_path / "run")
    played = sum(128 / line["rollout/episode_length"] for line in lines)
    assert 0.7 * played - 3 < count < played + 3 < 100


def test_the_evaluation_that_decided_is_shown(tmp_path):
    flags = "--num-updates 400 --no-pictures --run-dir run --target-return 0.3"
    _, out, _ = call("train", *flags.split(), cwd=tmp_path)
    line = read_metrics(tmp_path / "run")[-1]
    greedy, sampled = line["evaluation/return_greedy"], line["evaluation/return_sampled"]
    assert re.search(
        rf"evaluation, greedy +{greedy:.2f}   100 fresh episodes each way, after update {line['update']}\n", out
    )
    assert re.search(rf"evaluation, sampled +{sampled:.2f}\n", out)
    assert re.search(r"target return +0\.30   reached, in training and in the evaluation\n", out)
    _, out, _ = call("train", "--resume", "run", cwd=tmp_path)
    assert "nothing left to do" in out
    with pytest.warns(UserWarning, match="continues without one, to update 500"):
        _, out, _ = call("train", "--resume", "run", "--num-updates", 500, cwd=tmp_path)
    assert "in 500 updates" in out
    assert "target return" not in out


def test_a_target_that_is_not_reached_is_said(tmp_path):
    _, out, _ = call("train", *CARTS, "--num-updates", 4, "--target-return", 475, "--evaluate-every", 2, cwd=tmp_path)
    assert re.search(r"target return +475\.00   not reached\n", out)
    summary = {line["update"]: line["evaluation/return_greedy"] for line in read_metrics(tmp_path / "run")[1::2]}
    if max(summary.values()) != summary[4]:
        assert re.search(r"best evaluation +[\d.]+   greedy, [\d.]+ sampled, after update 2", out)


def test_flags_set_the_run(run_script, tmp_path):
    flags = "--num-updates 30 --num-envs 2 --num-steps 3 --learning-rate 0.5 --seed 4 --run-dir here --no-pictures"
    done = run_script("train.py", *flags.split(), "--env-kwargs", '{"reward_scale": 3}', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(read_metrics(tmp_path / "here")) == 30
    assert read_metrics(tmp_path / "here")[-1]["env_steps"] == 180
    assert [entry.name for entry in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("env_id", ["Restaurant-v0", "restaurant_env:Restaurant-v0"])
def test_both_ids_work(run_script, tmp_path, env_id):
    done = run_script("train.py", "--env-id", env_id, "--num-updates", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--learning-rate 0", "learning_rate"),
        ("--learning-rate -1", "learning_rate must be a finite number above 0, got -1.0"),
        ("--learning-rate nan", "learning_rate must be a finite number above 0, got nan"),
        ("--gae-lambda low", "error: --gae-lambda: could not convert string to float: 'low'"),
        ("--learning-rate fast", "error: --learning-rate: no type matching {None}|FLOAT could be instantiated from"),
        ("--num-updates 0", "num_updates"),
        ("--num-updates 1.5", "num-updates"),
        ("--num-envs 0", "num_envs"),
        ("--num-steps -2", "num_steps"),
        ("--seed -1", "seed"),
        ("--optimizer newton", "optimizer must be sgd, adam or"),
        ("--policy cat", "policy must be bias, mlp, cnn, auto or the module:Class of your own policy, got 'cat'"),
        ("--spice 3", "unknown flag --spice"),
        ("--learning-rat 3", "unknown flag --learning-rat. Perhaps you meant --learning-rate?"),
        ("--no-picture", "unknown flag --no-picture. Perhaps you meant --no-pictures?"),
        ("run", "unexpected argument 'run'"),
        ("--num-updates", "num-updates"),
        ("--env-id Nowhere-v0", "Nowhere"),
        ("--env-id nowhere:Restaurant-v0", "nowhere"),
        ("--env-kwargs {", "env-kwargs"),
        ("--env-kwargs " + "[" * 3000, "env-kwargs"),
        ("--env-kwargs []", "env_kwargs must be a dict, got []"),
        ('--env-id FrozenLake-v1 --env-kwargs {"map_name":"9x9"}', "KeyError '9x9'"),
        ("--run-dir=", "every argument needs a value, got '--run-dir='"),
        ("--env-id No\x1b[31m-v0", "\\x1b[31m"),
        ('--env-kwargs {"reward_scale":0}', "reward_scale"),
        ("--run-dir file", "run_dir"),
        ("--run-dir full", "run_dir"),
        ("--run-dir file/below", "run_dir"),
        (f"--run-dir {'x' * 300}", "run_dir"),
    ],
)
def test_bad_input_gives_one_line(tmp_path, flags, named):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("{}")
    status, out, error = call("train", *flags.split(), cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .+\n", error)
    assert error[:-1].isprintable()
    assert named in error
    assert "TrainConfig" not in error
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "full"}
    assert (tmp_path / "file").read_text() == "mine"
    assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["config.json"]


def test_help_explains_every_flag(tmp_path):
    status, out, _ = call("train", "--help", cwd=tmp_path)
    assert status == 0
    for setting in dataclasses.fields(TrainConfig):
        assert f"--{setting.name.replace('_', '-')}" in out
    assert "3e-4 for any others. Must be above 0. (default: 1.0)" in unboxed(out)
    assert not list(tmp_path.iterdir())


def test_help_shows_the_defaults_of_the_environment(tmp_path):
    _, out, _ = call("train", "--help", "--env-id", "CartPole-v1", cwd=tmp_path)
    assert "3e-4 for any others. Must be above 0. (default: 0.003)" in unboxed(out)


def unboxed(text):
    """The words of a help text, without the box around it."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--resume nowhere", "'nowhere' must be a folder"),
        ("--resume nowhere --learning-rate 3", "--learning-rate with --resume, which allows only --num-updates"),
        ("--learning-rate 3 --resume=nowhere", "--learning-rate with --resume, which allows only --num-updates"),
        ("--resume nowhere --num-updates 0", "num_updates must be at least 1, got 0"),
        ("--resume", "--resume"),
    ],
)
def test_bad_flags_beside_resume_give_one_line(tmp_path, flags, named):
    status, out, error = call("train", *flags.split(), cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .+\n", error)
    assert named in error
    assert not list(tmp_path.iterdir())


def test_a_run_with_nothing_left_says_so_and_can_go_further(run_script, tmp_path):
    run_script("train.py", "--num-updates", 30, "--run-dir", "run", "--no-pictures", cwd=tmp_path)
    done = run_script("train.py", "--resume", "run", cwd=tmp_path)
    assert done.returncode == 0
    assert "nothing left to do" in done.stdout
    done = run_script("train.py", "--resume", "run", "--num-updates", 40, cwd=tmp_path)
    assert "nothing was left" not in done.stdout
    assert "40/40" in done.stderr
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["config"]["num_updates"] == 40
    assert "--resume" not in record["command"]
    assert [command[-1] for command in record["resumed"]] == ["run", "40"]
