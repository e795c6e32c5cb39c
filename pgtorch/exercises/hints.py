"""Typical wrong answers, each as a function, with what to say about it.

A learner's function that gives the same numbers as one of these on every input gets its hint. So a hint is about what an
answer does, however it is written. The effect on the lesson is computed from the learner's own function, in
`effects.py`, and appended.

    h  hunger    b  bias    z  logit    p  a probability, P(Norm) unless it is said of which place    d  derivative
    r  reward    e  terminated          c  truncated (cut off)                       n  next values   v  values
    g  discount  k  lambda
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from pgtorch.exercises import solutions
from pgtorch.exercises.cases import NORM, WEIGHT, probability

Flags = Sequence[bool]
Numbers = Sequence[float]


class Wrong(NamedTuple):
    """A typical wrong answer."""

    key: str
    hint: str
    function: Callable[..., Any]


def _softmax(z: Numbers) -> list[float]:
    return [probability(z[0] - z[1]), probability(z[1] - z[0])]


def _exps(z: Numbers) -> list[float]:
    return [math.exp(x) for x in z]


def _sign(x: float) -> float:
    return math.copysign(1.0, x) if x else 0.0


SIGMOID = (
    Wrong("exponent's sign", "The minus in the exponent is missing: this is sigmoid(-z). P(Norm) and P(Squatch) have changed places.", lambda z: probability(-z)),
    Wrong("not inverted", "This is 1 + exp(-z): in Python 1 / 1 + x is (1 / 1) + x. The whole sum belongs under the fraction, in brackets.", lambda z: 1 + math.exp(-z)),
    Wrong("1 forgotten", "This is exp(z), which grows beyond 1. (1 / exp(-z) is the same.) The denominator needs a 1: 1 / (1 + exp(-z)).", math.exp),
    Wrong("exp(-z)", "exp(-z) alone is no probability: it grows beyond 1. Put it into 1 / (1 + ...).", lambda z: math.exp(-z)),
    Wrong("minus in the denominator", "The denominator is 1 - exp(-z), with a minus, so it passes through 0 at z = 0. It must be 1 + exp(-z).", lambda z: 1 / (1 - math.exp(-z))),
    Wrong("minus in the denominator", "The denominator is 1 - exp(z), with a minus, so it passes through 0 at z = 0. It must be 1 + exp(z).", lambda z: math.exp(z) / (1 - math.exp(z))),
    Wrong("e times", "e is multiplied by -z. It must be raised to that power: math.exp(-z), or math.e ** -z.", lambda z: 1 / (1 - math.e * z)),
    Wrong("inverse", "log(z / (1 - z)) is the inverse of the sigmoid: it takes a probability to its log-odds. Here z are the log-odds, and the probability is asked for.", lambda z: math.log(z / (1 - z))),
    Wrong("negative", "There is a minus before it: a probability cannot be negative.", lambda z: -probability(z)),
    Wrong("tanh", "tanh squeezes into the range from -1 to 1, and a probability cannot be negative. (1 + tanh(z / 2)) / 2 would do.", math.tanh),
    Wrong("tanh, not halved", "This is sigmoid(2 z): twice as steep as it must be. If you come from tanh, it takes z / 2.", lambda z: probability(2 * z)),
    Wrong("its derivative", "This is the slope of the sigmoid, p (1 - p): largest at 0, and 0 far from it on both sides. The value itself is asked for.", lambda z: probability(z) * probability(-z)),
    Wrong("step function", "This jumps from 0 to 1 at z = 0. The sigmoid rises gradually, or there would be no slope to learn from.", lambda z: float(z > 0)),
    Wrong("step function", "This jumps from 0 to 1 at z = 0. The sigmoid rises gradually, or there would be no slope to learn from.", lambda z: float(z >= 0)),
    Wrong("step function", "This jumps from 0 to 1 at z = 0. The sigmoid rises gradually, or there would be no slope to learn from.", lambda z: 0.5 if z == 0 else float(z > 0)),
    Wrong("clipped line", "This cuts z off at 0 and 1. The sigmoid bends gradually: 0.5 at z = 0, and never quite 0 or 1.", lambda z: min(max(z, 0.0), 1.0)),
    Wrong("softplus", "This is log(1 + exp(z)), softplus, which grows without bound; the sigmoid is its derivative.", lambda z: max(z, 0.0) + math.log1p(math.exp(-abs(z)))),
    Wrong("base 2", "The base of the power is 2 where it must be e = 2.718...: use math.exp.", lambda z: probability(z * math.log(2))),
    Wrong("base 10", "The base of the power is 10 where it must be e = 2.718...: use math.exp.", lambda z: probability(z * math.log(10))),
    Wrong("of |z|", "Negative and positive z give the same. The sign of z must stay: sigmoid(-z) = 1 - sigmoid(z).", lambda z: probability(abs(z))),
    Wrong("of -|z|", "Negative and positive z give the same. The sign of z must stay: sigmoid(-z) = 1 - sigmoid(z).", lambda z: probability(-abs(z))),
    Wrong("exp(z) for negative z", "For a negative z this is math.exp(z), which is only the numerator: divide it by 1 + math.exp(z).", lambda z: probability(z) if z >= 0 else math.exp(z)),
    Wrong("softsign", "This is z / (1 + |z|), moved into the range from 0 to 1. Its shape is like that of a sigmoid, but its log-odds are not z: take 1 / (1 + math.exp(-z)).", lambda z: 0.5 + 0.5 * z / (1 + abs(z))),
    Wrong("log", "This is log sigmoid(z), the log of what is asked for.", lambda z: -max(-z, 0.0) - math.log1p(math.exp(-abs(z)))),
    Wrong("z unchanged", "This returns z as it came. It must be squeezed into the range from 0 to 1.", lambda z: z),
    Wrong("relu", "This is max(0, z), a rectifier: it grows without bound. A probability stays between 0 and 1.", lambda z: max(z, 0.0)),
    Wrong("times the weight", "The weight is in z already: WEIGHT * hunger + bias. Here z is multiplied by it once more.", lambda z: probability(WEIGHT * z)),
)  # fmt: skip


def _p(h: float, b: float) -> float:
    return probability(WEIGHT * h + b)


GUESS = (
    Wrong("minus missing", "The sign is reversed: this is the derivative of log P(place), and CE has a minus before it. A rewarded guess would become less likely.", lambda h, b, a: a - _p(h, b)),
    Wrong("places swapped", "The two places have changed roles: P(Norm) - 1 is for Norm (place 1), P(Norm) for Squatch (place 0).", lambda h, b, a: _p(h, b) - (1 - a)),
    Wrong("Norm's for both", "Squatch gets the derivative of Norm, P(Norm) - 1. For Squatch CE = -log(1 - P(Norm)), whose derivative is positive.", lambda h, b, a: _p(h, b) - 1),
    Wrong("Squatch's for both", "Norm gets the derivative of Squatch, P(Norm). For Norm CE = -log P(Norm), which falls as the bias grows.", lambda h, b, a: _p(h, b)),
    Wrong("p for 1 - p", "The probabilities have changed places: for Norm it is -(1 - P(Norm)), where you have -P(Norm); for Squatch P(Norm), where you have 1 - P(Norm). The more surprising the guess, the larger must be its derivative.", lambda h, b, a: -_p(h, b) if a == NORM else 1 - _p(h, b)),
    Wrong("P(place) - 1", "This is P(place) - 1 for both places. It is the derivative with respect to the place's own logit; but z is Norm's, and as z grows, P(Squatch) falls. So Squatch's derivative has the other sign.", lambda h, b, a: _p(h, b) - 1 if a == NORM else -_p(h, b)),
    Wrong("dCE/dP only", "This is dCE/dP, the last factor of the chain. Multiply by dP/dz = P (1 - P) and dz/db = 1.", lambda h, b, a: -1 / _p(h, b) if a == NORM else 1 / (1 - _p(h, b))),
    Wrong("dCE/dP only, Squatch's sign", "These are factors dCE/dP, and not yet times dP/dz = P (1 - P); and for Squatch CE = -log(1 - P), whose derivative is +1/(1 - P).", lambda h, b, a: -1 / _p(h, b) if a == NORM else -1 / (1 - _p(h, b))),
    Wrong("dP/dz only", "This is dP/dz = P (1 - P), the middle factor of the chain. dCE/dP is missing: -1/P for Norm, 1/(1 - P) for Squatch.", lambda h, b, a: _p(h, b) * (1 - _p(h, b))),
    Wrong("log forgotten", "This is the derivative of -P(place), without the log. d(-log P)/dP is -1/P, and that divides P (1 - P) by P.", lambda h, b, a: _p(h, b) * (1 - _p(h, b)) * (-1 if a == NORM else 1)),
    Wrong("dz/dw", "This is the derivative with respect to the weight: dz/db is 1, dz/dw is the hunger.", lambda h, b, a: (_p(h, b) - a) * h),
    Wrong("times the weight", "It is multiplied by the weight, which is dz/dhunger. We change the bias, and dz/db is 1.", lambda h, b, a: (_p(h, b) - a) * WEIGHT),
    Wrong("times the bias", "It is multiplied by the bias. dz/db is 1, not b.", lambda h, b, a: (_p(h, b) - a) * b),
    Wrong("CE itself", "This is the cross-entropy. Its derivative with respect to the bias is asked for: how fast it changes with b.", lambda h, b, a: -math.log(_p(h, b) if a == NORM else 1 - _p(h, b))),
    Wrong("P itself", "This is P(place), the probability of the guess, and not yet the derivative of its cross-entropy.", lambda h, b, a: _p(h, b) if a == NORM else 1 - _p(h, b)),
    Wrong("1 - P(place)", "1 - P(place) has the right size, but both places get the same sign. As the bias grows, CE falls for Norm and grows for Squatch: the derivative is negative for Norm.", lambda h, b, a: 1 - _p(h, b) if a == NORM else _p(h, b)),
    Wrong("bias left out", "The bias is missing from z = WEIGHT * hunger + bias.", lambda h, b, a: probability(WEIGHT * h) - a),
    Wrong("weight left out", "The weight is missing from z = WEIGHT * hunger + bias.", lambda h, b, a: probability(h + b) - a),
    Wrong("hunger left out", "The hunger is missing from z = WEIGHT * hunger + bias.", lambda h, b, a: probability(b) - a),
    Wrong("bias subtracted", "The bias is subtracted in z. It is z = WEIGHT * hunger + bias.", lambda h, b, a: probability(WEIGHT * h - b) - a),
    Wrong("bias weighted, too", "z is WEIGHT * hunger + bias; the bias is not multiplied by the weight.", lambda h, b, a: probability(WEIGHT * (h + b)) - a),
    Wrong("z for P", "This uses z itself in place of P(Norm) = sigmoid(z).", lambda h, b, a: WEIGHT * h + b - a),
    Wrong("likelier place", "P(Norm) is rounded to 0 or 1: the likelier place. The derivative needs the probability itself.", lambda h, b, a: round(_p(h, b)) - a),
    Wrong("squared error", "This is the derivative of a squared error: with the factor P (1 - P), which cross-entropy cancels, a wrong guess hardly moves the bias when the network is sure.", lambda h, b, a: 2 * (_p(h, b) - a) * _p(h, b) * (1 - _p(h, b))),
    Wrong("squared error", "This is the derivative of a squared error: with the factor P (1 - P), which cross-entropy cancels, a wrong guess hardly moves the bias when the network is sure.", lambda h, b, a: (_p(h, b) - a) * _p(h, b) * (1 - _p(h, b))),
    Wrong("log 2", "This is the derivative of -log2 P. CE uses the natural logarithm.", lambda h, b, a: (_p(h, b) - a) / math.log(2)),
    Wrong("log 10", "This is the derivative of -log10 P. CE uses the natural logarithm.", lambda h, b, a: (_p(h, b) - a) / math.log(10)),
)  # fmt: skip

REWARD = (
    Wrong("reward forgotten", "The reward is missing: good and bad guesses get the same step, so nothing is learned from them.", lambda d, r: d),
    Wrong("sign reversed", "The sign is reversed: a rewarded guess becomes less likely, a bad one likelier. Descent brings its own minus in exercise 4.", lambda d, r: -d * r),
    Wrong("sign dropped", "The sign of the reward is lost: a bad guess is encouraged just like a good one. A negative reward must turn the derivative around.", lambda d, r: d * abs(r)),
    Wrong("reward squared", "The reward is squared, so its sign is lost: a bad guess is encouraged just like a good one.", lambda d, r: d * r * r),
    Wrong("sign only", "Only the sign of the reward is used. A reward of 2 must give twice the step of a reward of 1.", lambda d, r: d * _sign(r)),
    Wrong("sign only", "Only the sign of the reward is used. A reward of 2 must give twice the step of a reward of 1.", lambda d, r: d if r > 0 else -d),
    Wrong("sign only", "Only the sign of the reward is used. A reward of 2 must give twice the step of a reward of 1.", lambda d, r: -d if r < 0 else d),
    Wrong("added", "The reward is added. It must multiply: then a negative one turns the derivative around.", lambda d, r: d + r),
    Wrong("subtracted", "The reward is subtracted from the derivative. It must multiply: then a negative one turns the derivative around.", lambda d, r: d - r),
    Wrong("error from the reward", "The derivative is subtracted from the reward, as if it were an error. The reward must multiply it.", lambda d, r: r - d),
    Wrong("divided", "The derivative is divided by the reward, so that a larger reward gives a smaller step. It must multiply.", lambda d, r: d / r),
    Wrong("reward divided", "The reward is divided by the derivative, so that flat places give huge steps. It must multiply.", lambda d, r: r / d),
    Wrong("only good visits", "Bad guesses are ignored. A negative reward says as much as a positive one: away from this place.", lambda d, r: d * max(r, 0.0)),
    Wrong("only good visits", "Bad guesses are ignored. A negative reward says as much as a positive one: away from this place.", lambda d, r: d if r > 0 else 0.0),
    Wrong("only bad visits", "Good guesses are ignored. A positive reward must keep the derivative, times its size.", lambda d, r: d * min(r, 0.0)),
    Wrong("bad visits not turned", "A bad guess is not turned around: a negative reward must flip the derivative's sign.", lambda d, r: d * r if r > 0 else d),
    Wrong("turned, not scaled when good", "A good guess is not multiplied by the size of its reward. A reward of 2 must give twice the step.", lambda d, r: d if r > 0 else d * r),
    Wrong("reward alone", "This is the reward alone. Without the derivative the step does not know which place was drawn.", lambda d, r: r),
    Wrong("derivative dropped sign", "The sign of the derivative is lost, so both places push the bias the same way.", lambda d, r: abs(d) * r),
    Wrong("derivative's sign only", "Only the sign of the derivative is used: all steps are equally long, however sure the network was. The mean over all visits is no longer -dJ/db.", lambda d, r: _sign(d) * r),
    Wrong("derivative squared", "The derivative is squared, so its sign is lost: both places push the bias the same way.", lambda d, r: d * d * r),
    Wrong("1 - reward", "This multiplies by 1 - reward: a baseline of 1, and with the sign reversed.", lambda d, r: d * (1 - r)),
    Wrong("baseline of 1", "This multiplies by reward - 1. A baseline does not change the mean, but here the reward itself is asked for.", lambda d, r: d * (r - 1)),
    Wrong("reward + 1", "This multiplies by reward + 1. That does not change the mean, but here the reward itself is asked for: a reward of -1 would teach nothing.", lambda d, r: d * (r + 1)),
    Wrong("exponentiated", "The reward is exponentiated, which is always positive: a negative reward cannot turn the derivative around.", lambda d, r: d * math.exp(r)),
)  # fmt: skip

STEP = (
    Wrong("minus missing", "The minus is missing: this goes along the derivative, and CE's derivative points to where the guess gets worse.", lambda b, s, d: b + s * d),
    Wrong("learning rate forgotten", "The learning rate is missing: every step is as long as with learning rate 1.", lambda b, s, d: b - d),
    Wrong("minus and learning rate", "The minus is missing, and so is the learning rate.", lambda b, s, d: b + d),
    Wrong("change only", "This is only the change. Add it to the bias: the new bias is asked for.", lambda b, s, d: -s * d),
    Wrong("product only", "This is learning rate x derivative. Subtract it from the bias: the new bias is asked for.", lambda b, s, d: s * d),
    Wrong("divided by the learning rate", "The derivative is divided by the learning rate: a smaller rate would take a longer step.", lambda b, s, d: b - d / s if s else b),
    Wrong("derivative forgotten", "The derivative is missing: the bias falls by the learning rate whatever happened.", lambda b, s, d: b - s),
    Wrong("sign of the derivative", "Only the sign of the derivative is used: every step is equally long.", lambda b, s, d: b - s * _sign(d)),
    Wrong("bias shrunk", "The derivative multiplies the bias. The step does not depend on where the bias is: subtract learning rate x derivative.", lambda b, s, d: b * (1 - s * d)),
    Wrong("bias scaled, too", "The learning rate multiplies the bias as well: write bias - learning_rate * updated_derivative, without brackets around the difference.", lambda b, s, d: s * (b - d)),
    Wrong("bias scaled, too", "The learning rate multiplies the bias and not the derivative: write bias - learning_rate * updated_derivative.", lambda b, s, d: s * b - d),
    Wrong("unchanged", "The bias comes back unchanged: nothing is learned.", lambda b, s, d: b),
    Wrong("subtracted the wrong way", "The bias is subtracted from the step. It is bias - learning rate x derivative, in this order.", lambda b, s, d: s * d - b),
    Wrong("learning rate squared", "The learning rate is used twice.", lambda b, s, d: b - s * s * d),
    Wrong("size of the derivative", "The sign of the derivative is lost: the bias can only fall.", lambda b, s, d: b - s * abs(d)),
    Wrong("moving average", "This moves toward the derivative as in a moving average: (1 - rate) * bias - rate * derivative. The old bias must stay whole.", lambda b, s, d: (1 - s) * b - s * d),
    Wrong("moving average", "This moves toward the derivative as in a moving average: (1 - rate) * bias + rate * derivative. The old bias must stay whole.", lambda b, s, d: (1 - s) * b + s * d),
    Wrong("added the learning rate", "The learning rate is subtracted beside the derivative. It must multiply it.", lambda b, s, d: b - (s + d)),
    Wrong("averaged", "The step is half as long as it must be.", lambda b, s, d: b - s * d / 2),
    Wrong("squared derivative", "The derivative is squared, so its sign is lost: the bias can only fall.", lambda b, s, d: b - s * d * d),
)  # fmt: skip

LOSS = (
    Wrong("log forgotten", "The log is missing, so P counts twice: in how often the place is drawn, and again in its derivative. Rarely drawn places are hardly learned about.", lambda p, r: -p * r),
    Wrong("minus and log missing", "Minus and log are missing. Descent makes the loss smaller, and P of a rewarded place with it; and without the log P counts twice.", lambda p, r: p * r),
    Wrong("minus missing", "The minus is missing: descent makes the loss smaller, so a rewarded place becomes less likely.", lambda p, r: math.log(p) * r),
    Wrong("reward forgotten", "The reward must multiply the log. Left out, or added, it drops out of the derivative: each place that is drawn becomes likelier, good or bad, and on average nothing is learned.", lambda p, r: -math.log(p)),
    Wrong("reward in the log", "The reward is inside the log, where it only adds log(reward), which drops out of the derivative. For a negative one there is no log.", lambda p, r: -math.log(p * r) if r > 0 else math.nan),
    Wrong("log 2", "This is log2, where the derivative of the natural logarithm is asked for: each step is 1.44 times too long.", lambda p, r: -math.log2(p) * r),
    Wrong("log 10", "This is log10, where the derivative of the natural logarithm is asked for: each step has only 0.43 of its length.", lambda p, r: -math.log10(p) * r),
    Wrong("log of 1 - P", "This is the log of 1 - P(place), of the place that was not drawn. It pushes the right way, but P / (1 - P) times as far: rarely drawn places are hardly learned about.", lambda p, r: math.log(1 - p) * r),
    Wrong("log of 1 - P, with a minus", "This is -log(1 - P(place)): it makes the other place likelier when this one was rewarded.", lambda p, r: -math.log(1 - p) * r),
    Wrong("reciprocal", "1 / P in place of -log P: its derivative is -1 / P^2, which makes rarely drawn places count far too much.", lambda p, r: r / p),
    Wrong("P log P", "P log P weighs each place by P again. The draw has done so already: how often a place is drawn is its P.", lambda p, r: -p * math.log(p) * r),
    Wrong("squared error", "This is a squared error, (1 - P)^2, and its derivative has P in it: P counts twice.", lambda p, r: (1 - p) ** 2 * r),
    Wrong("squared error", "This is a squared error, (1 - P)^2 / 2, and its derivative has P in it: P counts twice.", lambda p, r: (1 - p) ** 2 * r / 2),
    Wrong("squared error to the reward", "This is the squared distance of P and reward, as if the reward were the right answer. It is not a target: it says how good the guess was.", lambda p, r: (p - r) ** 2),
    Wrong("squared error to the reward", "This is half the squared distance of P and reward, as if the reward were the right answer. It is not a target: it says how good the guess was.", lambda p, r: (p - r) ** 2 / 2),
    Wrong("log-odds", "This is the log-odds, log(p / (1 - p)), in place of log p: its derivative is 1 for each place, however likely it was. Likely places count too much.", lambda p, r: -(math.log(p) - math.log(1 - p)) * r),
    Wrong("sign dropped", "The sign of the reward is lost: a bad place becomes likelier just like a good one.", lambda p, r: -math.log(p) * abs(r)),
    Wrong("reward squared", "The reward is squared, so its sign is lost: a bad place becomes likelier just like a good one.", lambda p, r: -math.log(p) * r * r),
    Wrong("sign only", "Only the sign of the reward counts. A reward of 2 must give twice the step of a reward of 1.", lambda p, r: -math.log(p) * _sign(r)),
    Wrong("only good visits", "Bad visits are ignored: a negative reward must push away from its place.", lambda p, r: -math.log(p) * max(r, 0.0)),
    Wrong("only good visits, all alike", "Bad visits are ignored, and good ones count the same, however good. The reward must multiply the log.", lambda p, r: -math.log(p) if r > 0 else 0.0),
    Wrong("reward exponentiated", "The reward is exponentiated, which is always positive: a bad place becomes likelier just like a good one.", lambda p, r: -math.log(p) * math.exp(r)),
    Wrong("squared error of the log", "This is the squared distance of log P and reward, as if the reward were the right answer. It is not a target: it multiplies the log.", lambda p, r: (math.log(p) - r) ** 2),
    Wrong("divided", "The log is divided by the reward, so that a larger reward gives a smaller step. It must multiply.", lambda p, r: -math.log(p) / r),
    Wrong("reward alone", "This is only the reward. It does not depend on P, so its derivative with respect to the bias is 0.", lambda p, r: -r),
    Wrong("exponentiated", "P is exponentiated, where its log is asked for.", lambda p, r: -math.exp(p) * r),
    Wrong("square root", "This is the square root of P, where its log is asked for.", lambda p, r: -math.sqrt(p) * r),
    Wrong("halved", "The step has half its length: -log P times the reward has no other factor.", lambda p, r: -math.log(p) * r / 2),
    Wrong("binary cross-entropy", "With the reward as the target, as in binary cross-entropy, the loss has a second term, for 1 - P. The reward is not a target.", lambda p, r: -(r * math.log(p) + (1 - r) * math.log(1 - p))),
)  # fmt: skip


def _one_hot(a: int) -> tuple[int, int]:
    return (1 - a, a)


def _minus(x: Numbers, y: Numbers) -> list[float]:
    return [i - j for i, j in zip(x, y, strict=True)]


LOGITS = (
    Wrong("minus missing", "The sign is reversed: this is the gradient of log P(place), and CE = -log P(place) has a minus. (With two logits that is the same as the right numbers in reverse order.)", lambda z, a: _minus(_one_hot(a), _softmax(z))),
    Wrong("one-hot forgotten", "These are the probabilities themselves. For the place that was drawn 1 must be subtracted.", lambda z, a: _softmax(z)),
    Wrong("minus the probabilities", "These are the probabilities with a minus. CE has the derivative P for the other place, and P - 1 for the place that was drawn.", lambda z, a: [-p for p in _softmax(z)]),
    Wrong("places swapped", "The places have changed roles: 1 must be subtracted for the place that was drawn, not for the other.", lambda z, a: _minus(_softmax(z), _one_hot(1 - a))),
    Wrong("drawn one only", "Only the logit of the place that was drawn has a derivative here. But a larger logit of the other place makes this one less likely: its derivative is its P.", lambda z, a: [(p - 1) * o for p, o in zip(_softmax(z), _one_hot(a), strict=True)]),
    Wrong("other one only", "The logit of the place that was drawn has no derivative here. It is P - 1.", lambda z, a: [p * (1 - o) for p, o in zip(_softmax(z), _one_hot(a), strict=True)]),
    Wrong("sigmoids", "Each logit goes through a sigmoid of its own, so the two probabilities do not sum to 1. They compete: divide each exp by the sum of both.", lambda z, a: _minus([probability(x) for x in z], _one_hot(a))),
    Wrong("sigmoid of one logit", "P(Norm) is taken as the sigmoid of z_1 alone. Both logits count: it is sigmoid(z_1 - z_0).", lambda z, a: _minus((probability(-z[1]), probability(z[1])), _one_hot(a))),
    Wrong("logits for probabilities", "The logits themselves stand where the probabilities belong: exp(z) divided by the sum of both.", lambda z, a: _minus(z, _one_hot(a))),
    Wrong("not normalized", "exp(z) is not yet a probability: divide by the sum of both.", lambda z, a: _minus(_exps(z), _one_hot(a))),
    Wrong("without exp", "The logits are divided by their sum. They may be negative: take exp of each first.", lambda z, a: _minus([x / sum(z) for x in z], _one_hot(a))),
    Wrong("derivative of P", "This is the gradient of P(place), not of -log P(place). Divide by P(place), and mind the minus.", lambda z, a: [_softmax(z)[a] * (o - p) for o, p in zip(_one_hot(a), _softmax(z), strict=True)]),
    Wrong("log forgotten", "This is the gradient of -P(place), without the log: divide it by P(place).", lambda z, a: [_softmax(z)[a] * (p - o) for o, p in zip(_one_hot(a), _softmax(z), strict=True)]),
    Wrong("each p (1 - p)", "This is P (1 - P) for both: how each probability changes with its own logit. CE of the drawn place is asked for.", lambda z, a: [p * (1 - p) for p in _softmax(z)]),
    Wrong("same for both", "Both logits get P(place) - 1. The larger the other logit, the less likely this place: its derivative is positive.", lambda z, a: [_softmax(z)[a] - 1] * 2),
    Wrong("size without sign", "The sign is lost for the place that was drawn: as its own logit grows, CE falls.", lambda z, a: [abs(x) for x in _minus(_softmax(z), _one_hot(a))]),
    Wrong("1 - P for each", "This is 1 - P for each place. It should be P, and minus 1 for the one that was drawn.", lambda z, a: [1 - p for p in _softmax(z)]),
    Wrong("P - 1 for each", "1 is subtracted for both places. It belongs only to the one that was drawn.", lambda z, a: [p - 1 for p in _softmax(z)]),
    Wrong("one-hot alone", "The probabilities are missing: the derivative is P, minus 1 for the place that was drawn.", lambda z, a: [-float(o) for o in _one_hot(a)]),
    Wrong("one-hot alone", "The probabilities are missing: the derivative is P, minus 1 for the place that was drawn.", lambda z, a: [float(o) for o in _one_hot(a)]),
    Wrong("always Norm", "1 is always subtracted from Norm's, whichever place was drawn.", lambda z, a: _minus(_softmax(z), (0, 1))),
    Wrong("always Squatch", "1 is always subtracted from Squatch's, whichever place was drawn.", lambda z, a: _minus(_softmax(z), (1, 0))),
    Wrong("CE for each", "This is -log P of each place: values of the cross-entropy, not its slopes.", lambda z, a: [-math.log(p) for p in _softmax(z)]),
    Wrong("exponent's sign", "The exponents have a minus, so that a larger logit makes its place less likely.", lambda z, a: _minus(_softmax([-x for x in z]), _one_hot(a))),
    Wrong("halved", "Both are half of what they must be, as if the mean over two places were taken. It is the CE of one visit.", lambda z, a: [x / 2 for x in _minus(_softmax(z), _one_hot(a))]),
    Wrong("squared error", "This is the gradient of a squared error. That of the cross-entropy is simpler: P, minus 1 for the place that was drawn.", lambda z, a: [2 * _softmax(z)[0] * _softmax(z)[1] * (x - y) for x, y in (_minus(_softmax(z), _one_hot(a)), _minus(_softmax(z), _one_hot(a))[::-1])]),
)  # fmt: skip


def _moments(p: Numbers, updated: Numbers) -> tuple[float, float]:
    """Mean and variance."""
    mean = sum(q * u for q, u in zip(p, updated, strict=True))
    return mean, sum(q * (u - mean) ** 2 for q, u in zip(p, updated, strict=True))


def _updated(d: Numbers, r: Numbers, baseline: float) -> list[float]:
    return [x * (y - baseline) for x, y in zip(d, r, strict=True)]


def _alike(d: Numbers) -> list[float]:
    return [1 / len(d)] * len(d)


BASELINE = (
    Wrong("baseline forgotten", "The baseline has no effect here. It is subtracted from each reward before the derivative is multiplied.", lambda p, d, r, b: _moments(p, _updated(d, r, 0.0))),
    Wrong("baseline added", "The baseline is added to the reward. The mean stays all the same, but not the spread: subtract it.", lambda p, d, r, b: _moments(p, _updated(d, r, -b))),
    Wrong("subtracted from the product", "The baseline is subtracted from derivative x reward, which moves the mean. Subtract it from the reward, before the derivative multiplies it: since the derivative's own mean is 0, the baseline then drops out of the mean.", lambda p, d, r, b: _moments(p, [x * y - b for x, y in zip(d, r, strict=True)])),
    Wrong("added to the product", "The baseline is added to derivative x reward, which moves the mean. Subtract it from the reward, before the derivative multiplies it.", lambda p, d, r, b: _moments(p, [x * y + b for x, y in zip(d, r, strict=True)])),
    Wrong("subtracted from the derivative", "The baseline is subtracted from the derivative. It belongs to the reward.", lambda p, d, r, b: _moments(p, [(x - b) * y for x, y in zip(d, r, strict=True)])),
    Wrong("probabilities forgotten", "All ways count the same here. Weigh each by its probability, in the mean and in the variance.", lambda p, d, r, b: _moments(_alike(d), _updated(d, r, b))),
    Wrong("probabilities forgotten in the variance", "The mean is right. In the variance each way must be weighted by its probability, too.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], sum((u - _moments(p, _updated(d, r, b))[0]) ** 2 for u in _updated(d, r, b)) / len(d))),
    Wrong("probabilities forgotten in the variance", "The mean is right. In the variance each way must be weighted by its probability, too.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], _moments(_alike(d), _updated(d, r, b))[1])),
    Wrong("probabilities forgotten in the mean", "In the mean each way must be weighted by its probability, as it is in the variance.", lambda p, d, r, b: (sum(_updated(d, r, b)) / len(d), sum(q * (u - sum(_updated(d, r, b)) / len(d)) ** 2 for q, u in zip(p, _updated(d, r, b), strict=True)))),
    Wrong("sample variance", "The variance is multiplied by K / (K - 1), as for a sample. Here all ways are known, with their probabilities.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], _moments(p, _updated(d, r, b))[1] * len(d) / (len(d) - 1))),
    Wrong("variance of the weighted", "The mean is right. The variance is that of the products probability x updated derivative: the probability is a weight, and does not belong to what is squared.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], _moments(_alike(d), [q * u for q, u in zip(p, _updated(d, r, b), strict=True)])[1])),
    Wrong("sum in the variance", "The mean is right. In the variance the squares are summed without their probabilities.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], sum((u - _moments(p, _updated(d, r, b))[0]) ** 2 for u in _updated(d, r, b)))),
    Wrong("deviation for variance", "The second number is the standard deviation. The variance is its square.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], math.sqrt(_moments(p, _updated(d, r, b))[1]))),
    Wrong("mean of squares", "The second number is the mean of the squares. The variance is that minus the square of the mean.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], sum(q * u * u for q, u in zip(p, _updated(d, r, b), strict=True)))),
    Wrong("mean subtracted, not squared", "The second number is the mean of the squares minus the mean. The mean must be squared, too.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], sum(q * u * u for q, u in zip(p, _updated(d, r, b), strict=True)) - _moments(p, _updated(d, r, b))[0])),
    Wrong("mean distance", "The second number is the mean distance from the mean. The variance squares the distances.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], sum(q * abs(u - _moments(p, _updated(d, r, b))[0]) for q, u in zip(p, _updated(d, r, b), strict=True)))),
    Wrong("not squared", "The second number is the mean of the differences from the mean, which is always 0. Square them first.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], 0.0)),
    Wrong("in reverse order", "The two numbers are in reverse order: the mean comes first.", lambda p, d, r, b: _moments(p, _updated(d, r, b))[::-1]),
    Wrong("derivative forgotten", "The derivative is missing: these are mean and variance of reward - baseline.", lambda p, d, r, b: _moments(p, [y - b for y in r])),
    Wrong("reward forgotten", "The reward is missing: these are mean and variance of the derivative.", lambda p, d, r, b: _moments(p, d)),
    Wrong("minus missing", "The sign is reversed: reward minus baseline, not baseline minus reward. So the mean has the wrong sign; the variance does not show it.", lambda p, d, r, b: _moments(p, [-u for u in _updated(d, r, b)])),
    Wrong("multiplied by the baseline", "The baseline multiplies the reward. It is subtracted from it.", lambda p, d, r, b: _moments(p, [x * y * b for x, y in zip(d, r, strict=True)])),
    Wrong("sample variance", "The variance is divided by K - 1 as for a sample. Here all ways are known with their probabilities: weigh with these.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], _moments(_alike(d), _updated(d, r, b))[1] * len(d) / (len(d) - 1))),
    Wrong("probability in the steps", "Each updated derivative is multiplied by its probability first, and mean and variance are taken of these products. The probability is a weight: it belongs to the mean, not to what is averaged.", lambda p, d, r, b: _moments(_alike(d), [q * u for q, u in zip(p, _updated(d, r, b), strict=True)])),
    Wrong("probability squared", "The probabilities are squared in the variance: multiply the squared distance by the probability, instead of squaring both.", lambda p, d, r, b: (_moments(p, _updated(d, r, b))[0], sum((q * (u - _moments(p, _updated(d, r, b))[0])) ** 2 for q, u in zip(p, _updated(d, r, b), strict=True)))),
)  # fmt: skip


Follows = Literal["zero", "value", "bare value", "on"]  # what comes after a step that ends an episode


def _backward(
    r: Numbers,
    e: Flags,
    c: Flags,
    n: Numbers,
    g: float,
    *,
    end: Follows = "zero",
    cut: Follows = "value",
    own: float = 1.0,
    between: float | None = None,
) -> list[float]:
    """R_t = own * r_t + g * R_t+1, with a choice of what comes after an end and after a cut.

    "zero" is nothing, "value" is g * next value, "bare value" is the next value without discount, "on" is whatever comes
    next in the list. `between` is the discount within an episode, if it is another.
    """
    result, future, factor = [0.0] * len(r), 0.0, g
    for t in reversed(range(len(r))):
        kind = end if e[t] else cut if c[t] else "on"
        factor = g if between is None else between
        if kind == "zero":
            future = 0.0
        elif kind != "on":
            future, factor = n[t], 1.0 if kind == "bare value" else g
        future = own * r[t] + factor * future
        result[t] = future
    return result


def _forward(r: Numbers, e: Flags, c: Flags, g: float) -> list[float]:
    """The discounted sum of the rewards so far, newest first."""
    result, past = [], 0.0
    for t, reward in enumerate(r):
        past = reward + g * past
        result.append(past)
        past = 0.0 if e[t] or c[t] else past
    return result


def _ages(e: Flags, c: Flags) -> list[int]:
    """How many steps of its episode come before each step."""
    ages, age = [], 0
    for t in range(len(e)):
        ages.append(age)
        age = 0 if e[t] or c[t] else age + 1
    return ages


def _left(e: Flags, c: Flags) -> list[int]:
    """How many steps of its episode are left, itself included."""
    left, count = [0] * len(e), 0
    for t in reversed(range(len(e))):
        count = 1 if e[t] or c[t] else count + 1
        left[t] = count
    return left


def _whole(r: Numbers, e: Flags, c: Flags, n: Numbers, g: float) -> list[float]:
    """The whole episode's return at each of its steps."""
    right = _backward(r, e, c, n, g)
    return [right[t - age] for t, age in enumerate(_ages(e, c))]


def _centered(x: Numbers) -> list[float]:
    return [y - sum(x) / len(x) for y in x]


def _standardized(x: Numbers) -> list[float]:
    deviation = math.sqrt(sum(y * y for y in _centered(x)) / len(x))
    return [y / (deviation + 1e-8) for y in _centered(x)]


def _replaced(r: Numbers, e: Flags, c: Flags, n: Numbers, g: float) -> list[float]:
    return _backward([n[t] if c[t] else x for t, x in enumerate(r)], e, c, n, g, cut="zero")


def _last_lost(r: Numbers, e: Flags, c: Flags, n: Numbers, g: float) -> list[float]:
    return _backward([0.0 if e[t] else x for t, x in enumerate(r)], e, c, n, g)


def _both(r: Numbers, e: Flags, c: Flags, n: Numbers, g: float) -> list[float]:
    return _backward([x + (0.0 if e[t] else g * n[t]) for t, x in enumerate(r)], e, c, n, g, cut="zero")


TO_GO = (
    Wrong("whole return", "Each step gets the return of its whole episode. An action cannot change the rewards that came before it: leave them out. On average they cancel, but they add noise.", _whole),
    Wrong("sum of all", "Each step gets the sum of all rewards in the list, past ones and those of other episodes, too.", lambda r, e, c, n, g: [sum(r)] * len(r)),
    Wrong("past for future", "These are the rewards up to each step: the past. An action can only change what comes after it, so go through the list backward.", lambda r, e, c, n, g: _forward(r, e, c, g)),
    Wrong("past for future", "These are the sums of the rewards so far: the past. An action can only change what comes after it, so go through the list backward.", lambda r, e, c, n, g: [sum(r[: t + 1]) for t in range(len(r))]),
    Wrong("own reward left out", "Off by one: the step's own reward is left out, and that is the one its action got.", lambda r, e, c, n, g: _minus(_backward(r, e, c, n, g), r)),
    Wrong("shifted", "Off by one: each step gets the number of the step after it, without its own reward.", lambda r, e, c, n, g: [(_minus(_backward(r, e, c, n, g), r)[t] / g) for t in range(len(r))]),
    Wrong("discount forgotten", "The discount is missing: each step further away must count less, by a factor of discount.", lambda r, e, c, n, g: _backward(r, e, c, n, 1.0)),
    Wrong("discount missing between steps", "The value after a cut is discounted, but the rewards are not.", lambda r, e, c, n, g: _backward(r, e, c, n, g, between=1.0)),
    Wrong("own reward discounted", "The discount is one power too high: the step's own reward, which is 0 steps away, is discounted as well.", lambda r, e, c, n, g: [g * x for x in _backward(r, e, c, n, g)]),
    Wrong("own reward discounted", "The discount is one power too high for the rewards: the step's own, which is 0 steps away, is discounted as well.", lambda r, e, c, n, g: [x - (1 - g) * y for x, y in zip(_backward(r, e, c, n, g), _backward(r, e, c, [0.0] * len(r), g), strict=True)]),
    Wrong("reward discounted for the future", "The discount multiplies the step's own reward, where it should multiply what comes after it.", lambda r, e, c, n, g: [sum(g * r[k] for k in range(t, t + m)) + (0.0 if e[t + m - 1] else n[t + m - 1]) for t, m in enumerate(_left(e, c))]),
    Wrong("discounted from the start", "The powers of the discount are counted from the start of the episode. They start at the step itself, with 0.", lambda r, e, c, n, g: [g**age * x for age, x in zip(_ages(e, c), _backward(r, e, c, n, g), strict=True)]),
    Wrong("discounted from the list's start", "The powers of the discount are counted from the start of the list. They start at the step itself, with 0.", lambda r, e, c, n, g: [g**t * x for t, x in enumerate(_backward(r, e, c, n, g))]),
    Wrong("end ignored", "Sums run on past a termination, into the next episode, whose rewards this action could not change. There the future is worth 0.", lambda r, e, c, n, g: _backward(r, e, c, n, g, end="on")),
    Wrong("cut as an end", "A cut is treated like a termination: nothing comes after it. But the episode would have gone on, and next_values[t] says what that is worth.", lambda r, e, c, n, g: _backward(r, e, c, n, g, cut="zero")),
    Wrong("cut ignored", "Sums run on past a cut, into the rewards of the next episode. What comes after a cut is worth next_values[t].", lambda r, e, c, n, g: _backward(r, e, c, n, g, cut="on")),
    Wrong("both ignored", "Sums run from one episode into the next: neither terminated nor truncated has any effect here.", lambda r, e, c, n, g: _backward(r, e, c, n, g, end="on", cut="on")),
    Wrong("flags swapped", "The flags are swapped: nothing comes after a termination, and after a cut comes next_values[t].", lambda r, e, c, n, g: _backward(r, e, c, n, g, end="value", cut="zero")),
    Wrong("value after an end", "After a termination next_values[t] is added. The episode is over by its own rules: nothing comes after it.", lambda r, e, c, n, g: _backward(r, e, c, n, g, end="value")),
    Wrong("value after a cut not discounted", "The value after a cut is not discounted. It lies one step ahead, like the next reward.", lambda r, e, c, n, g: _backward(r, e, c, n, g, cut="bare value")),
    Wrong("value for the reward", "At a cut the reward is lost: next_values[t] takes its place, where discount * next_values[t] is to be added.", _replaced),
    Wrong("one step only", "This is reward + discount * next value at each step. Reward-to-go adds up the rewards that came; values count only after a cut.", lambda r, e, c, n, g: [x + (0.0 if e[t] else g * n[t]) for t, x in enumerate(r)]),
    Wrong("one step only, after an end, too", "This is reward + discount * next value at each step, even after a termination. Reward-to-go adds up the rewards that came; values count only after a cut.", lambda r, e, c, n, g: [x + g * n[t] for t, x in enumerate(r)]),
    Wrong("own reward only", "This is each step's own reward. What an action leads to later counts, too.", lambda r, e, c, n, g: list(r)),
    Wrong("in reverse order", "The numbers are right, but in reverse order: turn the list around before returning it.", lambda r, e, c, n, g: _backward(r, e, c, n, g)[::-1]),
    Wrong("mean for sum", "This is the mean of the rest of the episode; the sum is asked for.", lambda r, e, c, n, g: [x / m for x, m in zip(_backward(r, e, c, n, g), _left(e, c), strict=True)]),
    Wrong("centered", "The mean of the list is subtracted. A baseline is good for the variance, but here the reward-to-go itself is asked for.", lambda r, e, c, n, g: _centered(_backward(r, e, c, n, g))),
    Wrong("standardized", "Mean and standard deviation of the list are taken out. Batches are often treated so in training, but here the reward-to-go itself is asked for.", lambda r, e, c, n, g: _standardized(_backward(r, e, c, n, g))),
    Wrong("flags and discount ignored", "This is the plain sum of the rewards from each step to the end of the list. The discount is missing, and so are the flags: the sum must stop at the end of the episode.", lambda r, e, c, n, g: [sum(r[t:]) for t in range(len(r))]),
    Wrong("discounted from the list's start, flags ignored", "The powers of the discount are counted from the start of the list, not from the step itself; and the sums run from one episode into the next.", lambda r, e, c, n, g: [sum(g**j * r[j] for j in range(t, len(r))) for t in range(len(r))]),
    Wrong("own reward left out, flags ignored", "Off by one: the step's own reward is left out. And the sums run from one episode into the next.", lambda r, e, c, n, g: [sum(g ** (j - t) * r[j] for j in range(t + 1, len(r))) for t in range(len(r))]),
    Wrong("last reward forgotten", "The reward of an episode's last step is lost: it is its own reward that must be there, also when nothing comes after.", _last_lost),
    Wrong("next value always added", "next_values[t] is added at each step, besides the rewards to come, which it already stands for. It counts only after a cut.", _both),
    Wrong("next reward twice", "Only two rewards are added: reward[t] + discount * reward[t + 1]. All later rewards of the episode count.", lambda r, e, c, n, g: [x + (0.0 if e[t] else g * n[t] if c[t] else g * r[t + 1]) for t, x in enumerate(r)]),
)  # fmt: skip


def _advantages(
    r: Numbers,
    e: Flags,
    c: Flags,
    v: Numbers,
    n: Numbers,
    g: float,
    k: float,
    *,
    end: Follows = "zero",
    cut: Follows = "value",
    past_end: bool = False,
    past_cut: bool = False,
    keep: Callable[[float, float], float] = lambda g, k: g * k,
    delta: Callable[[float, float, float, float], float] = lambda x, after, now, g: x + g * after - now,
) -> list[float]:
    """A_t = delta_t + keep * A_t+1, with a choice of next values, and of whether sums run past an end or a cut.

    `keep` gets discount and lambda; `delta` gets reward, next value, value and discount.
    """
    result, advantage = [0.0] * len(r), 0.0
    for t in reversed(range(len(r))):
        follows = end if e[t] else cut if c[t] else "value"
        after = 0.0 if follows == "zero" else n[t]
        if (e[t] and not past_end) or (c[t] and not past_cut):
            advantage = 0.0
        advantage = delta(r[t], after, v[t], g) + keep(g, k) * advantage
        result[t] = advantage
    return result


def _next_of_list(v: Numbers, last: float) -> list[float]:
    return [*v[1:], last]


GAE = (
    Wrong("value not subtracted", "The value of the state is not subtracted: delta = reward + discount * next value - value. Without it this is no advantage, and far noisier.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, delta=lambda x, after, now, g: x + g * after)),
    Wrong("value added", "The value of the state is added to delta. It is subtracted: what counts is how much better it went than the value promised.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, delta=lambda x, after, now, g: x + g * after + now)),
    Wrong("next value left out", "The value of the next state is missing from delta = reward + discount * next value - value.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, delta=lambda x, after, now, g: x - now)),
    Wrong("lambda forgotten", "lambda is missing: A_t = delta_t + discount * gae_lambda * A_t+1. This is GAE with lambda 1, the most noise.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, keep=lambda g, k: g)),
    Wrong("discount forgotten in the sum", "The discount is missing from the sum: A_t = delta_t + discount * gae_lambda * A_t+1.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, keep=lambda g, k: k)),
    Wrong("discount forgotten in delta", "The next value is not discounted in delta: reward + discount * next value - value.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, delta=lambda x, after, now, g: x + after - now)),
    Wrong("discount forgotten", "The discount is missing, in delta and in the sum.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, 1.0, k)),
    Wrong("discount and lambda swapped", "discount and lambda have changed places. delta has only the discount, the sum has both.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, k, g)),
    Wrong("both factors missing", "discount * gae_lambda is missing from the sum: all later deltas count in full.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, keep=lambda g, k: 1.0)),
    Wrong("delta only", "This is delta alone, GAE with lambda 0. The later deltas are missing: + discount * gae_lambda * A_t+1.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, keep=lambda g, k: 0.0)),
    Wrong("value after an end", "After a termination next_values[t] is counted. The episode is over: the next state is worth 0.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, end="value")),
    Wrong("sum past an end", "The sum runs past a termination, into the next episode. A_t+1 counts only within an episode.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, past_end=True)),
    Wrong("end ignored", "A termination has no effect: the next state must be worth 0 there, and the sum must not run past it.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, end="value", past_end=True)),
    Wrong("cut as an end", "A cut is treated like a termination: the next state counts as 0. But the episode would have gone on, and next_values[t] says what that is worth.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, cut="zero")),
    Wrong("sum past a cut", "The sum runs past a cut, into the deltas of the next episode. next_values[t] already stands for all that would have come: A_t+1 counts only within an episode.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, past_cut=True)),
    Wrong("sum past both", "The sum runs from one episode into the next, past terminations and cuts. A_t+1 counts only within an episode.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, past_end=True, past_cut=True)),
    Wrong("flags ignored", "Neither terminated nor truncated has any effect here: values and sums run on past the ends.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, end="value", past_end=True, past_cut=True)),
    Wrong("flags swapped", "The flags are swapped: after a termination the next state is worth 0, after a cut next_values[t].", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, end="value", cut="zero")),
    Wrong("flags swapped", "The flags are swapped: after a termination the next state is worth 0 and the sum stops, after a cut it is worth next_values[t] and the sum stops, too.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, end="value", cut="zero", past_end=True)),
    Wrong("lambda squared", "lambda is used twice in the sum.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, keep=lambda g, k: g * k * k)),
    Wrong("discount squared", "The discount is used twice in the sum.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, keep=lambda g, k: g * g * k)),
    Wrong("1 - lambda", "The sum uses 1 - lambda in place of lambda: lambda near 0 must trust the values, and near 1 the rewards.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, keep=lambda g, k: g * (1 - k))),
    Wrong("times 1 - lambda", "It is multiplied by 1 - lambda. That belongs to the mean of the n-step advantages; in the sum of the deltas it has canceled.", lambda r, e, c, v, n, g, k: [(1 - k) * x for x in _advantages(r, e, c, v, n, g, k)]),
    Wrong("value target", "The value is added back: this is the target for the value function, A_t + value_t. The advantage is asked for.", lambda r, e, c, v, n, g, k: [x + y for x, y in zip(_advantages(r, e, c, v, n, g, k), v, strict=True)]),
    Wrong("minus missing", "The sign is reversed: an action that went better than promised gets a negative advantage.", lambda r, e, c, v, n, g, k: [-x for x in _advantages(r, e, c, v, n, g, k)]),
    Wrong("reward left out", "The reward is missing from delta = reward + discount * next value - value.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, delta=lambda x, after, now, g: g * after - now)),
    Wrong("value for the next value", "delta uses the value of the state itself in place of the next one's.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, [0.0 if e[t] else x for t, x in enumerate(v)], g, k)),
    Wrong("values discounted together", "The discount multiplies the difference of the values: it belongs to the next value only.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k, delta=lambda x, after, now, g: x + g * (after - now))),
    Wrong("in reverse order", "The numbers are right, but in reverse order: turn the list around before returning it.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g, k)[::-1]),
    Wrong("next of the list at a cut", "At a cut the next value is taken from the list of values, where it belongs to the next episode. Use next_values[t].", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, _next_of_list(v, 0.0), g, k)),
    Wrong("next of the list at a cut", "At a cut the next value is taken from the list of values, where it belongs to the next episode. Use next_values[t].", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, _next_of_list(v, n[-1]), g, k)),
    Wrong("next of the list, flags ignored", "The next value is taken from the list of values, even past the end of an episode. Use next_values[t], and 0 after a termination.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, _next_of_list(v, 0.0), g, k, end="value", past_end=True, past_cut=True)),
    Wrong("from the past", "The sum goes forward, so each advantage holds the deltas before it. Those after it belong there: go through the list backward.", lambda r, e, c, v, n, g, k: _forward(_advantages(r, e, c, v, n, g, k, keep=lambda g, k: 0.0), e, c, g * k)),
    Wrong("discount and lambda in delta", "lambda multiplies the next value in delta, too: reward + discount * next value - value has no lambda.", lambda r, e, c, v, n, g, k: _advantages(r, e, c, v, n, g * k, 1.0)),
    Wrong("times lambda", "All advantages are multiplied by lambda. It belongs only to the later deltas.", lambda r, e, c, v, n, g, k: [k * x for x in _advantages(r, e, c, v, n, g, k)]),
    Wrong("reward minus value", "This is reward - value at each step: what comes after is missing, next value and later deltas.", lambda r, e, c, v, n, g, k: _minus(r, v)),
    Wrong("standardized", "Mean and standard deviation of the list are taken out. Batches are often treated so in training, but here the advantages themselves are asked for.", lambda r, e, c, v, n, g, k: _standardized(_advantages(r, e, c, v, n, g, k))),
    Wrong("reward-to-go", "This is the reward-to-go, without values and lambda.", lambda r, e, c, v, n, g, k: _backward(r, e, c, n, g)),
    Wrong("normalized", "The mean of the list is subtracted. Batches are often treated so in training, but here the advantages themselves are asked for.", lambda r, e, c, v, n, g, k: _centered(_advantages(r, e, c, v, n, g, k))),
)  # fmt: skip


def _kept(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def _ratio(now: float, old: float) -> float:
    return math.exp(now - old)


CLIPPED = (
    Wrong("clip forgotten", "Nothing is clipped: the same batch pushes the ratio further and further.", lambda n, o, a, c: _ratio(n, o) * a),
    Wrong("always clipped", "The smaller of the two is not taken: only the clipped ratio counts. So an action that has moved the wrong way gets no slope to bring it back.", lambda n, o, a, c: _kept(_ratio(n, o), 1 - c, 1 + c) * a),
    Wrong("larger for smaller", "The larger of the two is taken. So it is clipped where it should be brought back, and not where it has gone far enough.", lambda n, o, a, c: max(_ratio(n, o) * a, _kept(_ratio(n, o), 1 - c, 1 + c) * a)),
    Wrong("ratio inverted", "The ratio is upside down, old / new: with a positive advantage the action becomes less likely.", lambda n, o, a, c: min(_ratio(o, n) * a, _kept(_ratio(o, n), 1 - c, 1 + c) * a)),
    Wrong("not exponentiated", "The difference of the logs is used as the ratio. It is the log of it: take exp.", lambda n, o, a, c: min((n - o) * a, _kept(n - o, 1 - c, 1 + c) * a)),
    Wrong("quotient of logs", "The logs are divided. The ratio of the probabilities is exp(log_prob - old_log_prob).", lambda n, o, a, c: min(n / o * a, _kept(n / o, 1 - c, 1 + c) * a)),
    Wrong("difference of probabilities", "The probabilities are subtracted. Their ratio is asked for: exp(log_prob - old_log_prob).", lambda n, o, a, c: min((math.exp(n) - math.exp(o)) * a, _kept(math.exp(n) - math.exp(o), 1 - c, 1 + c) * a)),
    Wrong("probability for the ratio", "exp(log_prob) is the probability now. Divide by the old one: exp(log_prob - old_log_prob).", lambda n, o, a, c: min(math.exp(n) * a, _kept(math.exp(n), 1 - c, 1 + c) * a)),
    Wrong("loss for objective", "The sign is reversed: this is the loss, to be minimized. The objective is asked for.", lambda n, o, a, c: -solutions.clipped(n, o, a, c)),
    Wrong("larger of two losses, reversed", "The minus comes before the smaller is taken: this is min(-ratio * A, -clipped * A). As a loss it would have to be the larger; and the objective is asked for.", lambda n, o, a, c: min(-_ratio(n, o) * a, -_kept(_ratio(n, o), 1 - c, 1 + c) * a)),
    Wrong("advantage forgotten", "The advantage is missing: good and bad actions are pushed alike.", lambda n, o, a, c: min(_ratio(n, o), _kept(_ratio(n, o), 1 - c, 1 + c))),
    Wrong("upper side for both", "The ratio is limited from above for every advantage: the advantage multiplies only the smaller of the two. With a negative advantage, limit it from below: there the action has become too unlikely.", lambda n, o, a, c: min(_ratio(n, o), 1 + c) * a),
    Wrong("lower side only", "The ratio is limited from below only. With a positive advantage it must be limited from above.", lambda n, o, a, c: max(_ratio(n, o), 1 - c) * a),
    Wrong("never below", "With a negative advantage nothing is clipped: the action is pushed down without limit. Below 1 - clip_range it must stop.", lambda n, o, a, c: min(_ratio(n, o) * a, (1 + c) * a) if a > 0 else _ratio(n, o) * a),
    Wrong("never above", "With a positive advantage nothing is clipped: the action is pushed up without limit. Above 1 + clip_range it must stop.", lambda n, o, a, c: _ratio(n, o) * a if a > 0 else min(_ratio(n, o) * a, (1 - c) * a)),
    Wrong("product clipped", "ratio * advantage is clipped, not the ratio: the limits then depend on the size of the advantage.", lambda n, o, a, c: _kept(_ratio(n, o) * a, 1 - c, 1 + c)),
    Wrong("clipped around 0", "The ratio is kept within -clip_range and clip_range. It starts at 1: keep it within 1 - clip_range and 1 + clip_range.", lambda n, o, a, c: min(_ratio(n, o) * a, _kept(_ratio(n, o), -c, c) * a)),
    Wrong("clip range doubled", "The clip range is twice as wide as it must be.", lambda n, o, a, c: min(_ratio(n, o) * a, _kept(_ratio(n, o), 1 - 2 * c, 1 + 2 * c) * a)),
    Wrong("log ratio clipped", "The log of the ratio is clipped at -clip_range and clip_range. It is the ratio that is kept within 1 - clip_range and 1 + clip_range.", lambda n, o, a, c: min(_ratio(n, o) * a, math.exp(_kept(n - o, -c, c)) * a)),
    Wrong("geometric range", "The ratio is kept within 1 / (1 + clip_range) and 1 + clip_range. The lower limit is 1 - clip_range.", lambda n, o, a, c: min(_ratio(n, o) * a, _kept(_ratio(n, o), 1 / (1 + c), 1 + c) * a)),
    Wrong("zero where clipped", "Where it is clipped this returns 0. The slope is right, but the value jumps: beyond the edge it stays at (1 + clip_range) * advantage, or (1 - clip_range) * advantage.", lambda n, o, a, c: 0.0 if (_ratio(n, o) - (1 + c if a > 0 else 1 - c)) * a > 0 else _ratio(n, o) * a),
    Wrong("zero outside", "Outside of the range this returns 0, whichever way the ratio has moved. An action that has moved the wrong way must be brought back.", lambda n, o, a, c: _ratio(n, o) * a if abs(_ratio(n, o) - 1) < c else 0.0),
    Wrong("log-probability for the ratio", "log_prob stands where the ratio belongs: exp(log_prob - old_log_prob).", lambda n, o, a, c: min(n * a, _kept(n, 1 - c, 1 + c) * a)),
    Wrong("log_prob times advantage", "This is log_prob * advantage, the first step's objective: it has no ratio and no clip.", lambda n, o, a, c: n * a),
    Wrong("clipped ratio alone", "This is the clipped ratio, without the advantage.", lambda n, o, a, c: _kept(_ratio(n, o), 1 - c, 1 + c)),
    Wrong("size of the advantage", "The sign of the advantage is lost: bad actions become likelier, too.", lambda n, o, a, c: solutions.clipped(n, o, abs(a), c)),
    Wrong("sum for smaller", "The two are added. The smaller of them is asked for.", lambda n, o, a, c: _ratio(n, o) * a + _kept(_ratio(n, o), 1 - c, 1 + c) * a),
    Wrong("mean for smaller", "The mean of the two is taken. The smaller of them is asked for.", lambda n, o, a, c: (_ratio(n, o) * a + _kept(_ratio(n, o), 1 - c, 1 + c) * a) / 2),
    Wrong("ratio minus 1", "1 is subtracted from the ratio. The slope is right, but the value at ratio 1 must be the advantage.", lambda n, o, a, c: solutions.clipped(n, o, a, c) - a),
)  # fmt: skip


def _together(table: Sequence[Wrong], make: Callable[..., Any], parts: dict[str, dict[str, Any]]) -> Iterator[Wrong]:
    """Two or three wrong answers of a table in one; each part is what `make` is called with."""
    hints = {wrong.key: wrong.hint for wrong in table}
    for count in (2, 3):
        for keys in itertools.combinations(parts, count):
            settings = [parts[key] for key in keys]
            if len({name for part in settings for name in part}) == sum(map(len, settings)):
                together: dict[str, Any] = {name: value for part in settings for name, value in part.items()}
                text = f"{'Two' if count == 2 else 'Three'} things. {' '.join(hints[key] for key in keys)}"  # noqa: PLR2004
                yield Wrong("; ".join(keys), text, functools.partial(make, **together))


def _guess(
    h: float,
    b: float,
    a: int,
    *,
    z: Callable[[float, float], float] = lambda h, b: WEIGHT * h + b,
    form: Callable[[float, int], float] = lambda p, a: p - a,
) -> float:
    return form(probability(z(h, b)), a)


def _ppo(
    n: float,
    o: float,
    a: float,
    c: float,
    *,
    ratio: Callable[[float, float], float] = _ratio,
    form: Callable[[float, float, float], float] = lambda r, a, c: min(r * a, _kept(r, 1 - c, 1 + c) * a),
) -> float:
    return form(ratio(n, o), a, c)


TOGETHER: dict[str, tuple[Wrong, ...]] = {
    "guess_derivative": tuple(_together(GUESS, _guess, {
        "bias left out": {"z": lambda h, b: WEIGHT * h},
        "weight left out": {"z": lambda h, b: h + b},
        "hunger left out": {"z": lambda h, b: b},
        "bias subtracted": {"z": lambda h, b: WEIGHT * h - b},
        "bias weighted, too": {"z": lambda h, b: WEIGHT * (h + b)},
        "minus missing": {"form": lambda p, a: a - p},
        "places swapped": {"form": lambda p, a: p - (1 - a)},
        "Norm's for both": {"form": lambda p, a: p - 1},
        "Squatch's for both": {"form": lambda p, a: p},
        "p for 1 - p": {"form": lambda p, a: -p if a else 1 - p},
        "P(place) - 1": {"form": lambda p, a: p - 1 if a else -p},
        "dP/dz only": {"form": lambda p, a: p * (1 - p)},
        "dCE/dP only": {"form": lambda p, a: -1 / p if a else 1 / (1 - p)},
    })),
    "reward_to_go": tuple(_together(TO_GO, _backward, {
        "end ignored": {"end": "on"},
        "value after an end": {"end": "value"},
        "cut ignored": {"cut": "on"},
        "cut as an end": {"cut": "zero"},
        "value after a cut not discounted": {"cut": "bare value"},
        "discount missing between steps": {"between": 1.0},
    })),
    "gae": tuple(_together(GAE, _advantages, {
        "value after an end": {"end": "value"},
        "sum past an end": {"past_end": True},
        "cut as an end": {"cut": "zero"},
        "sum past a cut": {"past_cut": True},
        "lambda forgotten": {"keep": lambda g, k: g},
        "discount forgotten in the sum": {"keep": lambda g, k: k},
        "both factors missing": {"keep": lambda g, k: 1.0},
        "delta only": {"keep": lambda g, k: 0.0},
        "value not subtracted": {"delta": lambda x, after, now, g: x + g * after},
        "discount forgotten in delta": {"delta": lambda x, after, now, g: x + after - now},
        "value added": {"delta": lambda x, after, now, g: x + g * after + now},
    })),
    "clipped": tuple(_together(CLIPPED, _ppo, {
        "ratio inverted": {"ratio": lambda n, o: _ratio(o, n)},
        "not exponentiated": {"ratio": lambda n, o: n - o},
        "quotient of logs": {"ratio": lambda n, o: n / o},
        "difference of probabilities": {"ratio": lambda n, o: math.exp(n) - math.exp(o)},
        "probability for the ratio": {"ratio": lambda n, o: math.exp(n)},
        "clip forgotten": {"form": lambda r, a, c: r * a},
        "always clipped": {"form": lambda r, a, c: _kept(r, 1 - c, 1 + c) * a},
        "larger for smaller": {"form": lambda r, a, c: max(r * a, _kept(r, 1 - c, 1 + c) * a)},
        "upper side for both": {"form": lambda r, a, c: min(r, 1 + c) * a},
        "clipped around 0": {"form": lambda r, a, c: min(r * a, _kept(r, -c, c) * a)},
    })),
}  # fmt: skip

WRONG: dict[str, tuple[Wrong, ...]] = {
    "sigmoid": SIGMOID,
    "guess_derivative": GUESS,
    "times_reward": REWARD,
    "step": STEP,
    "loss": LOSS,
    "two_logits": LOGITS,
    "mean_and_variance": BASELINE,
    "reward_to_go": TO_GO,
    "gae": GAE,
    "clipped": CLIPPED,
}
