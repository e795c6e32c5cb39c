"""`pgtorch exercises` as a command: what it writes, prints and refuses. tests/exercises/ tests the verdicts."""

import json

import pytest
from support import ROOT, call

from pgtorch.exercises.workbook import SOLUTIONS, blank

SOLVED = SOLUTIONS.read_text()
WRONG_STEP = "\n\ndef step(b, s, d):\n    return b + s * d\n"


def test_a_learners_way(run_script, tmp_path):
    done = run_script("exercises.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wrote exercises/workbook.py. Fill it in, then run\n\n    pgtorch exercises check\n")
    book = tmp_path / "exercises" / "workbook.py"
    assert book.read_text() == blank()
    done = run_script("exercises.py", "check", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("not done yet") == 10
    assert done.stdout.endswith("\n0 of 10 correct. Next: sigmoid.\n")
    book.write_text(SOLVED)
    done = run_script("exercises.py", "check", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n10 of 10 correct.\n")


def test_a_workbook_is_not_overwritten(tmp_path):
    assert call("exercises", "mine", cwd=tmp_path)[:2] == (
        0,
        "wrote mine/workbook.py. Fill it in, then run\n\n    pgtorch exercises check mine\n\n",
    )
    (tmp_path / "mine" / "workbook.py").write_text("my answers")
    status, out, error = call("exercises", "mine", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert "mine/workbook.py exists already, and is not overwritten" in error
    assert (tmp_path / "mine" / "workbook.py").read_text() == "my answers"


def test_solutions(tmp_path):
    assert call("exercises", "--solutions", cwd=tmp_path)[:2] == (0, "wrote exercises/solutions.py\n")
    assert call("exercises", "check", "exercises/solutions.py", cwd=tmp_path)[0] == 0


def test_a_wrong_answer_is_answered(tmp_path):
    (tmp_path / "workbook.py").write_text(SOLVED + WRONG_STEP)
    for words in (["."], ["workbook.py"], []):  # inside the folder, too
        status, out, error = call("exercises", "check", *words, cwd=tmp_path)
        assert (status, error) == (1, "")
        assert " 4  step                wrong\n    The minus is missing: " in out
        walk = "20 expected steps from b = -4, learning rate 2, lower the mean reward from 0.26 to 0.11;"
        effect = f"{walk} the right ones raise it to 0.42."
        assert effect in " ".join(out.split())
        assert effect in " ".join((ROOT / "README.md").read_text().split())
        assert "step(bias=-4, learning_rate=1, updated_derivative=1.27) gives -2.73" in " ".join(out.split())
        assert out.endswith("\n9 of 10 correct. Next: step.\n")
        assert max(map(len, out.splitlines())) <= 90


@pytest.mark.parametrize("words", ["check workbook.py --only 4 --json", "check --only 4 --json workbook.py"])
def test_json_for_teachers(tmp_path, words):
    (tmp_path / "workbook.py").write_text(SOLVED + WRONG_STEP)
    status, out, error = call("exercises", *words.split(), cwd=tmp_path)
    assert (status, error) == (1, "")
    report = json.loads(out)
    assert (report["workbook"], report["correct"], report["of"]) == ("workbook.py", 0, 1)
    (result,) = report["exercises"]
    assert (result["number"], result["status"], result["hint"]) == (4, "wrong", "minus missing")


def test_one_exercise(tmp_path):
    (tmp_path / "workbook.py").write_text(SOLVED + WRONG_STEP)
    status, out, _ = call("exercises", "check", "--only", 5, cwd=tmp_path)
    assert status == 0
    line = " 5  loss                correct, by the mean slope of your loss against dJ/db"
    assert out == f"{line}\n\n1 of 1 correct.\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("check", "there is no exercises/workbook.py; `pgtorch exercises exercises` writes one"),
        ("check nowhere", "there is no nowhere/workbook.py"),
        ("check --only 11", "only must be at least 1 and at most 10, got 11"),
        ("check --onyl 1", "unknown flag --onyl. Perhaps you meant --only?"),
        ("check a b", "unexpected argument 'b'"),
        ("check binary.py", "cannot read binary.py: 'utf-8' codec"),
        ("--json", "unknown flag --json"),
        ("binary.py", "binary.py"),
    ],
)
def test_wrong_commands(tmp_path, words, named):
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    status, out, error = call("exercises", *words.split(), cwd=tmp_path)
    assert (status, out) == (2, "")
    assert named in error
    assert [path.name for path in tmp_path.iterdir()] == ["binary.py"]
