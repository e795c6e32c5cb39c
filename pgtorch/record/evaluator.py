"""Evaluates a policy while it is trained: when, on what, whether the target is reached, and which policy is the best.

An evaluation plays fresh episodes. Its environments and random numbers are its own, seeded by the run's seed and the
number of the update: the run's other numbers are the same with and without it, and a resumed run repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Generator

from pgtorch.config import TrainConfig
from pgtorch.environment.autoreset import Stepper, make_stepper
from pgtorch.environment.build import make_vector_env
from pgtorch.environment.spaces import spaces_unchanged
from pgtorch.environment.streams import own_streams
from pgtorch.environment.workers import Interrupted
from pgtorch.policies import Policy
from pgtorch.record.checkpoint import CheckpointError, require_like
from pgtorch.record.metrics import GREEDY, SAMPLED
from pgtorch.record.trainer_state import class_of, copied
from pgtorch.trainer import Trainer

AGAIN_AFTER = 1.1  # times as many updates, if an evaluation has not confirmed the target
MOST_STEPS = 10_000  # of an episode: not every environment has a time limit


class Evaluator:
    """Evaluates the policy of a trainer, and keeps the best one.

    An environment that keeps state outside its objects, in a module's globals for instance, is the one thing through
    which evaluations can affect training.

    Args:
        trainer: Whose policy, normalizer and settings are used; none of them changes.
        evaluated: The number of the last update that was evaluated, in a resumed run.
        best: From the checkpoint, in a resumed run.
        should_stop: Called before each step; once it returns True, the evaluation ends with `Interrupted`.

    Attributes:
        best: The best policy so far, as plain types and tensors: `num_updates`, `evaluation`, and what `TrainedRun`
            needs, stored as in the state of a trainer. The highest greedy return is best, then the highest sampled
            one, then the earliest. Empty before the first evaluation.

    Raises:
        CheckpointError: If `best` does not fit the trainer.
        TypeError: If the policy cannot say which action is the likeliest.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        evaluated: int = 0,
        best: Mapping[str, Any] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.trainer, self.evaluated, self.should_stop = trainer, evaluated, should_stop
        self.best = dict(best or {})
        if self.best:
            require_like(self.best, self._state({GREEDY: 0.0, SAMPLED: 0.0}), "best")
            if self.best["num_updates"] > trainer.num_updates:
                raise CheckpointError(f"best must be of an update so far, got {self.best['num_updates']}")
        evaluates = trainer.config.evaluate_every or trainer.config.target_return is not None
        if evaluates:
            _require_mode(trainer)
        self._stepper = _make_stepper(trainer.config) if evaluates else None

    def is_due(self) -> bool:
        """Whether the policy is to be evaluated after the present update."""
        config, update = self.trainer.config, self.trainer.num_updates
        if config.evaluate_every:
            return update % config.evaluate_every == 0
        return self._trains_at_target() and update >= AGAIN_AFTER * self.evaluated

    def evaluate(self) -> dict[str, float]:
        """Play fresh episodes, half of them with the likeliest actions and half with drawn ones.

        Returns:
            The mean return of each half, by tag.

        Raises:
            ContractError, NonFiniteError: If the environment violates its spaces.
            Interrupted: If the run was asked to stop. Nothing has changed.
        """
        trainer, count = self.trainer, self.trainer.config.evaluation_episodes
        try:
            with _unchanged(trainer.policy):
                returns = self._play(count)
        except Exception as error:
            error.add_note(f"in the evaluation after update {trainer.num_updates}")
            raise
        figures = {GREEDY: float(returns[:count].mean()), SAMPLED: float(returns[count:].mean())}
        self.evaluated = trainer.num_updates
        if not self.best or _rank(figures) > _rank(self.best["evaluation"]):
            self.best = self._state(figures)
        return figures

    def has_reached_target(self, figures: Mapping[str, float]) -> bool:
        """Whether the return of training and of an evaluation of the present policy are both at the target."""
        target = self.trainer.config.target_return
        return target is not None and self._trains_at_target() and min(_rank(figures)) >= target

    def summary(self) -> dict[str, float]:
        """`best_update`, `best_return_greedy` and `best_return_sampled`; empty before the first evaluation."""
        if not self.best:
            return {}
        returns = {tag.replace("evaluation/", "best_"): value for tag, value in self.best["evaluation"].items()}
        return {"best_update": self.best["num_updates"], **returns}

    def close(self) -> None:
        """Close the environments."""
        if self._stepper is not None:
            self._stepper.env.close()

    def _trains_at_target(self) -> bool:
        """Whether the mean return of the last 100 episodes of training is at the target."""
        target, recent = self.trainer.config.target_return, self.trainer.collector.episodes.recent
        return target is not None and len(recent) == recent.maxlen and sum(recent) / len(recent) >= target

    def _play(self, count: int) -> Any:
        """Returns of one episode in each environment, float64 [2 * count]; the first half is greedy."""
        assert self._stepper is not None
        policy, stepper, device = self.trainer.policy, self._stepper, self.trainer.device
        normalize = self.trainer.collector.normalize_observation
        seed = _seed_of(self.trainer.config.seed, self.trainer.num_updates)
        generator = Generator().manual_seed(seed)
        total, playing = np.zeros(2 * count), np.ones(2 * count, np.bool_)
        with own_streams(seed), spaces_unchanged(self.trainer.env):
            stepper.steps_taken = 0
            stepper.reset(seed)
            while playing.any() and stepper.steps_taken < MOST_STEPS:
                if self.should_stop():
                    raise Interrupted("the run was asked to stop")
                rows = stepper.observation if normalize is None else normalize(stepper.observation)
                seen = torch.as_tensor(rows, dtype=torch.get_default_dtype()).to(device)
                action = torch.cat([policy.mode(seen[:count]), policy.sample(seen[count:], generator)])
                step = stepper.step(action.cpu().numpy())
                total += step.reward * (playing & step.valid)
                playing &= ~step.ended
        return total

    def _state(self, figures: Mapping[str, float]) -> dict[str, Any]:
        """The present policy, with its evaluation."""
        policy, normalize = self.trainer.policy, self.trainer.collector.normalize_observation
        return {
            "num_updates": self.trainer.num_updates,
            "evaluation": dict(figures),
            "policy": {"class": class_of(policy), "parameters": copied(policy.state_dict())},
            "collector": {} if normalize is None else {"normalize_observation": normalize.state_dict()},
        }


def _make_stepper(config: TrainConfig) -> Stepper:
    """Environments for both halves of an evaluation."""
    with own_streams(config.seed):
        env = make_vector_env(
            config.env_id,
            num_envs=2 * config.evaluation_episodes,
            env_kwargs=config.env_kwargs,
            vectorization="native" if config.vectorization == "native" else "sync",
        )
    return make_stepper(env)


def _require_mode(trainer: Trainer) -> None:
    """Find out whether a policy can be played greedily before anything is written."""
    size = trainer.config.evaluation_episodes, spaces.flatdim(trainer.env.single_observation_space)
    try:
        with own_streams(0), _unchanged(trainer.policy):
            trainer.policy.mode(torch.zeros(size, device=trainer.device))
    except Exception as error:
        name, reason = type(trainer.policy).__name__, f"{type(error).__name__} {error}"
        raise TypeError(f"{name} must have a mode, to be evaluated greedily: {reason}") from error


@contextmanager
def _unchanged(policy: Policy) -> Iterator[None]:
    """Undo what playing does to a policy: a layer such as BatchNorm keeps statistics of what it sees."""
    before = copied(policy.state_dict())
    try:
        yield
    finally:
        policy.load_state_dict(before)


def _seed_of(seed: int, update: int) -> int:
    """A seed for an evaluation, in [0, 2^31): unrelated to the seeds of training and of other evaluations."""
    return int(np.random.SeedSequence([seed, update]).generate_state(1)[0]) >> 1


def _rank(figures: Mapping[str, float]) -> tuple[float, float]:
    """What the best policy has the highest of; minus infinity without an evaluation."""
    return figures.get(GREEDY, -np.inf), figures.get(SAMPLED, -np.inf)
