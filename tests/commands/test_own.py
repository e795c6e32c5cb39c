"""A policy and an environment in a module of the current folder, in every command."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import own
import pytest
import torch
from support import call, leaves

from pgtorch import SetupError, TrainConfig, load_run, resume, train
from pgtorch.record.checkpoint import read_newest
from pgtorch.record.metrics import read_metrics
from pgtorch.record.trust import UntrustedModuleError

FLAGS = ["--num-envs", 2, "--num-steps", 8, "--no-pictures"]
OWN = ["--env-id", "mine:MyDot-v0", "--policy", "mine:ActorCritic", "--policy-kwargs", '{"units": 3}', *FLAGS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the module `mine`, which this process has not imported and forgets after each command."""
    text = Path(own.__file__).read_text().replace("Dot-v0", "MyDot-v0").replace("Far-v0", "MyFar-v0")
    (tmp_path / "mine.py").write_text(f'{text}\nopen("imported", "a").close()\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def pgtorch(command, *words, folder):
    sys.modules.pop("mine", None)
    (folder / "imported").unlink(missing_ok=True)
    done = call(command, *words, cwd=folder)
    return *done, (folder / "imported").exists()


def test_a_policy_and_an_environment_of_the_users_own_in_every_command(folder):
    status, out, error, _ = pgtorch("train", *OWN, "--num-updates", 3, "--run-dir", "run", folder=folder)
    assert status == 0, error
    assert re.search(r"^gradient check {20}off   no derivation by hand for ActorCritic$", out, re.MULTILINE)
    config = json.loads((folder / "run" / "config.json").read_text())["config"]
    assert (config["policy"], config["policy_kwargs"]) == ("mine:ActorCritic", {"units": 3})
    for command, *words in (
        ("train", "--resume", "run", "--num-updates", 5),
        ("evaluate", "run", "--episodes", 3),
        ("export", "run", "policy.pt2"),
    ):
        status, out, error, imported = pgtorch(command, *words, folder=folder)
        assert (status, out, imported) == (2, "", False)
        assert error.endswith("allow it with --allow-import mine (allow_import=['mine'])\n")
        status, out, error, _ = pgtorch(command, *words, "--allow-import", "mine", folder=folder)
        assert status == 0, error
    assert len(read_metrics(folder / "run")) == 5
    assert re.search(r"observations  uint8 \[N, 12, 12, 1\]\nactions       int64 \[N\]\n", out)
    seen = np.zeros((4, 12, 12, 1), np.uint8)
    assert torch.export.load(folder / "policy.pt2").module()(torch.from_numpy(seen)).shape == (4,)


def test_a_run_that_was_never_stopped_is_the_same(folder):
    straight = train(TrainConfig("CartPole-v1", policy="own:Actor", num_updates=4, pictures=False, run_dir="straight"))
    words = ["--env-id", "CartPole-v1", "--policy", "own:Actor", "--no-pictures"]
    assert pgtorch("train", *words, "--num-updates", 4, "--run-dir", "again", folder=folder)[0] == 0
    ends = [leaves(read_newest(folder / name)[1]["trainer"]) for name in ("straight", "again")]
    assert ends[0] == ends[1]
    assert straight.hash == json.loads((folder / "again" / "config.json").read_text())["hash"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--policy-kwargs", '{"units": 3}'], "policy_kwargs must not be {'units': 3} if policy is auto: only module:"),
        (["--policy", "mine:Actor", "--policy-kwargs", "3"], "policy_kwargs must be a dict, got 3"),
        (["--policy", "mine:Actor", "--policy-kwargs", '{"unit": 3}'], "unexpected keyword argument 'unit'"),
        (["--policy", "mine:Actor", "--check-gradient", "20"], "check_gradient must be 0 for Actor: there is a deriv"),
        (["--policy", "mine:Missing"], "module 'mine' has no attribute 'Missing'"),
        (["--policy", "mine:Dot"], "policy must be a subclass of pgtorch.Policy, got mine:Dot"),
        (["--policy", "nowhere:Actor"], "No module named 'nowhere'"),
        (
            ["--policy", "cnn"],
            "policy 'cnn' takes images, a Box of uint8 or bool, [H, W, C] or [C, H, W], with sides of",
        ),
    ],
    ids=str,
)
def test_bad_input_gives_one_line(folder, flags, named):
    status, out, error, _ = pgtorch("train", "--env-id", "CartPole-v1", *flags, folder=folder)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .+\n", error)
    assert named in error
    assert not (folder / "runs").exists()


def test_verify_takes_the_same_policy(folder):
    words = ["--policy", "mine:Actor", "--env-id", "CartPole-v1", "--policy-kwargs"]
    assert "unexpected keyword argument 'unit'" in pgtorch("verify", *words, '{"unit": 1}', folder=folder)[2]
    for flags in (["--policy-kwargs", '{"units": 1}'], ["--policy", "mlp", "--policy-kwargs", '{"units": 1}']):
        error = pgtorch("verify", *flags, folder=folder)[2]
        assert "error: --policy-kwargs goes with --policy module:Class, got " in error


def altered(path, **settings):
    """The checkpoint of a run, with other settings in it."""
    from pgtorch.record.checkpoint import save_checkpoint  # noqa: PLC0415

    content = read_newest(path)[1]
    save_checkpoint(path, 3, **{**content, "config": {**content["config"], **settings}})


@pytest.mark.parametrize("setting", [{"policy": "mine:Actor"}, {"env_id": "mine:CartPole-v1"}], ids=str)
def test_a_folder_does_not_choose_what_is_imported(folder, setting):
    sys.modules.pop("mine", None)
    train(TrainConfig("CartPole-v1", policy="own:Actor", num_updates=3, pictures=False, run_dir="run"))
    altered(folder / "run", **setting)
    with pytest.raises(SetupError, match="'run' names the module 'mine', which is not installed"):
        resume("run", num_updates=4)
    with pytest.raises(UntrustedModuleError, match="'run' names the module 'mine', which is not installed"):
        load_run("run")
    assert not (folder / "imported").exists()
    assert "mine" not in sys.modules


def test_what_was_learned_near_1000_is_played_near_1000(tmp_path):
    """`result.policy` alone lacks the normalizer; the run has it."""
    settings = {"num_updates": 40, "num_steps": 16, "learning_rate": 0.03, "pictures": False}
    result = train(TrainConfig("Far-v0", run_dir=tmp_path / "run", **settings))
    assert result.summary["recent_return"] > 0.95
    seen = np.array([[998.7], [999.3], [1000.7], [1001.4]])
    for run in (result, load_run(tmp_path / "run")):
        assert run.predict(seen).tolist() == [3, 3, 4, 4]
        assert [run.predict(one) for one in seen] == [3, 3, 4, 4]
        assert run.predict(np.tile(seen, (250, 1)), deterministic=False).mean() == pytest.approx(3.5, abs=0.1)
