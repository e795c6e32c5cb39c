"""Every setting of a run, each stated once: type, range, default and meaning; and the settings tuned by environment."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pgtorch.limits import above, annotations_of, at_least, check, matching

MOST_ROWS = 2**27  # of a rollout: a few gigabytes

LESSON = "restaurant_env:Restaurant-v0"

# For an environment without tuned settings, half a million steps: many environments at once, advantages, everything on
# a scale of about 1, and each rollout used ten times in random parts of 128 rows, as in PPO. Parts of 64 rows take
# longer and are less sure: on LunarLander-v3 one of three seeds then ends at 157 instead of 266.
GENERAL: dict[str, Any] = {
    "policy": "auto",
    "optimizer": "adam",
    "learning_rate": None,
    "value_learning_rate": 1e-3,
    "learning_rate_schedule": "linear",
    "num_envs": 16,
    "num_steps": 128,
    "num_updates": 244,
    "num_epochs": 10,
    "num_minibatches": 16,
    "multiplier": "gae",
    "baseline": "value",
    "discount": 0.99,
    "standardize": True,
    "max_gradient_norm": 0.5,
    "normalize_observations": True,
    "normalize_rewards": True,
    "checkpoint_every": 100,
}

# Of learning_rate None. A one-hot observation moves few weights of the first layer, so the steps must be larger. With
# 3e-4 and seed 1, CliffWalking-v1 does not find its goal and Taxi-v4 ends at -179; with 1e-3 both end at their best.
ONE_HOT_RATE, OTHER_RATE = 1e-3, 3e-4

# By environment id, without its module prefix: what differs from GENERAL. The lesson uses the class's own defaults.
# CartPole-v1 is learned soonest from one large gradient step per rollout.
TUNED: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "hidden_sizes": (32, 32),
        "learning_rate": 3e-3,
        "value_learning_rate": 1e-2,
        "num_envs": 64,
        "num_steps": 16,
        "num_updates": 488,
        "num_epochs": 1,
        "num_minibatches": 1,
    },
}


def settings_for(env_id: str) -> dict[str, Any]:
    """The settings in which an environment id differs from the lesson."""
    name = env_id.rpartition(":")[2]
    return {} if name == LESSON.rpartition(":")[2] else {**GENERAL, **TUNED.get(name, {})}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    The defaults below are the lesson's. Another `env_id` changes some of them, by the tables above; arguments override
    both: `TrainConfig("CartPole-v1", num_envs=8)`.

    Raises:
        TypeError: If a setting has the wrong type or does not exist.
        ValueError: If a setting is outside its range, or two contradict each other.
    """

    env_id: str = LESSON
    """Gymnasium id; `module:Id-v0` imports the module that registers it. The other defaults depend on it."""

    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as JSON. Restaurant-v0 has large_portion_probability ([0.15, 0.80]),
    hungry_above (0.5), reward_scheme ("binary" or "graded") and reward_scale (1.0): '{"reward_scheme": "graded"}'."""

    seed: Annotated[int, at_least(0, 2**63 - 1)] = 0
    """Seed of policy and environments. The same seed gives the same numbers."""

    num_updates: Annotated[int, at_least(1, 2**53)] = 2000
    """Rollouts to train on, each with one gradient step or more. The lesson's bias reaches its optimum after about
    170."""

    target_return: float | None = None
    """Stop once this is the mean return of the last 100 training episodes, and of a fresh evaluation of the present
    policy as well, both greedy and sampled. None runs all updates."""

    evaluate_every: Annotated[int, at_least(0)] = 0
    """Evaluate the policy on fresh episodes every this many updates, and keep the best one. 0: only to confirm
    target_return, when the training episodes have reached it; if that fails, again after a tenth more updates."""

    track_best: bool = False
    """Evaluate every twentieth of the run, unless evaluate_every says otherwise, to keep the best policy."""

    evaluation_episodes: Annotated[int, at_least(1, 1_000_000)] = 100
    """Episodes of each evaluation, greedy and sampled; each has its own environment. They do not count as training."""

    policy: Annotated[
        str, matching(r"bias|mlp|cnn|auto|[\w.]+:\w+", "bias, mlp, cnn, auto or the module:Class of your own policy")
    ] = "bias"
    """bias: the lesson's one parameter; mlp: a network of fully connected layers; cnn: convolutions for images, then
    the same layers; auto: cnn if the observations are images, else mlp; module:Class: your own subclass of
    pgtorch.Policy."""

    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class in policy module:Class, as JSON."""

    hidden_sizes: tuple[Annotated[int, at_least(1)], ...] = (64, 64)
    """Units of each hidden layer, for both policy and value function. Without layers both are linear. In a cnn these
    layers follow the convolutions. A policy of your own has its own layers."""

    activation: Literal["tanh", "relu", "elu"] = "tanh"
    """Activation of the hidden layers, for both policy and value function."""

    weight: float = 20.0
    """The fixed weight of policy bias. The best bias is minus half of it."""

    start_bias: float = 0.0
    """Where policy bias starts."""

    optimizer: Annotated[
        str, matching(r"sgd|adam|torch\.optim\.[A-Z]\w*", "sgd, adam or a name such as torch.optim.RMSprop")
    ] = "sgd"
    """sgd, adam, or any class of torch.optim. The lesson subtracts learning rate x gradient, which is sgd."""

    learning_rate: Annotated[float, above(0)] | None = 1.0
    """Step size of the optimizer. None: 1e-3 for one-hot observations (Discrete, MultiDiscrete, MultiBinary), 3e-4 for
    any others."""

    value_learning_rate: Annotated[float, above(0)] | None = 1e-2
    """Step size for the value function. None uses the policy's, but the lesson's 1.0 is far too large for a network."""

    learning_rate_schedule: Annotated[
        str, matching(r"constant|linear|cosine|[\w.]+:\w+", "constant, linear, cosine or module:function")
    ] = "constant"
    """How the learning rates change: constant, linear or cosine (both to 0 after the last update), or a function of
    your own, as module:function, from the fraction of the updates done, in [0, 1), to a factor."""

    num_envs: Annotated[int, at_least(1, MOST_ROWS)] = 1
    """Environments stepped together, in all processes."""

    num_shards: Annotated[int, at_least(1, MOST_ROWS)] | None = None
    """Equal parts that the environments are cut into, each with random numbers of its own; a process of torchrun plays
    one or more. A run's numbers depend on this, not on how many processes there are. None: one for each process."""

    num_steps: Annotated[int, at_least(1, MOST_ROWS)] = 1
    """Steps in each environment between two updates."""

    num_epochs: Annotated[int, at_least(1, 10_000)] = 1
    """Passes over each rollout. More passes learn more from each environment step, but take longer."""

    num_minibatches: Annotated[int, at_least(1, MOST_ROWS)] = 1
    """Random parts that each pass is split into, one gradient step each; at most the number of rows in a rollout."""

    clip_range: Annotated[float, above(0)] = 0.2
    """With several gradient steps per rollout: stop pushing an action once its probability has changed by this
    fraction."""

    multiplier: Literal["reward", "return", "reward-to-go", "gae", "one"] = "reward"
    """What multiplies log pi: reward, return, reward-to-go, gae (generalized advantage estimation), or one: no reward,
    every guess counts as right."""

    wrong_sign: bool = False
    """Flip the sign of the multiplier, as if the minus in the loss had been forgotten."""

    baseline: Literal["none", "mean", "value"] = "none"
    """What is subtracted from the multiplier: none, the batch's mean, or a learned value. gae always subtracts the
    value."""

    discount: Annotated[float, at_least(0, 1)] = 1.0
    """Gamma: the weight of a reward one step later."""

    gae_lambda: Annotated[float, at_least(0, 1)] = 0.95
    """Lambda of gae. A lower value relies more on the learned values; 1 is unbiased."""

    standardize: bool = False
    """Subtract the multipliers' mean and divide by their standard deviation, batch by batch."""

    entropy_coefficient: Annotated[float, at_least(0)] = 0.0
    """Weight of the entropy bonus, which keeps a policy from becoming certain too early."""

    value_coefficient: Annotated[float, at_least(0)] = 0.5
    """Weight of the value function's squared error in the loss."""

    max_gradient_norm: Annotated[float, above(0)] | None = None
    """Scale the gradients of policy and value function, each separately, down to this norm. None leaves them."""

    normalize_observations: bool = False
    """Scale observations to mean 0 and standard deviation 1, by running statistics, images pixel by pixel. Otherwise a
    cnn divides pixels by their upper bound. One-hot observations (Discrete, MultiDiscrete, MultiBinary) stay as they
    are."""

    normalize_rewards: bool = False
    """Scale discounted returns to standard deviation 1, by running statistics. Logged returns stay unscaled."""

    vectorization: Literal["native", "sync", "async"] = "native"
    """native: the environment's own vector class, or sync if it lacks one; sync: one after another; async: one process
    each."""

    step_timeout: Annotated[float, above(0)] = 60.0
    """Longest wait for one step of the environments in other processes, in seconds; only with vectorization async."""

    check_gradient: Annotated[int, at_least(0)] | None = None
    """Compare autograd's gradient with the manual one every this many updates, at each of their gradient steps; 0:
    never. A mismatch stops the run. None: every update for bias, every 20 for mlp, never for policies without a
    derivation by hand."""

    check_update: Annotated[int, at_least(0)] = 0
    """Compare everything learned with a second, plain implementation every this many updates; 0: never. It takes about
    0.3 milliseconds per row and gradient step. A difference stops the run."""

    num_threads: Annotated[int, at_least(1, 1024)] = 1
    """Torch threads while `train` or `resume` runs; restored afterwards. More threads slow small networks down."""

    device: Literal["cpu", "cuda", "mps", "auto"] = "cpu"
    """Where the networks are: cpu, cuda, mps, or auto, the first available of cuda, mps and cpu. Environments stay on
    the CPU. Small networks are faster there too: a GPU takes longer to start an operation than a CPU to finish it."""

    run_dir: Path | None = None
    """The run's folder. None creates a new one under runs/."""

    checkpoint_every: Annotated[int, at_least(0)] = 500
    """Save a checkpoint for --resume every this many updates, and at the end; 0: at the end only."""

    pictures: bool = True
    """Draw the pictures at the end of the run."""

    if not TYPE_CHECKING:  # a type checker sees the fields as the arguments, with their types

        def __init__(self, env_id: str = LESSON, **settings: Any) -> None:
            _fill(self, {"env_id": env_id, **settings})

    @property
    def imports(self) -> tuple[str, ...]:
        """The settings that may name a module, as `module:name`, whose code is then run."""
        return self.env_id, self.policy, self.learning_rate_schedule

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        values = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        run_dir = None if self.run_dir is None else str(self.run_dir)
        return {**values, "hidden_sizes": list(self.hidden_sizes), "run_dir": run_dir}


ANNOTATIONS = annotations_of(TrainConfig)


def _fill(config: TrainConfig, given: Mapping[str, Any]) -> None:
    """Set and check every field: the given value, else the one in the environment's table, else the default."""
    for name in given:
        if name not in ANNOTATIONS:
            near = difflib.get_close_matches(name, ANNOTATIONS, 1, 0.7)
            raise TypeError(f"there is no setting {name!r}" + (f"; perhaps you meant {near[0]}" if near else ""))
    if given.get("run_dir") == "":
        raise ValueError("run_dir must name a folder, got an empty string")
    env_id = check("env_id", str, given["env_id"])
    defaults = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(TrainConfig)}
    for name, value in {**defaults, **settings_for(env_id), **given}.items():
        object.__setattr__(config, name, check(name, ANNOTATIONS[name], value))
    if config.track_best and not config.evaluate_every:
        object.__setattr__(config, "evaluate_every", max(1, config.num_updates // 20))
    if config.num_envs % (config.num_shards or 1):
        raise ValueError(f"num_envs must be a multiple of num_shards, got {config.num_envs} and {config.num_shards}")
    rows = config.num_envs * config.num_steps
    if config.num_minibatches == settings_for(env_id).get("num_minibatches"):  # too many for a small rollout
        object.__setattr__(config, "num_minibatches", min(config.num_minibatches, rows))
    if rows > MOST_ROWS:
        product = f"{config.num_envs} * {config.num_steps}"
        raise ValueError(f"num_envs * num_steps must be at most {MOST_ROWS} rows an update, got {product}")
    learns_value = config.multiplier == "gae" or config.baseline == "value"
    for name, when, cannot in (
        ("baseline", "num_envs * num_steps is 1: a number minus itself is 0", config.baseline == "mean" and rows == 1),
        ("num_minibatches", f"num_envs * num_steps is {rows}", config.num_minibatches > rows),
        ("step_timeout", "vectorization is not async", config.vectorization != "async"),
        ("hidden_sizes", "policy is bias and no value is learned", config.policy == "bias" and not learns_value),
        ("activation", "policy is bias and no value is learned", config.policy == "bias" and not learns_value),
        ("weight", "policy is not bias", config.policy != "bias"),
        ("start_bias", "policy is not bias", config.policy != "bias"),
        (
            "policy_kwargs",
            f"policy is {config.policy}: only module:Class takes them; hidden_sizes sets the layers of mlp and cnn",
            ":" not in config.policy,
        ),
    ):
        if cannot and getattr(config, name) != defaults[name]:
            raise ValueError(f"{name} must not be {getattr(config, name)!r} if {when}")
    if config.standardize and rows == 1:
        raise ValueError("standardize needs num_envs * num_steps of at least 2: one number has no deviation")
