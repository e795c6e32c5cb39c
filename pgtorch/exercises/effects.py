"""What an answer does: to the lesson's exact mean reward, to an exact policy gradient, to a clipped ratio.

Each function takes a learner's function, runs it, and returns a sentence. Nothing is sampled: expected steps are means
over all visits, mean rewards come in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pgtorch.exercises.cases import NORM, Answer, cross_entropy, expectation, probability, slope
from pgtorch.exercises.cases import WEIGHT as W
from pgtorch.lesson.steps import MODEL
from pgtorch.proof.exact import FiniteMDP, expected_gradient, state_values
from pgtorch.proof.measures import relative_error
from pgtorch.proof.processes import CUTS, EPISODES, Process
from pgtorch.proof.trajectories import Trajectories, enumerate_trajectories

START, STEPS = -4.0, 20  # of the walks along expected steps; the learning rate is 1
SAME = 0.005  # what two decimals do not show
DISCOUNT, GAE_LAMBDA = 0.9, 0.8


def of_sigmoid(answer: Answer) -> str:
    """P(Norm) at the lesson's best bias."""
    logits = [W * hunger + MODEL.optimal_bias() for hunger in (0.4, 0.6)]
    found, exact = ([f"{p:.2f}" for p in ps] for ps in ([answer(z)[0] for z in logits], map(probability, logits)))
    return (
        f"With it and the best bias, {MODEL.optimal_bias():.0f}, P(Norm) is {found[0]} at hunger 0.4 and {found[1]} at "
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

    return _walk(lambda b: b - expectation(updated, b))


def of_step(answer: Answer) -> str:
    """Steps with the exact expected derivative."""
    return _walk(lambda b: answer(b, 1.0, -MODEL.gradient(b))[0])


def of_loss(answer: Answer) -> str:
    """Expected steps down this loss."""

    def updated(h: float, b: float, place: int, reward: float) -> float:
        z, e = W * h + b, 1e-3
        rise = answer(probability(z + e, place), reward)[0] - answer(probability(z - e, place), reward)[0]
        return rise / (2 * e)

    return _walk(lambda b: b - expectation(updated, b))


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

    return _from_to("very hungry, from even chances", mean([0.0, 0.0]), after(answer), after(exact))


def of_reward_to_go(answer: Answer) -> str:
    """Its expected gradient, over all episodes of two small processes."""

    def weights(t: Trajectories, n: int, length: int, values: Tensor) -> list[float]:
        rewards, ends, cuts, _, following = _columns(t, n, length, values)
        return answer(rewards, ends, cuts, following, DISCOUNT)

    return _gradient(weights)


def of_gae(answer: Answer) -> str:
    """Likewise, with exact values."""

    def weights(t: Trajectories, n: int, length: int, values: Tensor) -> list[float]:
        rewards, ends, cuts, now, following = _columns(t, n, length, values)
        return answer(rewards, ends, cuts, now, following, DISCOUNT, GAE_LAMBDA)

    return _gradient(weights)


def of_clipped(answer: Answer) -> str:
    """Many steps up this objective on one action of probability 1/2."""
    clip_range, old = 0.2, math.log(0.5)
    found = []
    for advantage in (1.0, -1.0):
        z, e = 0.0, 1e-3
        for _ in range(100):
            high, low = (answer(-cross_entropy(z + d, NORM), old, advantage, clip_range)[0] for d in (e, -e))
            z += 0.1 * (high - low) / (2 * e)
        found.append(probability(z) / 0.5)
    return (
        f"After a hundred steps on one action of probability 1/2, with a clip range of {clip_range}, the ratio is "
        f"{found[0]:.2f} if the advantage is +1, and {found[1]:.2f} if it is -1. It should stop near 1.2 and 0.8."
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


def _walk(step: Callable[[float], float]) -> str:
    """The mean reward before and after expected steps from b = -4, and that after exact ones."""
    found = exact = START
    for _ in range(STEPS):
        found = step(found)
        exact += MODEL.gradient(exact)
    if not math.isfinite(found):
        return ""
    where = f"from b = {START:g}"
    return _from_to(where, *(MODEL.expected_reward(b) for b in (START, found, exact)))


def _from_to(where: str, before: float, after: float, exact: float) -> str:
    if abs(after - before) < SAME:
        change = f"leave the mean reward at {before:.2f}"
    else:
        change = f"{'raise' if after > before else 'lower'} the mean reward from {before:.2f} to {after:.2f}"
    right = "as the right ones do" if abs(after - exact) < SAME else f"the right ones raise it to {exact:.2f}"
    return f"{STEPS} expected steps ({where}) {change}{', ' if right.startswith('as') else '; '}{right}."


def _columns(
    t: Trajectories, n: int, length: int, values: Tensor
) -> tuple[list[float], list[bool], list[bool], list[float], list[float]]:
    """Rewards, terminated, truncated, values and next values of an episode."""
    columns = (t.reward, t.terminated, t.truncated, values[t.state], values[t.following])
    rewards, ends, cuts, now, following = (column[:length, n].tolist() for column in columns)
    return rewards, ends, cuts, now, following


def _gradient(weights: Callable[[Trajectories, int, int, Tensor], list[float]]) -> str:
    """How far the expected gradient with these multipliers of log pi is from the policy gradient."""
    errors = [_error(process, horizon, weights) for process, horizon in ((EPISODES, 3), (CUTS, 3))]
    texts = ["exact" if e < 1e-6 else f"off by {e:.0%} of its length" for e in errors]  # noqa: PLR2004
    if texts == ["exact", "exact"]:
        return "The expected gradient is the exact one all the same."
    return (
        f"Enumerated over all episodes of a small process, the expected gradient is {texts[0]} where all episodes end, "
        f"and {texts[1]} where some are cut off."
    )


def _error(process: Process, horizon: int, weights: Callable[[Trajectories, int, int, Tensor], list[float]]) -> float:
    mdp, chances = process.mdp(DISCOUNT), process.logits.softmax(1)
    values = state_values(mdp, chances)
    all_episodes = enumerate_trajectories(mdp, chances, horizon)
    found = torch.zeros_like(chances)
    for n, p in enumerate(all_episodes.probability.tolist()):
        length = int(all_episodes.valid[:, n].sum())
        multipliers = weights(all_episodes, n, length, values)
        for t, multiplier in zip(range(length), multipliers, strict=True):
            state, action = all_episodes.state[t, n], all_episodes.action[t, n]
            found[state] -= p * DISCOUNT**t * multiplier * chances[state]
            found[state, action] += p * DISCOUNT**t * multiplier
    return relative_error(found, _exact(mdp, chances, horizon, values))


def _exact(mdp: FiniteMDP, chances: Tensor, horizon: int, values: Tensor) -> Tensor:
    """The policy gradient with respect to the logits."""
    rise = expected_gradient(mdp, chances, horizon, after=values)
    return chances * (rise - (chances * rise).sum(1, keepdim=True))
