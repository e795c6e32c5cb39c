"""Answers as learners write them, right and wrong: the verdict, and the hint. The hints are those of the real check."""

import json
import math
import signal
import sys
import time

import pytest
import torch
from support import HOST, leaves
from wrong_answers import HELPERS, WRONG_ANSWERS

from pgtorch.exercises import solutions
from pgtorch.exercises.cases import EXERCISES
from pgtorch.exercises.check import _agree, _answer, _look, check
from pgtorch.exercises.hints import WRONG
from pgtorch.exercises.workbook import SOLUTIONS, blank
from pgtorch.lesson.steps import MODEL

SOURCE = SOLUTIONS.read_text() + HELPERS
NUMBER = {exercise.name: exercise.number for exercise in EXERCISES}
TABLE = [(signature, *row) for signature, rows in WRONG_ANSWERS.items() for row in rows]

# Right answers in other styles than the solutions'.
RIGHT_ANSWERS = [
    ("sigmoid(z)", "return torch.sigmoid(torch.tensor(z))"),
    ("sigmoid(z)", "return 0.5 * (1 + math.tanh(z / 2))"),
    ("sigmoid(z)", "return 1 / (1 + np.exp(-z))"),  # numpy gives inf, and 1 / inf is 0
    ("sigmoid(z)", "return torch.sigmoid(z)"),  # only takes a tensor
    ("sigmoid(z)", "return torch.sigmoid(torch.tensor([z], dtype=torch.float32))"),
    ("sigmoid(z)", "return torch.softmax(torch.tensor([0.0, z]), 0)[1]"),
    ("guess_derivative(h, b, a)", "return torch.sigmoid(torch.tensor(WEIGHT * h + b)) - a"),
    (
        "guess_derivative(h, b, a)",
        "P = sigmoid(WEIGHT * h + b); return (-1 / P if a else 1 / (1 - P)) * P * (1 - P) * 1.0",
    ),
    ("guess_derivative(h, b, a)", "P = np.exp(20 * h + b) / (1 + np.exp(20 * h + b)); return [P, P - 1][a]"),
    (
        "guess_derivative(h, b, a)",
        "b = torch.tensor(b, requires_grad=True); z = (WEIGHT * h + b) * (1 if a else -1); "
        "(-torch.nn.functional.logsigmoid(z)).backward(); return b.grad",
    ),
    ("times_reward(d, r)", "return np.multiply(r, d)"),
    ("times_reward(d, r)", "return torch.tensor(r) * torch.tensor(d)"),
    ("step(b, lr, d)", "b -= lr * d; return b"),
    ("loss(p, r)", "return -torch.log(torch.tensor(p)) * r"),
    ("loss(p, r)", "return -torch.log(p) * r"),
    ("loss(p, r)", "return r * np.log(1 / p)"),
    ("loss(p, r)", "return -math.log(p) * r + 7"),  # its value means nothing
    ("loss(p, r)", "return -math.log(p) * (r - 0.3)"),  # a baseline changes no expectation
    ("loss(p, r)", "return -(torch.log(torch.tensor([p])) * torch.tensor([r])).mean()"),
    ("two_logits(z, a)", "p = np.exp(z) / np.exp(z).sum(); p[a] -= 1; return p"),
    ("two_logits(z, a)", "return torch.softmax(torch.tensor(z), 0) - torch.eye(2)[a]"),
    ("two_logits(z, a)", "return torch.softmax(z, 0) - torch.nn.functional.one_hot(torch.tensor(a), 2)"),
    ("two_logits(z, a)", "p = sigmoid(z[1] - z[0]); return (1 - p - (a == 0), p - (a == 1))"),
    (
        "two_logits(z, a)",
        "z = torch.tensor(z, requires_grad=True); torch.nn.functional.cross_entropy(z, torch.tensor(a)).backward(); "
        "return z.grad",
    ),
    (
        "mean_and_variance(p, d, r, b)",
        "u = np.array(d) * (np.array(r) - b); m = np.average(u, weights=p); return m, np.average((u - m) ** 2, weights=p)",
    ),
    ("mean_and_variance(p, d, r, b)", "u = d * (r - b); m = (p * u).sum(); return m, (p * u ** 2).sum() - m ** 2"),
    (
        "mean_and_variance(p, d, r, b)",
        "p, d, r = (torch.tensor(x) for x in (p, d, r)); u = d * (r - b); m = p @ u; return torch.stack([m, p @ (u - m) ** 2])",
    ),
    (
        "reward_to_go(r, end, cut, v, g)",
        "return [r[t] + (0 if end[t] else g * v[t] if cut[t] else g * reward_to_go(r[t + 1:], end[t + 1:], "
        "cut[t + 1:], v[t + 1:], g)[0]) for t in range(len(r))]",
    ),
    ("reward_to_go(r, end, cut, v, g)", "return torch.tensor(backward(r, end, cut, v, g), dtype=torch.float32)"),
    ("reward_to_go(r, end, cut, v, g)", "return np.asarray(backward(r, end, cut, v, g))[:, None]"),
    (
        "gae(r, end, cut, v, n, g, k)",
        "r, v, n, end = map(np.asarray, (r, v, n, end)); delta = r + g * n * ~end - v; "
        "return [delta[t] + sum((g * k) ** (j - t) * delta[j] for j in range(t + 1, len(r)) "
        "if not any(end[t:j]) and not any(cut[t:j])) for t in range(len(r))]",
    ),
    (
        "gae(r, end, cut, v, n, g, k)",
        "a = 0; out = torch.zeros(len(r))\n"
        "    for t in reversed(range(len(r))):\n"
        "        live = 1.0 - float(end[t] or cut[t])\n"
        "        a = r[t] + g * n[t] * (1.0 - float(end[t])) - v[t] + g * k * live * a\n"
        "        out[t] = a\n"
        "    return out",
    ),
    (
        "clipped(n, o, a, c)",
        "r = torch.exp(torch.tensor(n) - torch.tensor(o)); return torch.min(r * a, torch.clamp(r, 1 - c, 1 + c) * a)",
    ),
    ("clipped(n, o, a, c)", "r = np.exp(n - o); return np.minimum(r * a, np.clip(r, 1 - c, 1 + c) * a)"),
    ("clipped(n, o, a, c)", "r = math.exp(n - o); return a * (min(r, 1 + c) if a > 0 else max(r, 1 - c))"),
    ("clipped(n, o, a, c)", "r = torch.exp(n - o); return torch.minimum(r * a, r.clamp(1 - c, 1 + c) * a)"),
]


@pytest.fixture
def judge(tmp_path):
    """The result of one answer, in a workbook whose other answers are right: judge("step(b, s, d)", "return b")."""

    def judge(signature, code, **settings):
        path = tmp_path / "workbook.py"
        path.write_text(f"{SOURCE}\n\ndef {signature}:\n    {code}\n")
        (result,) = check(path, NUMBER[signature.partition("(")[0]], **settings).results
        return result

    return judge


@pytest.mark.parametrize(("signature", "code"), RIGHT_ANSWERS)
def test_a_right_answer_in_any_style(judge, signature, code):
    result = judge(signature, code)
    assert result.status == "correct", result


@pytest.mark.parametrize(("signature", "code", "words"), TABLE)
def test_a_wrong_answer_gets_its_hint(judge, signature, code, words):
    result = judge(signature, code)
    assert result.status == "wrong"
    assert words in result.message
    assert "{" not in result.message + result.effect + result.example
    assert result.example or result.hint == "error"


def test_there_are_enough_hints_of_their_own():
    words = {words for _, _, words in TABLE}
    assert len(words) >= 130
    assert all(len({words for _, words in rows}) >= 12 for rows in WRONG_ANSWERS.values())


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_typical_wrong_answers_are_wrong_and_differ(exercise):
    """Or a hint would be about another answer than the one that was given."""
    gives = {}
    for wrong in WRONG[exercise.name]:
        seen = [_look(case, _answer(wrong.function, lambda argument: argument)) for case in exercise.cases]
        assert not all(one.is_right for one in seen), wrong.key
        for key, others in gives.items():
            same = [
                (a.error is None) == (b.error is None) and _agree(a.numbers, b.numbers)
                for a, b in zip(seen, others, strict=True)
            ]
            assert key == wrong.key or not all(same), (key, wrong.key)
        gives[wrong.key] = seen


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_what_is_expected_is_what_the_solution_gives(exercise):
    """To the accuracy of the differences: far below the tolerance, which leaves the rest to float32."""
    answer = _answer(getattr(solutions, exercise.name), lambda argument: argument)
    for case in exercise.cases:
        got = case.look(answer)[: len(case.expected)]
        assert got == pytest.approx(case.expected, rel=3e-6, abs=3e-6)


def test_the_effect_is_that_of_the_exact_mean_reward(judge):
    b = -4.0
    for _ in range(20):
        b -= 2.0 * MODEL.gradient(b)
    before, after = MODEL.expected_reward(-4.0), MODEL.expected_reward(b)
    effect = judge(
        "step(bias, learning_rate, updated_derivative)", "return bias + learning_rate * updated_derivative"
    ).effect
    assert f"lower the mean reward from {before:.2f} to {after:.2f}" in effect
    assert (f"{before:.2f}", f"{after:.2f}") == ("0.26", "0.11")


@pytest.mark.parametrize(
    ("signature", "code", "said"),
    [
        ("guess_derivative(h, b, a)", "return 1.7 * (sigmoid(20 * h + b) - a)", "It is always 1.7 times what it must be."),
        ("guess_derivative(h, b, a)", "return sigmoid(20 * h + b) - a * 0.9", "Of all inputs tried, it is wrong only for Norm."),
        ("guess_derivative(h, b, a)", "return sigmoid(20 * h + b) - a + 0.1", "It is always 0.1 too large."),
        ("guess_derivative(h, b, a)", "return 0.5 - a", "It gives the same for each hunger that was tried. It gives the same for each bias that was tried."),
        ("step(b, s, d)", "return 3.0", "It always gives 3, whatever the arguments."),
        ("mean_and_variance(p, d, r, b)", "m, v = moments(p, np.array(d) * (np.array(r) - b)); return m, v * 3 + m", "Only the variance"),
        ("clipped(n, o, a, c)", "r = math.exp(n - o); return min(r, 1 + c) * a if a > 0 else r * a + 0.1", "negative advantages"),
        ("step(b, s, d)", "return b - s * d * abs(b)", "Not right yet."),
        ("sigmoid(z)", "return 2 / (1 + np.exp(-z))", "It is always 2 times what it must be."),
        ("sigmoid(z)", "return 1 / (2 + np.exp(-z))", "At z = 0 it is 0.3333, and must be 0.5."),
        ("sigmoid(z)", "return 1 / (1 + math.exp(-z**2))", "It does not rise with z everywhere."),
        ("guess_derivative(h, b, a)", "return 0.3 * (1 + a + b)", "The mean over both places, each weighted by its P, is not 0"),
        ("two_logits(z, a)", "p = softmax(z); return [p[0] + 0.1, p[1]]", "The two do not sum to 0"),
        ("mean_and_variance(p, d, r, b)", "m, v = moments(p, d); return b, v", "Its mean changes with the baseline"),
        ("mean_and_variance(p, d, r, b)", "m, v = moments(p, d); return m, -v", "Its variance is negative"),
        ("gae(r, e, c, v, n, g, k)", "return backward_gae(r, [x and t > 0 for t, x in enumerate(e)], c, v, n, g, k)", "It is wrong at steps that terminate. Inside"),
        ("gae(r, e, c, v, n, g, k)", "return backward_gae(r, e, c, v, n, g, k * 0.7)", "Inside an episode A_t = delta_t + discount * gae_lambda * A_t+1 does not hold"),
        ("reward_to_go(r, e, c, n, g)", "return backward(r, e, c, [x + 1 for x in n], g)", "It is wrong at steps that are cut off. Inside an episode R_t"),
        ("clipped(n, o, a, c)", "return -min(n - o, 0.1) * a * c", "At ratio 1 it must be the advantage, and is not."),
        ("clipped(n, o, a, c)", "return max(a, math.exp(n - o) * a)", "It is sometimes larger than ratio * advantage"),
    ],
)  # fmt: skip
def test_what_is_said_of_other_wrong_answers(judge, signature, code, said):
    result = judge(signature, code)
    assert (result.status, result.hint) == ("wrong", "")
    assert said in result.message


@pytest.mark.parametrize(
    ("signature", "code", "keys"),
    [
        ("gae(r, e, c, v, n, g, k)", "return backward_gae(r, [False] * len(r), c, v, n, g, 1.0)", ("value after an end", "sum past an end", "lambda forgotten")),
        ("gae(r, e, c, v, n, g, k)", "return [x + g * y for x, y in zip(r, n)]", ("value after an end", "delta only", "value not subtracted")),
        ("reward_to_go(r, e, c, n, g)", "return backward(r, [x or y for x, y in zip(e, c)], c, n, 1.0)", ("cut as an end", "discount missing between steps")),
        ("clipped(n, o, a, c)", "return math.exp(o - n) * a", ("ratio inverted", "clip forgotten")),
        ("guess_derivative(h, b, a)", "return a - sigmoid(h + b)", ("weight left out", "minus missing")),
        ("two_logits(z, a)", "p = softmax(z); p = [-x for x in p]; p[1] += 1; return p", ("always Norm, negative",)),
    ],
)  # fmt: skip
def test_two_mistakes_at_once_are_named(judge, signature, code, keys):
    result = judge(signature, code)
    assert result.hint == "; ".join(keys)
    if len(keys) > 1:
        assert result.message.startswith("Two things. " if len(keys) == 2 else "Three things. ")


def test_an_example_has_the_numbers(judge):
    example = judge("guess_derivative(h, b, a)", "return 2 * (sigmoid(20 * h + b) - a)").example
    assert example == "guess_derivative(hunger=0, bias=0, place=0) gives 1; -log P(place) has the slope 0.5."


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise KeyError('spice')", "raises KeyError in line"),
        ("b - s * d", "returns None; is there a return missing?"),
        ("return 'x'", "returns 'x', which is no number."),
        ("return [b, s]", "returns 2 numbers, and must return 1."),
        ("return b - rate * d", "name 'rate' is not defined."),
        ("return b / 0.0", "ZeroDivisionError"),
        ("return float('nan')", "returns nan."),
        ("import sys; sys.exit(5)", "raises SystemExit"),
        (
            "try:\n        raise SystemExit\n    except:\n        return b - s * d",
            "raises SystemExit",
        ),  # nor the time limit
        ("input(); return b", "raises EOFError"),
        ("return step(b, s, d)", "raises RecursionError"),
    ],
)
def test_an_exception_is_reported_with_its_call(judge, code, said):
    result = judge("step(b, s, d)", code)
    assert result.status == "wrong"
    assert said in result.message
    assert result.message.startswith("step(bias=-4, learning_rate=1, updated_derivative=1.27) ")


@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        *(
            f"while True:\n        try:\n            while True: math.sqrt(b * b)\n        {e}: pass"
            for e in ("except", "except Exception")
        ),
    ],
)
def test_a_loop_that_never_ends_loses_only_its_exercise(tmp_path, loop):
    path = tmp_path / "workbook.py"
    path.write_text(f"{SOURCE}\n\ndef step(b, s, d):\n    {loop}\n")
    begin = time.monotonic()
    report = check(path, seconds=0.5)
    assert time.monotonic() - begin < 20
    assert report.correct == 9
    assert "It did not return within 0.5 seconds." in report.results[3].message


def test_a_loop_outside_of_the_functions(tmp_path):
    (tmp_path / "workbook.py").write_text(SOURCE.replace("SQUATCH, NORM", "while True: pass\nSQUATCH, NORM"))
    report = check(tmp_path / "workbook.py", seconds=0.5)
    assert report.correct == 10
    assert report.problems == ("A statement did not end within 0.5 seconds.",)


@pytest.mark.parametrize(
    ("right", "broken", "said"),
    [
        ("return derivative * reward", "return derivative * (reward", "was never closed"),
        ("    return derivative * reward", "   return derivative * reward", "IndentationError"),
        ("return derivative * reward", "return derivative * * reward", "SyntaxError"),
    ],
)
def test_a_syntax_error_loses_only_its_exercise(tmp_path, right, broken, said):
    assert right in SOURCE
    (tmp_path / "workbook.py").write_text(SOURCE.replace(right, broken))
    report = check(tmp_path / "workbook.py")
    assert report.correct == 9
    assert said in report.results[2].message
    line = SOURCE[: SOURCE.index(right)].count("\n") + 1
    assert f"Line {line}" in report.results[2].message


def test_what_is_outside_of_the_functions_may_fail(tmp_path):
    source = SOURCE.replace("    return derivative * reward", "return derivative * reward")
    (tmp_path / "workbook.py").write_text("import nowhere\n1 / 0\n" + source + "\nprint('hello')\nraise SystemExit\n")
    report = check(tmp_path / "workbook.py")
    assert report.correct == 9
    assert report.results[2].status == "not done"
    assert [problem.split(":")[0] for problem in report.problems] == [
        "The file raises ModuleNotFoundError in line 1",
        "The file raises ZeroDivisionError in line 2",
        "The file raises SyntaxError",
        "The file raises SystemExit in line " + str(source.count("\n") + 5) + ".",
    ]


def test_nothing_is_done_in_the_blank_workbook(tmp_path):
    (tmp_path / "workbook.py").write_text(blank())
    report = check(tmp_path / "workbook.py")
    assert {result.status for result in report.results} == {"not done"}
    assert [result.message for result in report.results] == [""] * 10


@pytest.mark.parametrize(
    "body", ["...", "pass", "'''A docstring.'''", "raise NotImplementedError('later')", "return later()"]
)
def test_not_done_is_not_wrong(judge, body):
    assert judge("step(b, s, d)", body + "\n\ndef later(): raise NotImplementedError").status == "not done"


def test_a_function_that_is_not_there(tmp_path):
    (tmp_path / "workbook.py").write_text(SOURCE + "\ndel gae\nclipped = 3\n")
    report = check(tmp_path / "workbook.py")
    assert [result.status for result in report.results[8:]] == ["not done", "not done"]
    assert report.results[8].message == "There is no function gae in workbook.py."


@pytest.mark.parametrize("sigmoid", ["raise NotImplementedError", "return 0.5 + z / 4", "return"])
def test_an_answer_that_calls_a_wrong_one_waits(tmp_path, sigmoid):
    (tmp_path / "workbook.py").write_text(f"{SOURCE}\n\ndef sigmoid(z):\n    {sigmoid}\n")
    for only in (None, 2):
        report = check(tmp_path / "workbook.py", only)
        result = report.results[-1 if only else 1]
        assert result.status == "waits"
        assert "calls sigmoid (exercise 1), which is not right yet" in result.message
    assert check(tmp_path / "workbook.py").correct == 8


def test_an_error_is_reported_where_it_is(tmp_path):
    code = "def sigmoid(z):\n    return z\n\ndef guess_derivative(h, b, a):\n    return a - sigmoid(20 * h + b)\n"
    (tmp_path / "workbook.py").write_text(f"{SOURCE}\n\n{code}")
    report = check(tmp_path / "workbook.py")
    assert [result.hint for result in report.results[:2]] == ["z unchanged", "minus missing"]


def test_a_module_beside_the_workbook_can_be_imported(tmp_path):
    (tmp_path / "my_helpers_for_step.py").write_text("def less(b, x): return b - x")
    code = "from my_helpers_for_step import less\n\ndef step(b, s, d):\n    return less(b, s * d)\n"
    (tmp_path / "workbook.py").write_text(f"{SOURCE}\n\n{code}")
    assert check(tmp_path / "workbook.py").correct == 10


def test_the_process_stays_as_it_was(tmp_path, capfd):
    code = "import warnings\n\ndef step(b, s, d):\n    warnings.warn('hm'); print('loud'); return b - s * d\n"
    (tmp_path / "workbook.py").write_text(f"{SOURCE}\n\nprint('loud')\n{code}")
    host = {**HOST, "import path": lambda: list(sys.path), "standard input": lambda: id(sys.stdin)}
    before, timer = leaves({name: read() for name, read in host.items()}), signal.setitimer(signal.ITIMER_REAL, 100, 7)
    assert check(tmp_path / "workbook.py").correct == 10
    left, interval = signal.setitimer(signal.ITIMER_REAL, *timer)
    assert leaves({name: read() for name, read in host.items()}) == before
    assert 50 < left < 100  # a timer of the caller's runs on
    assert interval == 7
    assert capfd.readouterr() == ("", "")
    assert torch.get_default_dtype() == torch.float32


def test_arguments_are_copies(judge):
    code = "rewards[0] = 0.0; return rewards"
    assert judge("reward_to_go(rewards, e, c, n, g)", code).status == "wrong"
    assert (
        judge(
            "reward_to_go(rewards, e, c, n, g)", "x = backward(rewards, e, c, n, g); rewards.clear(); return x"
        ).status
        == "correct"
    )


def test_a_report_is_json(tmp_path):
    (tmp_path / "workbook.py").write_text(SOURCE + "\n\ndef sigmoid(z):\n    return math.inf\n")
    report = json.loads(json.dumps(check(tmp_path / "workbook.py").as_dict(), allow_nan=False))
    assert (report["correct"], report["of"], len(report["exercises"])) == (8, 10, 10)
    assert set(report["exercises"][0]) == {
        "number",
        "name",
        "status",
        "message",
        "hint",
        "effect",
        "example",
        "judged_by",
    }


def test_the_tolerance_sees_what_matters():
    assert _agree([1.0, math.nan], [1.0 + 1e-5, math.nan])
    assert not _agree([1.0], [1.001])
    assert not _agree([1.0], [math.nan])
    assert not _agree([1.0], [1.0, 1.0])
