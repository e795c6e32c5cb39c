"""Trajectories against the linear equations of exact.py, and by hand."""

import math

import pytest
import torch

from pgtorch.proof import trajectories
from pgtorch.proof.exact import FiniteMDP, expected_return
from pgtorch.proof.trajectories import TooManyTrajectoriesError, enumerate_trajectories, sample_trajectories

PROCESS = FiniteMDP(
    [
        [[(0.7, 1, 1.0, False), (0.3, 0, -2.0, True)], [(1.0, 2, 0.5, False)]],
        [[(0.5, 2, 0.0, False), (0.3, 1, 3.0, True), (0.2, 0, 1.0, False)], [(1.0, 0, -1.0, False)]],
        [[(0.9, 0, 2.0, False), (0.1, 2, 5.0, True)], [(0.6, 1, 1.0, False), (0.4, 2, 1.0, True)]],
    ],
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    discount=0.9,
)
PROBABILITY = torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]], dtype=torch.float64)
ONE_STEP = FiniteMDP([[[(1.0, 0, 3.0, True)]]], torch.ones(1).double())  # one state, one action, the end


def returns_of(played):
    weight = PROCESS.discount ** torch.arange(len(played.reward)).double()[:, None]
    return (weight * played.reward * played.valid).sum(0)


def sample(mdp, probability, num_episodes, horizon, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return sample_trajectories(mdp, probability, num_episodes=num_episodes, horizon=horizon, generator=generator)


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_enumeration_is_complete(horizon):
    """Probabilities sum to 1, and the mean return over all trajectories is the exact one."""
    played = enumerate_trajectories(PROCESS, PROBABILITY, horizon)
    assert played.probability.sum().item() == pytest.approx(1.0, abs=1e-12)
    mean = (returns_of(played) * played.probability).sum().item()
    assert mean == pytest.approx(expected_return(PROCESS, PROBABILITY, horizon).item(), abs=1e-12)


@pytest.mark.parametrize(
    "played", [enumerate_trajectories(PROCESS, PROBABILITY, 4), sample(PROCESS, PROBABILITY, 1000, 6)]
)
def test_every_trajectory_ends_once_and_filler_follows(played):
    ended = played.terminated | played.truncated
    assert (ended.sum(0) == 1).all()
    assert torch.equal(played.valid.sum(0) - 1, ended.int().argmax(0))
    assert (played.reward[~played.valid] == 0).all()
    assert played.truncated[-1].any()
    assert not played.truncated[:-1].any()


def test_enumeration_keeps_what_is_rare():
    """Kills a cut at small probabilities: they would be missing from the sum."""
    mdp = FiniteMDP([[[(1.0, 0, 1.0, True)], [(1.0, 0, 0.0, True)]]], torch.ones(1).double())
    played = enumerate_trajectories(mdp, torch.tensor([[1 - 1e-6, 1e-6]], dtype=torch.float64), 1)
    assert played.probability.sum().item() == 1.0


def test_a_last_step_that_terminates_is_not_truncated():
    """Kills `truncated[-1] = valid[-1]`: the two would be set together."""
    for played in (
        enumerate_trajectories(ONE_STEP, torch.ones(1, 1).double(), 1),
        sample(ONE_STEP, torch.ones(1, 1).double(), 2, 1),
    ):
        assert played.terminated.all()
        assert not played.truncated.any()


def test_samples_have_filler_after_the_end():
    """Kills rewards and ends that go on after the episode's end."""
    played = sample(ONE_STEP, torch.ones(1, 1).double(), 2, 3)
    assert played.valid.tolist() == [[True, True], [False, False], [False, False]]
    assert (played.reward[~played.valid] == 0).all()
    assert not played.terminated[~played.valid].any()


def test_samples_have_the_exact_mean_return():
    n, horizon = 50_000, 30
    found = returns_of(sample(PROCESS, PROBABILITY, n, horizon))
    exact = expected_return(PROCESS, PROBABILITY, horizon).item()
    assert abs(found.mean().item() - exact) < 5 * found.std().item() / math.sqrt(n)


def test_samples_repeat_with_the_generator_and_leave_the_global_stream():
    before = torch.get_rng_state()
    one, same, other = (sample(PROCESS, PROBABILITY, 50, 5, seed) for seed in (1, 1, 2))
    assert torch.equal(one.reward, same.reward)
    assert not torch.equal(one.reward, other.reward)
    assert torch.equal(torch.get_rng_state(), before)


def test_refuses_what_cannot_be_enumerated(monkeypatch):
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        enumerate_trajectories(PROCESS, PROBABILITY, 0)
    monkeypatch.setattr(trajectories, "MOST_CELLS", 100)
    with pytest.raises(TooManyTrajectoriesError, match=r"trajectories or more of 4 steps in 3 states are too many"):
        enumerate_trajectories(PROCESS, PROBABILITY, 4)
