"""The lesson's learners side by side: each operation serves all of them, and leaves each the bits that it has alone.

L  learners    U  updates
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.utils import seeding
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode

from pgtorch.config import TrainConfig
from pgtorch.environment.build import make_vector_env
from pgtorch.gradient_check import DIFFERENCE, DIFFERENCE_IN_UNITS
from pgtorch.lesson.model import SETTINGS, model_of_run
from pgtorch.losses import policy_gradient_loss
from pgtorch.manual_gradient import bias_policy_gradient
from pgtorch.optimizers import SGD, make_schedule
from pgtorch.policies import HUNGERS, BiasPolicy
from pgtorch.returns import weigh
from pgtorch.rollout import RolloutCollector

# Settings that learners side by side may change. With any other they are trained in processes.
_FREE = {
    "env_id",
    "env_kwargs",
    "seed",
    "num_updates",
    "weight",
    "start_bias",
    "learning_rate",
    "learning_rate_schedule",
}
_FREE |= {"multiplier", "wrong_sign", "check_gradient", "run_dir", "checkpoint_every", "pictures"}
_WORDS = 1024  # that each learner's generator is asked for at once


def can_train_together(config: TrainConfig) -> bool:
    """Whether `train_together` takes learners of these settings: the lesson's, and only the lesson's."""
    usual = TrainConfig()
    return (
        model_of_run(config, config.weight) is not None
        and config.env_kwargs.keys() <= SETTINGS
        and config.learning_rate is not None
        and config.multiplier in ("reward", "one")
        and config.check_gradient in (None, 0, 1)
        and all(getattr(config, f.name) == getattr(usual, f.name) for f in fields(config) if f.name not in _FREE)
    )


class Trained(NamedTuple):
    """What learners that differ in nothing but the seed have logged and learned."""

    columns: dict[str, NDArray[Any]]  # by tag in the order of a line of metrics, [U, L]
    bias: list[float]  # [L]
    failed: list[bool]  # [L]: its gradients differ or a number is not finite; alone it says so


def train_together(config: TrainConfig, seeds: Sequence[int]) -> Trained:
    """Train a learner for each seed; each is bit for bit the run of its own seed alone.

    Args:
        config: The settings of all, which `can_train_together`; their seed is not used.
        seeds: L.
    """
    env = make_vector_env(config.env_id, num_envs=len(seeds), env_kwargs=config.env_kwargs)
    with closing(env), _Apart():
        collector = RolloutCollector(env, num_steps=1, seed=0)
        collector.episodes = returns = _Returns()  # type: ignore[assignment]
        env.np_random = _Generators(seeds)  # type: ignore[assignment]
        collector.stepper.reset()
        policy = _Policies(config, seeds)
        assert config.learning_rate is not None  # see `can_train_together`
        optimizer = SGD(policy.parameters(), config.learning_rate)
        schedule = make_schedule(config.learning_rate_schedule)
        kept: list[list[Tensor]] = []
        for update in range(config.num_updates):
            batch = weigh(collector.collect(policy, Generator()), None, config)
            distribution = policy.distribution(batch.observation)
            log_prob = distribution.log_prob(batch.action)  # [L]
            optimizer.zero_grad()
            # The mean over learners times L: each has its own gradient, times L / L, which is 1.
            policy_gradient_loss(log_prob, batch.multiplier).backward(torch.tensor(float(len(seeds))))  # type: ignore[no-untyped-call]
            gradient = policy.bias.grad
            assert gradient is not None
            with torch.no_grad():
                gradient += 0.0  # as a sum over a single row does: -0.0 becomes 0.0
                rows = (part[None] for part in (batch.observation, batch.action, batch.multiplier))  # B = 1: [1, L]
                by_hand = bias_policy_gradient(policy, *rows)["bias"]
                entropy, loss = distribution.entropy(), log_prob * -batch.multiplier + 0.0
                optimizer.step(schedule(update / config.num_updates))
                p_norm = torch.sigmoid(policy(HUNGERS[:, None]))  # [3, L]
                kept.append([policy.bias.detach().clone(), *p_norm, entropy, loss, gradient, by_hand])
    arrays = [torch.stack(column).numpy() for column in zip(*kept, strict=True)]
    columns = dict(_columns(config, arrays, np.stack(returns.paid)))
    failed = (arrays[-2] != arrays[-1]).any(axis=0)  # the gradient by autograd and by hand
    for array in arrays:
        failed |= ~np.isfinite(array).all(axis=0)
    return Trained(columns, policy.bias.tolist(), failed.tolist())


def _columns(config: TrainConfig, arrays: list[NDArray[Any]], paid: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """What `Trainer.update` returns, by tag and in its order, each [U, L]."""
    *figures, entropy, loss, gradient, by_hand = arrays
    yield from zip(BiasPolicy().figures(), figures, strict=True)
    yield from {"policy/entropy": entropy, "loss/policy_gradient": loss, "gradient/norm": abs(gradient)}.items()
    if config.check_gradient != 0:
        yield from dict.fromkeys((DIFFERENCE, DIFFERENCE_IN_UNITS), np.zeros_like(gradient)).items()
        yield from {"gradient/autograd": gradient, "gradient/manual": by_hand}.items()
    yield from {"rollout/episode_return": paid, "rollout/episode_length": np.ones_like(paid)}.items()


class _Policies(BiasPolicy):
    """L biases beside each other; row i of a batch is learner i's."""

    def __init__(self, config: TrainConfig, seeds: Sequence[int]) -> None:
        super().__init__(config.weight)
        self.bias = nn.Parameter(torch.full((len(seeds),), config.start_bias))
        generators = (Generator().manual_seed(seed) for seed in seeds)
        draws = [super(_Policies, self).noise(config.num_updates, 1, generator) for generator in generators]
        self._noise = iter(torch.stack(draws, dim=-1))  # U times [1, L]

    def noise(self, num_steps: int, num_rows: int, generator: Generator) -> Tensor:
        """The next draw of each learner, [1, L]."""
        drawn: Tensor = next(self._noise)
        return drawn


class _Generators:
    """A NumPy generator for each learner, for an environment that draws a number for each of its copies.

    Args:
        seeds: L.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [seeding.np_random(seed)[0].bit_generator for seed in seeds]
        self._words: Iterator[NDArray[Any]] = iter(())
        self._half: NDArray[Any] | None = None

    def random(self, size: int, dtype: Any = np.float64) -> NDArray[Any]:
        """The next number of each, [L], as `Generator.random` makes it: 53 bits of a word, or 24 of half of one."""
        if dtype == np.float64:
            return (self._word() >> 11) * 2.0**-53
        if self._half is None:
            word = self._word()
            half, self._half = word & 0xFFFFFFFF, word >> 32  # the upper half is the next number
        else:
            half, self._half = self._half, None
        return (half >> 8).astype(np.float32) * np.float32(2.0**-24)

    def _word(self) -> NDArray[Any]:
        word = next(self._words, None)
        if word is None:
            drawn = [generator.random_raw(_WORDS) for generator in self._generators]
            self._words = iter(np.array(drawn).T.copy())
            word = next(self._words)
        return word


class _Returns:
    """Stands in for `EpisodeStatistics`, whose means are over environments: keeps what each was paid."""

    def __init__(self) -> None:
        self.paid: list[NDArray[Any]] = []

    def record(self, reward: NDArray[Any], *, valid: NDArray[np.bool_], ended: NDArray[np.bool_]) -> None:
        """Keep a step's rewards, [L]."""
        self.paid.append(reward)


class _Apart(TorchFunctionMode):
    """Computes each number as if it were alone in its tensor.

    PyTorch computes most of a long tensor with SIMD instructions, and a lone number without. Their sigmoids differ in
    the last bit for one number in 20. For numbers that are apart in memory it does without as well.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Move apart what goes into the functions of the lesson that use an exponential."""
        if func in (torch.sigmoid, torch.binary_cross_entropy_with_logits):
            args = [arg.new_empty(*arg.shape, 2)[..., 0].copy_(arg) for arg in args]
        return func(*args, **(kwargs or {}))
