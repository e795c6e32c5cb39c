"""Which rows a policy and an environment get."""

import gymnasium as gym
import pytest
import torch
from support import seeded

from pgtorch import BiasPolicy, MLPPolicy
from pgtorch.distributions import as_global_stream
from pgtorch.proof import trajectories
from pgtorch.proof.estimator_rows import mdp_rows
from pgtorch.proof.exact import FiniteMDP
from pgtorch.proof.suite import rows, shipped_rows

RESTAURANT = "restaurant_env:Restaurant-v0"


def test_the_lesson_has_a_closed_form():
    found = list(rows(BiasPolicy(), RESTAURANT, seed=0, episodes=1000))
    assert {row.status for row in found} == {"PASS"}
    assert {row.subject for row in found} == {"BiasPolicy, Restaurant-v0"}
    assert {"autograd against manual, float32", "expectation against exact", "sampled mean against exact"} <= {
        row.check for row in found
    }


def test_without_a_closed_form_the_expectation_is_skipped_with_the_reason():
    for env_id in ("CartPole-v1", RESTAURANT):  # with a network
        found = {row.check: row for row in rows(None, env_id, seed=0, episodes=1000)}
        assert {row.status for row in found.values()} == {"PASS", "SKIP"}
        skipped = found["expectation against exact"]
        assert skipped.note.startswith(f"{env_id.rpartition(':')[2]} has no transition table")
        assert skipped.note.endswith("Restaurant-v0 has a closed form for BiasPolicy only")


def test_a_table_gives_exact_rows(monkeypatch):
    monkeypatch.setattr(trajectories, "MOST_CELLS", 1000)  # the expectations are tested elsewhere, and take seconds
    env = gym.make("FrozenLake-v1")
    policy = MLPPolicy(env.observation_space, env.action_space, (8,))
    found = {row.check: row for row in rows(policy, "FrozenLake-v1", seed=0, episodes=200)}
    assert {row.subject for row in found.values()} == {"MLPPolicy, FrozenLake-v1"}
    assert found["exact against finite differences"].status == "PASS"
    assert found["expectations against exact"].status == "SKIP"


def test_rows_repeat_with_the_seed():
    """Also the first weights of the network that None stands for."""
    before = torch.get_rng_state()
    one = list(rows(None, "CartPole-v1", seed=0, episodes=200))
    torch.rand(5)
    assert list(rows(None, "CartPole-v1", seed=0, episodes=200)) == one
    torch.set_rng_state(before)


def test_kinks_do_not_matter_to_a_table_either():
    """Parameters one by one if there are few; in some directions if there are many."""
    env = gym.make("FrozenLake-v1")
    for sizes, how in (((8,), "172 parameters one by one"), ((32, 16), "15 directions")):
        with as_global_stream(seeded()):
            policy = MLPPolicy(env.observation_space, env.action_space, sizes, "relu")
        mdp = FiniteMDP.from_gymnasium(env, discount=0.95)
        row = next(mdp_rows("", policy, mdp, horizon=9, episodes=200, seed=0))
        assert (row.check, row.status) == ("exact against finite differences", "PASS"), row
        assert how in row.note


@pytest.mark.long
def test_everything_that_is_shipped_passes():
    found = list(shipped_rows(seed=1, episodes=100_000))
    assert {row.status for row in found} == {"PASS", "SKIP", "BIAS"}
    subjects = {row.subject for row in found}
    assert {"BiasPolicy, Restaurant-v0", "BiasPolicy, Restaurant-v0 graded", "Rollout, CartPole-v1"} <= subjects
    assert {"MLPPolicy, Discrete", "MLPPolicy, MultiDiscrete", "MLPPolicy, MultiBinary", "MLPPolicy, Box"} <= subjects
    assert {"MLPPolicy, relu", "MLPPolicy, elu"} <= subjects
    assert {"MLPPolicy, FrozenLake-v1", "MLPPolicy, CliffWalking-v1"} <= subjects
