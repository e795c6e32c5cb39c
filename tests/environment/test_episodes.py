import numpy as np
import pytest
import torch

from pgtorch.environment.episodes import EpisodeStatistics

RETURN, LENGTH = "rollout/episode_return", "rollout/episode_length"


def record(episodes, *, reward, ended, valid=True):
    """One step; what is a single value is that of every environment."""
    size = len(episodes.total)
    reward, valid, ended = (np.broadcast_to(part, size).copy() for part in (reward, valid, ended))
    episodes.record(reward, valid=valid, ended=ended)


def test_each_episode_is_counted_once_when_it_ends():
    episodes = EpisodeStatistics(2)
    record(episodes, reward=[1.0, 10.0], ended=[False, False])
    record(episodes, reward=[2.0, 20.0], ended=[True, False])
    record(episodes, reward=[4.0, 40.0], ended=[True, True])
    assert list(episodes.recent) == [3.0, 4.0, 70.0]
    assert episodes.figures() == {RETURN: (3 + 4 + 70) / 3, LENGTH: (2 + 1 + 3) / 3}


def test_figures_are_of_the_episodes_since_the_last_call():
    episodes = EpisodeStatistics(1)
    record(episodes, reward=5.0, ended=False)
    assert episodes.figures() == {}  # nothing has ended
    record(episodes, reward=5.0, ended=True)
    assert episodes.figures() == {RETURN: 10.0, LENGTH: 2.0}
    assert episodes.figures() == {}
    record(episodes, reward=1.0, ended=True)
    assert episodes.figures() == {RETURN: 1.0, LENGTH: 1.0}
    assert list(episodes.recent) == [10.0, 1.0]  # which are kept for the target return


def test_filler_counts_nothing():
    """Kills a reward or a length that is counted where the environment resets itself."""
    episodes = EpisodeStatistics(2)
    record(episodes, reward=[1.0, 5.0], valid=[True, False], ended=[True, False])
    record(episodes, reward=1.0, ended=True)
    assert list(episodes.recent) == [1, 1, 1]
    assert episodes.figures() == {RETURN: 1.0, LENGTH: 1.0}


def test_recent_returns_are_of_the_last_hundred_episodes():
    episodes = EpisodeStatistics(40)
    for step in range(5):
        record(episodes, reward=float(step), ended=True)
    assert list(episodes.recent) == [2.0] * 20 + [3.0] * 40 + [4.0] * 40


def test_returns_are_summed_in_double_precision():
    """10,000 rewards of 0.1 in float32, as environments pay them."""
    episodes, reward = EpisodeStatistics(1), np.full(1, 0.1, np.float32)
    for step in range(10_000):
        episodes.record(reward, valid=np.ones(1, np.bool_), ended=np.array([step == 9_999]))
    assert episodes.figures()[RETURN] == pytest.approx(10_000 * float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize("mid_episode", [True, False])
def test_state_is_taken_and_put_without_sharing(mid_episode):
    episodes = EpisodeStatistics(2)
    record(episodes, reward=[1.0, 10.0], ended=[True, False])
    record(episodes, reward=[2.0, 20.0], ended=[False, False])
    state, other = episodes.state_dict(), EpisodeStatistics(2)
    other.load_state_dict(state, mid_episode=mid_episode)
    state["recent"].clear()
    for value in (state["total"], state["length"]):
        assert isinstance(value, torch.Tensor)
        value.fill_(99)
    record(other, reward=[4.0, 40.0], ended=True)
    expected = [2.0 + 4.0, 10.0 + 20.0 + 40.0] if mid_episode else [4.0, 40.0]
    assert list(other.recent) == [1.0, *expected]
    assert other.figures()[LENGTH] == (2.5 if mid_episode else 1.0)
    record(episodes, reward=[4.0, 40.0], ended=True)
    assert list(episodes.recent) == [1.0, 6.0, 70.0]
