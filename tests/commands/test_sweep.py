import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from support import ROOT, call

from pgtorch import TrainConfig, resume
from pgtorch.commands.sweep import read_seeds, read_sweep

SCRIPT = ROOT / "scripts" / "sweep.py"


def content(folder):
    return json.loads((folder / "sweep.json").read_text())


def test_a_sweep_of_the_lesson_and_one_of_its_learners(tmp_path):
    words = "--seeds 3:9 --learning-rate 0.5 1 --num-updates 40 --run-dir swept"
    status, out, _ = call("sweep", *words.split(), cwd=tmp_path)
    assert status == 0
    found = content(tmp_path / "swept")
    assert [row["label"] for row in found["settings"]] == ["learning_rate=0.5", "learning_rate=1.0"]
    assert [row["config"]["learning_rate"] for row in found["settings"]] == [0.5, 1.0]
    order = [(learner["setting"], learner["seed"]) for learner in found["learners"]]
    assert order == [(setting, seed) for setting in (0, 1) for seed in range(3, 9)]
    settings = [learner["settings"] for learner in found["learners"]]
    assert settings == [{"learning_rate": 0.5}] * 6 + [{"learning_rate": 1.0}] * 6
    assert len({learner["hash"] for learner in found["learners"]}) == 12
    assert {learner["num_updates"] for learner in found["learners"]} == {40}
    for row in found["settings"]:
        low, high = row["late_bias"]["interval"]
        assert low <= row["late_bias"]["interquartile_mean"] <= high
        assert re.search(rf"{row['label']} +6 +{row['late_bias']['interquartile_mean']:.4g} \(", out)
        assert row["near_optimum"]["learners_after_steps"]["40"] == 0
    assert {"bias.png", "sweep.json", "0-learning_rate=0.5"} <= {path.name for path in (tmp_path / "swept").iterdir()}

    status, out, _ = call("sweep", "swept", "--learner", 10, cwd=tmp_path)
    assert status == 0
    folder = tmp_path / "swept" / "learner-10"
    record = json.loads((folder / "config.json").read_text())
    assert (record["hash"], record["config"]["seed"]) == (found["learners"][10]["hash"], 7)
    assert record["hash"][:16] in out
    assert (folder / "bias.png").exists()
    assert resume(folder, num_updates=41).num_updates == 41


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--learning-rte 1 2", "unknown flag --learning-rte=1. Perhaps you meant --learning-rate?"),
        ("--learning-rate 1 -2", "learning_rate must be a finite number above 0, got -2.0"),
        ("--start-bias 1 x", "start-bias"),
        ("--multiplier one luck", "luck"),
        ("--seeds 1:", "seeds must be numbers or ranges, such as 0 1 5 or 0:1000, got '1:'"),
        ("--seeds 5:5", "seeds must be a range of 1 to 100,000 seeds, got '5:5'"),
        ("--seeds", "seeds must be numbers or ranges"),
        ("--seeds 9223372036854775808", "seed must be at least 0 and at most"),
        ("--seed 3", "sweep does not take --seed, but --seeds, such as --seeds 0:100"),
        ("--resume run", "'run' must be a folder that this run may write to"),
        ("--resume full", "'full' must be the folder of a sweep"),
        ("--resume full --seeds 3", "with --resume, which allows only --allow-import"),
        ("--run-dir a b", "run_dir must name one folder"),
        ("--run-dir full", "run_dir must be new or empty"),
        ("--seeds 0:2000 --weight " + " ".join(map(str, range(100))), "at most 100,000 learners, got 200,000"),
        ("--env-id Restaurant-v0 Foo-v0", "Environment `Foo` doesn't exist"),
        ('--env-kwargs {} {"reward_scale":-1}', "reward_scale must be one finite number above 0, got -1"),
        ("--policy mlp --weight 3", "weight must not be 3.0 if policy is not bias"),
        ("full", "'full' must be the folder of a sweep"),
        ("-3 --seeds 1", "unexpected argument '-3'"),
    ],
)
def test_wrong_input_gives_one_line_and_writes_nothing(tmp_path, words, named):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    status, out, error = call("sweep", *words.split(), cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .+\n", error)
    assert named in error
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine"]


def test_flags():
    words = "--seeds 0:3 7 1 --start-bias -5 0 --hidden-sizes 4 4 --hidden-sizes 8 --baseline=value --standardize"
    seeds, configs = read_sweep([*words.split(), "--no-standardize", "--num-envs=2"])
    assert seeds == [0, 1, 2, 7]
    expected = [(b, h, s) for b in (-5.0, 0.0) for h in ((4, 4), (8,)) for s in (True, False)]
    assert [(c.start_bias, c.hidden_sizes, c.standardize) for c in configs.values()] == expected
    assert next(iter(configs)) == "start_bias=-5.0 hidden_sizes=[4, 4] standardize=true"
    assert read_sweep([]) == (list(range(10)), {"": TrainConfig()})
    _, configs = read_sweep(["--env-id", "CartPole-v1", "Restaurant-v0"])
    assert [config.num_envs for config in configs.values()] == [64, 1]
    assert read_seeds(["--seeds=5", "--seeds=4:7"]) == [5, 4, 6]


def test_help(tmp_path):
    status, out, _ = call("sweep", "--help", cwd=tmp_path)
    assert status == 0
    assert "--seeds 0:1000" in out
    assert "pgtorch sweep" in out


def test_a_learner_that_fails_is_named(tmp_path):
    words = '--seeds 5 --num-updates 2 --run-dir swept --env-kwargs {} {"reward_scale":1e39}'
    status, out, error = call("sweep", *words.split(), cwd=tmp_path)
    assert status == 1
    assert "1 of 2 learners failed, first learner 1 (seed 5): NonFiniteError: reward must be finite" in error
    assert "sweep folder" in out
    first, second = content(tmp_path / "swept")["learners"]
    assert set(first) - set(second) == {"hash"}
    assert set(second) - set(first) == {"error"}
    assert [row["failed"] for row in content(tmp_path / "swept")["settings"]] == [0, 1]


def test_a_sweep_that_names_a_module_needs_leave(tmp_path, monkeypatch):
    call("sweep", "--seeds", "0", "--num-updates", "2", "--run-dir", "swept", cwd=tmp_path)
    (tmp_path / "evil.py").write_text("open('ran', 'w')")
    found = content(tmp_path / "swept")
    found["settings"][0]["config"]["env_id"] = "evil:Restaurant-v0"
    (tmp_path / "swept" / "sweep.json").write_text(json.dumps(found))
    status, _, error = call("sweep", "swept", cwd=tmp_path)
    assert status == 2
    assert "--allow-import evil" in error
    assert not (tmp_path / "ran").exists()
    found["settings"][0]["config"] |= {"env_id": "Restaurant-v0", "learning_rate": 0.5}
    (tmp_path / "swept" / "sweep.json").write_text(json.dumps(found))
    status, _, error = call("sweep", "swept", cwd=tmp_path)
    assert status == 1
    assert "its hash in the sweep was" in error


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_signals_end_it_and_its_processes(tmp_path, number):
    """The first learner finishes, the second never would; the signal goes to all processes, as from a terminal."""
    words = "--seeds 0 --num-envs 2 --num-updates 3 1000000 --run-dir swept"
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *words.split()], cwd=tmp_path, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: list((tmp_path / "swept").glob(".learners-*/1-0/metrics.jsonl")))
    until(lambda: not list((tmp_path / "swept").glob(".learners-*/0-0")))
    time.sleep(1)
    os.killpg(process.pid, number)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number, error
    assert "Traceback" not in error
    assert "stopped early                1 of 2 learners had finished" in out
    assert [learner["num_updates"] for learner in content(tmp_path / "swept")["learners"]] == [3]
    assert not list((tmp_path / "swept").glob(".learner*"))
    until(lambda: is_gone(process.pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_was_ended_half_way_is_resumed(tmp_path, number):
    """And its curves are drawn once."""
    words = "--seeds 3 1 --policy mlp --hidden-sizes 4 --num-updates 3 700 --run-dir swept"
    for folder in ("whole", "ended"):
        (tmp_path / folder).mkdir()
    status, _, _ = call("sweep", *words.split(), cwd=tmp_path / "whole")
    assert status == 0
    process = subprocess.Popen([sys.executable, SCRIPT, *words.split()], cwd=tmp_path / "ended")
    swept = tmp_path / "ended" / "swept"
    until(lambda: (swept / "finished.jsonl").exists() and (swept / "finished.jsonl").read_text().count("\n") >= 2)
    os.kill(process.pid, number)
    process.wait(30)
    finished = (swept / "finished.jsonl").read_text()
    with (swept / "finished.jsonl").open("a") as file:
        file.write("[1, 1, {")  # cut
    assert 2 <= finished.count("\n") < 4
    status, _, _ = call("sweep", "--resume", "swept", cwd=tmp_path / "ended")
    assert status == 0
    whole, resumed = content(tmp_path / "whole" / "swept"), content(swept)
    del whole["command"]
    assert resumed.pop("command")[1:] == words.split()
    assert whole == resumed
    left = [sorted(path.name[:10] for path in (tmp_path / name / "swept").rglob("*")) for name in ("whole", "ended")]
    assert left[0] == left[1]
    assert call("sweep", "--resume", "swept", cwd=tmp_path / "ended")[:2] == (
        0, "nothing left to do           all learners have finished\n",
    )  # fmt: skip


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_gone(group):
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_the_commands_of_the_readme_are_sweeps():
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^pgtorch sweep (--.*)$", text, re.MULTILINE)
    counts = [len(seeds) * len(configs) for seeds, configs in (read_sweep(shlex.split(line)) for line in lines)]
    assert counts == [1000, 60]
    text = (ROOT / "docs" / "sweeps.md").read_text() + "\n"
    (more,) = re.findall(r"Other settings of the lesson to sweep: (.*?)\n\n", text, re.DOTALL)
    for flags in re.findall(r"`(--.*?)`", more):
        assert read_sweep(shlex.split(flags))
