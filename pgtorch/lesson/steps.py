"""One visit of the lesson: every factor of the derivative, and the step. Computed by the core; prints nothing."""

from __future__ import annotations

import math
import random
from typing import NamedTuple, cast

import torch
from torch import Tensor

from pgtorch.config import TrainConfig
from pgtorch.gradient_check import GradientMismatchError, check_gradient
from pgtorch.lesson.model import RestaurantModel
from pgtorch.losses import policy_gradient_loss
from pgtorch.manual_gradient import manual_gradient
from pgtorch.optimizers import SGD
from pgtorch.policies import BiasPolicy
from restaurant_env import Restaurant
from restaurant_env.restaurant import is_hungry, reward_of, serves_large

LEARNING_RATE = cast("float", TrainConfig().learning_rate)
MODEL = RestaurantModel()  # also holds the settings of the restaurants


class Visit(NamedTuple):
    """What a visit is given; the rest follows from the policy."""

    hunger: float  # in [0, 1]
    draw: float  # in [0, 1), picks the place
    large: bool  # the order


WORKED_EXAMPLE = (Visit(hunger=0.0, draw=0.2, large=False), Visit(hunger=0.0, draw=0.9, large=True))


class Step(NamedTuple):
    """Every number of an update, with the derivatives as in `manual_gradient.py`.

    P is P(Norm), CE is the cross-entropy of the guess.
    """

    hungry: bool
    place: Restaurant
    bias: float
    z: float
    p_norm: float
    p_squatch: float
    ce: float
    dce_dp: float
    dp_dz: float
    dz_db: float
    dce_db: float
    reward: float
    autograd: float
    manual: float
    new_bias: float
    new_p_norm: float


def take_step(
    policy: BiasPolicy, visit: Visit, *, reward_scale: float = 1.0, learning_rate: float = LEARNING_RATE
) -> Step:
    """Update the policy's bias by one visit.

    Args:
        policy: In float64; it is updated.
        visit: What is given.
        reward_scale: The reward is plus or minus this.
        learning_rate: A negative one steps the wrong way.

    Raises:
        GradientMismatchError: If the three factors, `manual_gradient` and autograd disagree.
    """
    hungry = bool(is_hungry(visit.hunger, MODEL.hungry_above))
    bias = policy.bias.item()

    # Ask the network, draw a place, and guess that it is right.
    observation = torch.tensor([[visit.hunger]], dtype=torch.float64)  # [1, 1]
    z = policy(observation).detach()  # [1]
    p_norm, p_squatch = torch.sigmoid(z).item(), torch.sigmoid(-z).item()
    place = draw_place(policy, hunger=visit.hunger, draw=visit.draw)
    action = torch.tensor([place])
    ce = -policy.log_prob(observation, action).item()

    # Differentiate CE with respect to the bias, by the chain rule.
    dce_dp = -1 / p_norm if place is Restaurant.NORM else 1 / p_squatch
    dp_dz = p_norm * p_squatch
    dz_db = 1.0
    dce_db = manual_gradient(policy, observation, action, torch.ones_like(z))["bias"].item()
    if not math.isclose(dce_dp * dp_dz * dz_db, dce_db, rel_tol=1e-6, abs_tol=1e-15):
        raise GradientMismatchError(f"{visit}: {dce_dp} x {dp_dz} x {dz_db} is not the manual gradient {dce_db}")

    # Let the reward correct the derivative, and step.
    reward = float(reward_of(visit.large, hungry, reward_scale))
    autograd, manual = differentiate(policy, observation, action, torch.full_like(z, reward))
    SGD([policy.bias], learning_rate).step()
    return Step(
        hungry=hungry,
        place=place,
        bias=bias,
        z=z.item(),
        p_norm=p_norm,
        p_squatch=p_squatch,
        ce=ce,
        dce_dp=dce_dp,
        dp_dz=dp_dz,
        dz_db=dz_db,
        dce_db=dce_db,
        reward=reward,
        autograd=autograd,
        manual=manual,
        new_bias=policy.bias.item(),
        new_p_norm=torch.sigmoid(policy(observation)).item(),
    )


def draw_place(policy: BiasPolicy, *, hunger: float, draw: float) -> Restaurant:
    """The place that the policy samples with this draw."""
    observation, noise = torch.tensor([[hunger]], dtype=torch.float64), torch.tensor([draw], dtype=torch.float64)
    return Restaurant(int(policy.sample(observation, noise).item()))


def differentiate(policy: BiasPolicy, observation: Tensor, action: Tensor, multiplier: Tensor) -> tuple[float, float]:
    """The derivative of the loss with respect to the bias, by autograd and by hand; `.grad` keeps it for the step.

    Args:
        policy: The policy.
        observation: Hunger, [B, 1].
        action: [B].
        multiplier: Of log pi, [B].

    Raises:
        GradientMismatchError: If the two differ in any bit.
    """
    policy.bias.grad = None
    policy_gradient_loss(policy.log_prob(observation, action), multiplier).backward()  # type: ignore[no-untyped-call]
    figures = check_gradient(policy, observation, action, multiplier, env_steps=0)
    return figures["gradient/autograd"], figures["gradient/manual"]


def walk(visits: int, *, bias: float = 0.0, reward_scale: float, learning_rate: float, seed: int = 0) -> list[float]:
    """The bias after each of many visits whose hungers, draws and orders come from a seed."""
    policy, generator, biases = BiasPolicy(bias=bias).double(), random.Random(seed), []
    for _ in range(visits):
        hunger, draw, order = generator.random(), generator.random(), generator.random()
        place = draw_place(policy, hunger=hunger, draw=draw)
        visit = Visit(hunger, draw, large=serves_large(order, MODEL.large_portion_probability[place]))
        biases.append(take_step(policy, visit, reward_scale=reward_scale, learning_rate=learning_rate).new_bias)
    return biases
