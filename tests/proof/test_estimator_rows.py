"""Policies in finite MDPs. Wrong estimators are planted in test_planted_faults.py."""

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Categorical

from pgtorch import MLPPolicy, Policy
from pgtorch.proof import trajectories
from pgtorch.proof.estimator_rows import biased_estimators, mdp_rows, unbiased_estimators
from pgtorch.proof.exact import FiniteMDP

UNBIASED = ("reward", "return", "reward-to-go", "constant baseline", "value baseline", "GAE, lambda 1")


class Own(Policy):
    """A policy that there is no derivation for."""

    def __init__(self, num_states, num_actions):
        super().__init__()
        self.layer = nn.Linear(num_states, num_actions)

    def distribution(self, observation):
        return Categorical(logits=self.layer(observation.to(self.layer.weight.dtype)))


PROCESS = FiniteMDP(
    [
        [[(0.7, 1, 1.0, False), (0.3, 0, -2.0, False)], [(1.0, 2, 0.5, False)]],
        [[(0.5, 2, 0.0, False), (0.5, 1, 3.0, True)], [(1.0, 0, -1.0, False)]],
        [[(0.9, 0, 2.0, False), (0.1, 2, 5.0, True)], [(1.0, 1, 1.0, False)]],
    ],
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    discount=0.9,
)


def rows_of(policy, mdp=PROCESS, episodes=10_000, seed=0):
    return {row.check: row for row in mdp_rows("", policy, mdp, horizon=20, episodes=episodes, seed=seed)}


@pytest.mark.parametrize(
    ("env_id", "num_states"), [("FrozenLake-v1", 16), pytest.param("CliffWalking-v1", 48, marks=pytest.mark.long)]
)
def test_gymnasiums_tables_pass(env_id, num_states):
    mdp = FiniteMDP.from_gymnasium(gym.make(env_id), discount=0.95)
    policy = MLPPolicy(spaces.Discrete(num_states), spaces.Discrete(4), ())
    rows = {row.check: row for row in mdp_rows("", policy, mdp, horizon=100, episodes=100_000, seed=1)}
    assert {row.status for row in rows.values()} == {"PASS", "BIAS"}
    for name in UNBIASED:
        assert rows[f"expectation against exact: {name}"].unit == "u C"
    assert {"exact against finite differences", "sampled mean against exact"} <= rows.keys()


def test_a_policy_without_a_derivation_is_compared_by_relative_error():
    rows = rows_of(Own(3, 2))
    assert {row.status for row in rows.values()} == {"PASS", "BIAS"}
    for name in UNBIASED:
        assert rows[f"expectation against exact: {name}"].unit == "relative"


def test_a_policy_whose_probabilities_are_not_its_samples_is_caught():
    class Wrong(Own):
        def log_prob(self, observation, action):
            return 1.01 * super().log_prob(observation, action)

    rows = rows_of(Wrong(3, 2))
    assert rows["expectation against exact: reward-to-go"].status == "FAIL"


def test_the_bias_of_a_batchs_own_mean_is_what_the_docstring_says():
    """1/B, here a half; and it is shown as a bias, not as a failure."""
    row = rows_of(Own(3, 2))["bias of: mean of a batch of 2 removed"]
    assert row.value == pytest.approx(0.5)
    assert row.status == "BIAS"


def test_biased_and_unbiased_estimators_are_named_apart():
    values = torch.zeros(3).double()
    assert tuple(unbiased_estimators(values, discount=0.9)) == UNBIASED
    assert not set(biased_estimators(values, discount=0.9)) & set(UNBIASED)


def test_too_few_episodes_give_no_verdict():
    """A reward of 1 in a thousand steps: most batches of 2 episodes do not see it."""
    end = [(1.0, 1, 0.0, True)]
    rare = FiniteMDP([[[(0.001, 1, 1.0, True), (0.999, 1, 0.0, True)], end], [end, end]], torch.eye(2)[0].double())
    row = rows_of(Own(2, 2), rare, episodes=200)["sampled mean against exact"]
    assert row.status == "SKIP"
    assert "batches saw no reward; raise --episodes" in row.note


def test_too_many_trajectories_are_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr(trajectories, "MOST_CELLS", 10)
    row = rows_of(Own(3, 2))["expectations against exact"]
    assert row.status == "SKIP"
    assert "are too many" in row.note


def test_rows_repeat_with_the_seed_and_leave_the_global_stream():
    policy, before = Own(3, 2), torch.get_rng_state()
    one = rows_of(policy, episodes=500)
    assert rows_of(policy, episodes=500) == one
    assert next(mdp_rows("", policy, PROCESS, horizon=20, episodes=500, seed=1)) != next(iter(one.values()))
    assert torch.equal(torch.get_rng_state(), before)
