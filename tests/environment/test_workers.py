"""Environments in other processes: their errors are told, none is waited for without end, none outlives its parent."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from pgtorch import resume
from pgtorch.record.checkpoint import read_newest
from pgtorch.record.metrics import read_metrics

MODULE = '''
"""An environment that fails at step 7 of its first worker, in a way that a variable names."""

import ctypes, os, random, signal, sys, time

import gymnasium as gym
import numpy as np
import torch


class Strange(Exception):
    """Cannot be made from a message."""

    def __init__(self, place, time):
        super().__init__(place, time)


class Failing(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    first, steps = False, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.first = self.first if seed is None else seed % 2 == 0
        if os.environ["WAY"] == "hangs at once" and self.first:
            time.sleep(1000)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        reward, way = 1.0, os.environ["WAY"]
        if way == "draws":
            reward = random.random() + np.random.rand() + torch.rand(()).item()
        if self.steps != 7 or not self.first:
            return np.zeros(1, np.float32), reward, False, False, {}
        open("at step 7", "w").close()
        if way == "raises":
            raise KeyError("the lamp is out")
        if way == "strange":
            raise Strange("here", 3)
        if way == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "exits":
            os._exit(3)
        if way == "leaves":
            sys.exit(0)
        if way == "hangs":
            time.sleep(1000)
        if way == "slow":
            time.sleep(0.5)
        while way == "spins":
            pass
        if way == "blocks":
            ctypes.PyDLL(None).sleep(1000)  # without letting any other thread run
        if way == "four":
            return np.zeros(1, np.float32), 0.0, False, {}
        if way == "info":
            return np.zeros(1, np.float32), 0.0, False, False, None
        if way == "shape":
            return np.zeros(2, np.float32), 0.0, False, False, {}
        return np.zeros(1, np.float32), reward, False, False, {}

    def close(self):
        if os.environ["WAY"] == "does not close" and self.first:
            time.sleep(1000)


gym.register("Failing-v0", Failing, max_episode_steps=4, disable_env_checker=True)
'''

# Runs pieces of code, each in a process of its own that is forked from one that has imported everything.
PROGRAM = """
import contextlib, gc, json, multiprocessing, os, signal, sys, threading, time
from pathlib import Path

import numpy as np

from pgtorch.environment import workers

workers.STOP_SECONDS, workers.CLOSE_SECONDS = 1.0, 2.0


def make(step_timeout=60.0):
    env = workers.make_async("failing:Failing-v0", 2, {}, step_timeout=step_timeout)
    Path("workers").write_text(json.dumps([process.pid for process in env.env.processes]))
    return env


def steps(env, number):
    return [env.step([0, 0])[1].tolist() for _ in range(number)]


def to_step_7(env):
    env.reset(seed=0)
    steps(env, 7)  # one of them reset
    env.env.step_async(np.array([0, 0]))
    while not Path("at step 7").exists():
        time.sleep(0.01)


def at_once(name, way, code):
    Path(name).mkdir()
    os.chdir(name)
    os.environ["WAY"] = way
    os.dup2(os.open("printed", os.O_WRONLY | os.O_CREAT), 2)
    try:
        exec(code, globals())
    except Exception as error:
        told = " ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        Path("told").write_text(told)


running = 0
for name, (way, code) in json.loads(sys.argv[1]).items():
    if running == 3:
        os.wait()
        running -= 1
    running += 1
    if os.fork() == 0:
        at_once(name, way, code)
        sys.exit(0)
with contextlib.suppress(ChildProcessError):
    while True:
        os.wait()
"""

ERRORS = {
    "raises": r"^KeyError: 'the lamp is out' raised by Failing-v0 at step 7$",
    "dies": r"^ConnectionError: a worker process of the environment died",
    "exits": r"^ConnectionError: a worker process of the environment died",
    "leaves": r"^ContractError: sys.exit\(0\) was called by Failing-v0 at step 7",
    "four": r"^ContractError: the returned value must be a tuple .*, got tuple .* at step 7",
    "hangs": r"^TimeoutError: a worker did not answer a step within 1 s",
    "hangs at once": r"^TimeoutError: a worker did not answer a reset within 1 s",
    "spins": r"^TimeoutError: a worker did not answer a step within 1 s",
    "shape": r"^ContractError: observation must be in Box.* got float32 \(2,\).* at step 7",
    "strange": r"Strange",
    "info": r"^ContractError: info must be a dict, got NoneType None, of Failing-v0 at step 7",
}
PLAY = """
env = make(1.0 if os.environ["WAY"] in ("hangs", "hangs at once", "spins") else 60.0)
try:
    env.reset(seed=0)
    steps(env, 20)
finally:
    if os.environ["WAY"] != "does not close":
        workers.CLOSE_SECONDS = 40.0  # so that waiting for lost workers shows, on a busy machine too
    start = time.monotonic()
    env.close()
    Path("took").write_text(str(time.monotonic() - start))
"""
ENDINGS = {  # what becomes of the parent, while its first worker is in step 7
    "killed": "env = make(); to_step_7(env); os.kill(os.getpid(), signal.SIGKILL)",
    "left at once": "env = make(); to_step_7(env); os._exit(3)",
    "not closed": "env = make(); to_step_7(env); sys.exit(3)",
    "forgotten": "env = make(); to_step_7(env); del env; gc.collect(); "
    "Path('children').write_text(str(len(multiprocessing.active_children())))",
    "made by a thread": "made = []; thread = threading.Thread(target=lambda: made.append(make())); thread.start(); "
    "thread.join(); to_step_7(made[0]); Path('reached').touch(); os.kill(os.getpid(), signal.SIGKILL)",
}
ENDED = [(ending, "hangs") for ending in ENDINGS]
ENDED += [("killed", "works"), ("killed", "blocks"), ("not closed", "blocks"), ("made by a thread", "spins")]
INTERRUPT = "env = make(); env.should_stop = lambda: True; env.reset(seed=0)\n"
COUNT = "Path('steps').write_text(str(len(steps(env, 20)))); env.close()"
SIGNALS = """
env = make()
env.reset(seed=0)
for process in env.env.processes:
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)
"""
DRAWS = """
drawn = []
for seed in (1, 1, 2):
    env = make()
    env.reset(seed=seed)
    drawn.append(steps(env, 9))
    env.close()
Path("drawn").write_text(json.dumps(drawn))
"""
OTHERS = {
    "does not close": ("does not close", PLAY),
    "interrupted": ("hangs", INTERRUPT + "steps(env, 20)"),
    "is slow when interrupted": ("slow", INTERRUPT + COUNT),
    "gets signals": ("works", SIGNALS + COUNT),
    "draws": ("draws", DRAWS),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A folder with what came of each piece of code, by its name."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "failing.py").write_text(MODULE)
    pieces = {way: (way, PLAY) for way in ERRORS} | OTHERS
    pieces |= {f"{ending} {way}": (way, ENDINGS[ending]) for ending, way in ENDED}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", PROGRAM, json.dumps(pieces)]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=100)
    return folder


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def left(pids):
    """Those of some processes that are still alive a moment later."""
    end = time.monotonic() + 3
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return [pid for pid in pids if alive(pid)]


def workers_left(folder):
    return left(json.loads((folder / "workers").read_text()))


@pytest.mark.parametrize("way", ERRORS)
def test_an_error_in_another_process_is_told(played, way):
    assert re.search(ERRORS[way], (played / way / "told").read_text())
    assert float((played / way / "took").read_text()) < 20  # lost workers are not waited for
    assert workers_left(played / way) == []
    assert (played / way / "printed").read_text() == ""


@pytest.mark.parametrize(("ending", "way"), ENDED)
def test_no_worker_outlives_its_parent(played, ending, way):
    folder = played / f"{ending} {way}"
    assert (folder / "at step 7").exists()
    assert workers_left(folder) == []
    if ending == "forgotten":
        assert (folder / "children").read_text() == "0"  # while the parent was alive
    if ending == "made by a thread":
        assert (folder / "reached").exists()  # the thread's end does not end them


def test_an_environment_that_does_not_close_is_ended(played):
    assert not (played / "does not close" / "told").exists()
    assert float((played / "does not close" / "took").read_text()) >= 2.0
    assert workers_left(played / "does not close") == []


def test_a_worker_that_hangs_when_the_run_is_to_stop_is_not_waited_for(played):
    told = (played / "interrupted" / "told").read_text()
    assert told == "Interrupted: a worker did not answer a step after the run was asked to stop"
    assert (played / "is slow when interrupted" / "steps").read_text() == "20"


def test_workers_leave_signals_to_their_parent(played):
    assert (played / "gets signals" / "steps").read_text() == "20"


def test_global_streams_of_workers_are_seeded_with_the_environments(played):
    once, again, other = json.loads((played / "draws" / "drawn").read_text())
    assert once == again
    assert (
        len({reward for steps in (once, other) for step in steps for reward in step}) == 25
    )  # three seeds, 8 steps, 0 of a reset


FLAGS = (
    "--env-id failing:Failing-v0 --vectorization async --num-envs 2 --num-steps 2 --num-updates 100000 --no-pictures"
)


@pytest.fixture
def train_command(tmp_path):
    """Starts `pgtorch train` in a session of its own; what is left of it is killed in the end."""
    (tmp_path / "failing.py").write_text(MODULE)
    started = []

    def start(way):
        command = [sys.executable, "-m", "pgtorch", "train", *FLAGS.split(), "--run-dir", str(tmp_path / "run")]
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "WAY": way}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(("way", "group"), [("hangs", False), ("hangs", True), ("works", True)])
def test_a_signal_saves_the_run_whoever_gets_it(train_command, tmp_path, monkeypatch, way, group):
    """To the whole group, as systemd sends it, or while a worker hangs in update 4."""
    process = train_command(way)
    end = time.monotonic() + 60
    while not (tmp_path / "at step 7").exists():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(pids) == 2
    start = time.monotonic()
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert time.monotonic() - start < 5
    assert "Traceback" not in err
    assert f"--resume {tmp_path / 'run'}" in out
    assert left(pids) == []
    done = read_newest(tmp_path / "run")[1]["trainer"]["num_updates"]
    assert len(read_metrics(tmp_path / "run")) == done
    assert done == 3 if way == "hangs" else done >= 3
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WAY", "works")
    with warnings.catch_warnings(action="ignore"):  # new episodes begin
        assert resume(tmp_path / "run", num_updates=done + 2).num_updates == done + 2
