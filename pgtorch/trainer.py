"""The loop: collect -> weigh -> loss -> backward -> step."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor
from torch.nn import functional

from pgtorch import returns
from pgtorch.record import metrics
from pgtorch.record.checkpoint import CheckpointError, require_like
from pgtorch.config import TrainConfig
from pgtorch.environment.checks import NonFiniteError
from pgtorch.environment.state import MissingObjectError, UnknownStateError, put_state, take_state, why_unknown
from pgtorch.gradient_check import check_gradient
from pgtorch.losses import importance_weighted, policy_gradient_loss
from pgtorch.environment.build import make_env, make_policy, require_fit
from pgtorch.manual_gradient import has_derivation
from pgtorch.environment.normalization import ObservationNormalizer, RewardNormalizer
from pgtorch.optimizers import OPTIMIZERS
from pgtorch.policies import Policy, ValueFunction
from pgtorch.rollout import Rollout, RolloutCollector


@dataclass
class Batch:
    """Rows of a rollout as a gradient step learns from them, B of them."""

    observation: Tensor  # [B, D]
    action: Tensor  # [B, *action_shape]
    multiplier: Tensor  # [B], of log pi
    target: Tensor | None  # [B], what the value function is to give; None where there is none
    played: Tensor | None = None  # [B], log pi when they were played; None where there is one step for a rollout


class Trainer:
    """Trains a policy by policy gradients, one `update` after another; writes nothing.

    Args:
        config: Settings of the run.
        policy: What to train; None makes the one that the settings name.

    Raises:
        TypeError, ValueError, gymnasium.error.Error: Where environment, policy and settings do not fit.
    """

    def __init__(self, config: TrainConfig, policy: Policy | None = None) -> None:
        torch.set_num_threads(config.num_threads)
        torch.manual_seed(config.seed)
        self.config = config
        self.env = make_env(config)
        space = self.env.single_observation_space
        self.policy = make_policy(config, self.env) if policy is None else policy
        if config.check_gradient and not has_derivation(self.policy):
            raise TypeError(
                f"check_gradient must be 0 for {type(self.policy).__name__}: there is no derivation by hand for it, "
                "only for BiasPolicy and MLPPolicy"
            )
        require_fit(self.policy, self.env)
        learns_value = config.multiplier == "gae" or config.baseline == "value"
        self.value_function = ValueFunction(space, config.hidden_sizes) if learns_value else None
        make_optimizer = OPTIMIZERS[config.optimizer]
        self.optimizers = {"policy": make_optimizer(self.policy.parameters(), config.learning_rate)}
        if self.value_function is not None:
            rate = config.value_learning_rate or config.learning_rate
            self.optimizers["value"] = make_optimizer(self.value_function.parameters(), rate)
        self.collector = RolloutCollector(
            self.env,
            config.num_steps,
            config.seed,
            ObservationNormalizer(gym.spaces.flatdim(space)) if config.normalize_observations else None,
            RewardNormalizer(config.num_envs, config.discount) if config.normalize_rewards else None,
        )
        self.num_updates = 0
        self.num_env_steps = 0

    def update(self) -> dict[str, float]:
        """One training step.

        Returns:
            What is to be logged of it, by tag.

        Raises:
            GradientMismatchError: Where autograd's gradient is not the manual one.
            NonFiniteError: Where an observation, a reward or a gradient is no finite number. No step is taken along it;
                of several steps those before it were.
        """
        batch = self._weigh(self.collector.collect(self.policy))
        self.num_updates += 1
        self.num_env_steps += len(batch.multiplier)
        steps = [self._descend(part) for part in self._parts(batch)]
        logged = steps[-1]
        if len(steps) > 1:
            logged |= {tag: max(step[tag] for step in steps) for tag in metrics.DIFFERENCES if tag in logged}
        return metrics.policy_metrics(self.policy) | logged | self._episode_metrics()

    def _weigh(self, rollout: Rollout) -> Batch:
        """The valid rows, with what multiplies the log pi of each."""
        config, reward, valid = self.config, rollout.reward, rollout.valid
        ends = rollout.terminated, rollout.truncated
        if self.value_function is not None:
            value, next_value = rollout.values(self.value_function)
        elif config.multiplier == "reward-to-go":
            next_value = torch.zeros_like(reward)
        if config.multiplier == "reward":
            multiplier = target = reward
        elif config.multiplier == "return":
            multiplier = target = returns.episode_return(reward, *ends, valid, config.discount)
        elif config.multiplier == "reward-to-go":
            multiplier = target = returns.reward_to_go(reward, *ends, next_value, valid, config.discount)
        else:
            multiplier = returns.generalized_advantage(
                reward, value, *ends, next_value, valid, config.discount, config.gae_lambda
            )
            target = multiplier + value
        if config.baseline == "value" and config.multiplier != "gae":  # which has taken it off already
            multiplier = multiplier - value
        if config.baseline == "mean":
            multiplier = returns.subtract_mean(multiplier, valid)
        if config.standardize and valid.sum() > 1:  # one row, the rest filler, has no deviation
            multiplier = returns.standardize(multiplier, valid)
        return Batch(
            rollout.rows(rollout.observation),
            rollout.rows(rollout.action),
            rollout.rows(multiplier),
            None if self.value_function is None else rollout.rows(target),
        )

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The rows of each gradient step: all of them once, or in each of several passes some at random."""
        config = self.config
        if config.num_epochs == config.num_minibatches == 1:
            yield batch
            return
        with torch.no_grad():
            played = self.policy.log_prob(batch.observation, batch.action)
        for _ in range(config.num_epochs):
            for rows in torch.randperm(len(played)).tensor_split(min(config.num_minibatches, len(played))):
                target = None if batch.target is None else batch.target[rows]
                yield Batch(batch.observation[rows], batch.action[rows], batch.multiplier[rows], target, played[rows])

    def _descend(self, batch: Batch) -> dict[str, float]:
        """One gradient step; gives what is to be logged of it."""
        observation, action, multiplier = batch.observation, batch.action, batch.multiplier
        log_prob, entropy = self.policy.evaluate(observation, action)  # [B], [B]
        logged = {"policy/entropy": entropy.sum().item() / len(entropy)}
        bonus = entropy.mean() if self.config.entropy_coefficient else None
        del entropy  # and where there is no bonus its graph with it, which is memory
        if batch.played is not None:
            multiplier = importance_weighted(multiplier, log_prob, batch.played, self.config.clip_range)
        policy_loss = policy_gradient_loss(log_prob, multiplier)
        value_loss = None
        if self.value_function is not None:
            assert batch.target is not None
            value_loss = functional.mse_loss(self.value_function(observation), batch.target)

        gradient = self._backward(policy_loss, value_loss, bonus)
        norms = self._gradient_norms(policy_loss)
        logged |= {"gradient/norm": norms["policy"], "loss/policy_gradient": policy_loss.item()}
        if value_loss is not None:
            logged["loss/value"] = value_loss.item()
        del log_prob, bonus, policy_loss  # and the graph with them: the check needs as much memory again
        if self._check_is_due():
            logged |= check_gradient(self.policy, observation, action, multiplier, self.num_env_steps, gradient)
        self._step(norms)
        return logged

    def _backward(
        self, policy_loss: Tensor, value_loss: Tensor | None, bonus: Tensor | None
    ) -> dict[str, Tensor] | None:
        """Backpropagate the whole loss; gives the policy loss's own gradient where an entropy bonus joins a check."""
        config, own, loss = self.config, None, policy_loss
        if value_loss is not None:
            loss = loss + config.value_coefficient * value_loss
        if bonus is not None:
            loss = loss - config.entropy_coefficient * bonus
            if self._check_is_due():
                names, parameters = zip(*self.policy.named_parameters(), strict=True)
                gradients = torch.autograd.grad(policy_loss, parameters, retain_graph=True)
                own = dict(zip(names, gradients, strict=True))
        for optimizer in self.optimizers.values():
            for parameter in optimizer.parameters:
                parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return own

    def _check_is_due(self) -> bool:
        every = self.config.check_gradient
        return every > 0 and self.num_updates % every == 0

    def _gradient_norms(self, loss: Tensor) -> dict[str, float]:
        """Euclidean norm of the policy's gradient and of the value function's.

        Raises:
            NonFiniteError: Where one is no finite number: no step may be taken along it.
        """
        norms = {}
        for name, optimizer in self.optimizers.items():
            gradients = (parameter.grad for parameter in optimizer.parameters if parameter.grad is not None)
            norms[name] = math.hypot(*(torch.linalg.vector_norm(gradient).item() for gradient in gradients))
            if not math.isfinite(norms[name]):
                raise NonFiniteError(
                    f"update {self.num_updates}, step {self.num_env_steps}: the norm of the {name}'s gradient must be "
                    f"finite, got {norms[name]} at loss {loss.item()}; is learning_rate too high?"
                )
        return norms

    def _step(self, norms: Mapping[str, float]) -> None:
        """Cut each gradient to the limit, and step.

        Each by itself: the value's gradient is often much the longer, and would drown the policy's at random.
        """
        config = self.config
        share = 1 - (self.num_updates - 1) / config.num_updates if config.learning_rate_decay else 1.0
        for name, optimizer in self.optimizers.items():
            if config.max_gradient_norm is not None and norms[name] > config.max_gradient_norm:
                for parameter in optimizer.parameters:
                    if parameter.grad is not None:
                        parameter.grad.mul_(config.max_gradient_norm / norms[name])
            optimizer.step(share)

    def _episode_metrics(self) -> dict[str, float]:
        means = self.collector.episodes.take()
        return (
            {} if means is None else dict(zip(("rollout/episode_return", "rollout/episode_length"), means, strict=True))
        )

    def has_reached_target(self) -> bool:
        """Whether the mean return of the last 100 episodes is at the target, if there is one."""
        target, recent = self.config.target_return, self.collector.episodes.recent
        return target is not None and len(recent) == recent.maxlen and sum(recent) / len(recent) >= target

    def require_finite(self) -> None:
        """Raise `NonFiniteError` where a parameter or what an optimizer remembers is no finite number."""
        for name, optimizer in self.optimizers.items():
            for tensor in (*optimizer.parameters, *optimizer.state_dict().values()):
                if not tensor.isfinite().all():
                    raise NonFiniteError(
                        f"update {self.num_updates}, step {self.num_env_steps}: the {name}'s parameters must be "
                        f"finite, got {tensor[~tensor.isfinite()].flatten()[0].item()}; is learning_rate too high?"
                    )

    def close(self) -> None:
        """Close the environments."""
        self.env.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on, as plain types and tensors; `environment` where it can be had."""
        modules = {"policy": self.policy, "value_function": self.value_function}
        state: dict[str, Any] = {
            name: {"class": type(module).__name__, "parameters": _copied(module.state_dict())}
            for name, module in modules.items()
            if module is not None
        }
        state["optimizers"] = {name: _copied(optimizer.state_dict()) for name, optimizer in self.optimizers.items()}
        state["collector"] = self.collector.state_dict()
        state |= {"num_updates": self.num_updates, "num_env_steps": self.num_env_steps}
        state["generator"] = torch.get_rng_state()
        with contextlib.suppress(UnknownStateError):
            state["environment"] = take_state(self.env)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; nothing has changed where an error is raised.

        An environment that cannot give its state starts new episodes; a warning says so.

        Raises:
            CheckpointError: Where the state does not fit; the message names the part.
        """
        live, saved = self.state_dict(), dict(state)
        live.pop("environment", None)
        environment = saved.pop("environment", None)
        require_like(saved, live, "trainer")
        try:
            torch.Generator().set_state(saved["generator"])
        except RuntimeError as error:
            raise CheckpointError(f"trainer.generator: {error}") from error
        why_not = self._put_environment(environment)
        if why_not:
            self.collector.restart(self.config.seed + saved["num_updates"])  # other episodes than at the start
            warnings.warn(f"{why_not}: new episodes begin, the run goes on but not bit for bit", stacklevel=2)
        for name, module in (("policy", self.policy), ("value_function", self.value_function)):
            if module is not None:
                module.load_state_dict(saved[name]["parameters"])
        with torch.no_grad():
            for name, optimizer in self.optimizers.items():
                for slot, tensor in optimizer.state_dict().items():
                    tensor.copy_(saved["optimizers"][name][slot])
        self.collector.load_state_dict(saved["collector"], mid_episode=not why_not)
        self.num_updates, self.num_env_steps = saved["num_updates"], saved["num_env_steps"]
        torch.set_rng_state(saved["generator"])

    def _put_environment(self, state: Any) -> str:
        """Bring the environments to where they were; gives why that cannot be, an empty string where it was done."""
        if why_not := why_unknown(self.env):
            return why_not
        if state is None:
            return "the checkpoint has no state of the environments"
        try:
            put_state(self.env, state)
        except MissingObjectError as error:
            return str(error)
        except ValueError as error:
            raise CheckpointError(f"trainer.environment: {error}") from error
        return ""


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
