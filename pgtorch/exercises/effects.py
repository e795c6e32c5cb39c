"""What an answer does: to the lesson's exact mean reward, to an exact policy gradient, to a clipped ratio.

Each function takes a learner's function, runs it, and returns a sentence. Nothing is sampled: expected steps are means
over all visits, mean rewards come in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from pgtorch.exercises.cases import NORM, Answer, cross_entropy, expectation, probability, slope
from pgtorch.exercises.cases import WEIGHT as W
from pgtorch.lesson.model import RestaurantModel
from pgtorch.lesson.steps import MODEL
from pgtorch.proof.exact import expected_gradient, state_values
from pgtorch.proof.measures import relative_error
from pgtorch.proof.processes import CUTS, EPISODES, Process
from pgtorch.proof.trajectories import enumerate_trajectories

STARTS, STEPS = (
    (-4.0, -16.0),
    20,
)  # of the walks along expected steps; the best bias lies between
LARGER = RestaurantModel(reward_scale=2.0)
SAME = 0.005  # what two decimals do not show
DISCOUNT, GAE_LAMBDA = 0.9, 0.8


def of_sigmoid(answer: Answer) -> str:
    """P(Norm) at the lesson's best bias."""
    bias = MODEL.optimal_bias()
    logits = [W * hunger + bias for hunger in (0.4, 0.6)]
    found, exact = ([f"{p:.2f}" for p in ps] for ps in ([answer(z)[0] for z in logits], map(probability, logits)))
    return (
        f"With it and the best bias, {bias:.0f}, P(Norm) is {found[0]} at hunger 0.4 and {found[1]} at "
        f"0.6. It should be {exact[0]} and {exact[1]}."
    )


def of_guess_derivative(answer: Answer) -> str:
    """Expected steps with this derivative, times the reward."""
    return _walk(lambda b: b - expectation(lambda h, bias, place, r: r * answer(h, bias, place)[0], b))


def of_times_reward(answer: Answer) -> str:
    """Expected steps with this updated derivative."""

    def updated(h: float, b: float, place: int, reward: float) -> float:
        p_norm = probability(W * h + b)
        return answer(p_norm - 1 if place == NORM else p_norm, reward)[0]

    return _walk(lambda b: b - expectation(updated, b, 2.0), LARGER)


def of_step(answer: Answer) -> str:
    """Steps with the exact expected derivative."""
    return _walk(lambda b: answer(b, 2.0, -MODEL.gradient(b))[0], rate=2.0)


def of_loss(answer: Answer) -> str:
    """Expected steps down this loss."""

    def updated(h: float, b: float, place: int, reward: float) -> float:
        z, e = W * h + b, 1e-3
        rise = answer(probability(z + e, place), reward)[0] - answer(probability(z - e, place), reward)[0]
        return rise / (2 * e)

    return _walk(lambda b: b - expectation(updated, b, 2.0), LARGER)


def of_two_logits(answer: Answer) -> str:
    """Expected steps of both logits where we are very hungry, from even chances."""
    rewards = [2 * q - 1 for q in MODEL.large_portion_probability]

    def mean(logits: list[float]) -> float:
        return sum(r * probability(logits[1] - logits[0], a) for a, r in enumerate(rewards))

    def after(derivative: Answer) -> float:
        logits = [0.0, 0.0]
        for _ in range(STEPS):
            chances = [probability(logits[1] - logits[0], a) for a in (0, 1)]
            found = [derivative(list(logits), a) for a in (0, 1)]
            logits = [z - sum(chances[a] * rewards[a] * found[a][i] for a in (0, 1)) for i, z in enumerate(logits)]
        return mean(logits)

    def exact(logits: list[float], place: int) -> list[float]:
        up = slope(lambda z: cross_entropy(z, place), logits[1] - logits[0])
        return [-up, up]

    return _from_to("from even chances, very hungry,", mean([0.0, 0.0]), after(answer), after(exact))


def of_reward_to_go(answer: Answer) -> str:
    """Its expected gradient, over all episodes of two small processes."""
    return _gradient(lambda r, e, c, values, n: answer(r, e, c, n, DISCOUNT))


def of_gae(answer: Answer) -> str:
    """Likewise, with exact values."""
    return _gradient(lambda *columns: answer(*columns, DISCOUNT, GAE_LAMBDA))


def of_clipped(answer: Answer) -> str:
    """Many steps up this objective, on one action that was drawn with probability 1/2."""
    clip_range, steps, old = 0.2, 100, math.log(0.5)

    def ratio(advantage: float, ratio: float = 1.0) -> float:
        z, e = -math.log(2 / ratio - 1), 1e-3
        for _ in range(steps):
            high, low = (answer(-cross_entropy(z + d, NORM), old, advantage, clip_range)[0] for d in (e, -e))
            z += 0.1 * (high - low) / (2 * e)
        return probability(z) / 0.5

    good, bad, astray = ratio(1.0), ratio(-1.0), ratio(-1.0, 1.5)
    if abs(good - 1.2) < 0.05 and abs(bad - 0.8) < 0.05:  # noqa: PLR2004 -- a last step goes a little beyond the edge
        if astray < 1:
            return ""
        return f"After {steps} steps with advantage -1 a ratio of 1.5 is {astray:.2f}; it should be 0.8."
    return (
        f"With a clip range of {clip_range}, {steps} steps on one action take its ratio from 1 to {good:.2f} if the "
        f"advantage is +1, and to {bad:.2f} if it is -1. It should stop near 1.2 and 0.8."
    )


EFFECTS: dict[str, Callable[[Answer], str]] = {
    "sigmoid": of_sigmoid,
    "guess_derivative": of_guess_derivative,
    "times_reward": of_times_reward,
    "step": of_step,
    "loss": of_loss,
    "two_logits": of_two_logits,
    "reward_to_go": of_reward_to_go,
    "gae": of_gae,
    "clipped": of_clipped,
}


def _walk(step: Callable[[float], float], model: RestaurantModel = MODEL, rate: float = 1.0) -> str:
    """The mean reward before and after expected steps, and that after exact ones; from where the steps do worst."""
    ends = []
    for start in STARTS:
        found = exact = start
        for _ in range(STEPS):
            found = step(found)
            exact += rate * model.gradient(exact)
        if not math.isfinite(found):
            return ""
        ends.append((start, *(model.expected_reward(b) for b in (start, found, exact))))
    start, before, after, right = min(ends, key=lambda end: round(end[2] - end[3], 3))
    settings = f", rewards of {model.reward_scale:g}" * (model is LARGER) + f", learning rate {rate:g}" * (rate != 1)
    return _from_to(f"from b = {start:g}{settings}{',' * bool(settings)}", before, after, right)


def _from_to(where: str, before: float, after: float, exact: float) -> str:
    """The change in words; "" if it is better than the right one, as longer steps may be for a while."""
    if after > exact + SAME:
        return ""
    if abs(after - before) < SAME:
        change = f"leave the mean reward at {before:.2f}"
    else:
        change = f"{'raise' if after > before else 'lower'} the mean reward from {before:.2f} to {after:.2f}"
    right = ", as the right ones do" if abs(after - exact) < SAME else f"; the right ones raise it to {exact:.2f}"
    return f"{STEPS} expected steps {where} {change}{right}."


def _gradient(multipliers: Answer) -> str:
    """How far the expected gradient with these multipliers of log pi is from the policy gradient."""
    errors = [_error(process, multipliers) for process in (EPISODES, CUTS)]
    texts = ["exact" if e < 1e-6 else f"off by {e:.0%} of its length" for e in errors]  # noqa: PLR2004
    if texts == ["exact", "exact"]:
        return "With exact values the expected gradient is the exact one all the same."
    return (
        f"Enumerated over all episodes of a small process, the expected gradient is {texts[0]} where all of them end, "
        f"and {texts[1]} where some are cut off."
    )


def _error(process: Process, multipliers: Answer) -> float:
    """The relative error of the expected gradient, with exact values, and a likely episode after each one."""
    mdp, chances, horizon = process.mdp(DISCOUNT), process.logits.softmax(1), 3
    values = state_values(mdp, chances)
    every = enumerate_trajectories(mdp, chances, horizon)
    columns = (every.reward, every.terminated, every.truncated, values[every.state], values[every.following])
    lengths = every.valid.sum(0).tolist()
    episodes = [[column[:length, n].tolist() for column in columns] for n, length in enumerate(lengths)]
    after = episodes[int(every.probability.argmax())]
    found = torch.zeros_like(chances)
    for n, episode in enumerate(episodes):
        both = [first + second for first, second in zip(episode, after, strict=True)]
        for t, multiplier in enumerate(multipliers(*both)[: lengths[n]]):
            state, action = every.state[t, n], every.action[t, n]
            weight = every.probability[n] * DISCOUNT**t * multiplier
            found[state] -= weight * chances[state]
            found[state, action] += weight
    rise = expected_gradient(mdp, chances, horizon, after=values)
    exact = chances * (rise - (chances * rise).sum(1, keepdim=True))
    return relative_error(found, exact)
