"""Policy gradients: ten exercises, in the order of the lesson.

Each function asks a question. Replace `raise NotImplementedError` with your answer, save, and run

    pgtorch exercises check

in the folder above this one. `--only 2` checks one exercise, and `python -m doctest workbook.py` runs the examples.

Write your answers as you like, with math, NumPy or PyTorch: import what you need. You are given plain numbers and
lists. An answer that fails with them is tried with NumPy arrays and with tensors, too. Nobody compares your code with
a solution: the check looks at what your numbers do.

The story: hungry or not (hunger from 0 to 1), we go for fries to Squatch or to Norm. The network has one weight, which
is fixed, and one bias, which it learns:

    z = WEIGHT * hunger + bias      P(Norm) = sigmoid(z)      P(Squatch) = 1 - P(Norm)

Squatch serves a large order with probability 0.15, Norm with 0.80. The reward is positive if the order suits the hunger
(large and hungry, or small and not hungry), else negative. J is the mean reward of the policy; we want it to rise.
"""

import math

SQUATCH, NORM = 0, 1
WEIGHT = 20.0


def sigmoid(z: float) -> float:
    """1. The sigmoid: it squeezes any number into the range from 0 to 1.

    It is the probability whose log-odds, log(p / (1 - p)), are z. It must work for any z from -1000 to 1000, but
    math.exp(1000) overflows: what can you do if z is negative?

    >>> sigmoid(0.0)
    0.5
    >>> round(sigmoid(2.0), 4)
    0.8808
    >>> sigmoid(-1000.0)
    0.0
    """
    if z >= 0:
        return 1 / (1 + math.exp(-z))
    return math.exp(z) / (1 + math.exp(z))


def guess_derivative(hunger: float, bias: float, place: int) -> float:
    """2. We drew a place, and guess that it was right. How does the cross-entropy of the guess change with the bias?

    CE = -log P(place). Return dCE/db, by the chain rule: b changes z, z changes P(Norm), and P(Norm) changes CE.
    `place` is SQUATCH (0) or NORM (1).

    >>> guess_derivative(0.0, 0.0, SQUATCH)
    0.5
    >>> round(guess_derivative(0.0, -0.5, NORM), 4)
    -0.6225
    """
    p_norm = sigmoid(WEIGHT * hunger + bias)
    return p_norm - 1 if place == NORM else p_norm


def times_reward(derivative: float, reward: float) -> float:
    """3. Was the guess right? The reward corrects the derivative.

    `derivative` is dCE/db of exercise 2, `reward` any number: positive for a good guess, negative for a bad one, and
    larger when more is at stake. Return the updated derivative. Its mean over all visits is -dJ/db.

    >>> times_reward(-0.25, -2.0)
    0.5
    """
    return derivative * reward


def step(bias: float, learning_rate: float, updated_derivative: float) -> float:
    """4. Take a step against the updated derivative. Return the new bias.

    >>> step(-0.5, 1.0, 0.25)
    -0.75
    """
    return bias - learning_rate * updated_derivative


def loss(probability: float, reward: float) -> float:
    """5. PyTorch finds the derivative by itself, if we give it a loss. Which one?

    `probability` is P(place), what the policy gave to the place that it drew, above 0 and below 1. `reward` is any
    number. Return the loss of this visit. Its value means nothing; only its derivative with respect to the bias counts.
    Averaged over the places as the policy draws them, that must be -dJ/db. (Mind that averaging weighs each place by
    its P.)

    >>> round(loss(0.5, 1.0), 4)
    0.6931
    """
    return -math.log(probability) * reward


def two_logits(logits: list[float], place: int) -> list[float]:
    """6. Most networks give each action a logit of its own. For two: P(place) = exp(z_place) / (exp(z_0) + exp(z_1)).

    `logits` is [z_0, z_1], of Squatch and Norm. Return [dCE/dz_0, dCE/dz_1] of the guess's cross-entropy,
    CE = -log P(place).

    >>> two_logits([0.0, 0.0], NORM)
    [0.5, -0.5]
    """
    exps = [math.exp(z) for z in logits]
    return [exp / sum(exps) - (a == place) for a, exp in enumerate(exps)]


def mean_and_variance(
    probabilities: list[float], derivatives: list[float], rewards: list[float], baseline: float
) -> tuple[float, float]:
    """7. A baseline is subtracted from the reward. The mean of the steps stays, their spread shrinks: show it.

    At one hunger a visit can end in K ways (place and order). Way k has `probabilities[k]`, the derivative of the guess
    `derivatives[k]`, and `rewards[k]`; its updated derivative is that of exercise 3, with reward minus baseline in
    place of the reward. Return (mean, variance) of the updated derivative over all K ways. Each list has K numbers, and
    the probabilities sum to 1.

    >>> mean_and_variance([0.5, 0.5], [0.5, -0.5], [1.0, 3.0], 0.0)
    (-0.5, 1.0)
    >>> mean_and_variance([0.5, 0.5], [0.5, -0.5], [1.0, 3.0], 2.0)
    (-0.5, 0.0)
    """
    updated = [d * (r - baseline) for d, r in zip(derivatives, rewards, strict=True)]
    mean = sum(p * u for p, u in zip(probabilities, updated, strict=True))
    return mean, sum(p * (u - mean) ** 2 for p, u in zip(probabilities, updated, strict=True))


def reward_to_go(
    rewards: list[float], terminated: list[bool], truncated: list[bool], next_values: list[float], discount: float
) -> list[float]:
    """8. With many steps an action can only change what comes after it. What is each step's reward-to-go?

    That is the sum of its own reward and the later rewards of its episode, each multiplied by the discount once for
    every step that it is away. Each list has T numbers, one a step. They may hold several episodes, one after the
    other; each ends in one of two ways:

        terminated[t]   by its own rules. Nothing comes after.
        truncated[t]    it was cut off, by a time limit or the end of the list. It would have gone on: what comes after
                        is worth next_values[t], the value of the state that step t led to.

    The last step has one of the two flags, and no step has both. Return T numbers.

    >>> reward_to_go([1.0, 2.0, 3.0, 4.0], [False, True, False, False], [False, False, False, True], [9.0] * 4, 0.5)
    [2.0, 2.0, 7.25, 8.5]
    """
    result, future = [0.0] * len(rewards), 0.0
    for t in reversed(range(len(rewards))):
        if terminated[t]:
            future = 0.0
        elif truncated[t]:
            future = next_values[t]
        future = rewards[t] + discount * future
        result[t] = future
    return result


def gae(
    rewards: list[float],
    terminated: list[bool],
    truncated: list[bool],
    values: list[float],
    next_values: list[float],
    discount: float,
    gae_lambda: float,
) -> list[float]:
    """9. Generalized advantage estimation: how much better was an action than the value of the state promised?

        delta_t = reward_t + discount * (value of the next state) - value_t
        A_t     = delta_t + discount * gae_lambda * A_t+1

    The flags are those of exercise 8: after a termination the next state is worth 0, and no sum runs past the end of an
    episode, however it ends. `values[t]` is the value of the state of step t, `next_values[t]` of the state that step t
    led to. Return the T advantages.

    >>> gae([1.0, 2.0], [False, True], [False, False], [4.0, 1.0], [1.0, 9.0], 0.5, 0.5)
    [-2.25, 1.0]
    """
    result, advantage = [0.0] * len(rewards), 0.0
    for t in reversed(range(len(rewards))):
        next_value = 0.0 if terminated[t] else next_values[t]
        delta = rewards[t] + discount * next_value - values[t]
        if terminated[t] or truncated[t]:
            advantage = 0.0
        advantage = delta + discount * gae_lambda * advantage
        result[t] = advantage
    return result


def clipped(log_prob: float, old_log_prob: float, advantage: float, clip_range: float) -> float:
    """10. Several steps from one batch: the ratio says how much likelier the action has become, the clip when to stop.

    ratio = P(action) now / P(action) when it was drawn; the arguments have the logs of these two. Return the objective
    of PPO, which is to be maximized:

        the smaller of    ratio * advantage    and    (ratio, kept within 1 - clip_range and 1 + clip_range) * advantage

    Its derivative is 0 once the ratio has gone far enough in the direction of the advantage, and only then.

    >>> clipped(-1.0, -1.0, 3.0, 0.2)
    3.0
    >>> round(clipped(-0.5, -1.0, 1.0, 0.2), 4)
    1.2
    """
    ratio = math.exp(log_prob - old_log_prob)
    kept = min(max(ratio, 1 - clip_range), 1 + clip_range)
    return min(ratio * advantage, kept * advantage)
