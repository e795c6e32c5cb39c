"""Against torch.distributions, and against their own definition."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from support import seeded
from torch import distributions as theirs

from pgtorch.distributions import (
    HEADS,
    Bernoulli,
    Categorical,
    DiagonalNormal,
    MultiBernoulli,
    MultiCategorical,
    as_global_stream,
    gumbel,
    head_of,
    normal,
    uniform,
)


def random_logits(rows, columns, scale=3.0):
    return scale * torch.randn(rows, columns, dtype=torch.float64, generator=seeded())


def test_bernoulli():
    logit, action = random_logits(50, 1).squeeze(1), torch.randint(0, 2, (50,), generator=seeded(1))
    ours, reference = Bernoulli(logit), theirs.Bernoulli(logits=logit)
    torch.testing.assert_close(ours.log_prob(action), reference.log_prob(action.double()))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    assert torch.equal(ours.mode, (logit > 0).long())
    assert Bernoulli(torch.zeros(1)).mode.item() == 0  # of two that are as likely the first


def test_categorical():
    logits, action = random_logits(50, 4), torch.randint(0, 4, (50,), generator=seeded(1))
    ours, reference = Categorical(logits, start=3), theirs.Categorical(logits=logits)
    torch.testing.assert_close(ours.log_prob(action + 3), reference.log_prob(action))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    torch.testing.assert_close(ours.probs, reference.probs)
    assert torch.equal(ours.mode, logits.argmax(1) + 3)


def test_multi_categorical_is_a_sum_of_categoricals():
    logits, sizes = random_logits(50, 9), [2, 3, 4]
    ours = MultiCategorical(logits, sizes, starts=[0, 5, -1])
    action = torch.stack([torch.randint(0, n, (50,), generator=seeded(n)) for n in sizes], dim=1)
    parts = [theirs.Categorical(logits=part) for part in logits.split(sizes, dim=1)]
    expected = sum(part.log_prob(action[:, i]) for i, part in enumerate(parts))
    torch.testing.assert_close(ours.log_prob(action + torch.tensor([0, 5, -1])), expected)
    torch.testing.assert_close(ours.entropy(), sum(part.entropy() for part in parts))
    assert ours.mode.tolist()[0] == [int(p.logits[0].argmax()) + s for p, s in zip(parts, (0, 5, -1), strict=True)]


def test_multi_bernoulli():
    logits = random_logits(50, 3)
    ours, reference = MultiBernoulli(logits), theirs.Independent(theirs.Bernoulli(logits=logits), 1)
    action = (torch.rand(50, 3, generator=seeded(1)) < 0.5).to(torch.int8)
    torch.testing.assert_close(ours.log_prob(action), reference.log_prob(action.double()))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    assert torch.equal(ours.mode, (logits > 0).to(torch.int8))


def test_diagonal_normal():
    mean, log_std = random_logits(50, 3), torch.tensor([-2.0, 0.0, 1.5], dtype=torch.float64)
    ours, reference = DiagonalNormal(mean, log_std), theirs.Independent(theirs.Normal(mean, log_std.exp()), 1)
    action = mean + torch.randn(50, 3, dtype=torch.float64, generator=seeded(1))
    torch.testing.assert_close(ours.log_prob(action), reference.log_prob(action))
    torch.testing.assert_close(ours.entropy(), reference.entropy())
    assert torch.equal(ours.mode, mean)


ROWS = 200_000


@pytest.mark.parametrize(
    ("make", "noise", "expected", "actions"),
    [
        (lambda p: Bernoulli(torch.logit(p[:, 1])), lambda: uniform((ROWS,), seeded()), [0.3, 0.7], [0, 1]),
        (lambda p: Categorical(p.log(), start=1), lambda: gumbel((ROWS, 3), seeded()), [0.1, 0.2, 0.7], [1, 2, 3]),
        (
            lambda p: MultiCategorical(p.log(), [3], [4]),
            lambda: gumbel((ROWS, 3), seeded()),
            [0.1, 0.2, 0.7],
            [[4], [5], [6]],
        ),
    ],
    ids=["Bernoulli", "Categorical", "MultiCategorical"],
)
def test_samples_come_as_often_as_they_should(make, noise, expected, actions):
    """n = 200,000, 5 standard errors."""
    sample = make(torch.tensor(expected).expand(ROWS, -1)).sample(noise())
    assert sample.dtype == torch.int64
    for p, action in zip(expected, actions, strict=True):
        hits = (sample == torch.tensor(action)).reshape(ROWS, -1).all(1).double().mean().item()
        assert abs(hits - p) < 5 * math.sqrt(p * (1 - p) / ROWS)


def test_switches_and_numbers_come_as_they_should():
    p = torch.tensor([0.05, 0.5, 0.9])
    sample = MultiBernoulli(torch.logit(p).expand(ROWS, 3)).sample(uniform((ROWS, 3), seeded()))
    assert sample.dtype == torch.int8
    assert ((sample.double().mean(0) - p).abs() < 5 * (p * (1 - p) / ROWS).sqrt()).all()

    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    sample = DiagonalNormal(mean.expand(ROWS, 2), log_std).sample(normal((ROWS, 2), seeded())).double()
    assert ((sample.mean(0) - mean).abs() < 5 * log_std.exp() / math.sqrt(ROWS)).all()
    assert ((sample.std(0) / log_std.exp() - 1).abs() < 5 / math.sqrt(2 * ROWS)).all()


def test_the_parts_of_an_action_are_independent():
    """Kills noise that is drawn once a row and shared by its parts."""
    n = 100_000
    for distribution, noise in (
        (DiagonalNormal(torch.zeros(n, 3), torch.zeros(3)), normal((n, 3), seeded())),
        (MultiBernoulli(torch.zeros(n, 3)), uniform((n, 3), seeded())),
        (MultiCategorical(torch.zeros(n, 6), [2, 2, 2], [0, 0, 0]), gumbel((n, 6), seeded())),
    ):
        correlation = torch.corrcoef(distribution.sample(noise).double().T) - torch.eye(3)
        assert correlation.abs().max() < 5 / math.sqrt(n)


def test_a_normal_has_the_tails_of_a_normal():
    """Its fourth moment is 3; kills noise that is clipped, or a sum of a few uniform numbers."""
    n = 1_000_000
    x = DiagonalNormal(torch.zeros(n, 1), torch.zeros(1)).sample(normal((n, 1), seeded())).double()
    assert abs(x.pow(4).mean().item() - 3) < 5 * math.sqrt(96 / n)


@pytest.mark.parametrize("p", [1e-4, 1e-5])
def test_a_rare_choice_is_still_drawn_as_often_as_it_should_be(p):
    """Kills Gumbel noise whose uniform numbers are clamped away from 0 or come in half precision."""
    n = 4_000_000
    logits = torch.tensor([[math.log(p), math.log1p(-p)]]).expand(n, 2)
    sample = Categorical(logits).sample(gumbel((n, 2), seeded()))
    assert abs((sample == 0).double().mean().item() - p) < 5 * math.sqrt(p / n)


def test_each_row_is_drawn_from_its_own_distribution():
    """Kills a sample of one row for all, and parts that are mixed up between rows."""
    certain = 1e4 * torch.eye(3)[[0, 2, 1, 1]]
    assert Categorical(certain).sample(gumbel((4, 3), seeded())).tolist() == [0, 2, 1, 1]
    pair = MultiCategorical(torch.cat([certain, certain.flip(1)], 1), [3, 3], [0, 0])
    assert pair.sample(gumbel((4, 6), seeded())).T.tolist() == [[0, 2, 1, 1], [2, 0, 1, 1]]
    mean = torch.tensor([[5.0], [-5.0]])
    sample = DiagonalNormal(mean, torch.tensor([-20.0])).sample(normal((2, 1), seeded()))
    assert (sample - mean).abs().max() < 1e-5


def test_a_certain_choice_has_entropy_zero():
    logits = torch.tensor([[0.0, -torch.inf], [0.0, -1e4]])
    assert Categorical(logits).entropy().tolist() == [0.0, 0.0]
    assert (Categorical(logits).sample(gumbel((2, 2), seeded())) == 0).all()


@pytest.mark.parametrize("shape", [(3, 1), (1,), (), (2,)])
@pytest.mark.parametrize(
    "make",
    [lambda: Categorical(torch.zeros(3, 2)), lambda: Bernoulli(torch.zeros(3))],
    ids=["Categorical", "Bernoulli"],
)
def test_refuses_actions_that_broadcast(make, shape):
    with pytest.raises(ValueError, match=r"action must have shape \[3\], got \["):
        make().log_prob(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(3,), (1, 2), (3, 1), (3, 2, 1)])
def test_rows_of_numbers_must_fit(shape):
    with pytest.raises(ValueError, match=r"action must have shape \[3, 2\], got \["):
        DiagonalNormal(torch.zeros(3, 2), torch.zeros(2)).log_prob(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"action must have shape \[3, 2\], got \["):
        MultiBernoulli(torch.zeros(3, 2)).log_prob(torch.zeros(shape))
    with pytest.raises(ValueError, match="action must have shape"):
        MultiCategorical(torch.zeros(3, 4), [2, 2], [0, 0]).log_prob(torch.zeros(shape, dtype=torch.int64))


# Noise


@pytest.mark.parametrize(
    ("draw", "cdf"),
    [
        (uniform, lambda x: x),
        (gumbel, lambda x: (-(-x).exp()).exp()),
        (normal, lambda x: 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
    ],
    ids=["uniform", "gumbel", "normal"],
)
def test_noise_has_its_distribution_and_comes_from_its_generator_alone(draw, cdf):
    """Kolmogorov-Smirnov: sqrt(n) D exceeds 2.75 with probability 5e-7."""
    before = torch.get_rng_state()
    found = draw((50, 400), seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found, draw((50, 400), seeded(3)))
    assert not torch.equal(found, draw((50, 400), seeded(4)))
    assert (found.dtype, found.shape) == (torch.float32, (50, 400))
    assert found.isfinite().all()
    n, position = found.numel(), np.sort(cdf(found.double()).numpy().ravel())
    assert math.sqrt(n) * np.abs(position - (np.arange(n) + 0.5) / n).max() < 2.75


@pytest.mark.parametrize("draw", [uniform, gumbel])
@pytest.mark.parametrize("width", [1, 3, 16, 40])
def test_noise_drawn_at_once_is_that_drawn_step_by_step(draw, width):
    """So a rollout plays the same whether its numbers are drawn before it or during it."""
    generator = seeded(1)
    step_by_step = torch.stack([draw((width,), generator) for _ in range(30)])
    assert torch.equal(draw((30, width), seeded(1)), step_by_step)


def test_as_global_stream_draws_from_the_generator_and_restores_the_global_stream():
    before, generator, twin = torch.get_rng_state(), seeded(5), seeded(5)
    with as_global_stream(generator):
        inside = [torch.rand(3), theirs.Categorical(logits=torch.zeros(100, 7)).sample()]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inside[0], torch.rand(3, generator=twin))
    with as_global_stream(twin):
        assert torch.equal(theirs.Categorical(logits=torch.zeros(100, 7)).sample(), inside[1])
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=twin))  # both have moved on


def test_as_global_stream_restores_on_error():
    before, generator, twin = torch.get_rng_state(), seeded(5), seeded(5)

    def draw_and_fail():
        with as_global_stream(generator):
            torch.rand(3)
            raise KeyError("within")

    with pytest.raises(KeyError, match="within"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())  # what was drawn is not drawn again


# One row a space


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (spaces.Discrete(3, start=-1), 3),
        (spaces.MultiDiscrete([2, 3], start=[0, 5]), 5),
        (spaces.MultiBinary(4), 4),
        (spaces.Box(-1.0, 1.0, (2,)), 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_head_gives_actions_of_its_space(space, size):
    head = head_of(space)
    assert head is HEADS[type(space)]
    assert head.size(space) == size
    noise = head.noise((500, size), seeded())
    action = head.distribution(space, torch.zeros(500, size), torch.full((size,), -2.0)).sample(noise).numpy()
    assert action.shape == (500, *space.shape)
    assert all(space.contains(row) for row in action.astype(space.dtype))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3], start=[0, 5]),
        spaces.MultiBinary(4),
        spaces.Box(-1.0, 1.0, (2,)),
    ],
    ids=lambda space: type(space).__name__,
)
def test_rows_may_stand_in_any_shape(space):
    """As those of torch.distributions; kills a dimension counted from the front."""
    head, log_std = head_of(space), torch.tensor([-0.5, 0.5])
    size = head.size(space)
    parameters, noise = torch.randn(6, 5, size, generator=seeded()), head.noise((6, 5, size), seeded(1))
    table = head.distribution(space, parameters, log_std)
    rows = head.distribution(space, parameters.flatten(0, 1), log_std)
    action = table.sample(noise)
    for found, expected in (
        (action, rows.sample(noise.flatten(0, 1))),
        (table.mode, rows.mode),
        (table.entropy(), rows.entropy()),
        (table.log_prob(action), rows.log_prob(action.flatten(0, 1))),
    ):
        assert found.shape[:2] == (6, 5)
        assert torch.equal(found.flatten(0, 1), expected)


@pytest.mark.parametrize(
    ("space", "parameters", "expected"),
    [
        (spaces.Discrete(3), [0.0, 1.0, -1.0], [[0.2447, 0.6652, 0.0900]]),  # e^z over their sum
        (spaces.MultiDiscrete([2, 2]), [0.0, 1.0, -1.0, 0.0], [[0.2689, 0.7311]] * 2),
        (spaces.MultiBinary(2), [1.0, -1.0], [[0.2689, 0.7311], [0.7311, 0.2689]]),  # of no and yes
    ],
    ids=["Discrete", "MultiDiscrete", "MultiBinary"],
)
def test_a_head_draws_the_noise_that_its_distribution_takes(space, parameters, expected):
    """n = 200,000, 5 standard errors. Kills a row of the table with the noise of another."""
    head = head_of(space)
    noise = head.noise((ROWS, len(parameters)), seeded())
    action = head.distribution(space, torch.tensor(parameters).expand(ROWS, -1), None).sample(noise).reshape(ROWS, -1)
    for column, probabilities in zip(action.T, expected, strict=True):
        for choice, p in enumerate(probabilities):
            found = (column == choice).double().mean().item()
            assert abs(found - p) < 5 * math.sqrt(p * (1 - p) / ROWS) + 1e-4


def test_a_box_draws_normal_numbers():
    head = head_of(spaces.Box(-1, 1, (2,)))
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    noise = head.noise((ROWS, 2), seeded())
    sample = head.distribution(None, mean.expand(ROWS, 2), log_std).sample(noise).double()
    standard = (sample - mean) / log_std.exp()
    assert (standard.mean(0).abs() < 5 / math.sqrt(ROWS)).all()
    assert ((standard.std(0) - 1).abs() < 5 / math.sqrt(2 * ROWS)).all()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Graph(spaces.Box(0, 1, (2,)), None),
        spaces.Box(-1.0, 1.0, (2, 2)),
        spaces.Box(-1.0, 1.0, ()),
        spaces.MultiDiscrete([[2, 3]]),
        spaces.MultiBinary((2, 2)),
    ],
    ids=str,
)
def test_no_head_for_what_cannot_be_drawn(space):
    with pytest.raises(TypeError, match=r"^action space must be Discrete, .* in one dimension, got ") as caught:
        head_of(space)
    assert str(space) in str(caught.value)


def test_the_global_stream_as_its_own_stream_moves_on():
    """Put back after the draw, it would give the same draws every time."""
    draws = []
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            with as_global_stream(torch.default_generator):
                draws.append(torch.rand(()).item())
    assert draws[0] != draws[1]
