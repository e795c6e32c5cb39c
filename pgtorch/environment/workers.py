"""Environments in other processes: waiting for them always ends, and none outlives the process that started it."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, VectorWrapper

from pgtorch.environment.checks import StepContract
from pgtorch.environment.streams import seed_global_streams

POLL_SECONDS = 0.2  # between checks whether to stop
STOP_SECONDS = 2.0  # for a worker to answer once the run is asked to stop
CLOSE_SECONDS = 3.0  # for all of them to close their environments
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


class Interrupted(RuntimeError):  # noqa: N818 -- a request, not an error
    """The run was asked to stop, and a worker does not answer."""


class StepTimeout(VectorWrapper):
    """Waits a limited time for environments in other processes. Once one is lost, all are, and `close` kills them.

    Args:
        env: The environments.
        seconds: Longest wait for the answers to one step or reset.

    Attributes:
        should_stop: Called while it waits. Once it returns True, a worker has `STOP_SECONDS` to answer.
    """

    env: AsyncVectorEnv

    def __init__(self, env: AsyncVectorEnv, seconds: float) -> None:
        super().__init__(env)
        self.should_stop: Callable[[], bool] = lambda: False
        self._seconds = seconds
        self._lost = False
        self._end = Finalize(self, _end, (env,), exitpriority=1)  # also if this is never closed

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """A step of every environment.

        Raises:
            ConnectionError: If a worker died.
            TimeoutError: If one did not answer in time.
            Interrupted: If one did not answer after `should_stop` returned True.
        """
        with self._losing():
            self.env.step_async(actions)
            self._wait_for_answers("step")
            return self.env.step_wait()

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A reset of every environment. Raises what `step` raises."""
        with self._losing():
            self.env.reset_async(seed=seed, options=options)
            self._wait_for_answers("reset")
            return self.env.reset_wait()

    def close(self, **kwargs: Any) -> None:
        """Close the environments and end the workers, by force if one does not answer."""
        if not self._lost and not self.env.closed:
            by_force = threading.Timer(CLOSE_SECONDS, _kill, [self.env])
            by_force.start()
            with suppress(EOFError, ConnectionError):  # from a worker that has died
                self.env.close(**kwargs)
            by_force.cancel()
        self._end()

    def _wait_for_answers(self, what: str) -> None:
        start, stopping = time.monotonic(), None
        for pipe in self.env.parent_pipes:
            while not pipe.poll(POLL_SECONDS):
                now = time.monotonic()
                if now - start > self._seconds:
                    raise TimeoutError(f"a worker did not answer a {what} within {self._seconds:g} s")
                if self.should_stop():
                    stopping = stopping or now
                    if now - stopping > STOP_SECONDS:
                        raise Interrupted(f"a worker did not answer a {what} after the run was asked to stop")

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """After any error all workers count as lost: some may still be busy."""
        level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1  # Gymnasium prints tracebacks
        try:
            yield
        except Exception as error:
            self._lost = True
            if isinstance(error, EOFError | ConnectionError):
                raise ConnectionError(f"a worker process of the environment died ({type(error).__name__})") from error
            original = error.args[0] if error.args else None  # Gymnasium wraps an error in another of its class
            if type(original) is type(error):
                raise original from None
            raise
        finally:
            gym.logger.min_level = level


def make_async(env_id: str, num_envs: int, env_kwargs: dict[str, Any], *, step_timeout: float) -> StepTimeout:
    """N environments, one process each.

    The global random streams of a process are seeded together with its environment.

    Args:
        env_id: Gymnasium id; `module:Id-v0` imports the module that registers it.
        num_envs: N.
        env_kwargs: Keyword arguments of the environment.
        step_timeout: Longest wait for one step, in seconds.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    make = functools.partial(_make, os.getpid(), in_main_thread, env_id, env_kwargs)
    env = AsyncVectorEnv([make] * num_envs)
    env.spec = gym.spec(env_id.rpartition(":")[2])  # its module has been imported
    return StepTimeout(env, step_timeout)


def _make(owner: int, in_main_thread: bool, env_id: str, env_kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    """One environment: a worker's, or the one that Gymnasium makes in the owner's process to inspect."""
    if os.getpid() == owner:
        return StepContract(gym.make(env_id, **env_kwargs))
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group, they are meant for the owner
        signal.signal(number, lambda *_: None)
    if sys.platform == "linux" and in_main_thread:  # else the signal would come when the forking thread ends
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return _OwnStreams(StepContract(gym.make(env_id, **env_kwargs)))


def _end_with_parent() -> None:
    """For other systems, and for a parent that died before the death signal was set."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _kill(env: AsyncVectorEnv) -> None:
    for process in env.processes:
        process.kill()


def _end(env: AsyncVectorEnv) -> None:
    _kill(env)
    for process in env.processes:
        process.join()
    env.closed = True


class _OwnStreams(gym.Wrapper[Any, Any, Any, Any]):
    """Seeds the global random streams of its process together with the environment."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            seed_global_streams(seed)
        return self.env.reset(seed=seed, options=options)
