"""What each answer must do: inputs, and what mathematics says about them without the answer's formula.

Every expected number comes from another way to the same thing: finite differences of a cross-entropy or of the exact
mean reward, enumeration, a sum written out. In float64.

    h  hunger    b  bias    z  logit, w h + b    P  P(Norm)    J  exact mean reward of the policy
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pgtorch.exercises import solutions
from pgtorch.lesson.model import RestaurantModel
from pgtorch.lesson.steps import MODEL

TOLERANCE = 1e-4  # relative to 1 + |expected|; float32 answers stay far below it
Answer = Callable[..., list[float]]  # a learner's function; what it returns is flattened to a list of floats
Given = tuple[tuple[Any, ...], list[float]]
NORM, WEIGHT = solutions.NORM, solutions.WEIGHT


@dataclass(frozen=True)
class Case:
    """An input, what is looked at, and what that must be.

    Attributes:
        arguments: What the function is called with.
        look: From the function to the numbers that are judged.
        expected: What they must be.
        text: A sentence with {call}, {value}, what the call returned, {got} and {expected}.
        extra: How many more numbers `look` gives, which are not judged, but help to recognize a wrong answer.
    """

    arguments: tuple[Any, ...]
    look: Callable[[Answer], list[float]]
    expected: list[float]
    text: str
    extra: int = 0


@dataclass(frozen=True)
class Exercise:
    """A question of the workbook.

    Attributes:
        number: From 1.
        name: Of the function.
        how: How it is judged, in a few words.
        cases: What is tried, the simplest first.
        parts: Kinds of input, in words, each with a test of the arguments. If only these fail, the report says so.
        outputs: Names of the numbers returned, if there are always the same.
        remarks: From what an answer gives, (arguments, numbers) of each case, to laws that it breaks, in words.
    """

    number: int
    name: str
    how: str
    cases: tuple[Case, ...]
    parts: tuple[tuple[str, Callable[..., bool]], ...] = ()
    outputs: tuple[str, ...] = ()
    remarks: Callable[[list[Given]], Iterator[str]] = lambda given: iter(())

    @cached_property
    def parameters(self) -> list[str]:
        """Names of the function's arguments."""
        return list(inspect.signature(getattr(solutions, self.name)).parameters)


def slope(function: Callable[[float], float], at: float, step: float = 0.01) -> float:
    """Derivative by a five-point difference; its error is of order step^4."""
    near, far = function(at + step) - function(at - step), function(at + 2 * step) - function(at - 2 * step)
    return (8 * near - far) / (12 * step)


def cross_entropy(z: float, place: int) -> float:
    """-log P(place), without rounding for large z."""
    z = z if place == NORM else -z
    return max(-z, 0.0) + math.log1p(math.exp(-abs(z)))


def probability(z: float, place: int = NORM) -> float:
    """P(place)."""
    return math.exp(-cross_entropy(z, place))


def differ(x: float, y: float) -> bool:
    """Whether two numbers are not equal, beyond the rounding of float32."""
    return not abs(x - y) <= TOLERANCE * (1 + abs(y))


def _returned(arguments: tuple[Any, ...], expected: Sequence[float], text: str) -> Case:
    """The case that looks at what the function returns."""
    return Case(arguments, lambda answer: answer(*arguments), list(expected), text)


def _sigmoid() -> Exercise:
    def log_odds(z: float) -> Case:
        def look(answer: Answer) -> list[float]:
            (s,) = answer(z)
            return [math.log(s / (1 - s)) if 0 < s < 1 else math.nan, s]

        text = "{call} gives {value}; its log-odds log(p / (1 - p)) are {got} and must be {expected}."
        return Case((z,), look, [z], text, extra=1)

    text = "{call} gives {got}; far from 0 it must be {expected}."
    limits = [_returned((z,), [float(z > 0)], text) for z in (30.0, -30.0, 1000.0, -1000.0)]
    middle = [log_odds(z) for z in (0.0, 1.0, -1.0, 2.0, -2.0, 0.3, -0.5, 3.0, -4.0, 5.0)]
    parts = (
        ("z = 0", lambda z: z == 0),
        ("z = 1000 and z = -1000", lambda z: abs(z) == 1000),  # noqa: PLR2004
        ("z far from 0", lambda z: abs(z) >= 30),  # noqa: PLR2004
        ("negative z", lambda z: z < 0),
        ("positive z", lambda z: z > 0),
    )

    def remarks(given: list[Given]) -> Iterator[str]:
        values = {z: numbers[-1] for (z,), numbers in given}
        factor, offset = 2 * values.get(0.0, 0.0), values.get(0.0, 0.0) - 0.5
        if not any(differ(s, factor * probability(z)) for z, s in values.items()):
            yield f"It is always {factor:.4g} times what it must be."
        elif not any(differ(s, offset + probability(z)) for z, s in values.items()):
            yield f"It is always {abs(offset):.4g} too {'large' if offset > 0 else 'small'}."
        else:
            if any(not -TOLERANCE <= s <= 1 + TOLERANCE for s in values.values()):
                yield "It leaves the range from 0 to 1."
            if offset:
                yield f"At z = 0 it is {values.get(0.0, math.nan):.4g}, and must be 0.5."
            rising = [values[z] for z in sorted(values)]
            if any(high < low - TOLERANCE for low, high in itertools.pairwise(rising)):
                yield "It does not rise with z everywhere."
            if any(-z in values and differ(s, 1 - values[-z]) for z, s in values.items()):
                yield "sigmoid(z) and sigmoid(-z) do not sum to 1."

    return Exercise(1, "sigmoid", "log-odds and limits", (*middle, *limits), parts, remarks=remarks)


def _guess_derivative() -> Exercise:
    def case(hunger: float, bias: float, place: int) -> Case:
        exact = slope(lambda b: cross_entropy(WEIGHT * hunger + b, place), bias)
        return _returned((hunger, bias, place), [exact], "{call} gives {got}; -log P(place) has the slope {expected}.")

    grid = itertools.product((0.0, 0.2, 0.4), (0.0, -0.5, -4.0, -8.0), (0, 1))
    parts = (("Norm", lambda h, b, place: place == NORM), ("Squatch", lambda h, b, place: place != NORM))
    cases = (*itertools.starmap(case, grid), case(0.9, -15.0, 0), case(0.9, -15.0, 1))

    def remarks(given: list[Given]) -> Iterator[str]:
        values = {arguments: numbers[0] for arguments, numbers in given}
        means = [sum(probability(WEIGHT * h + b, a) * values.get((h, b, a), 0.0) for a in (0, 1)) for h, b, _ in values]
        if any(differ(mean, 0.0) for mean in means):
            yield "The mean over both places, each weighted by its P, is not 0, as it must be for the derivative of CE."

    how = "finite differences of -log P(place)"
    return Exercise(2, "guess_derivative", how, cases, parts, remarks=remarks)


def _times_reward() -> Exercise:
    def case(z: float, place: int, reward: float) -> Case:
        derivative = slope(lambda b: cross_entropy(b, place), z)
        exact = slope(lambda b: reward * cross_entropy(b, place), z)
        return _returned((derivative, reward), [exact], "{call} gives {got}; reward x CE has the slope {expected}.")

    def mean(bias: float, scale: float) -> Case:
        def look(answer: Answer) -> list[float]:
            visits = expectation(lambda h, b, place, r: answer(_derivative(h, b, place), r)[0], bias, scale)
            return [visits]

        text = f"Over all visits at b = {bias:g} with rewards of {scale:g} its mean is {{got}}; -dJ/db is {{expected}}."
        return Case((math.nan, scale), look, [-RestaurantModel(reward_scale=scale).gradient(bias)], text)

    grid = itertools.product((1.0, -1.0, 2.0, -2.0, 0.5, -3.0), (0.0, 1.5, -2.5), (0, 1))
    points = [case(z, place, reward) for reward, z, place in grid]
    parts = (
        ("a reward of 0", lambda d, r: r == 0),
        ("positive rewards", lambda d, r: r > 0),
        ("negative rewards", lambda d, r: r < 0),
        ("rewards other than 1 and -1", lambda d, r: abs(r) != 1),
        ("positive derivatives", lambda d, r: d > 0),
        ("negative derivatives", lambda d, r: d < 0),
    )
    cases = (*points, case(0.0, 0, 0.0), mean(-4.0, 1.0), mean(-13.0, 2.0))
    return Exercise(3, "times_reward", "finite differences, and -dJ/db over all visits", cases, parts)


def _step() -> Exercise:
    model = RestaurantModel(reward_scale=20.0)  # so that dJ/db is near 1

    def case(bias: float, learning_rate: float) -> Case:
        uphill = slope(model.expected_reward, bias)
        arguments = (bias, learning_rate, round(-model.gradient(bias), 9))
        text = "{call} gives {got}; learning rate x slope of J, uphill, leads to {expected}."
        return _returned(arguments, [bias + learning_rate * uphill], text)

    grid = itertools.product((-4.0, -16.0, -7.0, -12.0, 0.0), (1.0, 0.5, 2.0, 0.1))
    parts = (
        ("learning rates other than 1", lambda b, rate, d: rate != 1),
        ("positive derivatives", lambda b, rate, d: d > 0),
        ("negative derivatives", lambda b, rate, d: d < 0),
        ("a bias of 0", lambda b, rate, d: b == 0),
        ("a bias other than 0", lambda b, rate, d: b != 0),
    )
    return Exercise(4, "step", "the slope of the exact mean reward", tuple(itertools.starmap(case, grid)), parts)


def _loss() -> Exercise:
    def case(z: float, rewards: tuple[float, float]) -> Case:
        def mean_reward(b: float) -> float:
            return rewards[0] * probability(b, 0) + rewards[1] * probability(b)

        def look(answer: Answer) -> list[float]:
            slopes = [slope(lambda b, a=a: answer(probability(b, a), rewards[a])[0], z, 0.05) for a in (0, 1)]  # type: ignore[misc]
            return [sum(probability(z, a) * slopes[a] for a in (0, 1)), *slopes]

        text = (
            f"With P(Norm) = {probability(z):.3g} and rewards {rewards[0]:+g} at Squatch, {rewards[1]:+g} at Norm, the "
            "mean derivative of your loss is {got}; -dJ/db is {expected}."
        )
        return Case((z, *rewards), look, [-slope(mean_reward, z)], text, extra=2)

    grid = itertools.product(((-1.0, 1.0), (1.0, -1.0), (-0.5, 2.0), (2.0, 1.0)), (0.0, 1.0, -1.0, 2.5, -3.0))
    points = [case(z, rewards) for rewards, z in grid]
    parts = (
        ("negative rewards", lambda z, *rewards: min(rewards) < 0),
        ("rewards other than 1 and -1", lambda z, *rewards: any(abs(r) != 1 for r in rewards)),
        ("a reward of 0", lambda z, *rewards: 0 in rewards),
    )
    how = "the mean slope of your loss against dJ/db"
    return Exercise(5, "loss", how, (*points, case(0.5, (0.0, 1.0))), parts)


def _two_logits() -> Exercise:
    def case(logits: tuple[float, float], place: int) -> Case:
        def ce(of: int, value: float) -> float:
            moved = [value if a == of else z for a, z in enumerate(logits)]
            return math.log(sum(map(math.exp, moved))) - moved[place]

        exact = [slope(lambda value, of=a: ce(of, value), logits[a]) for a in (0, 1)]  # type: ignore[misc]
        return _returned((list(logits), place), exact, "{call} gives {got}; -log P(place) has the slopes {expected}.")

    grid = itertools.product(((0.0, 0.0), (1.0, -1.0), (-2.0, 0.5), (3.0, 2.0), (0.3, 4.0)), (0, 1))
    parts = (("Norm", lambda logits, place: place == NORM), ("Squatch", lambda logits, place: place != NORM))
    outputs = ("dCE/dz_0", "dCE/dz_1")

    def remarks(given: list[Given]) -> Iterator[str]:
        if any(differ(sum(numbers), 0.0) for _, numbers in given):
            yield "The two do not sum to 0, as they must: adding the same to both logits changes no probability."

    cases = tuple(itertools.starmap(case, grid))
    return Exercise(6, "two_logits", "finite differences", cases, parts, outputs, remarks)


def _baseline() -> Exercise:
    def case(hunger: float, bias: float, scale: float, baseline: float) -> Case:
        z, outcomes = WEIGHT * hunger + bias, visits(hunger, bias, scale)
        chances = [p for p, _, _ in outcomes]
        derivatives = [_derivative(hunger, bias, place) for _, place, _ in outcomes]
        rewards = [reward for _, _, reward in outcomes]
        mean = -slope(lambda logit: sum(p * r for p, _, r in visits(hunger, logit - WEIGHT * hunger, scale)), z)
        steps = [d * (r - baseline) for d, r in zip(derivatives, rewards, strict=True)]
        pairs = itertools.product(zip(chances, steps, strict=True), repeat=2)
        variance = sum(p * q * (x - y) ** 2 for (p, x), (q, y) in pairs) / 2
        text = (
            f"At hunger {hunger:g} and b = {bias:g}, with a baseline of {baseline:g}, it gives {{got}}; -dJ/db and "
            "half the mean square distance of two visits are {expected}."
        )
        return _returned((chances, derivatives, rewards, baseline), [mean, variance], text)

    grid = itertools.product(((0.9, -20.0, 1.0), (0.2, -2.0, 1.0), (0.4, -9.0, 2.0)), (0.0, 0.4, -0.3, 1.0))
    parts = (
        ("a baseline other than 0", lambda p, d, r, baseline: baseline != 0),
        ("a negative baseline", lambda p, d, r, baseline: baseline < 0),
    )
    cases = tuple(case(*where, baseline) for where, baseline in grid)

    def remarks(given: list[Given]) -> Iterator[str]:
        means: dict[str, list[float]] = {}
        for arguments, numbers in given:
            means.setdefault(repr(arguments[:3]), []).append(numbers[0])
        if any(differ(mean, group[0]) for group in means.values() for mean in group):
            yield "Its mean changes with the baseline, and must not."
        if any(numbers[1] < -TOLERANCE for _, numbers in given):
            yield "Its variance is negative, which no variance can be."

    outputs = ("the mean", "the variance")
    return Exercise(7, "mean_and_variance", "dJ/db, and pairs of visits", cases, parts, outputs, remarks)


# Rewards, values and next values of some steps, and how their episodes end: . goes on, E terminated, C cut off.
EPISODES = (
    ("..E", (1.0, 2.0, 4.0), (0.5, -1.0, 2.0), 3.0),
    ("..C", (1.0, 2.0, 4.0), (0.5, -1.0, 2.0), 3.0),
    ("E", (1.5,), (0.6,), -2.0),
    ("C", (1.5,), (0.6,), -2.0),
    ("...E", (0.5, -1.5, 2.0, 0.7), (1.0, 0.3, -0.4, 1.2), 0.8),
    (".E..C", (1.0, -0.5, 2.0, 0.7, 1.1), (0.2, 0.9, -0.7, 1.3, 0.4), 1.7),
    (".C..E", (0.3, 1.6, -1.0, 0.8, 2.0), (1.1, -0.6, 0.7, 0.5, 1.4), 2.2),
    ("EC.C..E", (0.9, -1.2, 1.4, 0.6, 2.3, -0.7, 1.0), (0.4, 1.5, -0.9, 0.8, 0.1, 1.9, -1.3), 2.6),
)


def _steps(index: int) -> tuple[list[float], list[bool], list[bool], list[float], list[float]]:
    """Rewards, terminated, truncated, values and next values of some episodes."""
    ends, rewards, values, last = EPISODES[index]
    following = [values[t + 1] if end == "." else last - 0.5 * t for t, end in enumerate(ends)]
    return list(rewards), [e == "E" for e in ends], [e == "C" for e in ends], list(values), following


def _rest(rewards: Sequence[float], terminated: Sequence[bool], truncated: Sequence[bool], t: int) -> range:
    """The steps from t to the end of its episode."""
    end = next(k for k in range(t, len(rewards)) if terminated[k] or truncated[k])
    return range(t, end + 1)


def _written_out(
    rewards: list[float],
    terminated: list[bool],
    truncated: list[bool],
    next_values: list[float],
    discount: float,
    t: int,
    steps: int,
) -> float:
    """Discounted rewards of so many steps, and then the value of what follows, unless the episode has ended."""
    last = t + steps - 1
    after = 0.0 if terminated[last] else discount**steps * next_values[last]
    return sum(discount**k * rewards[t + k] for k in range(steps)) + after


SEQUENCE_PARTS: tuple[tuple[str, Callable[..., bool]], ...] = (
    ("a discount below 1", lambda r, e, c, *rest: rest[-1] < 1),
    ("several episodes in a list", lambda r, e, c, *rest: sum(e) + sum(c) > 1),
    ("lists with a step that is cut off", lambda r, e, c, *rest: any(c)),
    ("lists with a step that terminates", lambda r, e, c, *rest: any(e)),
    ("more than one step", lambda r, e, c, *rest: len(r) > 1),
)


def _broken_recursion(
    given: list[Given], own: Callable[[tuple[Any, ...], int], float], keep: Callable[[tuple[Any, ...]], float], law: str
) -> Iterator[str]:
    """Where x_t = own_t + keep * x_t+1 does not hold for the numbers x: at an end, at a cut, or in an episode."""
    kinds = set()
    for arguments, x in given:
        _, ends, cuts, *_ = arguments
        for t, value in enumerate(x):
            after = 0.0 if ends[t] or cuts[t] else keep(arguments) * x[t + 1]
            if differ(value, own(arguments, t) + after):
                kinds.add("end" if ends[t] else "cut" if cuts[t] else "inside")
    if "end" in kinds:
        yield "It is wrong at steps that terminate."
    if "cut" in kinds:
        yield "It is wrong at steps that are cut off."
    if "inside" in kinds:
        yield f"Inside an episode {law} does not hold for your numbers."
    elif kinds:
        yield f"Inside an episode {law} holds."


def _reward_to_go() -> Exercise:
    def case(index: int, discount: float) -> Case:
        rewards, ends, cuts, _, following = _steps(index)
        exact = [
            _written_out(rewards, ends, cuts, following, discount, t, len(_rest(rewards, ends, cuts, t)))
            for t in range(len(rewards))
        ]
        text = "{call} gives {got}; the sums written out are {expected}."
        return _returned((rewards, ends, cuts, following, discount), exact, text)

    cases = tuple(case(index, discount) for index in range(len(EPISODES)) for discount in (1.0, 0.5, 0.9))

    def own(arguments: tuple[Any, ...], t: int) -> float:
        rewards, _, cuts, following, discount = arguments
        return float(rewards[t] + (discount * following[t] if cuts[t] else 0.0))

    def remarks(given: list[Given]) -> Iterator[str]:
        law = "R_t = reward_t + discount * R_t+1"
        return _broken_recursion(given, own, lambda arguments: float(arguments[-1]), law)

    how = "the sum of each step, written out"
    return Exercise(8, "reward_to_go", how, cases, SEQUENCE_PARTS, remarks=remarks)


def _gae() -> Exercise:
    def advantage(steps: tuple[Any, ...], discount: float, gae_lambda: float, t: int) -> float:
        """The mean of the n-step advantages, weighted by (1 - lambda) lambda^(n - 1); the longest gets the rest."""
        rewards, ends, cuts, values, following = steps
        longest = len(_rest(rewards, ends, cuts, t))
        total = 0.0
        for n in range(1, longest + 1):
            weight = gae_lambda ** (n - 1) * (1.0 if n == longest else 1 - gae_lambda)
            total += weight * (_written_out(rewards, ends, cuts, following, discount, t, n) - values[t])
        return total

    def case(index: int, discount: float, gae_lambda: float) -> Case:
        steps = _steps(index)
        exact = [advantage(steps, discount, gae_lambda, t) for t in range(len(steps[0]))]
        text = "{call} gives {got}; the means of the 1-, 2-, ... step advantages are {expected}."
        return _returned((*steps, discount, gae_lambda), exact, text)

    factors = ((1.0, 1.0), (0.5, 0.8), (0.9, 0.0), (0.9, 0.5), (0.9, 1.0), (1.0, 0.6))
    parts = (
        ("gae_lambda = 0", lambda *a: a[-1] == 0),
        ("gae_lambda = 1", lambda *a: a[-1] == 1),
        ("gae_lambda below 1", lambda *a: a[-1] < 1),
        *((text, lambda *a, test=test: test(*a[:-1])) for text, test in SEQUENCE_PARTS),
    )
    cases = tuple(case(index, *pair) for index in range(len(EPISODES)) for pair in factors)

    def own(arguments: tuple[Any, ...], t: int) -> float:
        rewards, ends, _, values, following, discount, _ = arguments
        return float(rewards[t] + (0.0 if ends[t] else discount * following[t]) - values[t])

    def remarks(given: list[Given]) -> Iterator[str]:
        law = "A_t = delta_t + discount * gae_lambda * A_t+1"
        return _broken_recursion(given, own, lambda arguments: float(arguments[-1] * arguments[-2]), law)

    how = "the mean of the 1-, 2-, ... step advantages"
    return Exercise(9, "gae", how, cases, parts, remarks=remarks)


def _clipped() -> Exercise:
    def case(ratio: float, advantage: float, clip_range: float, old: float) -> Case:
        log_prob = round(old + math.log(ratio), 4)
        ratio = math.exp(log_prob - old)
        edge = 1 + clip_range if advantage > 0 else 1 - clip_range
        beyond = (ratio - edge) * advantage > 0
        expected = [(edge if beyond else ratio) * advantage, 0.0 if beyond else ratio * advantage]
        arguments = (log_prob, old, advantage, clip_range)

        def look(answer: Answer) -> list[float]:
            value = answer(*arguments)
            return [*value, slope(lambda now: answer(now, *arguments[1:])[0], log_prob)]

        text = f"{{call}} gives value and slope {{got}}; at ratio {ratio:.3g} they must be {{expected}}."
        return Case(arguments, look, expected, text)

    ratios = (1.0, 1.1, 0.9, 1.5, 0.5, 1.25, 0.75, 4.0, 0.1)
    grid = itertools.product(ratios, (1.5, -0.8), (0.2, 0.3), (-2.3, -3.0))
    parts = (
        ("advantages above 0 with ratios above 1 + clip_range", lambda n, o, a, c: a > 0 and math.exp(n - o) > 1 + c),
        ("advantages above 0 with ratios below 1 - clip_range", lambda n, o, a, c: a > 0 and math.exp(n - o) < 1 - c),
        ("advantages below 0 with ratios above 1 + clip_range", lambda n, o, a, c: a < 0 and math.exp(n - o) > 1 + c),
        ("advantages below 0 with ratios below 1 - clip_range", lambda n, o, a, c: a < 0 and math.exp(n - o) < 1 - c),
        ("ratios outside the range", lambda n, o, a, c: abs(math.exp(n - o) - 1) > c),
        ("negative advantages", lambda n, o, a, c: a < 0),
        ("positive advantages", lambda n, o, a, c: a > 0),
        ("ratios other than 1", lambda n, o, a, c: n != o),
    )

    def remarks(given: list[Given]) -> Iterator[str]:
        if any(now == old and differ(numbers[0], a) for (now, old, a, _), numbers in given):
            yield "At ratio 1 it must be the advantage, and is not."
        if any(differ(min(numbers[0], math.exp(now - old) * a), numbers[0]) for (now, old, a, _), numbers in given):
            yield "It is sometimes larger than ratio * advantage, and must never be."

    how = "finite differences, and its value at the clip's edges"
    cases = tuple(itertools.starmap(case, grid))
    return Exercise(10, "clipped", how, cases, parts, ("the value", "the slope"), remarks)


def visits(hunger: float, bias: float, scale: float) -> list[tuple[float, int, float]]:
    """All ways in which a visit can end: probability, place, reward."""
    hungry = hunger > MODEL.hungry_above
    ways = itertools.product(enumerate(MODEL.large_portion_probability), (True, False))
    return [
        (
            probability(WEIGHT * hunger + bias, place) * (chance if large else 1 - chance),
            place,
            scale if large == hungry else -scale,
        )
        for (place, chance), large in ways
    ]


def expectation(updated: Callable[[float, float, int, float], float], bias: float, scale: float = 1.0) -> float:
    """The mean of updated(hunger, bias, place, reward) over hungers, places and orders."""
    total = 0.0
    for hunger, weight in HUNGERS:
        for chance, place, reward in visits(hunger, bias, scale):
            total += weight * chance * updated(hunger, bias, place, reward)
    return total


def _derivative(hunger: float, bias: float, place: int) -> float:
    return slope(lambda b: cross_entropy(WEIGHT * hunger + b, place), bias)


def _hungers() -> Iterator[tuple[float, float]]:
    """Points and weights of Gauss's rule on [0, 1/2] and [1/2, 1]: the reward jumps at 1/2."""
    points, weights = np.polynomial.legendre.leggauss(12)
    for low in (0.0, 0.5):
        for x, w in zip(points.tolist(), weights.tolist(), strict=True):
            yield low + (x + 1) / 4, w / 4


HUNGERS = tuple(_hungers())
EXERCISES = (
    _sigmoid(),
    _guess_derivative(),
    _times_reward(),
    _step(),
    _loss(),
    _two_logits(),
    _baseline(),
    _reward_to_go(),
    _gae(),
    _clipped(),
)
