import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical

from pgtorch import BiasPolicy, MLPPolicy, Policy
from pgtorch.proof.policy_rows import Row, policy_rows
from pgtorch.proof.suite import rows


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (Row("", "", 1.0, 1.0), "PASS"),
        (Row("", "", 1.1, 1.0), "FAIL"),
        (Row("", "", float("nan"), 1.0), "FAIL"),
        (Row("", "", float("inf"), 1.0), "FAIL"),
        (Row("", "", note="no table"), "SKIP"),
        (Row("", "", 0.5, known_bias=True), "BIAS"),
    ],
)
def test_status(row, status):
    assert row.status == status


def test_the_policy_stays_as_it_was():
    policy = MLPPolicy(spaces.Box(-1, 1, (2,)), spaces.Discrete(3), (4,))
    before = [parameter.clone() for parameter in policy.parameters()]
    list(policy_rows("", policy, spaces.Box(-1, 1, (2,)), spaces.Discrete(3), seed=0))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert next(policy.parameters()).dtype == torch.float32


@pytest.mark.parametrize("seed", range(3))
def test_the_lesson_passes_with_any_seed(seed):
    found = list(rows(BiasPolicy(), "restaurant_env:Restaurant-v0", seed, episodes=1000))
    assert {row.status for row in found} == {"PASS"}
    assert {"expectation against exact", "sampled mean against exact"} <= {row.check for row in found}


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", pytest.param("CliffWalking-v1", marks=pytest.mark.long)])
def test_gymnasium_tables_pass(env_id):
    """100,000 episodes; verify.py prints the same rows."""
    found = list(rows(None, env_id, seed=1, episodes=100_000))
    assert {row.status for row in found} == {"PASS", "BIAS"}
    checks = {row.check for row in found}
    for name in ("reward", "return", "reward-to-go", "constant baseline", "value baseline", "GAE, lambda 1"):
        assert f"expectation against exact: {name}" in checks
    assert {"exact against finite differences", "sampled mean against exact"} <= checks
    assert next(row.value for row in found if row.check.startswith("bias of: mean of")) == pytest.approx(0.5)


class Mine(Policy):
    """A policy that the project has no derivation for."""

    def __init__(self, observation_space, action_space):
        super().__init__()
        self.layer = nn.Linear(spaces.flatdim(observation_space), int(action_space.n))

    def distribution(self, observation):
        return Categorical(logits=self.layer(observation.to(self.layer.weight.dtype)))


def test_what_cannot_be_computed_is_skipped_with_the_reason():
    env = gym.make("CartPole-v1")
    found = list(rows(Mine(env.observation_space, env.action_space), "CartPole-v1", seed=0, episodes=1000))
    skipped = {row.check: row.note for row in found if row.status == "SKIP"}
    assert "no derivation by hand for Mine" in skipped["autograd against manual, float64"]
    assert "has no transition table" in skipped["expectation against exact"]
    assert {row.status for row in found} == {"PASS", "SKIP"}


def test_a_policy_of_ones_own_is_verified_exactly_where_that_can_be():
    env = gym.make("FrozenLake-v1")
    found = list(rows(Mine(env.observation_space, env.action_space), "FrozenLake-v1", seed=0, episodes=100_000))
    assert "FAIL" not in {row.status for row in found}
    assert any(row.check == "sampled mean against exact" and row.status == "PASS" for row in found)


def test_a_wrong_policy_of_ones_own_is_caught():
    class Wrong(Mine):
        def sample(self, observation):
            return (super().sample(observation) + 1) % 4

    env = gym.make("FrozenLake-v1")
    found = rows(Wrong(env.observation_space, env.action_space), "FrozenLake-v1", seed=0, episodes=1000)
    assert "samples against log-probability" in {row.check for row in found if row.status == "FAIL"}


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ({"log_prob": lambda self, o, a: Mine.log_prob(self, o, a).detach()}, "autograd against manual, float64"),
        ({"log_prob": lambda self, o, a: Mine.log_prob(self, o, a).detach()}, "autograd against finite differences"),
        ({"sample": lambda self, o: Mine.sample(self, o) + 4}, "samples outside the action space"),
        (
            {"distribution": lambda self, o: 1 / 0 if len(o) > 5000 else Mine.distribution(self, o[:, :3])},
            "probabilities sum to 1",
        ),
    ],
)
def test_a_policy_that_cannot_be_asked_fails(fault, check):
    env = gym.make("FrozenLake-v1")
    policy = type("Faulty", (Mine,), fault)(env.observation_space, env.action_space)
    found = {row.check: row for row in policy_rows("", policy, env.observation_space, env.action_space, seed=0)}
    assert found[check].status == ("SKIP" if "manual" in check else "FAIL")


def test_too_few_episodes_give_no_verdict():
    found = {row.check: row for row in rows(None, "FrozenLake-v1", seed=0, episodes=200)}
    assert found["sampled mean against exact"].status == "SKIP"
    assert "batches saw no reward" in found["sampled mean against exact"].note
