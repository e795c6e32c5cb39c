"""The examples of docs/callbacks.md run as they stand."""

import re
import sys
import types

import pytest
from support import ROOT

from pgtorch import Callback, TrainConfig, train
from pgtorch.record.metrics import read_metrics

TEXT = (ROOT / "docs" / "callbacks.md").read_text()
WANDB, PATIENCE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


class Run:
    """What the example uses of a run of Weights & Biases, which is no dependency."""

    def __init__(self, **settings):
        self.settings, self.logged, self.open = settings, {}, False

    def __enter__(self):
        self.open = True
        return self

    def __exit__(self, *_):
        self.open = False

    def log(self, figures, step):
        assert self.open
        assert type(figures) is dict
        self.logged[step] = figures


def test_the_example_for_weights_and_biases(tmp_path, monkeypatch):
    runs = []
    stand_in = types.ModuleType("wandb")
    stand_in.init = lambda **settings: runs.append(Run(**settings)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.chdir(tmp_path)
    exec(compile(WANDB, "callbacks.md", "exec"), {})
    (run,), (folder,) = runs, (tmp_path / "runs").iterdir()
    assert run.settings["config"]["target_return"] == 475
    lines = {line.pop("update"): line for line in read_metrics(folder)}
    assert run.logged == {number: {t: v for t, v in line.items() if t != "env_steps"} for number, line in lines.items()}
    assert "evaluation/return_greedy" in run.logged[max(lines)]


def test_the_example_that_ends_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(PATIENCE, "callbacks.md", "exec"), {})
    (folder,) = (tmp_path / "runs").iterdir()
    lines = read_metrics(folder)
    returns = [line["evaluation/return_greedy"] for line in lines if "evaluation/return_greedy" in line]
    assert len(lines) < TrainConfig().num_updates
    assert max(returns) > max(returns[-20:], default=0) or returns.index(max(returns)) == len(returns) - 21
    assert "best_update" in capsys.readouterr().out


def test_an_error_in_a_callback_ends_the_run_and_leaves_its_checkpoint(tmp_path):
    def fail(update, figures):
        if update == 8:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(TrainConfig(num_updates=20, checkpoint_every=5, pictures=False, run_dir=tmp_path), callback=fail)
    assert len(read_metrics(tmp_path)) == 8
    assert (tmp_path / "checkpoint-000000005.pt").exists()


def test_the_protocol_says_what_may_be_done():
    assert "should_stop" in Callback.__doc__
    assert "docs/callbacks.md" in (ROOT / "README.md").read_text()
