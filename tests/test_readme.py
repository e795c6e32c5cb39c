"""The README's Python snippets run as they stand, and its commands exist."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

TEXT = (ROOT / "README.md").read_text()
SNIPPETS = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "import" in code]


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
    assert set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", TEXT, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }
    for script in re.findall(r"scripts/([a-z]+\.py)", TEXT):
        assert (ROOT / "scripts" / script).exists()


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
