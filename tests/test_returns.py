"""Tables worked by hand; that the estimators are unbiased is shown in test_planted_faults and by scripts/verify.py."""

import pytest
import torch

from pgtorch.returns import (
    discount_weight,
    episode_return,
    generalized_advantage,
    reward_to_go,
    standardize,
    subtract_mean,
)


def column(*values, kind=torch.float64):
    return torch.tensor(values, dtype=kind).unsqueeze(1)


def flags(*values):
    return column(*values, kind=torch.bool)


YES, NO, SECOND, LAST = flags(1, 1, 1, 1), flags(0, 0, 0, 0), flags(0, 1, 0, 0), flags(0, 0, 0, 1)
REWARD = column(1.0, 2.0, 4.0, 8.0)
NEXT_VALUE = column(10.0, 20.0, 40.0, 80.0)
VALUE = column(3.0, 5.0, 7.0, 9.0)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        (NO, NO, [9.0, 16.0, 28.0, 48.0]),  # the rollout ends, the episode does not: 8 + 80/2 = 48, 4 + 48/2 = 28, ...
        (SECOND, NO, [2.0, 2.0, 28.0, 48.0]),  # nothing comes after a termination: 2, 1 + 2/2
        (NO, SECOND, [7.0, 12.0, 28.0, 48.0]),  # cut off where the final observation was worth 20: 2 + 20/2
        (SECOND, SECOND, [2.0, 2.0, 28.0, 48.0]),  # both at once: terminated wins
        (LAST, NO, [4.0, 6.0, 8.0, 8.0]),  # terminated exactly at the end of the rollout
        (NO, LAST, [9.0, 16.0, 28.0, 48.0]),  # cut off exactly there
        (LAST, LAST, [4.0, 6.0, 8.0, 8.0]),
    ],
)
def test_reward_to_go(terminated, truncated, expected):
    result = reward_to_go(REWARD, terminated, truncated, NEXT_VALUE, YES, discount=0.5)
    assert result.squeeze(1).tolist() == expected


def test_reward_to_go_passes_filler_by():
    """Step 2 is filler after a termination at step 1, with numbers in it that must go nowhere."""
    valid = flags(1, 1, 0, 1)
    reward = column(1.0, 2.0, 1000.0, 8.0)
    result = reward_to_go(reward, SECOND, NO, NEXT_VALUE, valid, discount=0.5)
    assert result.squeeze(1).tolist() == [2.0, 2.0, 0.0, 48.0]
    advantage = generalized_advantage(reward, VALUE, SECOND, NO, NEXT_VALUE, valid, discount=0.5, gae_lambda=1.0)
    assert advantage.squeeze(1).tolist() == [2.0 - 3.0 + 0.5 * (10.0 - 5.0), 2.0 - 5.0, 0.0, 48.0 - 9.0]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (NO, [1 + 1 + 1 + 1] * 4),  # 1 + 2/2 + 4/4 + 8/8, the same at each step
        (SECOND, [2.0, 2.0, 8.0, 8.0]),  # 1 + 2/2, then a new episode: 4 + 8/2
        (LAST, [4.0] * 4),
    ],
)
def test_episode_return(ends, expected):
    for terminated, truncated in ((ends, NO), (NO, ends)):
        assert episode_return(REWARD, terminated, truncated, YES, discount=0.5).squeeze(1).tolist() == expected


def test_discount_weight_starts_anew_with_each_episode():
    assert discount_weight(SECOND, NO, YES, 0.5).squeeze(1).tolist() == [1.0, 0.5, 1.0, 0.5]
    assert discount_weight(SECOND, NO, flags(1, 1, 0, 1), 0.5).squeeze(1).tolist() == [1.0, 0.5, 1.0, 1.0]


def test_generalized_advantage():
    """delta = r + next_value/2 - value = 3, 7, 17, 39; each adds a quarter of the next one's advantage."""
    result = generalized_advantage(REWARD, VALUE, NO, NO, NEXT_VALUE, YES, discount=0.5, gae_lambda=0.5)
    assert result.squeeze(1).tolist() == [3 + (7 + (17 + 39 / 4) / 4) / 4, 7 + (17 + 39 / 4) / 4, 17 + 39 / 4, 39.0]
    terminated = generalized_advantage(REWARD, VALUE, SECOND, NO, NEXT_VALUE, YES, discount=0.5, gae_lambda=0.5)
    assert terminated.squeeze(1).tolist() == [3 - 3 / 4, -3.0, 17 + 39 / 4, 39.0]  # delta 1 is 2 - 5
    truncated = generalized_advantage(REWARD, VALUE, NO, SECOND, NEXT_VALUE, YES, discount=0.5, gae_lambda=0.5)
    assert truncated.squeeze(1).tolist() == [3 + 7 / 4, 7.0, 17 + 39 / 4, 39.0]
    both = generalized_advantage(REWARD, VALUE, SECOND, SECOND, NEXT_VALUE, YES, discount=0.5, gae_lambda=0.5)
    assert torch.equal(both, terminated)


def test_generalized_advantage_with_full_smoothing_is_reward_to_go_minus_value():
    torch.manual_seed(0)
    reward, value = torch.randn(20, 7).double(), torch.randn(20, 7).double()
    terminated, truncated = torch.rand(20, 7) < 0.2, torch.rand(20, 7) < 0.2
    following = torch.cat([value[1:], torch.randn(1, 7).double()])
    next_value = torch.where(truncated, torch.randn(20, 7).double(), following)
    valid = torch.ones(20, 7, dtype=torch.bool)
    arguments = terminated, truncated, next_value, valid, 0.97
    advantage = generalized_advantage(reward, value, *arguments, gae_lambda=1.0)
    torch.testing.assert_close(advantage, reward_to_go(reward, *arguments) - value, rtol=1e-12, atol=1e-12)


def test_columns_do_not_mix():
    reward = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    terminated, nothing = torch.tensor([[True, False], [False, True]]), torch.zeros(2, 2, dtype=torch.bool)
    result = reward_to_go(reward, terminated, nothing, torch.zeros(2, 2), ~nothing, discount=1.0)
    assert result.tolist() == [[1.0, 30.0], [2.0, 20.0]]
    assert episode_return(reward, terminated, nothing, ~nothing, 1.0).tolist() == [[1.0, 30.0], [2.0, 30.0]]


def test_long_sums_are_accumulated_in_float64():
    steps = 10_000
    reward = torch.full((steps, 1), 0.1)
    nothing, everything = torch.zeros(steps, 1, dtype=torch.bool), torch.ones(steps, 1, dtype=torch.bool)
    result = reward_to_go(reward, nothing, nothing, torch.zeros(steps, 1), everything, discount=0.9999)
    exact = torch.tensor(0.1).double().item() * (1 - 0.9999**steps) / (1 - 0.9999)
    assert result.dtype == torch.float32
    assert result[0].item() == pytest.approx(exact, rel=1e-7)
    assert episode_return(reward, nothing, nothing, everything, 0.9999)[0].item() == pytest.approx(exact, rel=1e-7)


def test_subtract_mean_takes_valid_rows_only():
    result = subtract_mean(column(1.0, 2.0, 1000.0, 6.0), flags(1, 1, 0, 1))
    assert result.squeeze(1).tolist() == [-2.0, -1.0, 0.0, 3.0]


def test_standardize():
    result = standardize(column(1.0, 2.0, 1000.0, 6.0), flags(1, 1, 0, 1)).squeeze(1)
    assert result[2].item() == 0.0
    kept = result[[0, 1, 3]]
    assert kept.mean().item() == pytest.approx(0.0, abs=1e-15)
    assert kept.std().item() == pytest.approx(1.0)
    assert kept.argsort().tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e8, -1e-8])
def test_standardizing_equal_numbers_gives_zeros(value):
    assert standardize(torch.full((5, 3), value), torch.ones(5, 3, dtype=torch.bool)).eq(0).all()


@pytest.mark.parametrize("scale", [1e8, 1e-8])
def test_standardize_does_not_mind_the_scale(scale):
    advantage, valid = torch.tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3, dtype=torch.bool)
    torch.testing.assert_close(standardize(scale * advantage, valid), standardize(advantage, valid))


@pytest.mark.parametrize("valid", [flags(0, 0, 0, 0), flags(0, 1, 0, 0)])
def test_standardize_needs_two(valid):
    with pytest.raises(ValueError, match=r"at least two valid rows, got [01]"):
        standardize(REWARD, valid)


@pytest.mark.parametrize("discount", [-0.1, 1.1, float("nan")])
def test_refuses_a_discount_out_of_range(discount):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got"):
        reward_to_go(REWARD, NO, NO, NEXT_VALUE, YES, discount)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got"):
        generalized_advantage(REWARD, VALUE, NO, NO, NEXT_VALUE, YES, 0.5, gae_lambda=discount)


def test_refuses_shapes_that_differ():
    for shape in ((4,), (1, 4), (3, 1), (4, 2)):
        with pytest.raises(ValueError, match=r"all tensors must have one shape \[T, N\], got"):
            reward_to_go(REWARD, NO, NO, torch.zeros(shape).double(), YES, 0.5)
        with pytest.raises(ValueError, match=r"all tensors must have one shape"):
            standardize(REWARD, torch.ones(shape, dtype=torch.bool))
