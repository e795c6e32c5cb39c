"""`pgtorch lesson` as a command: flags, pauses, exit status. tests/lesson/test_story.py tests what the acts say."""

import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest
from support import ROOT

from pgtorch import GradientMismatchError
from pgtorch.commands import lesson
from pgtorch.lesson import steps, story


@pytest.fixture
def run(capsys):
    """The command in this process, which is faster: run("--act", 4) returns status, output and errors."""

    def run(*flags):
        try:
            status = lesson.main([str(flag) for flag in flags])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def heading(text):
    return re.findall(r"^Act (\d): ", text, re.MULTILINE)


def test_all_acts_in_a_process_of_its_own(run_script, tmp_path):
    done = run_script("lesson.py", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert heading(done.stdout) == ["1", "2", "3", "4", "5"]
    assert "Press Enter" not in done.stdout  # nobody is there to press it
    assert done.stdout.isascii()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("act", [1, 2, 3])
def test_one_act(run, capsys, act):
    getattr(story, f"act_{act}")()
    expected = capsys.readouterr().out
    assert run("--act", act) == (0, expected, "")


def test_act_4_takes_its_flags(run, capsys, monkeypatch):
    story.act_4(steps.Visit(hunger=0.15, draw=0.03, large=False), reward_scale=2.5)
    expected = capsys.readouterr().out
    flags = "--act 4 --hunger 0.15 --draw 0.03 --portion small --reward-scale 2.5 --no-pause"
    assert run(*flags.split()) == (0, expected, "")
    story.act_4(steps.Visit(hunger=0.6, draw=0.5, large=True), bias=-9.0, learning_rate=0.1)
    expected = capsys.readouterr().out
    assert run(*["--act", "4", "--hunger", "0.6", "--bias", "-9", "--learning-rate", "0.1"]) == (0, expected, "")
    monkeypatch.setattr(story, "walk", lambda visits, **_: [0.0] * visits)  # which takes seconds
    story.act_4(wrong_sign=True)
    expected = capsys.readouterr().out
    assert run("--wrong-sign", "--act", 4) == (0, expected, "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--hunger 1.5", "hunger must be a finite number at least 0 and at most 1, got 1.5"),
        ("--hunger -0.1", "hunger must be a finite number at least 0 and at most 1, got -0.1"),
        ("--hunger nan", "hunger must be a finite number at least 0 and at most 1, got nan"),
        ("--draw 1", "draw must be a finite number at least 0 and below 1, got 1.0"),
        ("--reward-scale 0", "reward_scale must be a finite number above 0 and at most 1e6, got 0.0"),
        ("--reward-scale inf", "reward_scale must be a finite number above 0 and at most 1e6"),
        ("--draw much", "draw"),
        ("--spice", "--spice"),
        ("--portion medium", "portion"),
        ("--act 6", "act must be at least 1 and at most 5, got 6"),
        ("--act 2 --hunger 0.3", "hunger is used by act 4 only, got act 2"),
        ("--act 1 --draw 0.2", "draw is used by act 4 only, got act 1"),
        ("--portion small --act 3", "portion is used by act 4 only, got act 3"),
        ("--act 5 --reward-scale 2", "reward_scale is used by act 4 only, got act 5"),
        ("--act 2 --bias -1", "bias is used by act 4 only, got act 2"),
        ("--act 2 --learning-rate 1", "learning_rate is used by act 4 only, got act 2"),
        ("--act 2 --portion large", "portion is used by act 4 only, got act 2"),  # though it is what act 4 would take
        ("--act 4 --bias 200", "bias must be a finite number at least -100 and at most 100, got 200.0"),
        ("--learning-rate 0", "learning_rate must be a finite number above 0 and at most 1e6, got 0.0"),
        ("--act 2 --wrong-sign", "wrong_sign is used by act 4 only, got act 2"),
    ],
)
def test_bad_input_is_refused_in_one_line(run, flags, message):
    status, output, errors = run(*flags.split())
    assert (status, output, len(errors.splitlines())) == (2, "", 1)
    assert errors.startswith("pgtorch: error: ")
    assert message in errors


def test_a_wrong_gradient_ends_it(monkeypatch):
    monkeypatch.setattr(steps, "policy_gradient_loss", lambda log_prob, multiplier: (log_prob * multiplier).mean())
    with pytest.raises(GradientMismatchError, match="gradient of bias by autograd"):
        lesson.main(["--act", "2"])


def in_a_terminal(*answers):
    """Run the command in a terminal, one answer for each pause: text to type, or a signal. Gives status and output."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "scripts" / "lesson.py")]
    settings = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background may ignore Ctrl-C
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=settings)
    signal.signal(signal.SIGINT, handler)
    output, pauses = b"", 0
    try:
        while running.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.3)[0]:
                output += os.read(ours, 65536)
            elif output.count(b"Press Enter") > pauses:  # and silent since, so it waits
                answer, pauses = answers[pauses], pauses + 1
                if isinstance(answer, bytes):
                    os.write(ours, answer)
                else:
                    running.send_signal(answer)
    finally:
        running.kill()
        running.wait()
        os.close(theirs)
        os.close(ours)
    return running.returncode, output.decode().replace("\r\n", "\n")


def test_it_waits_in_a_terminal_until_ctrl_c():
    """After each question of act 1, before act 2, and after its first question."""
    status, output = in_a_terminal(*[b"\n"] * 4, signal.SIGINT)
    assert status == 130
    assert "Traceback" not in output
    assert output.count("Press Enter to go on") == 4
    assert output.count("Press Enter for the next act") == 1
    assert "0.693147" in output
    assert "P(Squatch) = 1 - P(Norm) = 0.5" not in output  # the answer to the question that it waits at
    assert heading(re.sub(r"\033\[\d+m", "", output)) == ["1", "2"]


def test_no_answer_stands_before_its_question(monkeypatch):
    """What was printed when act 2 waits: the questions so far, and the answers to all but the last."""
    waits, printed = [], []
    monkeypatch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
    story.act_2(lambda: waits.append("\n".join(printed)))
    answers = ["P(Norm) = sigmoid(z) = 0.5", "0.2: Squatch", "CE = -log", "dCE/db", "reward", "new bias ="]
    assert len(waits) == 12
    for count, answer in enumerate(answers):
        assert waits[count].count("  ? ") == count + 1
        assert answer not in waits[count].split("  ? ")[-1]
        assert answer in waits[count + 1].split("  ? ")[-2] or answer in waits[count + 1]


def test_the_end_of_input_ends_it():
    status, output = in_a_terminal(b"\x04")
    assert status == 0
    assert heading(re.sub(r"\033\[\d+m", "", output)) == ["1"]
    assert "Traceback" not in output
