import numpy as np
import pytest
import torch

from pgtorch.environment.normalization import ObservationNormalizer, RewardNormalizer, RunningMoments


def test_moments_merge_to_those_of_everything():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 3)) * 10 ** rng.uniform(-3, 3) + 100 * rng.normal() for n in (1, 5, 200, 2)]
    moments = RunningMoments(3)
    for part in parts:
        moments.update(part)
    whole = np.concatenate(parts)
    np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-10)
    np.testing.assert_allclose(moments.variance, whole.var(0), rtol=1e-10)
    assert moments.count == 208


def test_observations_come_to_mean_0_and_deviation_1_and_are_cut_off():
    rng = np.random.default_rng(0)
    normalize = ObservationNormalizer(2)
    np.testing.assert_allclose(normalize(np.array([[1.0, -20.0]])), [[1.0, -10.0]], rtol=1e-7)  # nothing is known yet
    rows = rng.normal(size=(1000, 2)) * [5.0, 0.1] + [3.0, -2.0]
    normalize.moments.update(rows)
    np.testing.assert_allclose(normalize(rows).mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(normalize(rows).std(0), 1, rtol=1e-5)
    assert normalize(np.array([[1e9, -1e9]])).tolist() == [[10.0, -10.0]]


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return():
    """Two environments; the second's episode ends after the second step. Returns by hand at discount 0.5."""
    normalize = RewardNormalizer(2, 0.5)
    reward = np.array([[1.0, 2.0], [1.0, 4.0], [1.0, 8.0]])
    ended = np.array([[False, False], [False, True], [False, False]])
    normalize.update(reward, ended=ended, valid=np.ones((3, 2), bool))
    returns = np.array([1.0, 2.0, 1.5, 5.0, 1.75, 8.0])
    np.testing.assert_allclose(normalize.moments.variance, returns.var())
    np.testing.assert_allclose(normalize(np.array([-3.0])), [-3.0 / np.sqrt(returns.var() + 1e-8)])
    normalize.update(reward[:1], ended=ended[:1], valid=np.array([[True, False]]))  # filler moves nothing
    np.testing.assert_allclose(normalize.moments.variance, np.append(returns, 1 + 1.75 / 2).var())


def test_rewards_keep_their_sign_and_are_cut_off():
    normalize = RewardNormalizer(1, 0.5)
    assert normalize(np.array([3.0, -3.0, 0.0, 50.0, -50.0])).tolist() == pytest.approx([3.0, -3.0, 0.0, 10.0, -10.0])


def test_moments_are_accumulated_in_double_precision():
    """Rows in float32 around 1,000 that differ in the last digits; kills a mean in single precision."""
    rows = (1000 + np.random.default_rng(0).normal(size=(100_000, 1)) * 1e-2).astype(np.float32)
    moments = RunningMoments(1)
    for part in np.split(rows, 100):
        moments.update(part)
    np.testing.assert_allclose(moments.mean, rows.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, rows.var(0, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("mid_episode", [True, False])
def test_state_is_taken_and_put_without_sharing(mid_episode):
    def rollout(seed):
        rng = np.random.default_rng(seed)
        reward, ended = rng.normal(size=(9, 2)), rng.random((9, 2)) < 0.2
        return {"reward": reward, "ended": ended, "valid": np.ones((9, 2), np.bool_)}

    observations, rewards = ObservationNormalizer(2), RewardNormalizer(2, 0.9)
    observations.moments.update(rollout(0)["reward"])
    rewards.update(**rollout(0))
    assert rewards.discounted.any()
    others = ObservationNormalizer(2), RewardNormalizer(2, 0.9)
    for normalizer, other in zip((observations, rewards), others, strict=True):
        state = normalizer.state_dict()
        other.load_state_dict(state, mid_episode=mid_episode)
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.fill_(99.0)
    if not mid_episode:
        rewards.discounted = np.zeros(2)  # new episodes have begun
    assert np.array_equal(others[1].discounted, rewards.discounted)
    row = np.array([[1.0, 2.0]])
    for normalizer, other in zip((observations, rewards), others, strict=True):
        assert np.array_equal(normalizer(row), other(row))
    for each in (rewards, others[1]):
        each.update(**rollout(1))
    assert np.array_equal(rewards(row), others[1](row))


@pytest.mark.parametrize("normalizer", [ObservationNormalizer(2), RewardNormalizer(2, 0.9)])
def test_whether_episodes_go_on_is_said_by_name(normalizer):
    with pytest.raises(TypeError, match="positional"):
        normalizer.load_state_dict(normalizer.state_dict(), True)
