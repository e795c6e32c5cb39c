"""The rules of a visit as pure functions, and the two environments that play by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from restaurant_env import rendering

Float: TypeAlias = Any  # a floating scalar or array
Bool: TypeAlias = Any  # a boolean scalar or array

REWARD_SCHEMES = ("binary", "graded")
SIGNIFICANT_DISTANCE = 0.25  # further than this from `hungry_above`, a graded reward counts twice


class Restaurant(IntEnum):
    """The two places, numbered as the actions of Restaurant-v0."""

    SQUATCH = 0
    NORM = 1


# The rules. Each takes scalars or arrays of any one shape: both environments below call them.


def is_hungry(hunger: Float, hungry_above: float) -> Bool:
    """Whether hunger is strictly above the threshold."""
    return hunger > hungry_above


def serves_large(draw: Float, probability: Float) -> Bool:
    """Whether the order is large: a uniform draw from [0, 1) below the place's probability."""
    return draw < probability


def reward_of(large: Bool, hungry: Bool, scale: float) -> Float:
    """+scale if the order suits (large and hungry, or small and not hungry), -scale if it does not."""
    return scale * (2.0 * (large == hungry) - 1.0)  # np.where takes six times as long on random masks


def significance(hunger: Float, hungry_above: float) -> Float:
    """Factor of a graded reward: 2 if hunger is more than 0.25 away from the threshold, else 1."""
    return 1.0 + (abs(hunger - hungry_above) > SIGNIFICANT_DISTANCE)


def _array(value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:  # a ragged list
        return np.asarray(None)


def _number(name: str, value: Any, expected: str) -> NDArray[np.float64]:
    """`value` as a float64 array, or an error with its name, what was expected and what was given."""
    array = _array(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    return array.astype(np.float64)


def _in_range(name: str, value: Any, low: float, high: float) -> NDArray[np.float64]:
    """`value` as a float64 array, or an error with its name, the range and what was given."""
    array = _number(name, value, f"a number in [{low:g}, {high:g}]")
    if not np.all((array >= low) & (array <= high)):  # refuses NaN as well
        raise ValueError(f"{name} must be in [{low:g}, {high:g}], got {value!r}")
    return array


class _Settings:
    """The constructor arguments that both environments share, checked."""

    def __init__(
        self,
        large_portion_probability: Sequence[float],
        hungry_above: float,
        reward_scheme: str,
        reward_scale: float,
    ) -> None:
        probability = _in_range("large_portion_probability", large_portion_probability, 0, 1)
        if probability.shape != (2,):
            raise ValueError(
                "large_portion_probability must hold two numbers in [0, 1], one for each of Squatch and Norm, "
                f"got {large_portion_probability!r}"
            )
        threshold = _in_range("hungry_above", hungry_above, 0, 1)
        if threshold.shape != ():
            raise ValueError(f"hungry_above must be one number in [0, 1], got {hungry_above!r}")
        if not isinstance(reward_scheme, str) or reward_scheme not in REWARD_SCHEMES:
            raise ValueError(f"reward_scheme must be one of {REWARD_SCHEMES}, got {reward_scheme!r}")
        scale = _number("reward_scale", reward_scale, "one finite number above 0")
        if scale.shape != () or not 0 < scale < math.inf:
            raise ValueError(f"reward_scale must be one finite number above 0, got {reward_scale!r}")
        self.large_portion_probability = probability
        # Rounded once, to the precision of hunger: then "0.1 is not above 0.1", for a scalar as for an array.
        self.hungry_above = float(np.float32(threshold))
        self.reward_scheme = reward_scheme
        self.reward_scale = float(scale)

    def judge(self, hunger: Float, large: Bool) -> tuple[Bool, Float]:
        """What an order is worth, by the rules above.

        Args:
            hunger: float32 in [0, 1], a scalar or [N].
            large: Whether it was large, of the same shape.

        Returns:
            hungry (bool) and reward (float64), each of the same shape.
        """
        hungry = is_hungry(hunger, self.hungry_above)
        reward = reward_of(large, hungry, self.reward_scale)
        if self.reward_scheme == "graded":
            reward = reward * significance(hunger, self.hungry_above)
        return hungry, reward


def _checked_render_mode(render_mode: str | None) -> str | None:
    if render_mode is not None and render_mode not in RestaurantEnv.metadata["render_modes"]:
        modes = RestaurantEnv.metadata["render_modes"]
        raise ValueError(f"render_mode must be None or one of {modes}, got {render_mode!r}")
    return render_mode


def _checked_autoreset_mode(autoreset_mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(autoreset_mode)
    except ValueError:
        modes = [mode.value for mode in AutoresetMode]
        raise ValueError(f"autoreset_mode must be one of {modes}, got {autoreset_mode!r}") from None


def _observation_space() -> gym.Space[NDArray[np.float32]]:
    return gym.spaces.Box(0.0, 1.0, (1,), np.float32)


class RestaurantEnv(gym.Env[NDArray[np.float32], "int | np.integer[Any]"]):
    """Go for fries to one of two places, without knowing how large the order will be.

    ## Description
    Hungry or not, we go for fries to Squatch's Fry Shack or to Norm's Fry Hut. Squatch seldom serves a large
    order, Norm mostly does. Nobody knows beforehand which place is right: only the order, once served, shows
    whether it suits the hunger. This is the environment of StatQuest's lesson on policy gradients.

    ## Action space
    `Discrete(2)`

    | Action | Place | Probability of a large order (default) |
    |---|---|---|
    | 0 | Squatch's Fry Shack | 0.15 |
    | 1 | Norm's Fry Hut | 0.80 |

    ## Observation space
    `Box(0.0, 1.0, (1,), float32)`

    | Index | Observation | Min | Max |
    |---|---|---|---|
    | 0 | Hunger | 0 (not hungry) | 1 (very hungry) |

    ## Reward
    `+reward_scale` for a large order when hungry or a small one when not, `-reward_scale` otherwise. Hungry means
    hunger strictly above `hungry_above`. With `reward_scheme="graded"` the reward is doubled if hunger is
    further than 0.25 from `hungry_above`, where the outcome is more significant.

    ## Starting state
    Hunger is drawn uniformly from [0, 1) at each reset. `reset(options={"hunger": 0.3})` forces it.

    ## Episode end
    Every visit terminates the episode; there is no truncation.

    ## Info
    `step` returns `large_portion` (bool: what was served) and `hungry` (bool); `reset` returns an empty one.

    ## Arguments
    | Argument | Type | Default | Meaning |
    |---|---|---|---|
    | `render_mode` | str or None | None | `"ansi"` a line, `"rgb_array"` a picture, `"human"` by Gymnasium's wrapper |
    | `large_portion_probability` | two floats in [0, 1] | (0.15, 0.80) | by action |
    | `hungry_above` | float in [0, 1] | 0.5 | threshold of being hungry |
    | `reward_scheme` | "binary" or "graded" | "binary" | graded doubles significant rewards |
    | `reward_scale` | float above 0 | 1.0 | size of the smaller reward |

    ## Vectorized environment
    `gym.make_vec("Restaurant-v0", num_envs=N)` gives `RestaurantVectorEnv`, which takes `autoreset_mode` as well.

    ## Version history
    * v0: first version.

    Source: StatQuest, "Reinforcement Learning with Neural Networks" (2025).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 -- Gymnasium declares it so
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 1,
    }

    def __init__(
        self,
        render_mode: str | None = None,
        large_portion_probability: Sequence[float] = (0.15, 0.80),
        hungry_above: float = 0.5,
        reward_scheme: str = "binary",
        reward_scale: float = 1.0,
    ) -> None:
        self.settings = _Settings(large_portion_probability, hungry_above, reward_scheme, reward_scale)
        self.render_mode = _checked_render_mode(render_mode)
        self.observation_space = _observation_space()
        self.action_space = gym.spaces.Discrete(2)
        self._hunger: np.float32 | None = None
        self._visit: rendering.Visit | None = None  # None while nothing has been served

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start a visit.

        Args:
            seed: Seed of the environment's generator; None keeps the current one.
            options: `{"hunger": x}` forces the hunger to x in [0, 1].

        Returns:
            The observation, float32 [1], and an empty info.

        Raises:
            TypeError, ValueError: If the forced hunger is not one number in [0, 1].
        """
        forced = None
        if options and "hunger" in options:
            forced = _in_range("hunger", options["hunger"], 0, 1)
            if forced.size != 1:
                raise ValueError(f"hunger must be one number in [0, 1], got {options['hunger']!r}")
        super().reset(seed=seed)
        self._hunger = np.float32(self.np_random.random(dtype=np.float32) if forced is None else forced.item())
        self._visit = None
        return np.array([self._hunger], np.float32), {}

    def step(self, action: int | np.integer[Any]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Order at the place of `action`; the visit ends.

        Args:
            action: 0 (Squatch) or 1 (Norm), a Python or NumPy integer.

        Returns:
            Observation (float32 [1], unchanged), reward (float), True, False, and the info.

        Raises:
            ValueError: If the action is not in the space.
            gymnasium.error.ResetNeeded: If no visit has been started.
        """
        if isinstance(action, bool) or not self.action_space.contains(action):  # True is an int, but a mask in NumPy
            raise ValueError(f"action must be 0 (Squatch) or 1 (Norm), in {self.action_space}, got {action!r}")
        if self._hunger is None or self._visit is not None:
            raise gym.error.ResetNeeded("Restaurant-v0 lasts one visit: call reset() before each step()")
        large = serves_large(self.np_random.random(), self.settings.large_portion_probability[action])
        hungry, reward = self.settings.judge(self._hunger, large)
        self._visit = rendering.Visit(int(action), bool(large), float(reward))
        observation = np.array([self._hunger], np.float32)
        return observation, float(reward), True, False, {"large_portion": bool(large), "hungry": bool(hungry)}

    def render(self) -> Any:
        """The current visit: a line of text (ansi), a picture uint8 [H, W, 3] (rgb_array), else None."""
        if self.render_mode is None:
            gym.logger.warn('Restaurant-v0 has no render_mode: pass render_mode="rgb_array" or "ansi" to gym.make')
            return None
        if self._hunger is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        return _render(self.render_mode, self._hunger, self._visit, self.settings)


class _LastVisits(NamedTuple):
    """What the vector environment remembers of the last step so that it can be drawn; each [N]."""

    hunger: NDArray[np.float32]
    action: NDArray[np.integer[Any]]
    large: NDArray[np.bool_]
    reward: NDArray[np.float64]
    shown: NDArray[np.bool_]


class RestaurantVectorEnv(gym.vector.VectorEnv[NDArray[np.float32], NDArray[np.integer[Any]], NDArray[Any]]):
    """Many restaurants at once, in NumPy, by the rules of `RestaurantEnv`.

    Spaces, rewards and settings are those of `RestaurantEnv`, batched: observations float32 [N, 1], actions integer
    [N], rewards float64 [N], terminated and truncated bool [N].

    What `step` does after a visit depends on `autoreset_mode`:

    | Mode | `step` returns | then |
    |---|---|---|
    | SAME_STEP (default) | the next visit's hunger, and the last one's in `final_obs` [N, 1] | `step` |
    | NEXT_STEP | the visit's own hunger | `step` ignores its actions, returns the next hunger and reward 0 |
    | DISABLED | the visit's own hunger | `reset(options={"reset_mask": mask})` |

    The infos are those of `RestaurantEnv`, batched with masks as Gymnasium does: `large_portion` and `hungry`, in
    SAME_STEP within `final_info`.

    `reset(options={"hunger": x})` forces the hunger of all environments, or of each with an array [N].

    Args:
        num_envs: Number of environments N, at least 1.
        render_mode: None, "ansi" or "rgb_array"; `render` returns a tuple of N.
        large_portion_probability: See `RestaurantEnv`; so are the following three.
        hungry_above: In [0, 1].
        reward_scheme: "binary" or "graded".
        reward_scale: Above 0.
        autoreset_mode: Member of `gymnasium.vector.AutoresetMode`, or its value ("SameStep", ...), which keeps
            `spec.to_json()` working.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 -- Gymnasium declares it so
        **RestaurantEnv.metadata,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        large_portion_probability: Sequence[float] = (0.15, 0.80),
        hungry_above: float = 0.5,
        reward_scheme: str = "binary",
        reward_scale: float = 1.0,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ValueError(f"num_envs must be an integer of at least 1, got {num_envs!r}")
        self.settings = _Settings(large_portion_probability, hungry_above, reward_scheme, reward_scale)
        self.render_mode = _checked_render_mode(render_mode)
        self.num_envs = int(num_envs)
        self.autoreset_mode = _checked_autoreset_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = _observation_space()
        self.single_action_space = gym.spaces.Discrete(2)
        self._hunger: NDArray[np.float32] | None = None  # [N]
        self._visited = np.zeros(self.num_envs, np.bool_)  # [N]: served, and not yet reset
        self._last: _LastVisits | None = None  # kept for render() only

    @cached_property
    def observation_space(self) -> gym.Space[Any]:  # type: ignore[override]
        """Of all environments at once; made on first use, since it takes more memory than the environments."""
        return batch_space(self.single_observation_space, self.num_envs)

    @cached_property
    def action_space(self) -> gym.Space[Any]:  # type: ignore[override]
        """Of all environments at once; made on first use."""
        return batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start a visit in every environment, or in those of `options["reset_mask"]`.

        Args:
            seed: Seed of the one generator that all environments share; None keeps the current one.
            options: `"hunger"`: a number in [0, 1] or an array [N] of them. `"reset_mask"`: bool [N], at least one
                True; the other environments keep their state.

        Returns:
            Observations, float32 [N, 1], and an empty info.

        Raises:
            TypeError, ValueError: If an option has the wrong type, shape or range.
        """
        options = options or {}
        mask = self._checked_mask(options.get("reset_mask"))
        forced = self._checked_hunger(options["hunger"]) if "hunger" in options else None
        if self._hunger is None and not mask.all():
            raise gym.error.ResetNeeded("the first reset() must reset every environment")
        super().reset(seed=seed)
        fresh = self.np_random.random(self.num_envs, np.float32) if forced is None else forced
        self._hunger = fresh if self._hunger is None else np.where(mask, fresh, self._hunger)
        self._visited = self._visited & ~mask
        if self._last is not None:
            self._last.shown[mask] = False
        return self._observation(), {}

    def step(
        self, actions: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Order in every environment; see the class for what follows a visit.

        Args:
            actions: Integers in {0, 1}, [N].

        Returns:
            Observations [N, 1], rewards [N], terminated [N], truncated [N] and infos.

        Raises:
            ValueError: If an action is not in the space; the message names environment and value.
            gymnasium.error.ResetNeeded: If a visit has not been started.
        """
        actions = self._checked_actions(actions)
        if self._hunger is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        serving = ~self._visited  # [N]
        if self.autoreset_mode is AutoresetMode.DISABLED and not serving.all():
            raise gym.error.ResetNeeded(
                'autoreset is disabled: call reset(options={"reset_mask": mask}) for the environments whose visit '
                f"has ended, here {np.flatnonzero(self._visited).tolist()}"
            )
        hunger, large = self._hunger, self._orders(actions)
        hungry, reward = self.settings.judge(hunger, large)
        if self.render_mode is not None:
            self._last = _LastVisits(hunger.copy(), actions.copy(), large, reward.copy(), serving.copy())
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._hunger = self.np_random.random(self.num_envs, np.float32)
            infos: dict[str, Any] = {
                "final_obs": hunger[:, None],  # no copy needed: the state is a new array
                "_final_obs": serving.copy(),
                "final_info": _visit_info(large, hungry, serving),
                "_final_info": serving.copy(),
            }
        else:
            self._visited = serving.copy()
            infos = _visit_info(large, hungry, serving) if serving.any() else {}
            if not serving.all():  # NEXT_STEP: ended visits start again, with a reward of 0
                reward = np.where(serving, reward, 0.0)
                self._hunger = np.where(serving, hunger, self.np_random.random(self.num_envs, np.float32))
        return self._observation(), reward, serving, np.zeros(self.num_envs, np.bool_), infos

    def render(self) -> tuple[Any, ...] | None:
        """What `RestaurantEnv.render` gives, for each environment; in SAME_STEP the visit that has just ended."""
        if self.render_mode is None:
            gym.logger.warn('Restaurant-v0 has no render_mode: pass render_mode="rgb_array" or "ansi" to make_vec')
            return None
        if self._hunger is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        return tuple(self._render_one(index) for index in range(self.num_envs))

    def _orders(self, actions: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Draw whether each order is large, [N]."""
        draw = self.np_random.random(self.num_envs)
        squatch, norm = self.settings.large_portion_probability
        to_norm: NDArray[np.bool_] = actions == int(Restaurant.NORM)  # the IntEnum itself takes five times as long
        large: NDArray[np.bool_] = (to_norm & serves_large(draw, norm)) | (~to_norm & serves_large(draw, squatch))
        return large  # np.where takes many times as long on random masks

    def _render_one(self, index: int) -> Any:
        last = self._last
        if last is not None and last.shown[index]:
            visit = rendering.Visit(int(last.action[index]), bool(last.large[index]), float(last.reward[index]))
            return _render(self.render_mode, last.hunger[index], visit, self.settings)
        assert self._hunger is not None
        return _render(self.render_mode, self._hunger[index], None, self.settings)

    def _observation(self) -> NDArray[np.float32]:
        assert self._hunger is not None
        return self._hunger[:, None].copy()  # [N, 1]; a copy, so that no caller holds the state

    def _checked_actions(self, actions: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        actions = _array(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"actions must be integers of shape ({self.num_envs},), got {actions.dtype} of shape {actions.shape}"
            )
        if np.bitwise_or.reduce(actions) >> 1:  # any bit but the last; negative numbers have one too
            index = int(np.flatnonzero((actions < 0) | (actions > 1))[0])
            raise ValueError(
                f"actions must be 0 (Squatch) or 1 (Norm), in {self.action_space}, "
                f"got {actions[index]} for environment {index}"
            )
        return actions

    def _checked_mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(f"reset_mask must be a boolean array of shape ({self.num_envs},), got {mask!r}")
        if not mask.any():
            raise ValueError(f"reset_mask must have at least one True, got {mask!r}")
        return mask

    def _checked_hunger(self, hunger: Any) -> NDArray[np.float32]:
        forced = _in_range("hunger", hunger, 0, 1)
        if forced.shape not in ((), (self.num_envs,)):
            raise ValueError(f"hunger must be one number in [0, 1] or {self.num_envs} of them, got {hunger!r}")
        return np.full(self.num_envs, forced, np.float32)


def _visit_info(
    large: NDArray[np.bool_], hungry: NDArray[np.bool_], mask: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    """The info of `RestaurantEnv.step`, batched as Gymnasium does: a key, and a mask of where it is set."""
    return {
        "large_portion": large & mask,
        "_large_portion": mask.copy(),
        "hungry": hungry & mask,
        "_hungry": mask.copy(),
    }


def _render(mode: str | None, hunger: np.float32, visit: rendering.Visit | None, settings: _Settings) -> Any:
    if mode == "ansi":
        return rendering.visit_text(float(hunger), visit, settings.hungry_above)
    probability = settings.large_portion_probability
    return rendering.visit_picture(float(hunger), visit, settings.hungry_above, (probability[0], probability[1]))
