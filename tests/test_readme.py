"""The Python snippets of the README and of docs/ run as they stand, and their commands exist."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread
from support import ROOT

from pgtorch import TrainConfig, train
from pgtorch.commands import lesson
from pgtorch.lesson.model import RestaurantModel
from pgtorch.lesson.steps import WORKED_EXAMPLE, take_step
from pgtorch.policies import BiasPolicy

TEXT = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL = "\n".join(page.read_text() for page in PAGES)
SNIPPETS = [
    code
    for page in PAGES
    if page.name != "callbacks.md"  # see test_callbacks.py
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    if "import" in code
]


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippets_run(number, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SNIPPETS[number]], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_what_a_snippet_prints_is_what_it_says():
    (code,) = [code for code in SNIPPETS if "print(env.render())" in code]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == re.search(r"print\(env\.render\(\)\)  # (.*)", code)[1]


def test_make_targets_and_scripts_exist():
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", ALL, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }
    for script in re.findall(r"scripts/([a-z]+\.py)", ALL):
        assert (ROOT / "scripts" / script).exists()


def test_commands_run(run_script, tmp_path):
    """In the order of the pages, in one folder, as a reader would; only what has tests of its own is left out."""
    ran = []
    for command in re.findall(r"^python scripts/.*$", ALL, re.MULTILINE):
        _, script, *flags = shlex.split(command, comments=True)
        if script == "scripts/verify.py":  # see test_verify_script.py
            continue
        flags = [str(max(tmp_path.glob(flag.replace("...", "*")))) if flag.endswith("...") else flag for flag in flags]
        done = run_script(script.removeprefix("scripts/"), *flags, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        ran.append(script)
    assert {"scripts/lesson.py", "scripts/train.py", "scripts/evaluate.py"} <= set(ran)
    assert len(ran) >= 9


def test_the_table_of_worked_updates_is_what_the_code_computes():
    number = r"-?\d[\d.]*"
    rows = re.findall(rf"^\| (?:1|2) \| ({number}) \|(.*) \|$", TEXT, re.MULTILINE)
    assert len(rows) == len(WORKED_EXAMPLE)
    policy = BiasPolicy().double()
    for (hunger, rest), visit in zip(rows, WORKED_EXAMPLE, strict=True):
        step = take_step(policy, visit)
        cells = [cell.strip() for cell in rest.split("|")]
        assert cells[3] == f"{'-1/P' if step.place else '1/(1-P)'} = {step.dce_dp:.4f}".removesuffix(".0000")
        assert cells[2] == f"{visit.draw}, {step.place.name.title()}"
        assert cells[7] == f"{'large' if visit.large else 'small'}, {step.reward:+.0f}"
        said = [hunger, *cells[:2], *cells[4:7], *cells[8:]]
        state, factors = (visit.hunger, step.bias, step.p_norm), (step.dp_dz, step.dz_db, step.dce_db)
        numbers = (*state, *factors, step.autograd, step.new_bias)
        assert [float(cell) for cell in said] == [pytest.approx(n, abs=5e-5) for n in numbers]
    assert f"to {step.p_norm:.4f} to {step.new_p_norm:.4f}." in " ".join(TEXT.split())


def test_lines_of_the_lesson_stand_in_the_source():
    lines = re.findall(r"^\|.*\| `(.+)` \| \[.+\.py\]\((.+\.py)\) \|$", TEXT, re.MULTILINE)
    assert len(lines) == 8
    for line, file in lines:
        assert f"    {line}" in (ROOT / file).read_text(), line


def test_the_best_biases_are_those_of_the_closed_form():
    assert RestaurantModel().optimal_bias() == pytest.approx(-10)
    assert f"would be {RestaurantModel(hungry_above=0.3).optimal_bias():.3f}," in " ".join(TEXT.split())


def test_examples_of_the_lesson_teach_what_they_say(capsys):
    """By the comment behind each command."""
    said = {
        "less likely now": "is now less likely: as it should be.",
        "luck": "But that was luck:",
        "runs away": "the bias runs away from its optimum",
    }
    examples = re.findall(r"^python scripts/lesson\.py (--act 4 .*?) +# (.*)$", TEXT, re.MULTILINE)
    assert len(examples) == len(said)
    for (flags, comment), (word, sentence) in zip(examples, said.items(), strict=True):
        assert word in comment
        assert lesson.main(flags.split()) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert sentence in told
        assert ("luck" in comment) == ("luck:" in told)


def test_pictures_are_those_of_the_run(tmp_path):
    train(TrainConfig(run_dir=tmp_path / "run"))
    for name in ("bias.png", "expected_reward.png", "p_norm.png"):
        assert f"docs/{name}" in TEXT
        drawn, shown = (imread(folder / name) for folder in (tmp_path / "run", ROOT / "docs"))
        assert np.abs(drawn - shown).mean() < 0.01, f"draw docs/{name} again"  # but for fonts


@pytest.mark.long
def test_a_thousand_learners_do_what_is_said_of_them(run_script, tmp_path):
    done = run_script("sweep.py", "--seeds", "0:1000", "--run-dir", "sweep", cwd=tmp_path)
    said = r"Of 1,000 learners, (\d+) are within 1 .* after 100 visits, (\d+) after 200, and (\d+) after 1,000"
    counts = re.search(said, " ".join(TEXT.split())).groups()
    for number, visits in zip(counts, ("100", "200", "1,000"), strict=True):
        assert f" {number} after {visits}" in done.stdout
    assert_half_arrive(done.stdout, r"comes within 1 of -10 after about (\d+) visits \(median of 1,000 seeds")
    drawn, shown = (imread(path) for path in (tmp_path / "sweep" / "bias.png", ROOT / "docs" / "sweep.png"))
    assert np.abs(drawn - shown).mean() < 0.01, "draw docs/sweep.png again"  # but for fonts


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('{"reward_scheme": "graded"}', r"comes within 1 of -10 after about (\d+) visits\. If every"),
        ('{"reward_scale": 2}', r"as with learning rate 2, and it takes about (\d+) "),
    ],
)
def test_larger_rewards_arrive_as_early_as_is_said(settings, said, run_script, tmp_path):
    done = run_script("sweep.py", "--seeds", "0:1000", "--env-kwargs", settings, "--run-dir", "sweep", cwd=tmp_path)
    assert_half_arrive(done.stdout, said)


def assert_half_arrive(stdout, said):
    """The number that README says is the median of the sweep, to the nearest 5."""
    (visits,) = re.findall(said, " ".join(TEXT.split()))
    found = int(re.search(r"half of them for the first time by step (\d+)", stdout)[1])
    assert abs(found - int(visits)) <= 2.5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, section in re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page.read_text()):
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        if section:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert section in [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_page_of_the_docs_is_linked():
    for page in PAGES[1:]:
        assert f"](docs/{page.name}" in TEXT


def test_the_line_of_the_loss_stands_in_the_source():
    (line,) = re.findall(r"```python\n(return .*)\n```", TEXT)
    assert f"    {line}\n" in (ROOT / "pgtorch" / "losses.py").read_text()


def test_the_policy_of_ones_own_learns(tmp_path):
    (code,) = [code for code in SNIPPETS if "class Echo" in code]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(re.search(r"'recent_return': ([0-9.]+)", done.stdout)[1]) > 0.9


def test_the_output_shown_is_the_output(run_script, tmp_path):
    shown = re.search(r"ends with\n\n```\n(.*?)run folder", TEXT, re.DOTALL)[1]
    assert run_script("train.py", cwd=tmp_path).stdout.startswith(shown)
