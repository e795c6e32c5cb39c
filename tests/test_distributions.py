"""Against torch.distributions, and against their own definition."""

import math

import pytest
import torch
from torch import distributions as theirs

from pgtorch.distributions import Categorical, DiagonalNormal, MultiBernoulli, MultiCategorical


def random_logits(rows, columns, scale=3.0):
    return scale * torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_categorical():
    logits, action = random_logits(50, 4), torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(1))
    ours, reference = Categorical(logits, start=3), theirs.Categorical(logits=logits)
    torch.testing.assert_close(ours.log_prob(action + 3), reference.log_prob(action))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    torch.testing.assert_close(ours.probs, reference.probs)
    assert torch.equal(ours.mode, logits.argmax(1) + 3)


def test_multi_categorical_is_a_sum_of_categoricals():
    logits, sizes = random_logits(50, 9), [2, 3, 4]
    ours = MultiCategorical(logits, sizes, starts=[0, 5, -1])
    action = torch.stack([torch.randint(0, n, (50,), generator=torch.Generator().manual_seed(n)) for n in sizes], dim=1)
    parts = [theirs.Categorical(logits=part) for part in logits.split(sizes, dim=1)]
    expected = sum(part.log_prob(action[:, i]) for i, part in enumerate(parts))
    torch.testing.assert_close(ours.log_prob(action + torch.tensor([0, 5, -1])), expected)
    torch.testing.assert_close(ours.entropy(), sum(part.entropy() for part in parts))
    assert ours.mode.tolist()[0] == [int(p.logits[0].argmax()) + s for p, s in zip(parts, (0, 5, -1), strict=True)]


def test_multi_bernoulli():
    logits = random_logits(50, 3)
    ours, reference = MultiBernoulli(logits), theirs.Independent(theirs.Bernoulli(logits=logits), 1)
    action = (torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) < 0.5).to(torch.int8)
    torch.testing.assert_close(ours.log_prob(action), reference.log_prob(action.double()))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    assert torch.equal(ours.mode, (logits > 0).to(torch.int8))


def test_diagonal_normal():
    mean, log_std = random_logits(50, 3), torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
    ours, reference = DiagonalNormal(mean, log_std), theirs.Independent(theirs.Normal(mean, log_std.exp()), 1)
    action = mean + torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.log_prob(action), reference.log_prob(action))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    assert torch.equal(ours.mode, mean)


ROWS = 200_000


@pytest.mark.parametrize(
    ("make", "expected", "actions"),
    [
        (lambda p: Categorical(p, start=1), [0.1, 0.2, 0.7], [1, 2, 3]),
        (lambda p: MultiCategorical(p, [3], [4]), [0.1, 0.2, 0.7], [[4], [5], [6]]),
    ],
)
def test_samples_come_as_often_as_they_should(make, expected, actions):
    """n = 200,000, 5 standard errors."""
    torch.manual_seed(0)
    sample = make(torch.tensor(expected).log().expand(ROWS, 3)).sample()
    assert sample.dtype == torch.int64
    for p, action in zip(expected, actions, strict=True):
        hits = (sample == torch.tensor(action)).reshape(ROWS, -1).all(1).double().mean().item()
        assert abs(hits - p) < 5 * math.sqrt(p * (1 - p) / ROWS)


def test_switches_and_numbers_come_as_they_should():
    torch.manual_seed(0)
    p = torch.tensor([0.05, 0.5, 0.9])
    sample = MultiBernoulli(torch.logit(p).expand(ROWS, 3)).sample()
    assert sample.dtype == torch.int8
    assert ((sample.double().mean(0) - p).abs() < 5 * (p * (1 - p) / ROWS).sqrt()).all()

    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    sample = DiagonalNormal(mean.expand(ROWS, 2), log_std).sample().double()
    assert ((sample.mean(0) - mean).abs() < 5 * log_std.exp() / math.sqrt(ROWS)).all()
    assert ((sample.std(0) / log_std.exp() - 1).abs() < 5 / math.sqrt(2 * ROWS)).all()


def test_a_certain_choice_has_entropy_zero():
    logits = torch.tensor([[0.0, -torch.inf], [0.0, -1e4]])
    assert Categorical(logits).entropy().tolist() == [0.0, 0.0]
    assert (Categorical(logits).sample() == 0).all()


@pytest.mark.parametrize("shape", [(3, 1), (1,), (), (2,)])
def test_refuses_actions_that_broadcast(shape):
    with pytest.raises(ValueError, match="action must have shape"):
        Categorical(torch.zeros(3, 2)).log_prob(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(3,), (1, 2), (3, 1), (3, 2, 1)])
def test_rows_of_numbers_must_fit(shape):
    with pytest.raises(ValueError, match=r"action must have shape"):
        DiagonalNormal(torch.zeros(3, 2), torch.zeros(2)).log_prob(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"action must have shape|must be the same"):
        MultiBernoulli(torch.zeros(3, 2)).log_prob(torch.zeros(shape))
    with pytest.raises(ValueError, match="action must have shape"):
        MultiCategorical(torch.zeros(3, 4), [2, 2], [0, 0]).log_prob(torch.zeros(shape, dtype=torch.int64))
