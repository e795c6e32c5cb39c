"""Rows of `scripts/verify.py` against exact answers, and everything that is verified."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from pgtorch import returns
from pgtorch.proof.exact import (
    FiniteMDP,
    TooManyTrajectoriesError,
    Trajectories,
    enumerate_trajectories,
    expected_gradient,
    expected_return,
    sample_trajectories,
)
from pgtorch.gradient_check import difference_in_units
from pgtorch.lesson.model import RestaurantModel
from pgtorch.losses import importance_weighted
from pgtorch.manual_gradient import gradient_magnitude, has_derivation
from pgtorch.policies import BiasPolicy, MLPPolicy, Policy
from pgtorch.rollout import RolloutCollector
from pgtorch.proof.policy_rows import (
    STANDARD_ERRORS,
    Gradient,
    Row,
    autograd_gradient,
    flat,
    moved,
    policy_rows,
    slope,
    z_score,
)

ENUMERATION_LIMIT = 64.0  # in u C
HORIZON = 3  # of enumerated trajectories


def restaurant_rows(subject: str, policy: BiasPolicy, env_id: str, kwargs: dict[str, Any], seed: int) -> Iterator[Row]:
    """The lesson's policy in Restaurant-v0 against the closed form.

    Args:
        subject: What the rows are about.
        policy: The lesson's policy.
        env_id: An id of Restaurant-v0.
        kwargs: Settings of the environment.
        seed: Of everything that is drawn.
    """
    model = RestaurantModel(weight=policy.weight.item(), **kwargs)
    settings = f"; weight {model.weight:g}, {kwargs}" if kwargs else ""
    torch.manual_seed(seed)
    for bias in (0.0, -4.0, -9.0):
        lesson = BiasPolicy(weight=policy.weight.item(), bias=bias).double()
        exact = -model.gradient(bias)  # of the loss
        expectation = _restaurant_expectation(lesson, env_id, kwargs, model)
        note = f"bias {bias:g}, exact {exact:+.6f}, by quadrature{settings}"
        error = abs(expectation - exact) / abs(exact)
        yield Row(subject, "expectation against exact", error, 1e-9, "relative", note)
    batches = _restaurant_samples(BiasPolicy(weight=policy.weight.item(), bias=-4.0).double(), env_id, kwargs, seed)
    z = z_score(batches, torch.tensor([-model.gradient(-4.0)]).double())
    yield Row(
        subject, "sampled mean against exact", z, STANDARD_ERRORS, "standard errors", f"n = {64 * 16_384:,} visits"
    )


def rollout_rows(subject: str, seed: int) -> Iterator[Row]:
    """CartPole-v1, which pays 1 a step and resets itself in steps of their own, paying 0: none of these is a row.

    Args:
        subject: What the rows are about.
        seed: Of everything that is drawn.
    """
    torch.manual_seed(seed)
    env = gym.make_vec("CartPole-v1", num_envs=16)
    collector = RolloutCollector(env, 128, seed)
    rollout = collector.collect(MLPPolicy(env.single_observation_space, env.single_action_space, ()))
    env.close()
    rewards = rollout.rows(rollout.reward)
    ended = collector.episodes.take()
    note = f"{len(rewards):,} rows"
    yield Row(subject, "filler among the rows", float((rewards == 0).sum()), 0.0, "rows", note)
    wrong = math.inf if ended is None else abs(ended[0] - ended[1])  # paid 1 a step: the return is the length
    yield Row(subject, "return against length of episodes", wrong, 0.0, "absolute", note)


def mdp_rows(subject: str, policy: Policy, mdp: FiniteMDP, horizon: int, episodes: int, seed: int) -> Iterator[Row]:
    """A policy in a finite MDP against the solution of its linear equations.

    Args:
        subject: What the rows are about.
        policy: Takes one-hot states [B, S], acts in `Discrete(A)`.
        mdp: The process.
        horizon: Steps after which sampled episodes are cut off.
        episodes: How many are sampled.
        seed: Of everything that is drawn.
    """
    torch.manual_seed(seed)
    policy = moved(policy).double()
    yield _exact_against_finite_differences(subject, policy, mdp)
    live = torch.tensor([any(not o[3] or o[1] != s for a in row for o in a) for s, row in enumerate(mdp.outcomes)])
    everywhere = FiniteMDP(mdp.outcomes, live.double() / live.sum(), mdp.discount)
    try:
        yield from _estimators(subject, policy, everywhere)
    except TooManyTrajectoriesError as error:
        yield Row(subject, "expectations against exact", None, note=str(error))
    yield _sampled_against_exact(subject, policy, mdp, horizon, episodes, seed)


# The restaurant


def _restaurant_expectation(policy: BiasPolicy, env_id: str, kwargs: dict[str, Any], model: RestaurantModel) -> float:
    """Autograd's gradient of the loss, averaged over hunger by quadrature, over places and orders by their chances."""
    nodes, weights = np.polynomial.legendre.leggauss(48)
    cuts = np.unique([cut for x, y, _ in model.segments for cut in np.linspace(x, y, 9)])
    hunger = np.concatenate([x + (y - x) * (nodes + 1) / 2 for x, y in itertools.pairwise(cuts)])
    weight = np.concatenate([(y - x) / 2 * weights for x, y in itertools.pairwise(cuts)])
    observation, total = torch.as_tensor(hunger).unsqueeze(-1), 0.0
    for place in (0, 1):
        action = torch.full((len(hunger),), place)
        q = model.large_portion_probability[place]
        reward = q * _paid(env_id, kwargs, hunger, place, 1.0) + (1 - q) * _paid(env_id, kwargs, hunger, place, 0.0)
        chance = policy.log_prob(observation, action).exp().detach()
        multiplier = torch.as_tensor(weight * reward) * chance * len(hunger)  # the loss takes a mean
        total += autograd_gradient(policy, observation, action, multiplier)["bias"].item()
    return total


def _paid(env_id: str, kwargs: dict[str, Any], hunger: np.ndarray, place: int, large: float) -> np.ndarray:
    """What the environment itself pays for a certain order, at each hunger."""
    settings = {**kwargs, "large_portion_probability": (large, large)}
    env = gym.make_vec(env_id, num_envs=len(hunger), **settings)
    env.reset(seed=0, options={"hunger": hunger})
    reward: np.ndarray = env.step(np.full(len(hunger), place))[1]
    env.close()
    return reward


def _restaurant_samples(policy: BiasPolicy, env_id: str, kwargs: dict[str, Any], seed: int) -> Tensor:
    """Gradients [64, 1] of batches of 16,384 visits, played and weighed as in training."""
    env = gym.make_vec(env_id, num_envs=16_384, **kwargs)
    collector, found = RolloutCollector(env, 1, seed), []
    for _ in range(64):
        rollout = collector.collect(policy)
        rows = [rollout.rows(values) for values in (rollout.observation, rollout.action, rollout.reward)]
        found.append(autograd_gradient(policy, rows[0].double(), rows[1], rows[2].double())["bias"].reshape(1))
    env.close()
    return torch.stack(found)


# A finite MDP


def _probability(policy: Policy, mdp: FiniteMDP) -> Tensor:
    """pi(a|s) of every state and action, [S, A], with gradient."""
    num_states, num_actions = mdp.reward.shape
    states = torch.eye(num_states, dtype=torch.float64)
    actions = [torch.full((num_states,), action) for action in range(num_actions)]
    return torch.stack([policy.log_prob(states, action).exp() for action in actions], dim=1)


def _exact(policy: Policy, mdp: FiniteMDP, horizon: int | None, *, discounted_states: bool = True) -> Gradient:
    """The exact dJ/d theta: the policy gradient theorem, and the chain rule from pi(a|s) to the parameters."""
    probability = _probability(policy, mdp)
    by_probability = expected_gradient(mdp, probability.detach(), horizon, discounted_states=discounted_states)
    gradients = torch.autograd.grad(probability, list(policy.parameters()), by_probability)
    return dict(zip([name for name, _ in policy.named_parameters()], gradients, strict=True))


def _exact_against_finite_differences(subject: str, policy: Policy, mdp: FiniteMDP) -> Row:
    gradient = flat(_exact(policy, mdp, None))

    def value() -> Tensor:
        return expected_return(mdp, _probability(policy, mdp))

    slopes = torch.stack([slope(policy, value, direction) for direction in torch.eye(len(gradient)).double()])
    error = ((slopes - gradient).abs().max() / gradient.abs().max()).item()
    note = f"linear equations, {len(gradient)} parameters one by one"
    return Row(subject, "exact against finite differences", error, 1e-7, "relative", note)


def _estimators(subject: str, policy: Policy, mdp: FiniteMDP) -> Iterator[Row]:
    """Each multiplier's expectation by enumeration against the exact gradient."""
    values = torch.randn(len(mdp.outcomes), dtype=torch.float64)  # any function of the state will do as a baseline
    exact, exact_step = _exact(policy, mdp, HORIZON), _exact(policy, mdp, 1)
    probability = _probability(policy, mdp).detach()
    for name, multiplier in unbiased_estimators(mdp.discount, values).items():
        horizon, wanted = (1, exact_step) if name == "reward" else (HORIZON, exact)
        played = enumerate_trajectories(mdp, probability, horizon)
        yield _expectation(subject, policy, mdp, played, name, multiplier(played), wanted)
    earlier = _probability(moved(policy), mdp).detach()  # of the policy that plays, while another one learns
    played = enumerate_trajectories(mdp, earlier, 1)
    now, then = (p[played.state, played.action].log() for p in (probability, earlier))
    reweighed = importance_weighted(played.reward, now, then, clip_range=math.inf)
    yield _expectation(subject, policy, mdp, played, "reward, importance-weighted", reweighed, exact_step)
    played = enumerate_trajectories(mdp, probability, HORIZON)
    for name, multiplier in biased_estimators(mdp.discount, values).items():
        yield _bias(subject, name, _estimate(policy, mdp, played, multiplier(played))[0], exact)
    visited = torch.arange(len(mdp.outcomes)) >= len(mdp.outcomes) - 8  # a few states are enough to show it
    few = FiniteMDP(mdp.outcomes, (mdp.start * visited) / (mdp.start * visited).sum(), mdp.discount)
    played = enumerate_trajectories(few, probability, 1)
    for name, transform in (("mean", returns.subtract_mean), ("mean and deviation", returns.standardize)):
        found, _ = _estimate(policy, mdp, played, _in_pairs(played, transform))
        yield _bias(subject, f"{name} of a batch of 2 taken out", found, _exact(policy, few, 1))


def _expectation(
    subject: str, policy: Policy, mdp: FiniteMDP, played: Trajectories, name: str, multiplier: Tensor, exact: Gradient
) -> Row:
    found, magnitude = _estimate(policy, mdp, played, multiplier)
    check, steps = f"expectation against exact: {name}", len(played.reward)
    note = f"{len(played.probability):,} trajectories of at most {steps} step{'s' * (steps > 1)}"
    if magnitude is None:
        error = ((flat(found) - flat(exact)).norm() / flat(exact).norm()).item()
        return Row(subject, check, error, 1e-9, "relative", note)
    return Row(subject, check, difference_in_units(found, exact, magnitude)[0], ENUMERATION_LIMIT, "u C", note)


def _bias(subject: str, name: str, found: Gradient, exact: Gradient) -> Row:
    size = ((flat(found) - flat(exact)).norm() / flat(exact).norm()).item()
    return Row(subject, f"bias of: {name}", size, unit="relative", known_bias=True, note="documented, not a fault")


Multiplier = Callable[[Trajectories], Tensor]


def unbiased_estimators(discount: float, values: Tensor) -> dict[str, Multiplier]:
    """The multipliers of log pi that leave the gradient of the discounted objective unbiased.

    Args:
        discount: gamma.
        values: A baseline for each state, [S].
    """

    def weight(played: Trajectories) -> Tensor:
        return returns.discount_weight(*_ends(played), played.valid, discount)

    def to_go(played: Trajectories) -> Tensor:
        return _reward_to_go(played, discount)

    return {
        "reward": lambda played: played.reward,
        "return": lambda played: returns.episode_return(played.reward, *_ends(played), played.valid, discount),
        "reward-to-go": lambda played: weight(played) * to_go(played),
        "constant baseline": lambda played: weight(played) * (to_go(played) - 3.0),
        "value baseline": lambda played: weight(played) * (to_go(played) - values[played.state]),
        "GAE, lambda 1": lambda played: weight(played) * _advantage(played, discount, values, gae_lambda=1.0),
    }


def biased_estimators(discount: float, values: Tensor) -> dict[str, Multiplier]:
    """What practice uses though it is biased; arguments as in `unbiased_estimators`."""

    def weight(played: Trajectories) -> Tensor:
        return returns.discount_weight(*_ends(played), played.valid, discount)

    return {
        "GAE, lambda 0.95, wrong values": lambda p: weight(p) * _advantage(p, discount, values, gae_lambda=0.95),
        "undiscounted state weighting": lambda p: _reward_to_go(p, discount),
    }


def _in_pairs(played: Trajectories, transform: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What a transform of a whole batch makes of a one-step reward, on average over the other row of a batch of two."""
    both = torch.ones(1, 2, dtype=torch.bool)
    averages = []
    for reward in played.reward[0]:
        pairs = [transform(torch.stack([reward, other]).reshape(1, 2), both)[0, 0] for other in played.reward[0]]
        averages.append(torch.dot(played.probability, torch.stack(pairs)))
    return torch.stack(averages).reshape(1, -1)


def _ends(played: Trajectories) -> tuple[Tensor, Tensor]:
    """The horizon as a termination: in the process that lasts so long, nothing follows."""
    return played.terminated | played.truncated, torch.zeros_like(played.truncated)


def _reward_to_go(played: Trajectories, discount: float) -> Tensor:
    nothing = torch.zeros_like(played.reward)
    return returns.reward_to_go(played.reward, *_ends(played), nothing, played.valid, discount)


def _advantage(played: Trajectories, discount: float, values: Tensor, gae_lambda: float) -> Tensor:
    value = values[played.state]
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    return returns.generalized_advantage(
        played.reward, value, *_ends(played), following, played.valid, discount, gae_lambda
    )


def _estimate(
    policy: Policy, mdp: FiniteMDP, played: Trajectories, multiplier: Tensor
) -> tuple[Gradient, Gradient | None]:
    """Expected (or mean) gradient of J by the loss that training uses, and its C where there is a derivation."""
    keep = played.valid.flatten()
    observation = torch.eye(len(mdp.outcomes), dtype=torch.float64)[played.state.flatten()[keep]]
    action = played.action.flatten()[keep]
    weighted = (multiplier * played.probability).flatten()[keep] * keep.sum()  # the loss takes a mean over rows
    gradient = {name: -part for name, part in autograd_gradient(policy, observation, action, weighted).items()}
    return gradient, gradient_magnitude(policy, observation, action, weighted) if has_derivation(policy) else None


def _sampled_against_exact(subject: str, policy: Policy, mdp: FiniteMDP, horizon: int, episodes: int, seed: int) -> Row:
    """REINFORCE with reward-to-go on sampled episodes, in 100 batches."""
    generator = torch.Generator().manual_seed(seed)
    multiplier = unbiased_estimators(mdp.discount, torch.zeros(len(mdp.outcomes)).double())["reward-to-go"]
    probability, found = _probability(policy, mdp).detach(), []
    for _ in range(100):
        played = sample_trajectories(mdp, probability, episodes // 100, horizon, generator)
        found.append(flat(_estimate(policy, mdp, played, multiplier(played))[0]))
    batches, check = torch.stack(found), "sampled mean against exact"
    silent = int((batches == 0).all(dim=1).sum())
    if silent > 10:  # noqa: PLR2004 -- of 100: then the mean is not yet normally distributed
        return Row(subject, check, note=f"too few episodes: {silent} of 100 batches saw no reward; raise --episodes")
    z = z_score(batches, flat(_exact(policy, mdp, horizon)))
    note = f"n = {100 * (episodes // 100):,} episodes of at most {horizon} steps"
    return Row(subject, check, z, STANDARD_ERRORS, "standard errors", note)


# Everything


def shipped_rows(seed: int, episodes: int) -> Iterator[Row]:
    """Everything that the project ships, checked."""
    restaurant = "restaurant_env:Restaurant-v0"
    yield from rows(BiasPolicy(), restaurant, seed, episodes)
    graded = {"reward_scheme": "graded", "hungry_above": 0.3, "large_portion_probability": (0.3, 0.6)}
    yield from restaurant_rows("BiasPolicy, Restaurant-v0 graded", BiasPolicy(weight=7.0), restaurant, graded, seed)
    yield from rollout_rows("Rollout, CartPole-v1", seed)
    box = spaces.Box(-1.0, 1.0, (5,))
    for space in (
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([3, 2, 4]),
        spaces.MultiBinary(3),
        spaces.Box(-2.0, 2.0, (3,)),
    ):
        yield from policy_rows(f"MLPPolicy, {type(space).__name__}", MLPPolicy(box, space, (8, 8)), box, space, seed)
    for env_id in ("FrozenLake-v1", "CliffWalking-v1"):
        yield from rows(None, env_id, seed, episodes)


def rows(policy: Policy | None, env_id: str, seed: int, episodes: int) -> Iterator[Row]:
    """All rows for a policy in an environment; what cannot be computed exactly is skipped, with the reason.

    Args:
        policy: What to check; None makes an `MLPPolicy` without hidden layers.
        env_id: Gymnasium id.
        seed: Of everything that is drawn.
        episodes: How many are sampled where the exact gradient is known, at least 200.
    """
    env = gym.make(env_id)
    policy = policy or MLPPolicy(env.observation_space, env.action_space, ())
    subject = f"{type(policy).__name__}, {env_id.rpartition(':')[2]}"
    yield from policy_rows(subject, policy, env.observation_space, env.action_space, seed)
    try:
        mdp = FiniteMDP.from_gymnasium(env, discount=0.95)
    except TypeError as error:
        if isinstance(policy, BiasPolicy) and env.unwrapped.__class__.__name__ == "RestaurantEnv":
            yield from restaurant_rows(subject, policy, env_id, {}, seed)
        else:
            note = f"{error}; Restaurant-v0 has a closed form for BiasPolicy only"
            yield Row(subject, "expectation against exact", note=note)
    else:
        limit = env.spec.max_episode_steps if env.spec else None
        yield from mdp_rows(subject, policy, mdp, min(limit or 50, 100), episodes, seed)
    finally:
        env.close()
