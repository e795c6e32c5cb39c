"""What multiplies log pi: `weigh` chooses it, pure functions over T steps of N environments compute it.

Common arguments, tensors [T, N]:

    reward       float [T, N]
    terminated   bool [T, N], the episode ended by its own rules: nothing comes after, its future is worth 0
    truncated    bool [T, N], it was cut off: its future is worth `next_value`; if both are set, terminated wins
    next_value   float [T, N], value of the observation that the step led to: if the episode ended, its *final*
                 observation, not the first one of the next episode; zeros if no value is known
    valid        bool [T, N], False on filler rows (autoreset mode NEXT_STEP); filler gives 0 and passes nothing on
    discount     gamma in [0, 1]

If the last step of a rollout does not end an episode, its future is worth `next_value` as after a truncation. Sums are
accumulated in float64 and returned in the dtype of `reward`. No argument is changed.

The policy gradient is the expectation of the sum over t of grad log pi(a_t | s_t) times one of these. Each docstring
says whether that is unbiased, and `pgtorch verify` shows it by enumeration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pgtorch.config import TrainConfig
from pgtorch.rollout import Batch, Rollout


def weigh(rollout: Rollout, value_function: Callable[[Tensor], Tensor] | None, config: TrainConfig) -> Batch:
    """The valid rows of a rollout, each with what multiplies its log pi.

    Args:
        rollout: What was played.
        value_function: Values [B] of observations [B, D]; None if only the policy learns.
        config: `multiplier`, `baseline`, `discount`, `gae_lambda`, `standardize` and `wrong_sign` decide what is
            computed.

    Returns:
        B rows. Their `target`, what the value function should return, is taken before baseline and standardization.
    """
    reward, valid, discount = rollout.scaled_reward, rollout.valid, config.discount
    ends: dict[str, Any] = {"terminated": rollout.terminated, "truncated": rollout.truncated, "valid": valid}
    if value_function is not None:
        value, next_value = rollout.values(value_function)
    elif config.multiplier == "reward-to-go":
        next_value = torch.zeros_like(reward)
    if config.multiplier == "reward":
        multiplier = target = reward
    elif config.multiplier == "one":
        multiplier = target = torch.ones_like(reward)
    elif config.multiplier == "return":
        multiplier = target = episode_return(reward, discount=discount, **ends)
    elif config.multiplier == "reward-to-go":
        multiplier = target = reward_to_go(reward, next_value=next_value, discount=discount, **ends)
    else:
        multiplier = generalized_advantage(
            reward, value=value, next_value=next_value, discount=discount, gae_lambda=config.gae_lambda, **ends
        )
        target = multiplier + value
    if config.baseline == "value" and config.multiplier != "gae":  # which has subtracted the value already
        multiplier = multiplier - value
    if config.baseline == "mean":
        multiplier = subtract_mean(multiplier, valid)
    if config.standardize and valid.sum() > 1:  # a single row has no deviation
        multiplier = standardize(multiplier, valid)
    if config.wrong_sign:
        multiplier = -multiplier
    return Batch(
        rollout.rows(rollout.observation[:-1]),
        rollout.rows(rollout.action),
        rollout.rows(multiplier),
        None if value_function is None else rollout.rows(target),
    )


def reward_to_go(
    reward: Tensor, *, terminated: Tensor, truncated: Tensor, next_value: Tensor, valid: Tensor, discount: float
) -> Tensor:
    """Discounted sum of the rewards from this step on: what this action can still change.

        R_t = r_t + gamma * R_t+1,    R_t+1 = 0 after a termination, next_value_t after a truncation

    Unbiased if weighted by `discount_weight`, if the future after a cut is known exactly, and if T covers the episode.
    Practice leaves the weight out, which biases it if gamma < 1 (Nota and Thomas, 2020).

    Returns:
        [T, N].

    Raises:
        ValueError: If shapes differ or the discount is outside [0, 1].

    Source: Sutton et al. (2000), theorem 1; Williams (1992) for the episodic case.
    """
    _check(discount, reward, terminated, truncated, next_value, valid)
    result, future = torch.zeros_like(reward), next_value[-1].double()
    for t in reversed(range(len(reward))):
        future = torch.where(truncated[t], next_value[t].double(), future)
        future = torch.where(terminated[t], 0.0, future)
        future = torch.where(valid[t], reward[t].double() + discount * future, future)
        result[t] = future
    return result * valid


def episode_return(reward: Tensor, *, terminated: Tensor, truncated: Tensor, valid: Tensor, discount: float) -> Tensor:
    """Discounted sum of all rewards of the episode that a step belongs to, the same at each of its steps.

        G = r_0 + gamma r_1 + gamma^2 r_2 + ...

    Unbiased if T covers the episode; noisier than `reward_to_go`, since it also counts what an action cannot change.

    Returns:
        [T, N]. An episode that began before the rollout or goes on after it counts only its steps in the rollout.

    Raises:
        ValueError: If shapes differ or the discount is outside [0, 1].

    Source: Williams (1992), section 5 (episodic REINFORCE).
    """
    _check(discount, reward, terminated, truncated, valid)
    ended = terminated | truncated
    weight = discount_weight(terminated=terminated, truncated=truncated, valid=valid, discount=discount)
    weighted = torch.where(valid, reward.double() * weight, 0.0)
    so_far, sums = torch.zeros_like(weighted[0]), torch.zeros_like(weighted)
    for t in range(len(reward)):
        so_far = so_far + weighted[t]
        sums[t] = so_far
        so_far = torch.where(ended[t], 0.0, so_far)
    whole = sums[-1]
    for t in reversed(range(len(reward))):
        whole = torch.where(ended[t], sums[t], whole)
        sums[t] = whole
    return (sums * valid).to(reward.dtype)


def discount_weight(*, terminated: Tensor, truncated: Tensor, valid: Tensor, discount: float) -> Tensor:
    """gamma^k for the k-th step of an episode, k from 0: the weight of a state in the objective.

    Multiplied by `reward_to_go`, it gives the gradient of the discounted objective without bias.

    Returns:
        float64 [T, N]; the first step of the rollout counts as the first of its episode.

    Raises:
        ValueError: If shapes differ or the discount is outside [0, 1].

    Source: Sutton et al. (2000), the discounted state weighting d(s).
    """
    _check(discount, terminated, truncated, valid)
    ended = terminated | truncated
    weight, result = (
        torch.ones(terminated.shape[1:], dtype=torch.float64),
        torch.zeros(terminated.shape, dtype=torch.float64),
    )
    for t in range(len(terminated)):
        result[t] = weight
        weight = torch.where(ended[t], 1.0, torch.where(valid[t], weight * discount, weight))
    return result


def generalized_advantage(
    reward: Tensor,
    *,
    value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    next_value: Tensor,
    valid: Tensor,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Generalized advantage estimation: reward-to-go minus value, with a tunable trust in the values.

        delta_t = r_t + gamma * next_value_t - value_t    (next_value_t is 0 after a termination)
        A_t = delta_t + gamma * lambda * A_t+1            (0 after the end of an episode)

    With lambda = 1 it is `reward_to_go` minus `value`, and as unbiased. With lambda < 1 errors in the values bias it,
    in return for less variance.

    `value` is the value of the observation that the action was chosen for, [T, N]; `gae_lambda` is lambda, in [0, 1].

    Returns:
        Advantages, [T, N].

    Raises:
        ValueError: If shapes differ, or discount or gae_lambda is outside [0, 1].

    Source: Schulman et al. (2016), equation 16.
    """
    _check(discount, reward, value, terminated, truncated, next_value, valid)
    _check(gae_lambda)
    ended = terminated | truncated
    delta = reward.double() + discount * torch.where(terminated, 0.0, next_value.double()) - value.double()
    keep = (~ended).double() * (discount * gae_lambda)
    advantage, result = torch.zeros_like(delta[0]), torch.zeros_like(delta)
    for t in reversed(range(len(reward))):
        advantage = torch.where(valid[t], delta[t] + keep[t] * advantage, advantage)
        result[t] = advantage
    return (result * valid).to(reward.dtype)


def subtract_mean(multiplier: Tensor, valid: Tensor) -> Tensor:
    """Multiplier minus its mean over the valid rows: a constant baseline, estimated from the batch itself.

    Biased by a factor of 1 - 1/B if rows are independent, since a row's own return is part of the mean.

    Returns:
        [T, N]; 0 on filler rows.

    Raises:
        ValueError: If no row is valid.

    Source: Williams (1992), section 3 (reinforcement baseline).
    """
    _check(0.0, multiplier, valid)
    if not valid.any():
        raise ValueError("subtract_mean needs at least one valid row, got none")
    mean = multiplier[valid].double().mean()
    return torch.where(valid, multiplier - mean, 0.0).to(multiplier.dtype)


def standardize(advantage: Tensor, valid: Tensor) -> Tensor:
    """Advantages minus their mean, divided by their standard deviation, both over the valid rows.

    Biased: the direction changes as with `subtract_mean`, and the length becomes that of the batch's noise.

    Returns:
        [T, N]; 0 on filler rows, and everywhere if all valid advantages are equal.

    Raises:
        ValueError: If fewer than two rows are valid: one number has no standard deviation.
    """
    _check(0.0, advantage, valid)
    kept = advantage[valid].double()
    if kept.numel() < 2:  # noqa: PLR2004
        raise ValueError(f"standardize needs at least two valid rows, got {kept.numel()}")
    centered = (advantage - kept.mean()) * valid
    deviation = kept.std()
    if deviation <= torch.finfo(advantage.dtype).eps * kept.abs().max():  # equal up to rounding
        return torch.zeros_like(advantage)
    return (centered / deviation).to(advantage.dtype)


def _check(factor: float, *tensors: Tensor) -> None:
    """A discount or gae_lambda within [0, 1], and tensors of one shape [T, N] with T of at least 1."""
    if not 0 <= factor <= 1:
        raise ValueError(f"discount and gae_lambda must be in [0, 1], got {factor}")
    if any(tensor.dtype in (torch.int32, torch.int64) for tensor in tensors):
        raise ValueError("rewards and values must be floating, got integers: their discounted sums would be truncated")
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1 or any(len(shape) != 2 or shape[0] < 1 for shape in shapes):  # noqa: PLR2004
        raise ValueError(f"all tensors must have one shape [T, N], got {sorted(map(list, shapes))}")
