"""The whole of training a second time, from the formulas alone: the specification that `trainer.py` is compared with.

Plain and slow: loops and NumPy in float64, one row at a time, single environments instead of a vector. It imports
nothing of the core, uses no autograd and draws nothing: the random numbers are arguments.

    pi  policy     V  value function     H  entropy     a  action
    z   numbers that describe pi in one row: the last layer's logits or means; after means, the log standard deviations

Sources: Williams (1992), policy gradients; Schulman et al. (2016), advantages; Schulman et al. (2017), several steps a
rollout; Kingma and Ba (2015), Adam; Chan, Golub and LeVeque (1979), running moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from gymnasium import Env, spaces
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arrays = dict[str, Array]  # parameters or gradients, by name


class Categoricals:
    """Independent choices: `Discrete`, `MultiDiscrete`. Log pi(a) and H come with their derivatives in z."""

    def __init__(self, sizes: Sequence[int], starts: Sequence[int]) -> None:
        edges = np.cumsum([0, *sizes])
        self.choices = [(slice(*pair), start) for pair, start in zip(pairwise(edges), starts, strict=True)]

    def sample(self, z: Array, noise: Array) -> list[float]:
        """Gumbel-max: the largest of logit plus noise is distributed as the softmax."""
        return [int(np.argmax(z[part] + noise[part])) + start for part, start in self.choices]

    def log_prob(self, z: Array, action: Array) -> tuple[float, Array]:
        """Log p(a), with d/dz_i = [i = a] - p_i."""
        log_p = np.concatenate([z[part] - np.logaddexp.reduce(z[part]) for part, _ in self.choices])
        chosen = np.zeros(len(z))
        for (part, start), a in zip(self.choices, action, strict=True):
            chosen[part.start + int(a) - start] = 1.0
        return float(log_p @ chosen), chosen - np.exp(log_p)

    def entropy(self, z: Array) -> tuple[float, Array]:
        """H = -sum p log p, with dH/dz_i = -p_i (log p_i + H)."""
        log_p = [z[part] - np.logaddexp.reduce(z[part]) for part, _ in self.choices]
        each = [-float(np.exp(p) @ p) for p in log_p]
        return sum(each), np.concatenate([-np.exp(p) * (p + h) for p, h in zip(log_p, each, strict=True)])


class Bernoullis:
    """Independent choices of 0 or 1: `MultiBinary`, and the lesson's two places."""

    def sample(self, z: Array, noise: Array) -> list[float]:
        """0 in the first P(0) of the line from 0 to 1, else 1."""
        return [float(u >= 1 - p) for u, p in zip(noise, _sigmoid(z), strict=True)]

    def log_prob(self, z: Array, action: Array) -> tuple[float, Array]:
        """-log(1 + e^-z) for 1, -log(1 + e^z) for 0, with d/dz = a - p."""
        return -float(np.logaddexp(0, np.where(action == 1, -z, z)).sum()), action - _sigmoid(z)

    def entropy(self, z: Array) -> tuple[float, Array]:
        """H = -p log p - (1 - p) log(1 - p), with dH/dz = -z p (1 - p)."""
        p = _sigmoid(z)
        return float((p * np.logaddexp(0, -z) + (1 - p) * np.logaddexp(0, z)).sum()), -z * p * (1 - p)


class Normals:
    """Independent normal numbers: `Box`."""

    def sample(self, z: Array, noise: Array) -> list[float]:
        """Mean plus standard deviation times noise."""
        mean, log_std = np.split(z, 2)
        return list(mean + np.exp(log_std) * noise)

    def log_prob(self, z: Array, action: Array) -> tuple[float, Array]:
        """-x^2 / 2 - log std - log(2 pi) / 2 with x = (a - mean) / std; d/d mean = x / std, d/d log std = x^2 - 1."""
        mean, log_std = np.split(z, 2)
        x = (action - mean) / np.exp(log_std)
        slope = np.concatenate([x / np.exp(log_std), x**2 - 1])
        return float((-(x**2) / 2 - log_std - math.log(2 * math.pi) / 2).sum()), slope

    def entropy(self, z: Array) -> tuple[float, Array]:
        """H = log std + log(2 pi e) / 2, with d/d mean = 0, d/d log std = 1."""
        mean, log_std = np.split(z, 2)
        return float((log_std + math.log(2 * math.pi * math.e) / 2).sum()), np.repeat([0.0, 1.0], len(mean))


def _sigmoid(z: Array) -> Array:
    return np.exp(-np.logaddexp(0, -z))


class Network:
    """Linear layers with an activation between, by their parameters' names; without layers, the lesson's bias."""

    ACTIVATIONS: ClassVar[dict[str, tuple[Callable[[Array], Any], ...]]] = {  # phi(z), and phi'(z) from x = phi(z)
        "tanh": (np.tanh, lambda x: 1 - x**2),
        "relu": (lambda z: np.maximum(z, 0), lambda x: 1.0 * (x > 0)),
        "elu": (lambda z: np.maximum(z, np.expm1(np.minimum(z, 0))), lambda x: 1 + np.minimum(x, 0)),
    }

    def __init__(self, parameters: Arrays, weight: float = math.nan, activation: str = "tanh") -> None:
        self.parameters = {name: np.array(values, np.float64) for name, values in parameters.items()}
        self.weight, self.steps = weight, 0  # the lesson's, which is not learned; how often it has descended
        self.phi, self.dphi = self.ACTIVATIONS[activation]
        self.depth = sum(name.endswith(".weight") for name in parameters)
        self.mean, self.square = ({name: 0 * x for name, x in self.parameters.items()} for _ in range(2))  # Adam's

    def forward(self, x: Array) -> tuple[Array, list[Array]]:
        """z, and the input of each layer."""
        if not self.depth:
            return np.array([self.weight * x[0] + self.parameters["bias"]]), []
        inputs = [x]
        for i in range(self.depth):
            z = self.parameters[f"layers.{i}.weight"] @ inputs[-1] + self.parameters[f"layers.{i}.bias"]
            inputs.append(self.phi(z))
        return np.concatenate([z, self.parameters.get("log_std", z[:0])]), inputs[:-1]

    def backward(self, inputs: list[Array], slope: Array) -> Arrays:
        """Derivatives in the parameters from those in z: the chain rule, layer by layer."""
        if not self.depth:
            return {"bias": slope[0]}
        size = len(self.parameters[f"layers.{self.depth - 1}.bias"])
        gradient, slope = ({"log_std": slope[size:]} if "log_std" in self.parameters else {}), slope[:size]
        for i in reversed(range(self.depth)):
            gradient |= {f"layers.{i}.weight": np.outer(slope, inputs[i]), f"layers.{i}.bias": slope}
            slope = (self.parameters[f"layers.{i}.weight"].T @ slope) * self.dphi(inputs[i])
        return gradient

    def descend(self, gradient: Arrays, optimizer: str, rate: float, max_norm: float | None) -> float:
        """Shorten the gradient to `max_norm` and step along it by SGD or Adam; return the norm that it came with."""
        norm = math.sqrt(sum(float(np.sum(part**2)) for part in gradient.values()))
        scale = 1.0 if max_norm is None or norm <= max_norm else max_norm / norm
        self.steps += 1
        for name, part in gradient.items():
            g = part * scale
            if optimizer == "adam":
                self.mean[name] = 0.9 * self.mean[name] + 0.1 * g
                self.square[name] = 0.999 * self.square[name] + 0.001 * g**2
                root = np.sqrt(self.square[name] / (1 - 0.999**self.steps))
                g = self.mean[name] / (1 - 0.9**self.steps) / (root + 1e-8)
            self.parameters[name] = self.parameters[name] - rate * g
        return norm


@dataclass
class Moments:
    """Mean and variance of all rows so far; before the first of them 0 and 1."""

    mean: Array | float = 0.0
    variance: Array | float = 1.0
    count: float = 0

    def take_in(self, rows: Array) -> None:
        """Merge in the moments of rows [B, D]; the distance between the two means adds to the variance."""
        old, new = self.count, len(rows)
        mean = (old * self.mean + new * rows.mean(0)) / (old + new)
        mine, theirs = self.variance + (self.mean - mean) ** 2, rows.var(0) + (rows.mean(0) - mean) ** 2
        self.mean, self.variance, self.count = mean, (old * mine + new * theirs) / (old + new), old + new

    def scaled(self, values: Array | float, mean: Array | float = 0.0) -> Array:
        """Values minus a mean, over the standard deviation, within 10 of 0."""
        return np.clip((values - mean) / np.sqrt(self.variance + 1e-8), -10.0, 10.0)


@dataclass
class Row:
    """One step of one environment."""

    env: int
    observation: Array  # as the policy saw it
    action: Array
    reward: float  # as the environment paid it
    terminated: bool
    truncated: bool
    next_observation: Array  # where the step led, as the value function sees it; where an episode ended, its last one
    scaled: float = 0.0  # the reward that is learned from
    multiplier: float = 0.0
    target: float = 0.0  # of the value function
    old_log_prob: float | None = None


@dataclass
class Reference:
    """Policy gradients: `play` a rollout, `learn` from it, and again.

    Args:
        config: The settings, a `TrainConfig`.
        policy: Its network at the start.
        value: The value function's; None if only the policy learns.
        distribution: Of its actions.
        action_space: Of one environment.
        envs: The N environments; none if rows are given instead of played.
        mode: "next_step" if a new episode takes a step of its own to begin, else "same_step" or "disabled".
    """

    config: Any
    policy: Network
    value: Network | None
    distribution: Categoricals | Bernoullis | Normals
    action_space: spaces.Space[Any]
    envs: list[Env[Any, Any]] = field(default_factory=list)
    mode: str = "same_step"
    num_updates: int = 0

    def __post_init__(self) -> None:
        """Begin the first episodes, with empty statistics."""
        config, n = self.config, len(self.envs)
        self.raw = [self._flat(env.reset(seed=config.seed + i)[0]) for i, env in enumerate(self.envs)]
        self.total, self.length, self.is_resetting = [0.0] * n, [0] * n, [False] * n
        self.observations, self.returns, self.discounted = Moments(), Moments(), [0.0] * config.num_envs
        self.recent: list[float] = []  # returns of the last 100 episodes
        self.networks = {"policy": self.policy} | ({"value": self.value} if self.value else {})

    def play(self, noise: Array) -> tuple[list[Row], dict[str, float]]:
        """Play T steps with noise [T, N, numbers]: the rows, and figures of the episodes that ended."""
        rows, raw, ended = [], [], []
        for drawn in noise:
            over = []
            for i in range(len(self.envs)):
                if self.is_resetting[i]:  # the action is ignored, and there is nothing to learn from
                    self.raw[i], self.is_resetting[i] = self._flat(self.envs[i].reset()[0]), False
                    continue
                raw.append(self.raw[i])
                rows.append(row := self._step(i, np.atleast_1d(drawn[i])))
                self.total[i], self.length[i] = self.total[i] + row.reward, self.length[i] + 1
                if row.terminated or row.truncated:
                    ended.append((self.total[i], self.length[i]))
                    over.append(i)
            for i in over:
                self.total[i], self.length[i], self.is_resetting[i] = 0.0, 0, True
                if self.mode != "next_step" or len(over) == len(self.envs):  # nobody waits for a step of resets only
                    self.raw[i], self.is_resetting[i] = self._flat(self.envs[i].reset()[0]), False
        self.observations.take_in(np.array(raw))
        self.recent = [*self.recent, *(total for total, _ in ended)][-100:]
        means = np.mean(ended, axis=0) if ended else []
        return rows, dict(zip(("rollout/episode_return", "rollout/episode_length"), means, strict=False))

    def _step(self, i: int, noise: Array) -> Row:
        seen, space = self._seen(self.raw[i]), self.action_space
        action = np.array(self.distribution.sample(self.policy.forward(seen)[0], noise))
        taken = np.clip(action, space.low, space.high) if isinstance(space, spaces.Box) else action
        taken = taken.astype(space.dtype).reshape(space.shape or ())
        observation, reward, terminated, truncated, _ = self.envs[i].step(taken[()])
        self.raw[i] = self._flat(observation)
        return Row(i, seen, action, float(reward), terminated, truncated, self._seen(self.raw[i]))

    def _flat(self, observation: Any) -> Array:
        return np.array(spaces.flatten(self.envs[0].observation_space, observation), np.float64)

    def _seen(self, raw: Array) -> Array:
        return self.observations.scaled(raw, self.observations.mean) if self.config.normalize_observations else raw

    def learn(self, rows: list[Row], shuffle: Callable[[int], list[int]]) -> dict[str, float]:
        """Learn from rows in order of step and then environment; `shuffle` gives a random order of so many rows."""
        self.num_updates += 1
        self._weigh(rows)
        if self.config.num_epochs == self.config.num_minibatches == 1:
            return self._descend(rows)
        for row in rows:
            row.old_log_prob = self.distribution.log_prob(self.policy.forward(row.observation)[0], row.action)[0]
        for _ in range(self.config.num_epochs):
            order = shuffle(len(rows))
            for part in np.array_split(order, min(self.config.num_minibatches, len(rows))):
                figures = self._descend([rows[k] for k in part])
        return figures

    def _weigh(self, rows: list[Row]) -> None:
        """Give each row its multiplier and the target of its value."""
        self._scale(rows)
        for env in {row.env for row in rows}:
            self._weigh_environment([row for row in rows if row.env == env])
        multipliers = np.array([row.multiplier for row in rows])
        if self.config.baseline == "mean":
            multipliers = multipliers - multipliers.mean()
        if self.config.standardize and len(rows) > 1:
            deviation = multipliers.std(ddof=1)
            are_equal = deviation <= np.finfo(float).eps * np.abs(multipliers).max()
            multipliers = multipliers * 0 if are_equal else (multipliers - multipliers.mean()) / deviation
        for row, multiplier in zip(rows, multipliers, strict=True):
            row.multiplier = float(-multiplier if self.config.wrong_sign else multiplier)

    def _scale(self, rows: list[Row]) -> None:
        """Divide rewards by the deviation of the discounted returns so far, these among them."""
        for row in rows:
            self.discounted[row.env] = row.scaled = self.config.discount * self.discounted[row.env] + row.reward
            if row.terminated or row.truncated:
                self.discounted[row.env] = 0.0
        self.returns.take_in(np.array([[row.scaled] for row in rows]))
        for row in rows:
            row.scaled = float(self.returns.scaled(row.reward)[0]) if self.config.normalize_rewards else row.reward

    def _weigh_environment(self, rows: list[Row]) -> None:
        """Multipliers and targets of one environment's rows, from the last to the first."""
        gamma, kind, future, advantage = self.config.discount, self.config.multiplier, 0.0, 0.0
        whole = 0.0  # what the rest of the episode pays, counted from its first row
        for k in reversed(range(len(rows))):
            row, reward = rows[k], rows[k].scaled
            seen = (row.observation, row.next_observation)
            value, next_value = (float(self.value.forward(x)[0][0]) if self.value else 0.0 for x in seen)
            next_value *= not row.terminated
            if row.terminated or row.truncated or k == len(rows) - 1:
                future, advantage, whole = next_value, 0.0, 0.0
            future, whole = reward + gamma * future, reward + gamma * whole
            advantage = reward + gamma * next_value - value + gamma * self.config.gae_lambda * advantage
            row.target = {"return": whole, "reward-to-go": future, "gae": advantage + value, "one": 1}.get(kind, reward)
            row.multiplier = -value if kind == "gae" or self.config.baseline == "value" else 0.0
        for row, following in pairwise(rows):
            if kind == "return" and not (row.terminated or row.truncated):  # an episode's first row has counted it all
                following.target = row.target
        for row in rows:
            row.multiplier += row.target

    def _descend(self, rows: list[Row]) -> dict[str, float]:
        """One gradient step along the mean of the rows' gradients."""
        config, share, bonus = self.config, 1 / len(rows), self.config.entropy_coefficient
        loss = value_loss = mean_entropy = 0.0
        total: dict[str, list[Arrays]] = {name: [] for name in self.networks}
        for row in rows:
            z, inputs = self.policy.forward(row.observation)
            log_prob, slope = self.distribution.log_prob(z, row.action)
            entropy, entropy_slope = self.distribution.entropy(z)
            multiplier = row.multiplier
            if row.old_log_prob is not None:
                ratio = math.exp(log_prob - row.old_log_prob)
                is_far = ratio > 1 + config.clip_range if multiplier > 0 else ratio < 1 - config.clip_range
                multiplier = 0.0 if is_far else multiplier * ratio
            loss -= share * multiplier * log_prob
            mean_entropy += share * entropy
            total["policy"].append(self.policy.backward(inputs, -share * (multiplier * slope + bonus * entropy_slope)))
            if self.value:
                value, inputs = self.value.forward(row.observation)
                value_loss += share * (value[0] - row.target) ** 2
                slope = 2 * share * config.value_coefficient * (value - row.target)
                total["value"].append(self.value.backward(inputs, slope))
        done, norms = (self.num_updates - 1) / config.num_updates, {}
        schedules = {"constant": 1.0, "linear": 1 - done, "cosine": math.cos(math.pi * done / 2) ** 2}
        factor = schedules[config.learning_rate_schedule]
        rates = {"policy": config.learning_rate, "value": config.value_learning_rate or config.learning_rate}
        for name, parts in total.items():
            gradient = {key: np.sum([part[key] for part in parts], axis=0) for key in parts[0]}
            rate = factor * rates[name]
            norms[name] = self.networks[name].descend(gradient, config.optimizer, rate, config.max_gradient_norm)
        figures = {"policy/entropy": mean_entropy, "loss/policy_gradient": loss, "gradient/norm": norms["policy"]}
        return figures | ({"loss/value": value_loss} if self.value else {})
