import json
import re

import pytest
from support import call

MINE = """
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical
from pgtorch import Policy

class Right(Policy):
    def __init__(self, observation_space, action_space):
        super().__init__()
        self.layer = nn.Linear(spaces.flatdim(observation_space), int(action_space.n))

    def distribution(self, observation):
        return Categorical(logits=self.layer(observation))

class Wrong(Right):
    def log_prob(self, observation, action):
        return super().log_prob(observation, action) * 1.01
"""


@pytest.mark.long
def test_everything_shipped_passes(run_script, tmp_path):
    done = run_script("verify.py", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)
    assert {row["status"] for row in rows} == {"PASS", "SKIP", "BIAS"}
    subjects = {row["subject"].partition(",")[0] for row in rows}
    assert subjects == {"BiasPolicy", "MLPPolicy", "Rollout", "Update", "Evaluation"}
    assert all(row["note"] for row in rows if row["status"] == "SKIP")
    assert not list(tmp_path.iterdir())


def test_a_table_for_people(run_script, tmp_path):
    done = run_script("verify.py", "--env-id", "Restaurant-v0", cwd=tmp_path)
    assert done.returncode == 0
    assert "PASS  BiasPolicy, Restaurant-v0" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("rows, 0 failed")


@pytest.mark.parametrize(("name", "status"), [("Right", 0), ("Wrong", 1)])
def test_a_policy_of_the_users_own(run_script, tmp_path, name, status):
    (tmp_path / "mine.py").write_text(MINE)
    flags = ["--policy", f"mine:{name}", "--env-id", "FrozenLake-v1", "--episodes", 1000]
    done = run_script("verify.py", *flags, cwd=tmp_path)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("FAIL" in done.stdout) == bool(status)
    assert "there is no derivation by hand" in done.stdout


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--policy nowhere:Mine", "No module named 'nowhere'"),
        ("--policy bias --env-id FrozenLake-v1", "policy 'bias' takes observations of shape [1]"),
        ("--policy broken:Mine", "ZeroDivisionError: division by zero"),
        ("--policy mine", "module:Class"),
        ("--policy json:loads", "json"),
        ("--env-id Nowhere-v0", "Nowhere"),
        ("--episodes 3", "episodes must be at least 200 and at most"),
        ("--seed -1", "seed must be at least 0 and at most 9223372036854775807, got -1"),
        ("--spice 1", "unknown flag --spice"),
        ("--polcy bias", "Perhaps you meant --policy?"),
    ],
)
def test_bad_input_gives_one_line(tmp_path, monkeypatch, flags, named):
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    status, out, error = call("verify", *flags.split(), cwd=tmp_path)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .+\n", error)
    assert named in error
