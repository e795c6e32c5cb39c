"""The command `pgtorch` as a whole: what it is called with, where it is called, and how it ends."""

import gc
import importlib.metadata
import os
import subprocess
import sys
import warnings

import pytest
from support import ROOT, run_python

from pgtorch.__main__ import COMMANDS, run
from pgtorch.commands.command_line import describe, in_one_line, printable, warn_in_one_line

MODULE = """
import gymnasium as gym

gym.register("Mine-v0", "gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv", max_episode_steps=20)
"""


def pgtorch(*arguments, cwd):
    return run_python("-m", "pgtorch", *arguments, cwd=cwd)


def test_without_a_command_it_lists_them(capsys):
    for words in ([], ["--help"], ["-h"]):
        assert run(words) == 0
        out = capsys.readouterr().out
        assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, monkeypatch, command):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(gc, "freeze", int)  # what it is for ends with the process
    assert run([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: pgtorch {command} ")


def test_help_comes_through_a_pipe(tmp_path):
    done = pgtorch("evaluate", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: pgtorch evaluate [-h] [OPTIONS] ")
    assert "Must be at least 1 and at most 1000000. (default: 100)" in " ".join(done.stdout.replace("│", "").split())


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"pgtorch {importlib.metadata.version('pgtorch')}\n"


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("trian", "there is no command 'trian'. Perhaps you meant train?"),
        ("--seed", "there is no command '--seed', only train, evaluate,"),
        ("\x1b[31m", r"there is no command '\x1b[31m', only"),
    ],
)
def test_an_unknown_command_gets_the_nearest_name(capsys, word, named):
    assert run([word]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pgtorch: error: {named}")
    assert error[:-1].isprintable()


def test_a_module_in_the_current_folder_is_found(tmp_path):
    """By `verify` as well: see test_verify.py, where a policy lies there."""
    (tmp_path / "mine.py").write_text(MODULE)
    flags = ["--env-id", "mine:Mine-v0"]
    done = pgtorch("train", *flags, "--num-updates", 2, "--run-dir", "run", "--no-pictures", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    commands = {"train": ["--resume", "run", "--num-updates", 3], "evaluate": ["run", "--episodes", 2]}
    for command, words in commands.items():  # a script has its own folder first in sys.path, not the current one
        script = ROOT / "scripts" / f"{command}.py"
        done = run_python(script, *words, cwd=tmp_path)
        assert done.returncode == 2, "the folder alone must not choose what is imported"
        assert "--allow-import mine" in done.stderr
        done = run_python(script, *words, "--allow-import", "mine", cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)


def test_a_module_in_the_current_folder_replaces_no_other(tmp_path):
    (tmp_path / "gymnasium.py").write_text("raise RuntimeError('shadowed')")
    done = run_python(ROOT / "scripts" / "lesson.py", "--act", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_libraries_look_for_is_not_found_in_the_current_folder(tmp_path):
    """They import these only if they are installed; a run's folder from a stranger may hold them."""
    for name in ("dill", "pynvml", "tensorflow", "torchcomms", "envwrap", "jax", "pandas"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w').close()")
    flags = ["--num-updates", 5, "--run-dir", "run"]
    for words in (["train", *flags], ["train", "--resume", "run", "--num-updates", 6], ["evaluate", "run"]):
        done = run_python("-P", "-m", "pgtorch", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "content", ['{"config": {"num_updates": Infinity}}', "[" * 200_000, None], ids=["inf", "deep", "pipe"]
)
def test_a_strange_config_json_does_not_keep_a_run_from_resuming(tmp_path, content):
    assert pgtorch("train", "--num-updates", 5, "--run-dir", "run", "--no-pictures", cwd=tmp_path).returncode == 0
    path = tmp_path / "run" / "config.json"
    path.unlink()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content)
    done = pgtorch("train", "--resume", "run", "--num-updates", 7, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if content is None else 0), done.stderr


def test_output_that_nobody_reads_ends_it_quietly(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "pgtorch", "verify", "--env-id", "Restaurant-v0"]
    done = subprocess.run(
        command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, timeout=100, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


FAILING = """
import gymnasium as gym
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

class Failing(FrozenLakeEnv):
    def step(self, action):
        raise KeyError("the lamp is out")

gym.register("Failing-v0", Failing)
"""


def test_an_unforeseen_error_names_its_place(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    done = pgtorch("train", "--env-id", "failing:Failing-v0", "--run-dir", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("pgtorch: error: KeyError: 'the lamp is out'")
    assert done.stderr.endswith(f"({tmp_path / 'failing.py'}, line 7)\n")


def test_texts_for_a_terminal():
    assert printable("a  b\n\x1b[0m\udcff") == r"a  b\n\x1b[0m\udcff"
    assert in_one_line("a\n  b\x07") == r"a b\x07"


def test_warnings_lose_their_colors(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", None)
    warn_in_one_line()
    warnings.showwarning(UserWarning("\x1b[33mWARN: a\n b\x1b[0m\x07"), UserWarning, "file.py", 3)
    assert capsys.readouterr().err == "pgtorch: warning: WARN: a b\\x07\n"


def test_an_error_in_words():
    def caught(error):
        try:
            raise error
        except type(error) as found:
            return describe(found)

    assert caught(OSError("no space")) == "no space"
    noted = RuntimeError("it broke")
    noted.add_note("in environment 3")
    assert caught(noted).startswith(f"RuntimeError: it broke; in environment 3 ({__file__}, line ")
