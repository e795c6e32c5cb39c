"""Tables worked by hand; tests/proof and `pgtorch verify` show that the estimators are unbiased."""

import itertools
import statistics

import pytest
import torch
from support import ENDS, MODES, RandomPolicy, counting, seeded

from pgtorch import RolloutCollector, TrainConfig
from pgtorch.returns import (
    discount_weight,
    episode_return,
    generalized_advantage,
    reward_to_go,
    standardize,
    subtract_mean,
    weigh,
)


def column(*values, kind=torch.float64):
    return torch.tensor(values, dtype=kind).unsqueeze(1)


def flags(*values):
    return column(*values, kind=torch.bool)


YES, NO, SECOND, LAST = flags(1, 1, 1, 1), flags(0, 0, 0, 0), flags(0, 1, 0, 0), flags(0, 0, 0, 1)
FILLER = flags(1, 1, 0, 1)
REWARD = column(1.0, 2.0, 4.0, 8.0)
NEXT_VALUE = column(10.0, 20.0, 40.0, 80.0)
VALUE = column(3.0, 5.0, 7.0, 9.0)


def ends(terminated=NO, truncated=NO, valid=YES):
    return {"terminated": terminated, "truncated": truncated, "valid": valid}


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
    result = reward_to_go(REWARD, next_value=NEXT_VALUE, discount=0.5, **ends(terminated, truncated))
    assert result.squeeze(1).tolist() == expected


def test_filler_gives_nothing_and_passes_nothing_on():
    """Step 2 is filler after a termination at step 1, with numbers in it that must go nowhere."""
    reward, filled = column(1.0, 2.0, 1000.0, 8.0), ends(SECOND, NO, FILLER)
    result = reward_to_go(reward, next_value=NEXT_VALUE, discount=0.5, **filled)
    assert result.squeeze(1).tolist() == [2.0, 2.0, 0.0, 48.0]
    advantage = generalized_advantage(
        reward, value=VALUE, next_value=NEXT_VALUE, discount=0.5, gae_lambda=1.0, **filled
    )
    assert advantage.squeeze(1).tolist() == [2.0 - 3.0 + 0.5 * (10.0 - 5.0), 2.0 - 5.0, 0.0, 48.0 - 9.0]
    whole = episode_return(reward, discount=0.5, **filled)
    assert whole.squeeze(1).tolist() == [2.0, 2.0, 0.0, 8.0]


def test_what_comes_after_filler_reaches_what_came_before():
    """Where no episode ends beside it: the future is stepped over it, undiscounted."""
    reward, filled = column(1.0, 2.0, 1000.0, 8.0), ends(NO, NO, FILLER)
    result = reward_to_go(reward, next_value=NEXT_VALUE, discount=0.5, **filled)
    assert result.squeeze(1).tolist() == [14.0, 26.0, 0.0, 48.0]
    advantage = generalized_advantage(
        reward, value=VALUE, next_value=NEXT_VALUE, discount=0.5, gae_lambda=0.5, **filled
    )
    assert advantage.squeeze(1).tolist() == [3 + (7 + 39 / 4) / 4, 7 + 39 / 4, 0.0, 39.0]
    assert episode_return(reward, discount=0.5, **filled).squeeze(1).tolist() == [4.0, 4.0, 0.0, 4.0]


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (NO, [1 + 1 + 1 + 1] * 4),  # 1 + 2/2 + 4/4 + 8/8, the same at each step
        (SECOND, [2.0, 2.0, 8.0, 8.0]),  # 1 + 2/2, then a new episode: 4 + 8/2
        (LAST, [4.0] * 4),
    ],
)
def test_episode_return(end, expected):
    for terminated, truncated in ((end, NO), (NO, end)):
        result = episode_return(REWARD, discount=0.5, **ends(terminated, truncated))
        assert result.squeeze(1).tolist() == expected


def test_an_episode_of_one_step_between_filler_has_its_own_return():
    """Kills a sum that runs through the filler, and one that starts before the end of the episode before."""
    reward, end = column(1.0, 1000.0, 2.0), flags(1, 0, 1)
    result = episode_return(reward, terminated=end, truncated=flags(0, 0, 0), valid=flags(1, 0, 1), discount=0.5)
    assert result.squeeze(1).tolist() == [1.0, 0.0, 2.0]


def test_discount_weight_starts_again_with_each_episode():
    assert discount_weight(discount=0.5, **ends(SECOND)).squeeze(1).tolist() == [1.0, 0.5, 1.0, 0.5]
    assert discount_weight(discount=0.5, **ends(NO, SECOND)).squeeze(1).tolist() == [1.0, 0.5, 1.0, 0.5]
    assert discount_weight(discount=0.5, **ends(SECOND, NO, FILLER)).squeeze(1).tolist() == [1.0, 0.5, 1.0, 1.0]


def test_generalized_advantage():
    """delta = r + next_value/2 - value = 3, 7, 17, 39; each adds a quarter of the next one's advantage."""

    def advantage(*flags):
        settings = {"next_value": NEXT_VALUE, "discount": 0.5, "gae_lambda": 0.5}
        return generalized_advantage(REWARD, value=VALUE, **settings, **ends(*flags)).squeeze(1).tolist()

    assert advantage() == [3 + (7 + (17 + 39 / 4) / 4) / 4, 7 + (17 + 39 / 4) / 4, 17 + 39 / 4, 39.0]
    assert advantage(SECOND, NO) == [3 - 3 / 4, -3.0, 17 + 39 / 4, 39.0]  # delta 1 is 2 - 5
    assert advantage(NO, SECOND) == [3 + 7 / 4, 7.0, 17 + 39 / 4, 39.0]
    assert advantage(SECOND, SECOND) == advantage(SECOND, NO)


def test_discount_and_gae_lambda_are_not_each_other():
    """delta = r + discount * next_value - value with the discount alone: 6, 13, 29, 63."""
    settings = {"next_value": NEXT_VALUE, "discount": 0.8, "gae_lambda": 0.0}
    result = generalized_advantage(REWARD, value=VALUE, **settings, **ends())
    assert result.squeeze(1).tolist() == pytest.approx([6.0, 13.0, 29.0, 63.0])


def test_with_gae_lambda_1_it_is_reward_to_go_minus_value():
    generator = seeded()
    reward, value = (torch.randn(20, 7, generator=generator).double() for _ in range(2))
    terminated, truncated = (torch.rand(20, 7, generator=generator) < 0.2 for _ in range(2))
    following = torch.cat([value[1:], torch.randn(1, 7, generator=generator).double()])
    next_value = torch.where(truncated, torch.randn(20, 7, generator=generator).double(), following)
    arguments = ends(terminated, truncated, torch.ones(20, 7, dtype=torch.bool))
    arguments |= {"next_value": next_value, "discount": 0.97}
    advantage = generalized_advantage(reward, value=value, gae_lambda=1.0, **arguments)
    torch.testing.assert_close(advantage, reward_to_go(reward, **arguments) - value, rtol=1e-12, atol=1e-12)


def test_columns_do_not_mix():
    reward = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    terminated, nothing = torch.tensor([[True, False], [False, True]]), torch.zeros(2, 2, dtype=torch.bool)
    arguments = {**ends(terminated, nothing, ~nothing), "discount": 1.0}
    result = reward_to_go(reward, next_value=torch.zeros(2, 2), **arguments)
    assert result.tolist() == [[1.0, 30.0], [2.0, 20.0]]
    assert episode_return(reward, **arguments).tolist() == [[1.0, 30.0], [2.0, 30.0]]


def estimates(reward, value, discount, gae_lambda=0.5, **flags):
    """What each estimator makes of the same steps."""
    return {
        "reward_to_go": reward_to_go(reward, next_value=value, discount=discount, **flags),
        "episode_return": episode_return(reward, discount=discount, **flags),
        "generalized_advantage": generalized_advantage(
            reward, value=value, next_value=value, discount=discount, gae_lambda=gae_lambda, **flags
        ),
    }


def test_long_sums_are_accumulated_in_float64():
    steps = 10_000
    reward, zeros = torch.full((steps, 1), 0.1), torch.zeros(steps, 1)
    exact = torch.tensor(0.1).double().item() * (1 - 0.9999**steps) / (1 - 0.9999)
    flags = ends(zeros.bool(), zeros.bool(), ~zeros.bool())
    for name, result in estimates(reward, zeros, discount=0.9999, gae_lambda=1.0, **flags).items():
        assert result.dtype == torch.float32, name
        assert result[0].item() == pytest.approx(exact, rel=1e-7), name


def test_no_argument_is_changed():
    """Kills sums that are formed in place, within the rewards."""
    reward, value = torch.tensor([[1.0], [1000.0], [2.0]]), torch.rand(3, 1, generator=seeded())
    end, valid = flags(1, 0, 1), flags(1, 0, 1)
    arguments = [reward, value, end, valid]
    before = [argument.clone() for argument in arguments]
    estimates(reward, value, discount=0.5, terminated=end, truncated=~end, valid=valid)
    subtract_mean(reward, valid)
    standardize(reward, valid)
    assert all(torch.equal(*pair) for pair in zip(arguments, before, strict=True))


def test_subtract_mean_takes_valid_rows_only():
    result = subtract_mean(column(1.0, 2.0, 1000.0, 6.0), FILLER)
    assert result.squeeze(1).tolist() == [-2.0, -1.0, 0.0, 3.0]


def test_subtract_mean_needs_a_row():
    with pytest.raises(ValueError, match="at least one valid row, got none"):
        subtract_mean(REWARD, NO)


def test_standardize():
    result = standardize(column(1.0, 2.0, 1000.0, 6.0), FILLER).squeeze(1)
    assert result[2].item() == 0.0
    kept = result[[0, 1, 3]]
    assert kept.mean().item() == pytest.approx(0.0, abs=1e-15)
    assert kept.std().item() == pytest.approx(1.0)
    assert kept.argsort().tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e8, -1e-8])
def test_standardizing_equal_numbers_gives_zeros(value):
    assert standardize(torch.full((5, 3), value), torch.ones(5, 3, dtype=torch.bool)).eq(0).all()


@pytest.mark.parametrize("scale", [1e8, 1e-8])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1.3e-6), (torch.float64, 1e-12)])
def test_standardize_does_not_mind_the_scale(scale, dtype, rtol):
    """Kills a small number that is added to the deviation."""
    advantage, valid = torch.tensor([[1.0, 2.0, 4.0]], dtype=dtype), torch.ones(1, 3, dtype=torch.bool)
    one, other = standardize(scale * advantage, valid), standardize(advantage, valid)
    torch.testing.assert_close(one, other, rtol=rtol, atol=1e-6 if dtype is torch.float32 else 0)


@pytest.mark.parametrize("valid", [flags(0, 0, 0, 0), flags(0, 1, 0, 0)])
def test_standardize_needs_two(valid):
    with pytest.raises(ValueError, match=r"at least two valid rows, got [01]"):
        standardize(REWARD, valid)


@pytest.mark.parametrize("factor", [-0.1, 1.1, 1.5, float("nan")])
def test_refuses_a_factor_out_of_range(factor):
    given = {"next_value": NEXT_VALUE, **ends()}
    for call in (
        lambda: reward_to_go(REWARD, discount=factor, **given),
        lambda: episode_return(REWARD, discount=factor, **ends()),
        lambda: discount_weight(discount=factor, **ends()),
        lambda: generalized_advantage(REWARD, value=VALUE, discount=factor, gae_lambda=0.5, **given),
        lambda: generalized_advantage(REWARD, value=VALUE, discount=0.5, gae_lambda=factor, **given),
    ):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\], got"):
            call()


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 1), (4, 2)])
def test_refuses_shapes_that_differ(shape):
    """Each argument in turn has another shape; kills a check that leaves one out."""
    numbers, truths = torch.zeros(shape).double(), torch.ones(shape, dtype=torch.bool)
    arguments = {"reward": REWARD, "value": VALUE, "next_value": NEXT_VALUE, **ends()}
    taken = {
        generalized_advantage: arguments.keys(),
        reward_to_go: arguments.keys() - {"value"},
        episode_return: arguments.keys() - {"value", "next_value"},
        discount_weight: ends().keys(),
    }
    for function, names in taken.items():
        for name in names:
            given = {key: arguments[key] for key in names}
            given[name] = truths if given[name].dtype == torch.bool else numbers
            factors = {"gae_lambda": 0.5} if function is generalized_advantage else {}
            with pytest.raises(ValueError, match=r"all tensors must have one shape \[T, N\], got"):
                function(**given, **factors, discount=0.5)
    for call in (standardize, subtract_mean):
        with pytest.raises(ValueError, match=r"all tensors must have one shape"):
            call(REWARD, truths)


@pytest.mark.parametrize("shape", [(), (4,), (0, 3), (4, 1, 1)])
def test_refuses_what_is_not_steps_of_environments(shape):
    """All arguments have the same shape; kills a check of their differences only."""
    numbers, truths = torch.zeros(shape).double(), torch.ones(shape, dtype=torch.bool)
    flags = {"terminated": truths, "truncated": truths, "valid": truths, "discount": 0.5}
    for call in (
        lambda: reward_to_go(numbers, next_value=numbers, **flags),
        lambda: episode_return(numbers, **flags),
        lambda: discount_weight(**flags),
        lambda: generalized_advantage(numbers, value=numbers, next_value=numbers, gae_lambda=0.5, **flags),
        lambda: subtract_mean(numbers, truths),
        lambda: standardize(numbers, truths),
    ):
        with pytest.raises(ValueError, match=r"all tensors must have one shape \[T, N\], got"):
            call()


def test_refuses_integers():
    """Their discounted sums would be truncated."""
    with pytest.raises(ValueError, match="rewards and values must be floating, got integers"):
        reward_to_go(REWARD.long(), next_value=NEXT_VALUE, discount=0.5, **ends())


def test_terminated_and_truncated_cannot_be_swapped_by_place():
    with pytest.raises(TypeError, match="positional"):
        reward_to_go(REWARD, NO, SECOND, NEXT_VALUE, YES, 0.5)


# What `weigh` picks, beside plain loops over what was played.

DISCOUNT, LAMBDA = 0.9, 0.6
VALUES = torch.tensor([0.3, -0.2, 0.5])


def value_of(observation):
    return observation @ VALUES


def played(mode, ends, rollouts=3):
    """The last of some rollouts of 9 steps in 3 environments."""
    collector, generator = RolloutCollector(counting(mode, 3, ENDS[ends]), num_steps=9, seed=0), seeded()
    return [collector.collect(RandomPolicy(), generator) for _ in range(rollouts)][-1]


def by_loops(rollout, config):
    """Multiplier and target of each valid row, in order of step and then environment, in plain Python."""
    led_to = {(t, int(i)): final for t, who, finals in rollout.final for i, final in zip(who, finals, strict=True)}
    multiplier, target = {}, {}
    for n in range(rollout.reward.shape[1]):
        steps = [t for t in range(len(rollout.reward)) if rollout.valid[t, n]]
        reward = {t: rollout.scaled_reward[t, n].item() for t in steps}
        value = {t: value_of(rollout.observation[t, n]).item() for t in steps}
        after = {t: value_of(led_to.get((t, n), rollout.observation[t + 1, n])).item() for t in steps}
        over = {t: bool(rollout.terminated[t, n]) for t in steps}
        ended = {t: over[t] or bool(rollout.truncated[t, n]) for t in steps}
        episodes, episode = [], []
        for t in steps:
            episode.append(t)
            if ended[t] or t == steps[-1]:
                episodes.append(episode)
                episode = []
        knows_values = config.baseline == "value" or config.multiplier == "gae"
        for t in steps:
            (episode,) = (some for some in episodes if t in some)
            rest = episode[episode.index(t) :]
            last = rest[-1]
            future = 0.0 if over[last] or not knows_values else after[last]
            to_go = sum(DISCOUNT**k * reward[j] for k, j in enumerate(rest)) + DISCOUNT ** len(rest) * future
            deltas = [reward[j] + DISCOUNT * (0.0 if over[j] else after[j]) - value[j] for j in rest]
            target[t, n] = {
                "reward": reward[t],
                "return": sum(DISCOUNT**k * reward[j] for k, j in enumerate(episode)),
                "reward-to-go": to_go,
                "gae": value[t] + sum((DISCOUNT * LAMBDA) ** k * delta for k, delta in enumerate(deltas)),
            }[config.multiplier]
            multiplier[t, n] = target[t, n] - (value[t] if knows_values else 0.0)
    rows = sorted(multiplier)
    found = [multiplier[row] for row in rows]
    if config.baseline == "mean":
        found = [number - statistics.mean(found) for number in found]
    if config.standardize:
        found = [(number - statistics.mean(found)) / statistics.stdev(found) for number in found]
    return found, [target[row] for row in rows]


CHOICES = [*itertools.product(["reward", "return", "reward-to-go", "gae"], ["none", "mean", "value"])]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("multiplier", "baseline"), CHOICES)
def test_weigh_is_what_plain_loops_make_of_the_rollout(mode, multiplier, baseline):
    """Episodes that terminate, are cut off, and both at once. Kills any two arguments that are swapped."""
    rollout = played(mode, "all three")
    assert rollout.terminated.any()
    assert (rollout.truncated & ~rollout.terminated).any()
    for standardized in (False, True):
        settings = {"multiplier": multiplier, "baseline": baseline, "standardize": standardized, "num_steps": 9}
        config = TrainConfig(discount=DISCOUNT, gae_lambda=LAMBDA, **settings)
        learns_value = multiplier == "gae" or baseline == "value"
        batch = weigh(rollout, value_of if learns_value else None, config)
        expected, target = by_loops(rollout, config)
        assert batch.multiplier.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert (batch.target is not None) == learns_value
        if learns_value:
            assert batch.target.tolist() == pytest.approx(target, rel=1e-5, abs=1e-4)
        assert torch.equal(batch.observation, rollout.observation[:-1][rollout.valid])
        assert torch.equal(batch.action, rollout.action[rollout.valid])
        assert len(batch) == rollout.valid.sum()
        assert batch.old_log_prob is None


def test_weigh_learns_from_the_scaled_reward():
    rollout = played(MODES[0], "terminated")
    scaled = rollout._replace(scaled_reward=rollout.reward / 8)
    batch = weigh(scaled, None, TrainConfig(multiplier="reward"))
    assert torch.equal(batch.multiplier, rollout.rows(rollout.reward) / 8)


def test_one_row_among_filler_is_not_standardized():
    """One row has no deviation; a run goes on all the same."""
    rollout = played(MODES[0], "terminated")
    valid = torch.zeros_like(rollout.valid)
    valid[0, 0] = True
    alone = rollout._replace(valid=valid, all_valid=False)
    batch = weigh(alone, None, TrainConfig(multiplier="reward", standardize=True, num_steps=9))
    assert batch.multiplier.tolist() == [rollout.reward[0, 0].item()]
