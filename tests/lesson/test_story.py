"""The five acts as they are printed. Expected numbers are the lesson's or derived here; act 5's are the trainer's."""

import io
import math
import random
import re
import statistics
import sys
from contextlib import closing

import pytest

from pgtorch import TrainConfig, Trainer
from pgtorch.lesson import story
from pgtorch.lesson.steps import Visit

WIDTH = 80


class Terminal(io.TextIOWrapper):
    """A standard output with an encoding of its own, perhaps a terminal's."""

    def __init__(self, encoding, is_terminal=False):
        super().__init__(io.BytesIO(), encoding)
        self.is_terminal = is_terminal

    def isatty(self):
        return self.is_terminal


def told(act, *arguments, encoding="utf-8", is_terminal=False, **settings):
    """What an act prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", Terminal(encoding, is_terminal))
        act(*arguments, **settings)
        sys.stdout.flush()
        return sys.stdout.buffer.getvalue().decode(encoding)


@pytest.fixture(scope="module")
def acts():
    """The text of each act by its number."""
    return {number: told(getattr(story, f"act_{number}")) for number in range(1, 6)}


def in_one_line(text):
    return " ".join(text.split())


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def shown(value):
    """Six decimals without trailing zeros, but at least one."""
    return re.sub(r"(\.\d+?)0+$", r"\1", f"{value:.6f}")


def found(pattern, text):
    """The groups of a pattern wherever it stands in the text."""
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
    """Of each line from 0 to 1: where the stretches meet and where the mark stands, in [0, 1], and the names above."""
    squatch, split, norm, mark = (re.escape(sign) for sign in signs)
    lines = []
    for names, stretches, below in re.findall(rf"(.*)\n( +0 {squatch}*{split}{norm}* 1)\n(.*{mark}.*)", text):
        start, length = stretches.index("0 ") + 2, len(stretches.strip()) - 5
        border, place = stretches.index(signs[1]) - start, below.index(signs[3]) - start
        assert place != border
        side = "Squatch" if place < border else "Norm"
        centers = [names.index(label) + len(label) / 2 - start for label in re.findall(r"\w+: \S+ to [\d.e-]+", names)]
        assert re.findall(r"(\w+): ", names) == ["Squatch", "Norm"]
        lines.append((border / length, (place - (place > border)) / length, side, centers[0] < border < centers[1]))
    return lines


def test_known_answers(acts):
    rows = re.findall(r"^ +(\d\.\d) +([01]) +(\S+) +(\S+) +(\S+)$", acts[1], re.MULTILINE)
    assert [row[:2] for row in rows] == [("0.0", "0"), ("1.0", "1"), ("0.1", "0"), ("0.9", "1")]
    for hunger, answer, p_norm, cross_entropy, derivative in rows:
        p, target = sigmoid(20 * float(hunger)), int(answer)
        assert float(p_norm) == pytest.approx(p, abs=5e-7)
        assert float(cross_entropy) == pytest.approx(-math.log(p if target else 1 - p), rel=5e-3, abs=1e-12)
        assert float(derivative) == pytest.approx(p - target, rel=5e-3, abs=1e-12)
    assert rows[0][2:] == ("0.5", "0.693147", "0.5")


def test_backpropagation_would_learn_them(acts):
    bias, expected = 0.0, {}
    for step in range(1, 501):
        bias -= sum(sigmoid(20 * h + bias) - answer for h, answer in ((0.0, 0), (1.0, 1), (0.1, 0), (0.9, 1))) / 4
        expected[step] = [f"{bias:.2f}", *(f"{sigmoid(20 * h + bias):.2f}" for h in (0.0, 1.0, 0.1, 0.9))]
    rows = re.findall(r"^ +(\d+) +(-\d+\.\d\d) +(\d\.\d\d)  (\d\.\d\d)  (\d\.\d\d)  (\d\.\d\d)$", acts[1], re.MULTILINE)
    assert {int(row[0]): list(row[1:]) for row in rows} == {step: expected[step] for step in (1, 10, 100, 500)}


def test_why_the_answers_are_not_known(acts):
    text = in_one_line(acts[1])
    assert "Squatch serves a large one with probability 0.15, Norm with 0.80" in text
    assert "z = 20.0 x hunger + b" in text


def test_the_worked_example(acts):
    first, second = visits_of(acts[2])
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
    assert found(r"Visit (\d): hunger (\S+), bias (\S+)", acts[2]) == [("1", "0.0", "0.0"), ("2", "0.0", "-0.5")]
    assert found(r"After both visits P\(Norm\) at hunger 0\.0 is (\S+)\.\n", acts[2]) == ["0.245555"]


def test_reasons_stand_at_the_first_visit_only(acts):
    for reason in story.REASONS:
        assert in_one_line(acts[2]).count(reason) == 1
        assert reason not in in_one_line(acts[4])


def test_the_line_from_0_to_1(acts):
    first, second = lines_of(acts[2])
    assert first == (pytest.approx(0.5, abs=1 / 66), pytest.approx(0.2, abs=1 / 66), "Squatch", True)
    assert second == (pytest.approx(0.622459, abs=1 / 66), pytest.approx(0.9, abs=1 / 66), "Norm", True)
    assert found(r"Squatch: 0 to (\S+)", acts[2]) == ["0.5", "0.622459"]
    assert found(r"Norm: (\S+) to 1", acts[2]) == ["0.5", "0.622459"]


def test_larger_rewards(acts):
    assert acts[3].startswith("\nAct 3: +2 and -2\n")
    rows = found(r"(\+\d)/(-\d) +(\d) +(\S+) +(\S+) +x (\S+) += (\S+) +(\S+)\n", acts[3])
    p = sigmoid(-1.0)
    assert rows == [
        ("+1", "-1", "1", "0.5", "0.5", "+1", "0.5", "-0.5"),
        ("+1", "-1", "2", "0.377541", "-0.622459", "-1", "0.622459", "-1.122459"),
        ("+2", "-2", "1", "0.5", "0.5", "+2", "1.0", "-1.0"),
        ("+2", "-2", "2", shown(p), shown(p - 1), "-2", shown(2 - 2 * p), shown(-3 + 2 * p)),
    ]


def test_act_4_shows_a_visit_by_itself(acts):
    (visit,) = visits_of(acts[4])
    p = sigmoid(2)
    assert visit["draw"] == ("0.5", "Norm")
    assert visit["outcome"] == ("not hungry", "large", "-1", "bad")
    assert visit["step"] == ("-", "0.0", "-", "1.0", shown(1 - p), shown(p - 1))
    assert "less likely: as it should be." in in_one_line(acts[4])


def test_a_visit_of_the_users_choice():
    text = told(story.act_4, Visit(hunger=0.15, draw=0.03, large=False), reward_scale=2.5)
    p = sigmoid(3)
    (visit,) = visits_of(text)
    assert visit["z"] == "3.0"
    assert visit["p_norm"] == shown(p)
    assert visit["draw"] == ("0.03", "Squatch")
    assert visit["product"] == (shown(1 / (1 - p)), shown(p * (1 - p)), "1.0", shown(p))
    assert visit["outcome"] == ("not hungry", "small", "+2.5", "good")
    assert visit["updated"] == (shown(p), "+2.5", shown(2.5 * p))
    assert visit["autograd"] == (shown(2.5 * p), "0.0")
    assert visit["step"] == ("-", "0.0", "-", "1.0", shown(2.5 * p), shown(-2.5 * p))
    after = re.search(r"P\(Norm\) at this hunger goes from (\S+) to (\S+)\. ", in_one_line(text))
    assert after.groups() == (shown(p), shown(sigmoid(3 - 2.5 * p)))
    assert "Squatch was rewarded and is now more likely: as it should be." in in_one_line(text)


def test_a_bias_and_a_learning_rate_of_the_users_choice():
    text = told(story.act_4, Visit(hunger=0.6, draw=0.5, large=True), bias=-9.0, learning_rate=0.1)
    (visit,) = visits_of(text)
    p = sigmoid(20 * 0.6 - 9)
    assert (visit["z"], visit["draw"]) == ("3.0", ("0.5", "Norm"))
    assert visit["step"] == ("-", "-9.0", "-", "0.1", shown(p - 1), shown(-9 + 0.1 * (1 - p)))
    assert "luck" not in text


@pytest.mark.parametrize(
    ("hunger", "draw", "large", "luck"),
    [
        (0.1, 0.5, False, "luck"),  # Norm, and a small order although we are not hungry
        (0.1, 0.01, True, "bad luck"),  # Squatch, and a large one
        (0.9, 0.5, False, "bad luck"),  # Norm, hungry, and a small one
        (0.1, 0.5, True, None),
        (0.1, 0.01, False, None),
        (0.9, 0.5, True, None),
    ],
)
def test_luck_is_told_and_averages_out(hunger, draw, large, luck):
    """The mean step is an expectation over both places and both orders."""
    text = in_one_line(told(story.act_4, Visit(hunger, draw, large), reward_scale=3.0, learning_rate=0.5))
    assert found(r"But that was ((?:bad )?luck):", text) == ([luck] if luck else [])
    if luck:
        p, sign = sigmoid(20 * hunger), 1 if hunger > 0.5 else -1
        mean_reward = [3 * sign * (2 * q - 1) for q in (0.15, 0.80)]
        mean = 0.5 * (p * (1 - p) * mean_reward[1] - (1 - p) * p * mean_reward[0])
        better = "Norm" if hunger > 0.5 else "Squatch"
        ((step, place),) = found(r"over all draws and orders is (\S+), toward (\w+)\.", text)
        assert (float(step), place) == (pytest.approx(mean, rel=1e-2, abs=1e-6), better)
        assert f"{better} is the better place" in text


def test_the_line_and_its_sigmoid_are_sketched(acts):
    pattern = re.compile(r"^ +(?:-?\d+)? \|([ *]{27})\| +(?:0\.5|1|0)? \|([ *]{27})\|$", re.MULTILINE)
    for act, biases in ((1, (0.0, -5.0)), (5, (-10.0,))):
        rows = pattern.findall(acts[act])
        assert len(rows) == 9 * len(biases)
        for count, bias in enumerate(biases):
            lines, curves = zip(*rows[9 * count : 9 * count + 9], strict=True)
            for column in range(27):
                z = 20 * column / 26 + bias
                low, high = min(bias, 0), 20 + bias
                (line,), (curve,) = (
                    [8 - row for row in range(9) if plot[row][column] == "*"] for plot in (lines, curves)
                )
                assert line / 8 == pytest.approx((z - low) / (high - low), abs=1 / 15.9)
                assert curve / 8 == pytest.approx(sigmoid(z), abs=1 / 15.9)


def test_why_minus_10(acts):
    assert "Why -10? P(Norm) is one half where z = 20 h + b is 0" in in_one_line(acts[5])
    assert "b = -20 x 0.5 = -10." in in_one_line(acts[5])


def test_a_stretch_too_short_to_draw_still_has_its_mark():
    text = told(story.act_4, Visit(hunger=1.0, draw=0.0, large=True))
    ((border, place, side, _),) = lines_of(text)
    assert (border, place, side) == (1 / 66, 0, "Squatch")
    (visit,) = visits_of(text)
    assert visit["p_norm"] == "0.999999998"
    assert visit["p_squatch"] == f"{sigmoid(-20):.3g}"
    assert visit["outcome"] == ("hungry", "large", "+1", "good")


def walk(sign):
    """The biases of 1,000 visits with rewards of +2 and -2, by arithmetic alone."""
    generator, biases = random.Random(0), [0.0]
    for _ in range(1000):
        hunger, draw, order = generator.random(), generator.random(), generator.random()
        p = sigmoid(20 * hunger + biases[-1])
        norm = draw >= 1 - p
        large = order < (0.80 if norm else 0.15)
        reward = 2 if large == (hunger > 0.5) else -2
        biases.append(biases[-1] - sign * reward * (p - norm))
    return biases


def mean_reward(bias):
    """What a visit earns on average with rewards of +2 and -2: a sum over 10,000 hungers."""
    total = 0.0
    for hunger in ((i + 0.5) / 10_000 for i in range(10_000)):
        p_large = 0.15 + (0.80 - 0.15) * sigmoid(20 * hunger + bias)
        total += 2 * (2 * p_large - 1) * (1 if hunger > 0.5 else -1)
    return total / 10_000


def test_the_wrong_sign_goes_wrong():
    text = told(story.act_4, reward_scale=2.0, wrong_sign=True)
    p = sigmoid(2)
    (visit,) = visits_of(text)
    assert visit["outcome"] == ("not hungry", "large", "-2", "bad")
    assert visit["step"] == ("+", "0.0", "+", "1.0", shown(2 * (1 - p)), shown(2 * (1 - p)))
    assert "WRONG SIGN" in text
    assert "Norm was a bad guess and is now more likely: the wrong way around!" in in_one_line(text)
    right, wrong = walk(1.0), walk(-1.0)
    rows = found(r"after visit (\d+) +(\S+) +(\S+)\n", text)
    assert rows == [(str(n), f"{right[n]:z.2f}", f"{wrong[n]:z.2f}") for n in (1, 100, 300, 1000)]
    assert wrong[1000] > wrong[300] > wrong[100] > 1
    assert right[1000] == pytest.approx(-10, abs=3)
    ends = [(f"{h:.1f}", *(f"{sigmoid(20 * h + biases[1000]):.2f}" for biases in (right, wrong))) for h in (0.0, 1.0)]
    assert found(r"P\(Norm \| hunger (\S+)\) +(\S+) +(\S+)\n", text) == ends
    assert ends[0] == ("0.0", "0.00", "1.00")
    assert "The best bias is -10.00." in text
    rewards = re.search(r"reward of (\S+) with the right sign, and of (\S+) with", in_one_line(text)).groups()
    assert rewards == tuple(f"{mean_reward(biases[1000]):z.2f}" for biases in (right, wrong))
    assert float(rewards[0]) > 0.9
    assert float(rewards[1]) < 0.1


def test_the_trainer_continues(acts):
    text = acts[5]
    rows = [
        (int(n.replace(",", "")), float(b), row) for n, b, row in found(r" ([\d,]+) +(-?\d+\.\d\d)   \|(.*)\|\n", text)
    ]
    assert [row[0] for row in rows] == list(range(0, 2001, 100))
    assert rows[0][1] == 0
    for _, bias, row in rows:
        assert len(row) == 57
        assert row.index("*") == pytest.approx(min(max(4 * (bias + 14), 0), 56), abs=0.53)
        assert row.replace("*", " ").strip() in (":", "")
        assert row[16] in ":*"
    (mean,) = found(r"mean of the bias, last 1,000 visits +(\S+)\n", text)
    assert -11 < float(mean) < -9
    with closing(Trainer(TrainConfig())) as trainer:
        biases = [trainer.update()["policy/bias"] for _ in range(2000)]
    assert [row[1] for row in rows[1:]] == [round(bias, 2) for bias in biases[99::100]]
    assert mean == f"{statistics.fmean(biases[1000:]):.3f}"
    assert found(r"standard deviation +(\S+)\n", text) == [f"{statistics.stdev(biases[1000:]):.3f}"]
    assert found(r"P\(Norm \| hunger (\S+)\) +(\S+)\n", text) == [("0.0", "0.00"), ("1.0", "1.00")]
    assert found(r"largest difference +(\S+)\n", text) == ["0.0"]
    assert "known exactly here: -10.00." in text
    assert "pgtorch train\n    tensorboard --logdir runs\n" in text


def test_plain_text_of_80_columns(acts):
    text = "".join(acts.values())
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "\033" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_without_unicode(acts):
    """Kills a line drawn in box characters where the encoding lacks them: it would raise UnicodeEncodeError."""
    plain = told(story.act_2, encoding="ascii") + told(story.act_4, encoding="ascii")
    assert lines_of(plain, "=|-^") == lines_of(acts[2] + acts[4])
    assert visits_of(plain) == visits_of(acts[2] + acts[4])


def test_colors_in_a_terminal_that_wants_them(acts, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    colored = told(story.act_2, is_terminal=True)
    assert "\033[32m" in colored
    assert re.sub(r"\033\[\d+m", "", colored) == acts[2]
    monkeypatch.setenv("TERM", "dumb")
    assert told(story.act_2, is_terminal=True) == acts[2]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert told(story.act_2, is_terminal=True) == acts[2]
