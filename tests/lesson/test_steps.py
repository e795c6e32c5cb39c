"""One visit: its factors against arithmetic, its place against the policy's own sampler."""

import math
import random

import pytest
import torch

from pgtorch.gradient_check import GradientMismatchError
from pgtorch.lesson import steps
from pgtorch.lesson.steps import WORKED_EXAMPLE, Visit, differentiate, draw_place, take_step, walk
from pgtorch.policies import BiasPolicy
from restaurant_env import Restaurant


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def test_the_worked_example():
    """The lesson's numbers, from its text."""
    policy = BiasPolicy().double()
    first, second = (take_step(policy, visit) for visit in WORKED_EXAMPLE)
    assert (first.place, first.p_norm, first.dce_dp, first.dp_dz, first.dce_db) == (0, 0.5, 2.0, 0.25, 0.5)
    assert (first.reward, first.autograd, first.manual, first.bias, first.new_bias) == (1.0, 0.5, 0.5, 0.0, -0.5)
    assert second.p_norm == pytest.approx(0.377541, abs=1e-6)
    assert (second.place, second.reward) == (1, -1.0)
    assert (second.dce_db, second.manual) == pytest.approx((-0.622459, 0.622459), abs=1e-6)
    assert second.new_bias == pytest.approx(-1.122459, abs=1e-6)
    assert second.new_p_norm == pytest.approx(0.245555, abs=1e-6)


@pytest.mark.parametrize("hunger", [0.0, 0.07, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("draw", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("bias", [-14.0, -3.0, 0.0])
def test_every_number_of_a_step(hunger, draw, large, bias):
    policy = BiasPolicy(bias=bias).double()
    step = take_step(policy, Visit(hunger, draw, large), reward_scale=3.0, learning_rate=0.1)
    z = 20 * hunger + bias
    norm = draw >= sigmoid(-z)
    reward = 3.0 if large == (hunger > 0.5) else -3.0
    assert (step.place == Restaurant.NORM, step.hungry, step.reward) == (norm, hunger > 0.5, reward)
    assert (step.z, step.p_norm, step.p_squatch) == pytest.approx((z, sigmoid(z), sigmoid(-z)), rel=1e-9)
    assert step.ce == pytest.approx(-math.log(sigmoid(z if norm else -z)), rel=1e-6)
    assert step.dce_dp == pytest.approx(-1 / sigmoid(z) if norm else 1 / sigmoid(-z), rel=1e-9)
    assert (step.dp_dz, step.dz_db) == pytest.approx((sigmoid(z) * sigmoid(-z), 1.0), rel=1e-9)
    assert step.dce_db == pytest.approx(-sigmoid(-z) if norm else sigmoid(z), rel=1e-6)
    assert step.autograd == step.manual == pytest.approx(reward * step.dce_db, rel=1e-12)
    assert step.new_bias == policy.bias.item() == pytest.approx(bias - 0.1 * step.manual, rel=1e-12)
    assert step.new_p_norm == pytest.approx(sigmoid(20 * hunger + step.new_bias), rel=1e-9)


def test_a_draw_on_the_border_is_norm():
    """[0, P(Squatch)) is Squatch, [P(Squatch), 1) is Norm."""
    policy = BiasPolicy().double()
    assert draw_place(policy, hunger=0.0, draw=0.5) is Restaurant.NORM
    assert draw_place(policy, hunger=0.0, draw=math.nextafter(0.5, 0)) is Restaurant.SQUATCH


def test_the_draw_goes_into_the_policys_own_sampler(monkeypatch):
    """Kills a second sampler in the lesson: it would not see this change."""
    seen = []

    def norm(self, observation, noise):
        seen.append((observation.tolist(), noise.tolist()))
        return torch.ones(len(observation), dtype=torch.int64)

    monkeypatch.setattr(BiasPolicy, "sample", norm)
    assert take_step(BiasPolicy().double(), Visit(0.1, 0.01, large=True)).place is Restaurant.NORM
    assert seen == [([[0.1]], [0.01])]


def test_a_wrong_factor_is_refused(monkeypatch):
    monkeypatch.setattr(steps, "manual_gradient", lambda *_: {"bias": torch.tensor(0.6)})
    with pytest.raises(GradientMismatchError, match=r"2.0 x 0.25 x 1.0 is not the manual gradient 0.6"):
        take_step(BiasPolicy().double(), WORKED_EXAMPLE[0])


def test_autograd_is_checked_and_left_for_the_step(monkeypatch):
    policy, rows = BiasPolicy().double(), (torch.zeros(2, 1).double(), torch.tensor([0, 1]), torch.ones(2).double())
    policy.bias.grad = torch.tensor(7.0).double()  # of the step before
    assert differentiate(policy, *rows) == (0.0, 0.0)
    assert policy.bias.grad.item() == 0.0
    monkeypatch.setattr(steps, "policy_gradient_loss", lambda log_prob, multiplier: (log_prob * multiplier).sum() / 3)
    with pytest.raises(GradientMismatchError, match="autograd"):
        differentiate(policy, rows[0][:1], rows[1][:1], rows[2][:1])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_walk_is_its_visits(sign):
    """By arithmetic alone, from the same stream of random numbers."""
    generator, bias, biases = random.Random(5), 0.0, []
    for _ in range(100):
        hunger, draw, order = generator.random(), generator.random(), generator.random()
        p = sigmoid(20 * hunger + bias)
        norm = draw >= 1 - p
        reward = 2 if (order < (0.80 if norm else 0.15)) == (hunger > 0.5) else -2
        bias -= sign * reward * (p - norm)
        biases.append(bias)
    assert walk(100, reward_scale=2.0, learning_rate=float(sign), seed=5) == pytest.approx(biases, abs=1e-9)
