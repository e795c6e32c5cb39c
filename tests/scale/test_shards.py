"""Many processes: real torchrun, real kills. A run's numbers depend on its shards, never on its processes."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support import ROOT, CountingEnv, RandomPolicy, call, leaves, seeded, stop_after

from pgtorch import TrainConfig, resume, train
from pgtorch.record.checkpoint import CheckpointError, checkpoints, read_newest
from pgtorch.record.metrics import read_metrics
from pgtorch.record.trainer_state import put_trainer_state, take_trainer_state
from pgtorch.rollout import RolloutCollector, Shard
from pgtorch.trainer import Trainer

CARTS = {"num_envs": 8, "num_steps": 8, "num_epochs": 2, "num_minibatches": 3, "entropy_coefficient": 0.01}
CARTS |= {"check_gradient": 1, "num_updates": 12, "checkpoint_every": 3, "pictures": False}
ODD = """
import os
import random

import gymnasium as gym
import numpy as np


class Odd(gym.Env):
    '''Draws from the global streams; on one rank it may fail.'''

    observation_space = gym.spaces.Box(-10.0, 10.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, rank=None):
        self.fails = rank is not None and os.environ.get("RANK") == str(rank)
        self.offset = random.random()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.array([np.random.rand()], np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.fails and self.steps == 5:
            raise KeyError("the lamp is out")
        return np.array([random.random()], np.float32), self.offset + np.random.rand(), False, False, {}


gym.register("Odd-v0", Odd, max_episode_steps=7)
"""


def flags(folder, **settings):
    words = ["--run-dir", str(folder)]
    for name, value in settings.items():
        flag = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def torchrun(cwd, words, *, processes=2, launch=("--standalone",), prefix=()):
    """Start train.py by torchrun, in a session of its own."""
    command = [*prefix, sys.executable, "-m", "torch.distributed.run", *launch, "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*command, str(ROOT / "scripts" / "train.py"), *words],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(cwd)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process, timeout=110):
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()  # its workers notice, and end
        raise
    return process.returncode, out, err


def same(one, other):
    """Whether two runs wrote the same metrics and ended with the same parameters."""
    hashes = {json.loads((folder / "config.json").read_text())["hash"] for folder in (one, other)}
    return len(hashes) == 1 and (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def workers(torchrun_pid):
    """The processes that torchrun has started, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) == torchrun_pid:
                rank = re.search(rb"\0RANK=(\d+)", (path / "environ").read_bytes())
                if rank and b"train.py" in (path / "cmdline").read_bytes():
                    found[int(rank[1])] = int(path.name)
    return found


# One process, several shards


def test_one_shard_is_what_a_run_without_shards_is(tmp_path):
    alone = train(TrainConfig("CartPole-v1", **CARTS, run_dir=tmp_path / "alone"))
    one = train(TrainConfig("CartPole-v1", **CARTS, num_shards=1, run_dir=tmp_path / "one"))
    four = train(TrainConfig("CartPole-v1", **CARTS, num_shards=4, run_dir=tmp_path / "four"))
    assert alone.hash == one.hash != four.hash
    assert alone.config.num_shards == 1


def test_the_shards_share_no_random_numbers():
    """Whatever an environment draws from: its seed, the global streams, the policy's noise."""
    trainer = Trainer(TrainConfig("CartPole-v1", **CARTS, num_shards=4))
    trainer.update()
    first = trainer.collector.rollout.observation[0].numpy()
    assert len(np.unique(first.round(6), axis=0)) == 8
    seeds = [
        Shard(lambda: gym.make_vec("CartPole-v1", 2), seed, number).seed() for seed in (0, 1) for number in range(4)
    ]
    assert len(set(seeds)) == 8
    assert max(seeds) < 2**31


def test_a_rollout_has_the_shards_side_by_side_and_episodes_count_once():
    trainer = Trainer(TrainConfig("CartPole-v1", **CARTS, num_shards=4, normalize_observations=False))
    before = [shard.stepper.observation.copy() for shard in trainer.shards]
    trainer.update()
    rollout = trainer.collector.rollout
    assert np.array_equal(rollout.observation[0].numpy(), np.concatenate(before))
    after = np.concatenate([shard.stepper.observation for shard in trainer.shards])
    assert np.array_equal(rollout.observation[-1].numpy(), after)
    steps = int(rollout.valid.sum())
    assert trainer.num_env_steps == steps
    assert len(trainer.collector.episodes.length) == 8
    assert trainer.collector.episodes.length.sum() <= steps


def test_final_observations_stay_with_their_environments():
    """CountingEnv says in each observation which environment it is."""
    shards = [Shard(lambda first=first: counting_from(first), 0, first // 2) for first in (0, 2)]
    collector = RolloutCollector(shards, num_steps=12)
    rollout = collector.collect(RandomPolicy(), seeded())
    who = [environment for _, environments, final in rollout.final for environment in environments.tolist()]
    seen = [row[0].item() for _, _, final in rollout.final for row in final]
    assert who == seen
    assert set(who) == {0, 1, 2, 3}
    assert rollout.observation[0, :, 0].tolist() == [0, 1, 2, 3]
    ended = [(t, n) for t, n in (rollout.terminated | rollout.truncated).nonzero().tolist()]
    returns = dict.fromkeys(range(4), 0.0)
    expected = []
    for t in range(12):
        for n in range(4):
            returns[n] += rollout.reward[t, n].item()
            if (t, n) in ended:
                expected.append(returns.pop(n))
                returns[n] = 0.0
    assert list(collector.episodes.recent) == expected


def counting_from(first):
    """Two counting environments, the first of that number."""
    makers = [lambda index=index: CountingEnv(index, ["truncated"]) for index in (first, first + 1)]
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)


def test_the_whole_update_is_that_of_the_reference(tmp_path):
    result = train(TrainConfig("CartPole-v1", **CARTS, num_shards=4, check_update=3, run_dir=tmp_path / "run"))
    assert result.num_updates == 12


def test_stopping_and_resuming_changes_nothing(tmp_path):
    config = TrainConfig("CartPole-v1", **CARTS, num_shards=4, run_dir=tmp_path / "whole")
    whole = train(config)
    stopped = TrainConfig("CartPole-v1", **CARTS, num_shards=4, run_dir=tmp_path / "stopped")
    train(stopped, should_stop=stop_after(5))
    assert resume(tmp_path / "stopped").hash == whole.hash


@pytest.mark.parametrize("part", ["generator", "stepper", "streams", "environment"])
def test_each_part_of_a_shard_is_restored(part):
    config = TrainConfig("CartPole-v1", **CARTS, num_shards=2)
    first, fresh = Trainer(config), Trainer(config)
    for _ in range(3):
        first.update()
    state = take_trainer_state(first)
    put_trainer_state(fresh, state)
    assert leaves(take_trainer_state(fresh)) == leaves(state)
    del state["shards"][0][part]
    with pytest.raises(CheckpointError, match=r"trainer\.shards\[0\] must have the keys of a shard"):
        put_trainer_state(Trainer(config), state)


@pytest.mark.parametrize("shards", [[], [{}, {}], None, [None]])
def test_states_of_other_shards_are_refused(shards):
    trainer = Trainer(TrainConfig("CartPole-v1", **CARTS, num_shards=2))
    with pytest.raises(CheckpointError, match=r"trainer\.shards"):
        put_trainer_state(trainer, take_trainer_state(trainer) | {"shards": shards})


def test_shards_that_do_not_divide_the_environments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_envs must be a multiple of num_shards, got 16 and 3"):
        TrainConfig("FrozenLake-v1", num_shards=3)
    status, _, error = call("train", "--num-shards", 2, cwd=tmp_path)
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert "num_envs must be a multiple of num_shards, got 1 and 2" in error


# Two processes


def test_two_processes_write_what_one_does(tmp_path):
    """An environment that draws from all global streams; one process has four shards, two processes two each.

    Rank 0 alone evaluates.
    """
    (tmp_path / "odd.py").write_text(ODD)
    settings = {**CARTS, "env_id": "odd:Odd-v0", "num_shards": 4, "target_return": 1e6}
    settings |= {"evaluate_every": 5, "evaluation_episodes": 2}
    process = torchrun(tmp_path, flags("two", **settings))
    alone = [sys.executable, str(ROOT / "scripts" / "train.py"), *flags("one", **settings)]
    subprocess.run(alone, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    status, out, err = ended(process)
    assert status == 0, err
    assert same(tmp_path / "one", tmp_path / "two")
    assert json.loads((tmp_path / "two" / "config.json").read_text())["config"]["num_shards"] == 4
    assert "2   4 environments each, in shards of 2; rank 0 learns and writes" in out
    assert out.count("run folder") == 1


@pytest.mark.long
def test_a_module_that_registers_the_environment_is_imported_by_all(tmp_path):
    """Its name is not in the settings, so each process of a resumed run needs `--allow-import`."""
    (tmp_path / "odd.py").write_text(ODD)
    script = "import odd; from pgtorch.commands.train import main; main()"
    first = [sys.executable, "-c", script, *flags("run", **CARTS, env_id="Odd-v0", num_shards=2)]
    subprocess.run(first, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    words = ["--resume", "run", "--num-updates", "15"]
    status, _, err = ended(torchrun(tmp_path, [*words, "--allow-import", "odd"]))
    assert status == 0, err
    assert len(read_metrics(tmp_path / "run")) == 15


def test_a_killed_process_is_started_again_and_nothing_changes(tmp_path):
    """Then the run, of two processes, goes on in one."""
    train(TrainConfig("CartPole-v1", **(CARTS | {"num_updates": 60}), num_shards=2, run_dir=tmp_path / "whole"))
    settings = {**CARTS, "env_id": "CartPole-v1", "num_shards": 2, "num_updates": 60}
    process = torchrun(tmp_path, flags("run", **settings), launch=("--standalone", "--max-restarts", "2"))
    end = time.monotonic() + 60
    while not checkpoints(tmp_path / "run"):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(workers(process.pid)[1], signal.SIGKILL)
    status, _, err = ended(process)
    assert status == 0, err
    assert "rank 1 was lost, says rank 0" in err
    assert same(tmp_path / "whole", tmp_path / "run")
    for folder in ("whole", "run"):
        resume(tmp_path / folder, num_updates=70)
    assert same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.long
def test_an_environment_that_raises_on_one_rank_ends_all(tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    settings = {**CARTS, "env_id": "odd:Odd-v0", "env_kwargs": '{"rank": 1}', "check_gradient": 0}
    status, _, err = ended(torchrun(tmp_path, flags("run", **settings)))
    assert status == 1
    lines = err.split("pgtorch: error: rank 1 on")[1:]  # without buffers, two processes may write into one line
    assert len(lines) == 2, err
    assert all("KeyError: 'the lamp is out'" in line and "odd.py, line" in line for line in lines)


@pytest.mark.long
def test_what_does_not_fit_is_refused_by_all(tmp_path):
    status, _, err = ended(torchrun(tmp_path, flags("run", env_id="CartPole-v1", num_shards=1)))
    assert status == 1
    assert err.count("num_shards must be a multiple of the number of processes, got 1 and 2") == 2
    assert len(re.findall(r"exitcode +: 2 ", err)) == 2
    assert not (tmp_path / "run").exists()


# Longer


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("env_id", ["restaurant_env:Restaurant-v0", "LunarLander-v3"])
def test_one_two_and_four_processes_write_the_same(tmp_path, env_id):
    settings = CARTS | {"env_id": env_id, "num_shards": 4}
    for processes in (1, 2, 4):
        status, _, err = ended(torchrun(tmp_path, flags(processes, **settings), processes=processes))
        assert status == 0, err
        assert same(tmp_path / "1", tmp_path / str(processes))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("named", [True, False])
def test_kills_at_twenty_moments(tmp_path, named):
    settings = {**CARTS, "env_id": "CartPole-v1", "num_shards": 2, "num_updates": 100, "checkpoint_every": 10}
    train(TrainConfig(**(settings | {"run_dir": tmp_path / "whole"})))
    chance = random.Random(7)
    for i in range(10):
        folder = tmp_path / str(i)
        folder.mkdir()
        words = flags("run", **settings)[0 if named else 2 :]
        process = torchrun(folder, words, launch=("--standalone", "--max-restarts", "3"))
        while len(workers(process.pid)) < 2:
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 6.0))
        victim = workers(process.pid).get(chance.randrange(2))
        if victim:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        status, _, err = ended(process, timeout=200)
        assert status == 0, err
        (run,) = [folder / "run"] if named else [path for path in (folder / "runs").iterdir() if checkpoints(path)]
        assert same(tmp_path / "whole", run)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name
)
def test_without_restarts_all_leave(tmp_path, number):
    """A lost process is named; a request to stop, here to one process only, saves once."""
    settings = {**CARTS, "env_id": "CartPole-v1", "num_updates": 10**6, "checkpoint_every": 0}
    process = torchrun(tmp_path, flags("run", **settings))
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").stat().st_size:
        time.sleep(0.05)
    found, start = workers(process.pid), time.monotonic()
    os.kill(found[1], number)
    status, out, err = ended(process)
    assert status == 1
    assert time.monotonic() - start < 60
    assert not any(Path(f"/proc/{pid}").exists() for pid in found.values())
    if number in (signal.SIGKILL, signal.SIGSTOP):
        assert "rank 1 was lost" in err
    else:
        assert "stopped early" in out
        assert len(checkpoints(tmp_path / "run")) == 1
        assert read_newest(tmp_path / "run")[1]["trainer"]["num_updates"] == len(read_metrics(tmp_path / "run"))


NAMESPACES = """
ip netns add pg1; ip netns add pg2
ip link add pgv1 netns pg1 type veth peer name pgv2 netns pg2
ip -n pg1 addr add 10.77.0.1/24 dev pgv1; ip -n pg2 addr add 10.77.0.2/24 dev pgv2
for n in 1 2; do ip -n pg$n link set lo up; ip -n pg$n link set pgv$n up; done
"""


@pytest.fixture
def two_machines():
    """Two network namespaces, as good as two machines."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and ip")
    try:
        subprocess.run(["sh", "-ec", NAMESPACES], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["sh", "-c", "ip netns del pg1; ip netns del pg2"], check=False, capture_output=True)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", [None, 0, 3])
def test_two_machines(tmp_path, two_machines, victim):
    """Two processes on each; rank 0 alone writes. A process is killed, on the first machine or the second."""
    settings = {**CARTS, "env_id": "CartPole-v1", "num_shards": 4, "num_updates": 100}
    train(TrainConfig(**(settings | {"run_dir": tmp_path / "alone"})))
    jobs = []
    for n in (1, 2):
        (tmp_path / str(n)).mkdir()
        launch = "--nnodes 2 --max-restarts 2 --rdzv-id 1 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29400 "
        launch += f"--local-addr 10.77.0.{n} --rdzv-conf is_host={int(n == 1)}"
        prefix = ["ip", "netns", "exec", f"pg{n}"]
        jobs.append(torchrun(tmp_path / str(n), flags("run", **settings), launch=launch.split(), prefix=prefix))
    if victim is not None:
        while not checkpoints(tmp_path / "1" / "run"):
            time.sleep(0.02)
        os.kill((workers(jobs[0].pid) | workers(jobs[1].pid))[victim], signal.SIGKILL)
    for job in jobs:
        status, _, err = ended(job, timeout=200)
        assert status == 0, err
    assert same(tmp_path / "alone", tmp_path / "1" / "run")
    assert not (tmp_path / "2" / "run").exists()
