"""Ctrl-C, SIGTERM and kills, sent at any moment to train.py as a user starts it."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgtorch import resume
from pgtorch.record.checkpoint import checkpoints, read_newest
from pgtorch.record.metrics import read_metrics

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
SECONDS = 5.0  # within which a run must have ended
ENDLESS = "--num-updates 100000 --no-pictures"
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
SLOW = '''
"""An environment whose steps take a second each, and that may take as long to make."""

import time

import gymnasium as gym
import numpy as np


class Slow(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, seconds=1.0, building=0.0):
        self.seconds = seconds
        open("building", "w").close()
        time.sleep(building)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        time.sleep(self.seconds)
        return np.zeros(1, np.float32), 1.0, False, False, {}


gym.register("Slow-v0", Slow, max_episode_steps=5)
'''


class Started:
    """A running train.py, in a session of its own."""

    def __init__(self, folder, flags):
        (folder / "slow.py").write_text(SLOW)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.run = folder / "run"
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--run-dir", str(self.run), *flags.split()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, what, seconds=60):
        """Wait until something is true."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"not within {seconds} s"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def has_trained(self):
        return self.run.exists() and any(path.stat().st_size for path in self.run.glob("metrics.jsonl"))

    def handles_signals(self):
        """Whether a handler of SIGTERM is set; before, Python itself has not started."""
        (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return bool(int(caught, 16) & 1 << signal.SIGTERM - 1)

    def is_importing(self):
        """Whether NumPy is there, which comes before torch."""
        return "_multiarray_umath" in Path(f"/proc/{self.process.pid}/maps").read_text()

    def end(self, number, *, group=False):
        """Send a signal; return the exit status once the process has ended."""
        start = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        self.out, self.err = self.process.communicate(timeout=60)
        self.took = time.monotonic() - start
        return self.process.returncode

    def left(self):
        """Processes of its session that are still alive after a moment."""
        end = time.monotonic() + 3
        while (alive := self._alive()) and time.monotonic() < end:
            time.sleep(0.05)
        return alive

    def _alive(self):
        alive = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    alive.append((path / "cmdline").read_text())
        return alive


@pytest.fixture
def start(tmp_path):
    """Starts train.py with flags; what is left of it is killed in the end."""
    started = []

    def run(flags, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        started.append(Started(folder, flags))
        return started[-1]

    yield run
    for script in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.process.pid, signal.SIGKILL)
        script.process.communicate(timeout=60)


def goes_on(run, updates):
    """The run can be resumed, and its metrics lack no update."""
    before = read_newest(run)[1]["trainer"]["num_updates"]
    assert len(read_metrics(run)) == before
    result = resume(run, num_updates=before + updates)
    assert result.num_updates == before + updates
    assert [line["update"] for line in read_metrics(run)] == list(range(1, before + updates + 1))


@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
def test_while_it_trains(start, number):
    script = start(ENDLESS + (" --env-id CartPole-v1 --num-envs 2" if number == signal.SIGINT else ""))
    script.wait_for(script.has_trained)
    assert script.end(number) == STATUS[number], script.err
    assert script.took < SECONDS
    assert "Traceback" not in script.err
    assert f"--resume {script.run}" in script.out
    assert read_newest(script.run)[1]["trainer"]["num_updates"] > 0
    assert not list(script.run.glob(".*"))
    goes_on(script.run, 3)


@pytest.mark.parametrize("number", STATUS, ids=lambda number: number.name)
def test_while_it_is_imported(start, number):
    script = start(ENDLESS)
    script.wait_for(script.handles_signals)
    script.wait_for(script.is_importing)
    assert script.end(number) == STATUS[number], script.err
    assert script.took < 1.0
    assert (script.out, script.err) == ("", "")
    assert not script.run.exists()


def test_while_it_is_set_up(start, tmp_path):
    script = start('--env-id slow:Slow-v0 --num-envs 1 --env-kwargs {"seconds":0,"building":0.5} --no-pictures')
    script.wait_for((tmp_path / "building").exists)
    assert script.end(signal.SIGTERM) == 143, script.err
    assert script.took < SECONDS
    assert "Traceback" not in script.err
    if script.run.exists():
        assert read_newest(script.run)[1]["trainer"]["num_updates"] == 0


@pytest.mark.parametrize("number", STATUS)
def test_while_an_environment_hangs_in_its_constructor(start, tmp_path, number):
    script = start('--env-id slow:Slow-v0 --num-envs 1 --env-kwargs {"building":60.0} --no-pictures')
    script.wait_for((tmp_path / "building").exists)
    assert script.end(number) == STATUS[number], script.err
    assert script.took < SECONDS
    assert not script.run.exists()


def any_moment(start, folder, begun, moment, number):
    """Send a signal to a run that would end by itself after some two seconds, a moment after it has begun."""
    script = start("--num-updates 1500 --checkpoint-every 100", folder)
    script.wait_for(lambda: begun(script))
    time.sleep(moment)
    status = script.end(number)
    assert status in (0, STATUS[number]), (moment, script.err)
    assert script.took < SECONDS
    assert "Traceback" not in script.err
    assert "Error" not in script.err
    if checkpoints(script.run):
        assert read_newest(script.run)[1]["trainer"]["num_updates"] == len(read_metrics(script.run))
        return True
    assert not script.run.exists() or status == STATUS[number]
    return False


CHANCE = random.Random(5)
MOMENTS = [(Started.handles_signals, CHANCE.uniform(0.0, 4.0)) for _ in range(10)]
MOMENTS += [(Started.has_trained, CHANCE.uniform(0.0, 1.0)) for _ in range(10)]


@pytest.mark.parametrize("moment", [0.8, 1.2, 1.8])
def test_at_a_moment(start, tmp_path, moment):
    any_moment(start, tmp_path, Started.handles_signals, moment, signal.SIGTERM)


@pytest.mark.long
def test_at_twenty_moments(start, tmp_path):
    saved = 0
    for i, (begun, moment) in enumerate(MOMENTS):
        saved += any_moment(start, tmp_path / str(i), begun, moment, list(STATUS)[i % 2])
    assert saved > 5


def test_a_second_signal_leaves_at_once(start):
    flags = '--env-id slow:Slow-v0 --env-kwargs {"seconds":3} --num-envs 1 --num-steps 8 --no-pictures'
    script = start(flags + " --check-gradient 0")
    script.wait_for(script.run.exists)
    time.sleep(0.5)
    script.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert script.process.poll() is None  # in the middle of a long update
    assert script.end(signal.SIGTERM) == 143
    assert script.took < 1.0
    assert "Traceback" not in script.err


@pytest.mark.parametrize("group", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_environments_in_other_processes_end_too(start, group):
    """Ctrl-C goes to all of them, SIGTERM to the first only."""
    script = start(f"{ENDLESS} --env-id CartPole-v1 --vectorization async --num-envs 2 --num-steps 4")
    script.wait_for(script.has_trained)
    assert len(script._alive()) >= 3
    assert script.end(signal.SIGINT if group else signal.SIGTERM, group=group) == (130 if group else 143), script.err
    assert script.took < SECONDS
    assert "Traceback" not in script.err
    assert read_newest(script.run)[1]["trainer"]["num_updates"] == len(read_metrics(script.run))
    assert script.left() == []


def test_a_kill_leaves_no_process_behind(start):
    script = start(
        f"{ENDLESS} --env-id CartPole-v1 --vectorization async --num-envs 3 --num-steps 4 --checkpoint-every 5"
    )
    script.wait_for(lambda: script.has_trained() and checkpoints(script.run))
    assert script.end(signal.SIGKILL) == -9
    assert script.left() == []
    assert read_newest(script.run)[1]["trainer"]["num_updates"] % 5 == 0


FAILING = """
import os

import gymnasium as gym
import numpy as np


class Failing(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 23:
            raise KeyError("the lamp is out")
        return np.zeros(1, np.float32), 1.0, False, False, {}

    def close(self):
        print("closed", flush=True)


gym.register("Failing-v0", Failing, max_episode_steps=5)
"""


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_environment_that_raises(start, tmp_path, mode):
    (tmp_path / "failing.py").write_text(FAILING)
    flags = f"--env-id failing:Failing-v0 --num-envs 2 --num-steps 2 --check-gradient 0 --vectorization {mode}"
    script = start(f"{flags} --no-pictures --checkpoint-every 5 --num-updates 50")
    script.out, script.err = script.process.communicate(timeout=60)
    assert script.process.returncode == 1
    assert "the lamp is out" in script.err
    assert script.out.count("closed") >= 2  # Gymnasium makes one more to look at
    assert read_newest(script.run)[1]["trainer"]["num_updates"] in (5, 10)
    assert len(read_metrics(script.run)) % 5 > 0  # the updates since then are there as well
    assert script.left() == []
