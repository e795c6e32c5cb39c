"""Environments in other processes: none is waited for without end."""

from __future__ import annotations

import multiprocessing
from typing import Any

import gymnasium as gym

STEP_SECONDS = 60.0  # longest that a worker may take for one step


class StepTimeout(gym.vector.VectorWrapper):
    """Does not wait for ever for environments in other processes: one that died or hangs ends the run, and itself."""

    env: gym.vector.AsyncVectorEnv

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._lost = False

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """A step, answered by every worker in time.

        Raises:
            ConnectionError, TimeoutError: Where one died, or gave no answer within `STEP_SECONDS`.
        """
        try:
            self.env.step_async(actions)
            return self.env.step_wait(timeout=STEP_SECONDS)
        except Exception as error:
            self._lost = True  # whatever it was: others may still be at work
            if isinstance(error, multiprocessing.TimeoutError):
                raise TimeoutError(f"a worker gave no answer to a step within {STEP_SECONDS:g} s") from error
            if isinstance(error, EOFError | ConnectionError):
                raise ConnectionError(f"a worker process of the environment died ({type(error).__name__})") from error
            raise

    def close(self, **kwargs: Any) -> None:
        """End the workers; by force where one of them was lost."""
        if not self._lost:
            self.env.close(**kwargs)
            return
        for process in self.env.processes:
            process.kill()
            process.join()
        self.env.closed = True
