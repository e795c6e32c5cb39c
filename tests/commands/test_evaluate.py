import json
import re
import shutil
from pathlib import Path

import pytest
from moviepy import VideoFileClip
from support import call

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


@pytest.mark.long  # it plays as fast as people can watch
def test_a_window(run_script, lesson, tmp_path):
    done = run_script(
        "evaluate.py", lesson, "--episodes", 1, "--render", "human", cwd=tmp_path, SDL_VIDEODRIVER="dummy"
    )
    assert done.returncode == 0, done.stderr
    assert "WARN" not in done.stderr


@pytest.mark.parametrize(("flags", "module"), [("--video", "moviepy"), ("--render human", "pygame")])
def test_a_missing_extra_gives_one_line(run_script, lesson, tmp_path, flags, module):
    (tmp_path / f"{module}.py").write_text("raise ImportError('not there')")
    done = run_script("evaluate.py", lesson, "--episodes", 1, *flags.split(), cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "pip install -e" in done.stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("nowhere", "nowhere"),
        ("", "Missing from pgtorch evaluate: PATH Folder of a run"),
        ("nowhere --episods 3", "unknown flag --episods. Perhaps you meant --episodes?"),
        ("nowhere elsewhere", "unexpected argument 'elsewhere'"),
        ("nowhere --episodes 999999999999", "episodes must be at least 1 and at most 1000000, got 999999999999"),
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
