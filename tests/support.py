"""An environment whose every step can be told from what it returns, with a ledger of what really happened."""

import gymnasium as gym
import numpy as np


class CountingEnv(gym.Env):
    """Episode e of environment `index` lasts 1 + (index + e) % 3 steps; the reward of a step is its own number.

    The observation is [index, episode, step]; the ledger has one entry (observation, action, reward) a real step.
    """

    def __init__(self, index=0, truncate=False):
        self.observation_space = gym.spaces.Box(-1.0, 1e6, (3,), np.float32)
        self.action_space = gym.spaces.Discrete(5)
        self.index, self.truncate = index, truncate
        self.episode, self.ledger, self.episodes = -1, [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.at = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action):
        reward = 100.0 * self.index + 10.0 * self.episode + self.at + 1.0
        self.ledger.append((self._observation().tolist(), int(action), reward))
        self.at += 1
        ended = self.at == 1 + (self.index + self.episode) % 3
        if ended:
            last = [entry[2] for entry in self.ledger[-self.at :]]
            self.episodes.append((sum(last), self.at))
        return self._observation(), reward, ended and not self.truncate, ended and self.truncate, {}

    def _observation(self):
        return np.array([self.index, self.episode, self.at], np.float32)
