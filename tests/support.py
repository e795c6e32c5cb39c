"""What several test files share: an environment with a ledger, policies, and ways to run and stop things."""

import contextlib
import gc
import importlib
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from pgtorch.policies import Policy

ROOT = Path(__file__).parents[1]
MODES = list(AutoresetMode)
ENDS = {
    "terminated": ["terminated"],
    "truncated": ["truncated"],
    "both": ["both"],
    "all three": ["terminated", "truncated", "both"],
}


class CountingEnv(gym.Env):
    """Episode e of environment `index` lasts 1 + (index + e) % 3 steps; the reward of a step is its own number.

    The observation is [index, episode, step]. The ledger has one entry (observation, action, reward) for each real
    step, `episodes` the return and length of each episode that ended. `ends` says how episodes end: the environments
    start at different places of it and move on after every third episode.
    """

    observation_space = gym.spaces.Box(-1.0, 1e6, (3,), np.float32)
    action_space = gym.spaces.Discrete(5)

    def __init__(self, index=0, ends=("terminated",)):
        self.index, self.ends = index, ends
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
        way = self.ends[(self.index + self.episode // 3) % len(self.ends)] if ended else ""
        return self._observation(), reward, way in ("terminated", "both"), way in ("truncated", "both"), {}

    def _observation(self):
        return np.array([self.index, self.episode, self.at], np.float32)


def counting(mode, num_envs, ends=("terminated",)):
    """A vector of counting environments."""
    makers = [lambda index=index: CountingEnv(index, ends) for index in range(num_envs)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


class RandomPolicy(Policy):
    """Uniform over five actions, by a distribution of torch's own."""

    def distribution(self, observation):
        return torch.distributions.Categorical(logits=torch.zeros(*observation.shape[:-1], 5))


def seeded(seed=0):
    """A torch generator."""
    return torch.Generator().manual_seed(seed)


def stop_after(updates):
    """A `should_stop` that says so after this many updates."""
    asked = itertools.count()
    return lambda: next(asked) >= updates


def disturb_global_streams():
    """Put the global generators where another process might have them."""
    random.seed(99)
    torch.manual_seed(99)
    torch.rand(7)
    np.random.seed(99)  # noqa: NPY002 -- the global one is meant


def numpy_stream():
    """The state of NumPy's global generator, in a form that can be compared."""
    name, key, *rest = np.random.get_state()  # noqa: NPY002 -- the global one is meant
    return name, key.tolist(), rest


HOST = {
    "torch's global stream": lambda: torch.get_rng_state().tolist(),
    "numpy's global stream": numpy_stream,
    "python's global stream": random.getstate,
    "torch's threads": torch.get_num_threads,
    "warning filters": lambda: list(warnings.filters),
    "signal handlers": lambda: {number: signal.getsignal(number) for number in signal.valid_signals()},
    "garbage collector": lambda: (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold(), gc.get_debug()),
}
"""What belongs to the process that calls a library, each with a function that reads it."""


def leaves(value, path=""):
    """Every number of nested state, by path, in a form in which equal means equal to the last bit."""
    if isinstance(value, dict):
        parts = [leaves(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [{f"{path}.length": len(value)}, *(leaves(item, f"{path}[{i}]") for i, item in enumerate(value))]
    elif isinstance(value, torch.Tensor):
        return {path: (str(value.dtype), list(value.shape), value.detach().contiguous().numpy().tobytes())}
    else:
        return {path: repr(value)}
    return {name: leaf for part in parts for name, leaf in part.items()}


def run_script(name, *arguments, cwd, **environment):
    """Run a script as a user does, in a process of its own."""
    return run_python(ROOT / "scripts" / name, *arguments, cwd=cwd, env={**os.environ, **environment})


def run_python(*arguments, timeout=110, **settings):
    """Run Python in a process of its own, and give what it wrote and how it ended."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, **settings)


def call(command, *words, cwd):
    """Call a command in this process, far faster than in its own: enough for flags and messages.

    Returns:
        Exit status, stdout and stderr. The signal handlers are put back.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, error = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = importlib.import_module(f"pgtorch.commands.{command}").main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return status, out.getvalue(), error.getvalue()
