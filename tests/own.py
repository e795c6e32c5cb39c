"""What a user may bring: an environment of images, one whose observations lie far from 0, and policies."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from pgtorch.policies import Policy


class Dot(gym.Env):
    """A bright dot in a dark image: say whether it is in the right half."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape=(12, 12, 1)):
        self.observation_space = spaces.Box(0, 255, tuple(shape), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._image(), {}

    def step(self, action):
        reward = float(action == (self.column >= self.observation_space.shape[1] // 2))
        return self._image(), reward, True, False, {}

    def _image(self):
        image = np.zeros(self.observation_space.shape, np.uint8)
        row, self.column = self.np_random.integers(image.shape[:2])
        image[row, self.column] = 255
        return image


class Far(gym.Env):
    """The observation lies near 1,000, on one side or the other: say on which."""

    observation_space, action_space = spaces.Box(0.0, 2000.0, (1,), np.float64), spaces.Discrete(2, start=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.side = int(self.np_random.integers(2))
        return 999.0 + 2 * self.side + self.np_random.random(1) - 0.5, {}

    def step(self, action):
        reward = float(action == 3 + self.side)
        return self.reset()[0], reward, True, False, {}


for env_id, kind in (("Dot-v0", Dot), ("Far-v0", Far)):
    if env_id not in gym.registry:
        gym.register(env_id, kind)


class Actor(Policy):
    """A layer of tanh units, then logits, by a distribution of torch's own."""

    def __init__(self, observation_space, action_space, *, units=8):
        super().__init__()
        self.trunk = nn.Linear(spaces.flatdim(observation_space), units)
        self.actor = nn.Linear(units, int(action_space.n))
        self.critic = nn.Linear(units, 1)
        nn.init.zeros_(self.actor.weight)

    def distribution(self, observation):
        return torch.distributions.Categorical(logits=self.actor(self.trunk(observation).tanh()))


class ActorCritic(Actor):
    """The same units also serve a value function."""

    def value(self, observation):
        return self.critic(self.trunk(observation).tanh()).squeeze(-1)


class Column(Actor):
    """Its values have another shape than [B]."""

    def value(self, observation):
        return self.critic(self.trunk(observation))
