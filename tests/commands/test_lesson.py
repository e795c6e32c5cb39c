"""The lesson in the terminal. Expected numbers are the lesson's own or derived here; act 5's are the trainer's."""

import importlib
import math
import os
import pty
import random
import re
import select
import signal
import statistics
import subprocess
import sys
from contextlib import closing

import pytest
from conftest import ROOT

from pgtorch import TrainConfig, Trainer

ANSI = re.compile(r"\033\[\d+m")
WIDTH = 80
TOLD = {}


@pytest.fixture
def story(run_script, tmp_path):
    """What the script says, told once: the text of each act by its number."""
    if not TOLD:
        done = run_script("lesson.py", "--no-pause", cwd=tmp_path, PYTHONIOENCODING="utf-8")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert not list(tmp_path.iterdir())
        parts = re.split(r"^(?=Act \d: )", done.stdout, flags=re.MULTILINE)
        assert [part[:5] for part in parts[1:]] == ["Act 1", "Act 2", "Act 3", "Act 4", "Act 5"]
        TOLD.update(enumerate(parts))
    return TOLD


@pytest.fixture
def act_4(run_script, tmp_path):
    """Act 4 with the user's flags."""

    def told(*flags):
        done = run_script("lesson.py", "--act", 4, *flags, cwd=tmp_path, PYTHONIOENCODING="utf-8")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("\nAct 4: ")
        assert "Act 5" not in done.stdout
        return done.stdout

    return told


@pytest.fixture
def here(monkeypatch, capsys):
    """The script's main in this process, which is sooner done: here("--act", 4) gives status, output and errors."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    lesson = importlib.import_module("lesson")

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["lesson.py", *map(str, flags)])
        try:
            status = lesson.main()
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def shown(value):
    """Six decimals without the zeros at their end, but one."""
    return re.sub(r"(\.\d+?)0+$", r"\1", f"{value:.6f}")


def found(pattern, text):
    """What the groups of a pattern are wherever it stands in the text."""
    return re.findall(pattern, text)


def visits_of(text):
    """The numbers of each visit that an act shows, as they are printed."""
    return [
        {
            "z": found(r"z = 20\.0 x \S+ [+-] \S+ = (\S+)", visit)[0],
            "p_norm": found(r"P\(Norm\) = sigmoid\(z\) = (\S+)", visit)[0],
            "p_squatch": found(r"P\(Squatch\) = 1 - P\(Norm\) = (\S+)", visit)[0],
            "draw": found(r"random number (\S+): (\w+)", visit)[0],
            "guess": found(r"Guess that (\w+) is right", visit)[0],
            "ce": found(r"CE = -log P\((\w+)\) = (\S+)", visit)[0],
            "dce_dp": found(r"dCE/dP = (\S+) +(?:= )(\S+)", visit)[0],
            "dp_dz": found(r"dP/dz  = P\(1-P\) +(?:= )(\S+)", visit)[0],
            "dz_db": found(r"dz/db  = 1 +(?:= )(\S+)", visit)[0],
            "product": found(r"dCE/db = (\S+) x (\S+) x (\S+) = (\S+)", visit)[0],
            "outcome": found(r"(not hungry|hungry), and a (\w+) order: reward (\S+), a (\w+) guess", visit)[0],
            "updated": found(r"updated derivative = (\S+) x (\S+) = (\S+)", visit)[0],
            "autograd": found(r"autograd finds +(\S+) +\(difference (\S+)\)", visit)[0],
            "step": found(r"\n +new bias = bias ([+-]) .*\n += (\S+) ([+-]) (\S+) x (\S+) = (\S+)\n", visit)[0],
        }
        for visit in text.split("1. Ask the network")[1:]
    ]


def lines_of(text, signs="═┼─▲"):
    """Of each line from 0 to 1: where the sections meet and where the mark stands, in [0, 1], and the names above."""
    squatch, split, norm, mark = (re.escape(sign) for sign in signs)
    lines = []
    for names, sections, below in re.findall(rf"(.*)\n( +0 {squatch}*{split}{norm}* 1)\n(.*{mark}.*)", text):
        start, length = sections.index("0 ") + 2, len(sections.strip()) - 5
        border, place = sections.index(signs[1]) - start, below.index(signs[3]) - start
        assert place != border
        side = "Squatch" if place < border else "Norm"
        centres = [names.index(label) + len(label) / 2 - start for label in re.findall(r"\w+: \S+ to [\d.e-]+", names)]
        assert re.findall(r"(\w+): ", names) == ["Squatch", "Norm"]
        lines.append((border / length, (place - (place > border)) / length, side, centres[0] < border < centres[1]))
    return lines


def test_known_answers(story):
    rows = re.findall(r"^ +(\d\.\d) +([01]) +(\S+) +(\S+) +(\S+)$", story[1], re.MULTILINE)
    assert [row[:2] for row in rows] == [("0.0", "0"), ("1.0", "1"), ("0.1", "0"), ("0.9", "1")]
    for hunger, answer, p_norm, cross_entropy, derivative in rows:
        p, target = sigmoid(20 * float(hunger)), int(answer)
        assert float(p_norm) == pytest.approx(p, abs=5e-7)
        assert float(cross_entropy) == pytest.approx(-math.log(p if target else 1 - p), rel=5e-3, abs=1e-12)
        assert float(derivative) == pytest.approx(p - target, rel=5e-3, abs=1e-12)
    assert rows[0][2:] == ("0.5", "0.693147", "0.5")


def test_backpropagation_would_learn_them(story):
    bias, expected = 0.0, {}
    for step in range(1, 501):
        bias -= sum(sigmoid(20 * h + bias) - answer for h, answer in ((0.0, 0), (1.0, 1), (0.1, 0), (0.9, 1))) / 4
        expected[step] = [f"{bias:.2f}", *(f"{sigmoid(20 * h + bias):.2f}" for h in (0.0, 1.0, 0.1, 0.9))]
    rows = re.findall(
        r"^ +(\d+) +(-\d+\.\d\d) +(\d\.\d\d)  (\d\.\d\d)  (\d\.\d\d)  (\d\.\d\d)$", story[1], re.MULTILINE
    )
    assert {int(row[0]): list(row[1:]) for row in rows} == {step: expected[step] for step in (1, 10, 100, 500)}


def test_why_the_answers_are_not_known(story):
    told = " ".join(story[1].split())
    assert "Squatch serves a large one with probability 0.15, Norm with 0.80" in told
    assert "z = 20.0 x hunger + b" in told


def test_the_worked_example(story):
    first, second = visits_of(story[2])
    assert first == {
        "z": "0.0",
        "p_norm": "0.5",
        "p_squatch": "0.5",
        "draw": ("0.2", "Squatch"),
        "guess": "Squatch",
        "ce": ("Squatch", shown(math.log(2))),
        "dce_dp": ("1/(1-P)", "2.0"),
        "dp_dz": "0.25",
        "dz_db": "1.0",
        "product": ("2.0", "0.25", "1.0", "0.5"),
        "outcome": ("not hungry", "small", "+1", "good"),
        "updated": ("0.5", "+1", "0.5"),
        "autograd": ("0.5", "0.0"),
        "step": ("-", "0.0", "-", "1.0", "0.5", "-0.5"),
    }
    p = sigmoid(-0.5)
    assert second == {
        "z": "-0.5",
        "p_norm": "0.377541",
        "p_squatch": "0.622459",
        "draw": ("0.9", "Norm"),
        "guess": "Norm",
        "ce": ("Norm", shown(-math.log(p))),
        "dce_dp": ("-1/P", shown(-1 / p)),
        "dp_dz": shown(p * (1 - p)),
        "dz_db": "1.0",
        "product": (shown(-1 / p), shown(p * (1 - p)), "1.0", "-0.622459"),
        "outcome": ("not hungry", "large", "-1", "bad"),
        "updated": ("-0.622459", "-1", "0.622459"),
        "autograd": ("0.622459", "0.0"),
        "step": ("-", "-0.5", "-", "1.0", "0.622459", "-1.122459"),
    }
    assert found(r"Visit (\d): hunger (\S+), bias (\S+)", story[2]) == [("1", "0.0", "0.0"), ("2", "0.0", "-0.5")]
    assert story[2].count("Only now do we learn whether the guess was good.") == 1  # reasons at the first visit only
    assert found(r"After both visits P\(Norm\) at hunger 0\.0 is (\S+)\.\n", story[2]) == ["0.245555"]


def test_the_line_from_0_to_1(story):
    first, second = lines_of(story[2])
    assert first == (pytest.approx(0.5, abs=1 / 66), pytest.approx(0.2, abs=1 / 66), "Squatch", True)
    assert second == (pytest.approx(0.622459, abs=1 / 66), pytest.approx(0.9, abs=1 / 66), "Norm", True)
    assert found(r"Squatch: 0 to (\S+)", story[2]) == ["0.5", "0.622459"]
    assert found(r"Norm: (\S+) to 1", story[2]) == ["0.5", "0.622459"]


def test_larger_rewards(story):
    assert story[3].startswith("Act 3: +2 and -2\n")
    rows = found(r"(\+\d)/(-\d) +(\d) +(\S+) +(\S+) +x (\S+) += (\S+) +(\S+)\n", story[3])
    p = sigmoid(-1.0)
    assert rows == [
        ("+1", "-1", "1", "0.5", "0.5", "+1", "0.5", "-0.5"),
        ("+1", "-1", "2", "0.377541", "-0.622459", "-1", "0.622459", "-1.122459"),
        ("+2", "-2", "1", "0.5", "0.5", "+2", "1.0", "-1.0"),
        ("+2", "-2", "2", shown(p), shown(p - 1), "-2", shown(2 - 2 * p), shown(-3 + 2 * p)),
    ]


def test_act_4_shows_a_visit_by_itself(story):
    (visit,) = visits_of(story[4])
    p = sigmoid(2)
    assert visit["draw"] == ("0.5", "Norm")
    assert visit["outcome"] == ("not hungry", "large", "-1", "bad")
    assert visit["step"] == ("-", "0.0", "-", "1.0", shown(1 - p), shown(p - 1))
    assert "less likely: as it should be." in " ".join(story[4].split())


def test_choices_of_ones_own(act_4):
    told = act_4("--hunger", 0.15, "--draw", 0.03, "--portion", "small", "--reward-scale", 2.5)
    p = sigmoid(3)
    (visit,) = visits_of(told)
    assert visit["z"] == "3.0"
    assert visit["p_norm"] == shown(p)
    assert visit["draw"] == ("0.03", "Squatch")
    assert visit["product"] == (shown(1 / (1 - p)), shown(p * (1 - p)), "1.0", shown(p))
    assert visit["outcome"] == ("not hungry", "small", "+2.5", "good")
    assert visit["updated"] == (shown(p), "+2.5", shown(2.5 * p))
    assert visit["autograd"] == (shown(2.5 * p), "0.0")
    assert visit["step"] == ("-", "0.0", "-", "1.0", shown(2.5 * p), shown(-2.5 * p))
    after = re.search(r"P\(Norm\) at this hunger goes from (\S+) to (\S+)\. (.*)\n", told)
    assert after.groups()[:2] == (shown(p), shown(sigmoid(3 - 2.5 * p)))
    assert "Squatch was rewarded and is now more likely: as it should be." in " ".join(told.split())


def test_a_section_too_small_to_draw_still_has_its_mark(here):
    status, told, _ = here("--act", 4, "--hunger", 1, "--draw", 0)
    assert status == 0
    ((border, place, side, _),) = lines_of(told)
    assert (border, place, side) == (1 / 66, 0, "Squatch")
    (visit,) = visits_of(told)
    assert visit["p_norm"] == "0.999999998"
    assert visit["p_squatch"] == f"{sigmoid(-20):.3g}"
    assert visit["outcome"] == ("hungry", "large", "+1", "good")


def walk(sign):
    """The biases of 1,000 visits with rewards of +2 and -2, by arithmetic alone."""
    chance, biases = random.Random(0), [0.0]
    for _ in range(1000):
        hunger, draw, order = chance.random(), chance.random(), chance.random()
        p = sigmoid(20 * hunger + biases[-1])
        norm = draw >= 1 - p
        large = order < (0.80 if norm else 0.15)
        reward = 2 if large == (hunger > 0.5) else -2
        biases.append(biases[-1] - sign * reward * (p - norm))
    return biases


def mean_reward(bias):
    """What a visit earns in the mean with rewards of +2 and -2: a sum over 10,000 hungers."""
    total = 0.0
    for hunger in ((i + 0.5) / 10_000 for i in range(10_000)):
        p_large = 0.15 + (0.80 - 0.15) * sigmoid(20 * hunger + bias)
        total += 2 * (2 * p_large - 1) * (1 if hunger > 0.5 else -1)
    return total / 10_000


def test_the_wrong_sign_goes_wrong(act_4):
    told = act_4("--wrong-sign", "--reward-scale", 2)
    p = sigmoid(2)
    (visit,) = visits_of(told)
    assert visit["outcome"] == ("not hungry", "large", "-2", "bad")
    assert visit["step"] == ("+", "0.0", "+", "1.0", shown(2 * (1 - p)), shown(2 * (1 - p)))
    assert "WRONG SIGN" in told
    assert "Norm was a bad guess and is now more likely: the wrong way round!" in " ".join(told.split())
    right, wrong = walk(1.0), walk(-1.0)
    rows = found(r"after visit (\d+) +(\S+) +(\S+)\n", told)
    assert rows == [(str(n), f"{right[n]:z.2f}", f"{wrong[n]:z.2f}") for n in (1, 100, 300, 1000)]
    assert wrong[1000] > wrong[300] > wrong[100] > 1
    assert right[1000] == pytest.approx(-10, abs=3)
    ends = [(f"{h:.1f}", *(f"{sigmoid(20 * h + biases[1000]):.2f}" for biases in (right, wrong))) for h in (0.0, 1.0)]
    assert found(r"P\(Norm \| hunger (\S+)\) +(\S+) +(\S+)\n", told) == ends
    assert ends[0] == ("0.0", "0.00", "1.00")
    assert "The best bias is -10.00." in told
    rewards = re.search(r"reward of (\S+) with the right sign, of (\S+) with", " ".join(told.split())).groups()
    assert rewards == tuple(f"{mean_reward(biases[1000]):z.2f}" for biases in (right, wrong))
    assert float(rewards[0]) > 0.9
    assert float(rewards[1]) < 0.1


def test_the_trainer_runs_on(story):
    told = story[5]
    rows = [
        (int(n.replace(",", "")), float(b), row) for n, b, row in found(r" ([\d,]+) +(-?\d+\.\d\d)   \|(.*)\|\n", told)
    ]
    assert [row[0] for row in rows] == list(range(0, 2001, 100))
    assert rows[0][1] == 0
    for _, bias, row in rows:
        assert len(row) == 57
        assert row.index("*") == pytest.approx(min(max(4 * (bias + 14), 0), 56), abs=0.53)
        assert row.replace("*", " ").strip() in (":", "")
        assert row[16] in ":*"
    (mean,) = found(r"mean of the bias, last 1,000 visits +(\S+)\n", told)
    assert -11 < float(mean) < -9
    with closing(Trainer(TrainConfig())) as trainer:
        biases = [trainer.update()["policy/bias"] for _ in range(2000)]
    assert [row[1] for row in rows[1:]] == [round(bias, 2) for bias in biases[99::100]]
    assert mean == f"{statistics.fmean(biases[1000:]):.3f}"
    assert found(r"standard deviation +(\S+)\n", told) == [f"{statistics.stdev(biases[1000:]):.3f}"]
    assert found(r"P\(Norm \| hunger (\S+)\) +(\S+)\n", told) == [("0.0", "0.00"), ("1.0", "1.00")]
    assert found(r"largest difference +(\S+)\n", told) == ["0.0"]
    assert "known exactly here: -10.00." in told
    assert "python scripts/train.py\n    tensorboard --logdir runs\n" in told


def test_plain_text_of_80_columns(story):
    text = "".join(story.values())
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "\033" not in text
    assert "Press Enter" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_without_unicode_and_without_anybody_to_wait_for(run_script, tmp_path, story):
    done = run_script("lesson.py", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert lines_of(done.stdout, "=|-^") == lines_of(story[2] + story[4])
    assert visits_of(done.stdout) == visits_of("".join(story.values()))
    assert done.stdout.endswith(story[5])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--hunger 1.5", "hunger must be in [0, 1], got 1.5"),
        ("--hunger -0.1", "hunger must be in [0, 1], got -0.1"),
        ("--hunger nan", "hunger must be in [0, 1], got nan"),
        ("--draw 1", "draw must be in [0, 1), got 1.0"),
        ("--reward-scale 0", "reward_scale must be in (0, 1e6], got 0.0"),
        ("--reward-scale inf", "reward_scale must be in (0, 1e6], got inf"),
        ("--draw much", "--draw"),
        ("--spice", "--spice"),
        ("--portion medium", "'medium' for argument '--portion'. Expected one of ('large', 'small')"),
        ("--act 6", "act must be in [1, 5], got 6"),
    ],
)
def test_bad_input_is_told_in_one_line(here, flags, told):
    status, output, errors = here(*flags.split())
    assert status == 2
    assert len(errors.splitlines()) == 1
    assert errors.startswith("lesson.py: error: ")
    assert told in errors
    assert output == ""


def test_bad_input_ends_the_process_with_status_2(run_script, tmp_path):
    done = run_script("lesson.py", "--hunger", 1.5, cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def in_a_terminal(*answers, **environment):
    """Run the script in a terminal, one answer for each pause: text to type, or a signal. Gives status and output."""
    settings = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    settings |= {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment}
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "scripts" / "lesson.py")]
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


def test_a_terminal_has_pauses_and_colors(story):
    status, output = in_a_terminal(b"\n", signal.SIGINT)
    assert status == 130
    assert "Traceback" not in output
    assert output.count("Press Enter") == 2
    assert ANSI.search(output)
    told = ANSI.sub("", output)
    assert max(len(line) for line in told.splitlines()) <= WIDTH
    for act in (1, 2):
        assert story[act].strip() in told
    assert "Act 3" not in told


def test_without_colors_and_out_at_the_end_of_input():
    status, output = in_a_terminal(b"\x04", NO_COLOR="1")
    assert status == 0
    assert "\033[" not in output.replace("\033[?2004h", "").replace("\033[?2004l", "")
    assert "Act 2" not in output
    assert "Traceback" not in output
