import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from moviepy import VideoFileClip
from support import ROOT, call, run_python

from pgtorch import TrainConfig, train


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lesson"
    return train(TrainConfig(num_updates=600, run_dir=folder, pictures=False)).run_dir


def test_the_lesson(run_script, lesson, tmp_path):
    done = run_script("evaluate.py", lesson, "--episodes", 2000, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["greedy"]["mean_return"] == pytest.approx(0.65, abs=0.12)
    for way in ("sampled", "greedy"):
        low, high = found[way]["interval"]
        assert low <= found[way]["mean_return"] <= high
    assert found["figures"]["policy/p_norm/hunger_0.0"] < 0.01
    assert found["figures"]["policy/p_norm/hunger_1.0"] > 0.99
    assert not list(tmp_path.iterdir())


def test_a_table_for_people(run_script, lesson, tmp_path):
    done = run_script("evaluate.py", lesson, cwd=tmp_path)
    assert "sampled  mean return" in done.stdout
    assert "95 % interval" in done.stdout
    assert re.search(r"policy/p_norm/hunger_1\.0 +1\.000", done.stdout)


def test_a_video(run_script, lesson, tmp_path):
    done = run_script("evaluate.py", lesson, "--episodes", 1, "--video", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["video"])
    assert path == lesson / "policy.mp4"
    with VideoFileClip(str(path)) as video:
        assert video.size == [480, 320]
        assert video.duration == pytest.approx(
            19, abs=1
        )  # ten visits: hunger, then what came of it; the last is not reset


def test_a_video_of_as_many_episodes_as_asked(lesson, tmp_path):
    """Three visits: hunger, then what came of it; the last is not reset. At 10 frames a second or so, as above."""
    flags = "--episodes 1 --video --video-episodes 3 --json"
    status, out, error = call("evaluate", lesson, *flags.split(), cwd=tmp_path)
    assert status == 0, error
    with VideoFileClip(json.loads(out)["video"]) as video:
        assert video.duration == pytest.approx(5, abs=0.5)


@pytest.fixture(scope="module")
def carts(tmp_path_factory):
    """A run whose best policy is not its last."""
    folder = tmp_path_factory.mktemp("runs") / "carts"
    settings = {"num_envs": 2, "num_steps": 8, "hidden_sizes": (4,), "evaluate_every": 3, "evaluation_episodes": 5}
    return train(TrainConfig("CartPole-v1", num_updates=60, run_dir=folder, pictures=False, **settings))


def test_both_policies_are_reported(carts, tmp_path):
    best = carts.summary["best_update"]
    found = {}
    for flags in ("", "--which last", "--which best"):
        status, out, error = call("evaluate", carts.run_dir, "--json", *flags.split(), cwd=tmp_path)
        assert (status, error) == (0, "")
        found[flags] = json.loads(out)
    assert found[""]["num_updates"] == found["--which last"]["num_updates"] == 60
    assert found[""]["best"]["num_updates"] == found["--which best"]["num_updates"] == best < 60
    assert found["--which last"] == {key: value for key, value in found[""].items() if key != "best"}
    assert {"which": "best", **found[""]["best"]} == found["--which best"]
    assert found[""]["greedy"] != found[""]["best"]["greedy"]
    _, out, _ = call("evaluate", carts.run_dir, cwd=tmp_path)
    assert re.search(
        rf"last policy, after update 60\nsampled .*\ngreedy .*\nbest policy, after update {best}\nsampled ", out
    )


def test_the_last_policy_may_be_the_best(tmp_path):
    train(TrainConfig(num_updates=3, evaluate_every=3, run_dir=tmp_path / "run", pictures=False))
    _, out, _ = call("evaluate", "run", cwd=tmp_path)
    assert "best policy, after update 3\nthe same as the last" in out


def test_a_best_policy_that_there_is_not_gives_one_line(lesson, tmp_path):
    status, out, error = call("evaluate", lesson, "--which", "best", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .* holds no best policy: none was evaluated .*\n", error)


MINE = """
import gymnasium, pgtorch
gymnasium.register("Mine-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=20)
if __name__ == "__main__":
    pgtorch.train(pgtorch.TrainConfig("Mine-v0", num_updates=2, run_dir="run", pictures=False))
"""


def test_an_environment_that_a_module_of_ones_own_registers_plays(run_script, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    done = run_python("mine.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_script("evaluate.py", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert "name it with --allow-import" in done.stderr
    for command in (["evaluate.py", "run"], ["train.py", "--resume", "run", "--num-updates", "3"]):
        done = run_script(*command, "--allow-import", "mine", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = run_script("evaluate.py", "run", "--allow-import", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "pgtorch: error: No module named 'nowhere'\n"


@pytest.mark.long  # it plays as fast as people can watch
def test_a_window(run_script, lesson, tmp_path):
    done = run_script(
        "evaluate.py", lesson, "--episodes", 1, "--render", "human", cwd=tmp_path, SDL_VIDEODRIVER="dummy"
    )
    assert done.returncode == 0, done.stderr
    assert "WARN" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "module"), [("--video", "moviepy"), ("--video", "pygame"), ("--render human", "pygame")]
)
def test_a_missing_extra_gives_one_line(run_script, lesson, carts, tmp_path, flags, module):
    """The pictures of CartPole-v1 need pygame, also those of a video."""
    (tmp_path / f"{module}.py").write_text("raise ImportError('not there')")
    folder = lesson if module == "moviepy" else carts.run_dir
    done = run_script("evaluate.py", folder, "--episodes", 1, *flags.split(), cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    extra = "video" if flags == "--video" else "human"
    assert re.search(rf"{flags} needs: pip install -e '\.\[{extra}\]' \({module} is not installed\)", done.stderr, re.I)


def test_each_extra_brings_all_that_its_flag_needs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: {re.split(r"\W*>=", line)[0] for line in extras[extra]} for extra in ("video", "human")}
    assert names == {"video": {"moviepy", "pygame-ce"}, "human": {"pygame-ce"}}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("nowhere", "nowhere"),
        ("", "Missing from pgtorch evaluate: PATH Folder of a run"),
        ("nowhere --episods 3", "unknown flag --episods. Perhaps you meant --episodes?"),
        ("nowhere elsewhere", "unexpected argument 'elsewhere'"),
        ("nowhere --episodes 999999999999", "episodes must be at least 1 and at most 1000000, got 999999999999"),
        ("nowhere --video-episodes 2", "video_episodes needs --video or --render human"),
        ("nowhere --video --video-episodes 0", "video_episodes must be at least 1"),
        ("nowhere --which worst", "invalid choice 'worst'"),
        ("nowhere --max-steps 0", "max_steps must be at least 1, got 0"),
        ("nowhere --seed -1", "seed must be at least 0 and at most"),
        ("nowhere --episodes 0", "episodes must be at least 1 and at most 1000000, got 0"),
    ],
)
def test_bad_input_gives_one_line(tmp_path, flags, named):
    status, out, error = call("evaluate", *flags.split(), cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .+\n", error)
    assert named in error
    assert "Arguments" not in error
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_a_failure(lesson, tmp_path):
    shutil.copytree(lesson, tmp_path / "run")
    for checkpoint in (tmp_path / "run").glob("checkpoint-*.pt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    status, _, error = call("evaluate", "run", cwd=tmp_path)
    assert status == 1
    assert re.fullmatch(r"pgtorch: error: .*checkpoint.+\n", error)
