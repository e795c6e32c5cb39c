"""Rows about Restaurant-v0 and the lesson's policy, against the closed form."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from pgtorch.lesson.model import RestaurantModel
from pgtorch.policies import BiasPolicy
from pgtorch.proof.measures import STANDARD_ERRORS, autograd_gradient, z_score
from pgtorch.proof.table import Row
from pgtorch.rollout import RolloutCollector

VISITS, BATCHES = 16_384, 64  # of a batch, and number of batches
PIECES, NODES = 8, 48  # of the quadrature: pieces of each segment, nodes of each piece


def restaurant_rows(
    subject: str, model: RestaurantModel, env_id: str, *, env_kwargs: Mapping[str, Any] | None = None, seed: int
) -> Iterator[Row]:
    """The expected gradient by quadrature and by samples, against the closed form.

    Args:
        subject: What the rows are about.
        model: The closed form, for the settings of the environment.
        env_id: Gymnasium id of Restaurant-v0.
        env_kwargs: Settings of the environment.
        seed: Of all random numbers.
    """
    kwargs = dict(env_kwargs or {})
    settings = f"; weight {model.weight:g}, {kwargs}" if kwargs else ""
    for bias in (0.0, -4.0, -9.0):
        exact = -model.gradient(bias)  # of the loss
        error = abs(_expectation(model, bias, env_id, kwargs) - exact) / abs(exact)
        note = f"bias {bias:g}, exact {exact:+.6f}, by quadrature{settings}"
        yield Row(subject, "expectation against exact", error, limit=1e-9, unit="relative", note=note)
    batches = _samples(model, -4.0, env_id, kwargs, torch.Generator().manual_seed(seed))
    z = z_score(batches, exact=torch.tensor([-model.gradient(-4.0)], dtype=torch.float64))
    check, note = "sampled mean against exact", f"n = {BATCHES * VISITS:,} visits"
    yield Row(subject, check, z, limit=STANDARD_ERRORS, unit="standard errors", note=note)


def _policy(model: RestaurantModel, bias: float) -> BiasPolicy:
    policy = BiasPolicy(bias=bias).double()
    policy.weight.fill_(model.weight)  # not rounded to float32
    return policy


def _expectation(model: RestaurantModel, bias: float, env_id: str, kwargs: dict[str, Any]) -> float:
    """Autograd's gradient of the loss, averaged over hunger by quadrature and over places and orders exactly."""
    policy = _policy(model, bias)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    cuts = np.unique([cut for x, y, _ in model.segments for cut in np.linspace(x, y, PIECES + 1)])
    hunger = np.concatenate([x + (y - x) * (nodes + 1) / 2 for x, y in itertools.pairwise(cuts)])
    weight = np.concatenate([(y - x) / 2 * weights for x, y in itertools.pairwise(cuts)])
    observation, total = torch.as_tensor(hunger).unsqueeze(-1), 0.0
    for place, q in enumerate(model.large_portion_probability):
        action = torch.full((len(hunger),), place)
        large, small = (_paid(env_id, kwargs, hunger, place, large=large) for large in (True, False))
        probability = policy.log_prob(observation, action).exp().detach()
        expected_reward = torch.as_tensor(weight * (q * large + (1 - q) * small))
        multiplier = expected_reward * probability * len(hunger)  # the loss averages
        total += autograd_gradient(policy, observation, action, multiplier)["bias"].item()
    return total


def _paid(
    env_id: str, kwargs: dict[str, Any], hunger: NDArray[np.float64], place: int, *, large: bool
) -> NDArray[np.float64]:
    """What the environment itself pays at each hunger, [N], if the order is certain."""
    certain = {"large_portion_probability": (float(large), float(large))}
    env = gym.make_vec(env_id, num_envs=len(hunger), **{**kwargs, **certain})
    env.reset(seed=0, options={"hunger": hunger})
    reward: NDArray[np.float64] = env.step(np.full(len(hunger), place))[1]
    env.close()
    return reward


def _samples(model: RestaurantModel, bias: float, env_id: str, kwargs: dict[str, Any], generator: Generator) -> Tensor:
    """Gradients of batches of visits, played and weighed as in training, [BATCHES, 1]."""
    policy = _policy(model, bias)
    env = gym.make_vec(env_id, num_envs=VISITS, **kwargs)
    collector, found = RolloutCollector(env, num_steps=1, seed=generator.initial_seed()), []
    for _ in range(BATCHES):
        rollout = collector.collect(policy, generator)
        observation, action, reward = map(rollout.rows, (rollout.observation[:-1], rollout.action, rollout.reward))
        found.append(autograd_gradient(policy, observation.double(), action, reward.double())["bias"].reshape(1))
    env.close()
    return torch.stack(found)
