"""A run that stopped, or was killed, and continues: nothing may tell it from one that never stopped."""

import itertools
import json
import math
import shutil
import types
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import own
import pytest
from support import call, disturb_global_streams, leaves, run_python, stop_after
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from pgtorch import BiasPolicy, CheckpointError, SetupError, TrainConfig, resume, train
from pgtorch.record.checkpoint import checkpoints, read_checkpoint, read_newest
from pgtorch.record.evaluation import play_episodes
from pgtorch.record.metrics import read_metrics
from pgtorch.record.tensorboard import BIAS, MEAN_RETURN, is_shown
from pgtorch.record.trained_run import TrainedRun

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's reader

LESSON = "restaurant_env:Restaurant-v0"
SMALL = {"num_envs": 2, "num_steps": 8, "num_updates": 20, "hidden_sizes": (4,), "check_gradient": 4}
SMALL |= {"num_epochs": 1, "num_minibatches": 1}
OWN = {"num_envs": 2, "num_steps": 8, "num_updates": 20}
LAST, KILLED_AT, EVERY = 20, 13, 5  # checkpoints at 5 and 10; the updates 11 to 13 are on disk, and must go
EVALUATED = {"evaluate_every": 3, "evaluation_episodes": 4}  # a best policy may be found at 12, and must go
CASES = {
    "lesson": (LESSON, {"num_updates": 20}),
    "restaurants": (LESSON, {"num_envs": 5, "num_steps": 3, "num_updates": 20}),
    "next step": (LESSON, {"num_envs": 3, "num_updates": 20, "env_kwargs": {"autoreset_mode": "NextStep"}}),
    "disabled": (LESSON, {"num_envs": 3, "num_updates": 20, "env_kwargs": {"autoreset_mode": "Disabled"}}),
    "cart": ("CartPole-v1", SMALL),
    "carts one by one": ("CartPole-v1", {**SMALL, "vectorization": "sync"}),
    "cart, plain": ("CartPole-v1", {**SMALL, "normalize_observations": False, "normalize_rewards": False}),
    "pendulum": ("Pendulum-v1", SMALL),
    "several passes": ("Acrobot-v1", {**SMALL, "num_epochs": 3, "num_minibatches": 4}),
    "lake": ("FrozenLake-v1", SMALL),
    "restaurants, evaluated": (LESSON, {"num_envs": 2, "num_updates": 20, **EVALUATED}),
    "cart, evaluated": ("CartPole-v1", {**SMALL, **EVALUATED}),
    "images": ("Dot-v0", {**SMALL, "check_gradient": None, "env_kwargs": {"shape": [5, 5, 1]}}),
    "own policy": ("CartPole-v1", {**OWN, "policy": "own:Actor", "policy_kwargs": {"units": 3}}),
    "own values": ("CartPole-v1", {**OWN, "policy": "own:ActorCritic", "num_epochs": 2}),
    "restaurants one by one": (LESSON, {"num_envs": 2, "num_updates": 20, "vectorization": "sync"}),
}


def config_of(case, folder, **settings):
    env_id, own = CASES[case]
    return TrainConfig(
        env_id, run_dir=folder, **{"seed": 3, "pictures": False, "checkpoint_every": EVERY, **own, **settings}
    )


def without_folder(config):
    return {name: value for name, value in config.items() if name != "run_dir"}


def different(folder, other):
    """Where two runs differ, a path each; an empty list if no bit does."""
    contents = [read_newest(run)[1] for run in (folder, other)]
    ours, theirs = (
        leaves({**content["trainer"], "config": without_folder(content["config"]), "best": content["best"]})
        for content in contents
    )
    paths = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    return paths + ["metrics.jsonl"] * (
        (folder / "metrics.jsonl").read_bytes() != (other / "metrics.jsonl").read_bytes()
    )


def scalars(folder):
    """All scalars of all event files, read record by record: (tag, step), as often as it occurs."""
    found = []
    for path in sorted(folder.glob("events.*")):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            found += [(v.tag, event.step) for v in event.summary.value if v.HasField("simple_value")]
    return sorted(found)


def of_lines(folder):
    """The scalars that there should be, by `metrics.jsonl`."""
    counts = {"update", "env_steps"}
    lines = read_metrics(folder)
    tags = [(tag, line["env_steps"]) for line in lines for tag in line.keys() - counts]
    speeds = [("time/env_steps_per_second", line["env_steps"]) for line in lines]
    shown = [line for line in lines if is_shown(line["update"]) or line is lines[-1]]
    way = [(BIAS, step) for step in (0, *(line["env_steps"] for line in shown)) if "policy/bias" in lines[0]]
    first = next((line["update"] for line in lines if "rollout/episode_return" in line), math.inf)
    means = [(MEAN_RETURN, line["env_steps"]) for line in shown if line["update"] >= first]
    return sorted(tags + speeds + way + means)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Runs that never stopped, by case; each is played once."""
    played = {}

    def run(case, **settings):
        key = case, tuple(settings.items())
        if key not in played:
            played[key] = train(config_of(case, tmp_path_factory.mktemp("straight") / "run", **settings))
        return played[key]

    return run


KILL = """
import os, signal, sys
import pgtorch.record.metrics
from pgtorch import TrainConfig, train
from pathlib import Path
import json
import math

pgtorch.record.metrics.FLUSH_SECONDS = -1.0  # every update reaches the files at once
last = int(sys.argv[1])

def kill(update, figures):
    if update == last:
        os.kill(os.getpid(), signal.SIGKILL)

for settings in json.loads(sys.argv[2]):
    child = os.fork()
    if child == 0:
        train(TrainConfig(**settings), callback=kill)
    status = os.waitpid(child, 0)[1]
    assert status == signal.SIGKILL, status
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders of runs that were killed (signal 9) after update 13, by case."""
    folders = {case: tmp_path_factory.mktemp("killed") / "run" for case in CASES}
    settings = [config_of(case, folder).to_dict() for case, folder in folders.items()]
    script = f"import sys; sys.path.append({str(Path(own.__file__).parent)!r}); import own\n{KILL}"
    done = run_python("-c", script, KILLED_AT, json.dumps(settings))
    assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("case", CASES)
def test_killed_and_resumed_is_never_stopped(tmp_path, killed, straight, case):
    folder = shutil.copytree(killed[case], tmp_path / "copy")
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-000000010.pt", "checkpoint-000000005.pt"]
    assert len(read_metrics(folder)) == KILLED_AT
    assert max(step for _, step in scalars(folder)) == read_metrics(folder)[-1]["env_steps"]
    with (folder / "metrics.jsonl").open("a") as lines:
        lines.write('{"update": 14, "env')  # as a line torn by the kill
    disturb_global_streams()
    result = resume(folder)
    assert different(folder, straight(case).run_dir) == []
    assert result.summary == straight(case).summary
    assert scalars(folder) == of_lines(folder)  # each step once, none missing


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_is_never_stopped(tmp_path, straight, case):
    result = train(config_of(case, tmp_path), should_stop=stop_after(8))
    if "evaluated" not in case:  # which is asked more often, and stops within an evaluation
        assert (result.num_updates, len(read_metrics(tmp_path))) == (8, 8)
    disturb_global_streams()
    assert resume(tmp_path).num_updates == LAST
    assert different(tmp_path, straight(case).run_dir) == []
    assert scalars(tmp_path) == of_lines(tmp_path)


def test_resuming_again_and_again(tmp_path, straight):
    train(config_of("cart", tmp_path), should_stop=stop_after(4))
    for updates in (3, 1, 6):
        disturb_global_streams()
        resume(tmp_path, should_stop=stop_after(updates))
    assert resume(tmp_path).num_updates == LAST
    assert different(tmp_path, straight("cart").run_dir) == []
    assert scalars(tmp_path) == of_lines(tmp_path)


def test_a_resumed_run_that_ends_before_its_first_checkpoint(tmp_path, straight):
    """It leaves a file of events that no checkpoint knows."""

    def fail(update, figures):
        raise RuntimeError("power cut")

    train(config_of("cart", tmp_path), should_stop=stop_after(8))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="power cut"):
            resume(tmp_path, callback=fail)
        assert len(read_metrics(tmp_path)) == 9
    resume(tmp_path)
    assert different(tmp_path, straight("cart").run_dir) == []
    assert scalars(tmp_path) == of_lines(tmp_path)


@pytest.mark.parametrize("case", ["lesson", "cart"])
def test_more_updates_can_be_asked_for(tmp_path, straight, case):
    train(config_of(case, tmp_path, num_updates=12, learning_rate_schedule="constant"))
    assert resume(tmp_path, num_updates=LAST).num_updates == LAST
    assert different(tmp_path, straight(case, learning_rate_schedule="constant").run_dir) == []
    assert json.loads((tmp_path / "config.json").read_text())["config"]["num_updates"] == LAST


def test_a_finished_run_stays_as_it_is(tmp_path, straight):
    train(config_of("cart", tmp_path))
    assert resume(tmp_path).num_updates == LAST
    assert different(tmp_path, straight("cart").run_dir) == []
    with pytest.raises(SetupError, match="num_updates must be at least 20, the number done, got 19"):
        resume(tmp_path, num_updates=19)


def test_the_target_counts_episodes_before_the_stop(tmp_path):
    settings = {"num_updates": 400, "target_return": 0.5}
    assert 100 < train(config_of("lesson", tmp_path / "straight", **settings)).num_updates < 400
    train(config_of("lesson", tmp_path / "resumed", **settings), should_stop=stop_after(90))
    resume(tmp_path / "resumed")
    assert different(tmp_path / "resumed", tmp_path / "straight") == []


def test_stopped_before_the_first_update(tmp_path, straight):
    """A signal may come while the run is being set up."""
    assert train(config_of("cart", tmp_path), should_stop=lambda: True).num_updates == 0
    assert resume(tmp_path).num_updates == LAST
    assert different(tmp_path, straight("cart").run_dir) == []


def test_scripts_resume_in_a_process_of_their_own(run_script, tmp_path, straight):
    for case in ("lesson", "cart"):
        train(config_of(case, tmp_path / case), should_stop=stop_after(8))
        done = run_script("train.py", "--resume", tmp_path / case, cwd=tmp_path, PYTHONHASHSEED="7")
        assert done.returncode == 0, done.stderr
        assert different(tmp_path / case, straight(case).run_dir) == []


def test_tensorboard_sees_each_step_once(tmp_path):
    """Also if a run left several event files."""
    train(config_of("lesson", tmp_path), should_stop=stop_after(7))
    resume(tmp_path, should_stop=stop_after(6))
    resume(tmp_path)
    assert len(list(tmp_path.glob("events.*"))) == 3
    seen = EventAccumulator(str(tmp_path), size_guidance={SCALARS: 0}).Reload()
    biases = [(line["env_steps"], line["policy/bias"]) for line in read_metrics(tmp_path)]
    assert [(scalar.step, scalar.value) for scalar in seen.Scalars("policy/bias")] == biases
    assert len(biases) == LAST


def test_events_of_a_killed_run_can_be_read(killed, tmp_path):
    """Also if the kill tore the last record."""
    folder = tmp_path / "copy"
    folder.mkdir()
    (path,) = killed["next step"].glob("events.*")
    data = path.read_bytes()
    for torn in (data[:-3], data[:-30]):
        (folder / path.name).write_bytes(torn)
        seen = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
        assert len(seen.Scalars("policy/bias")) >= 10


def damage(path):
    """Zero the second half of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def test_goes_back_if_the_newest_checkpoint_is_damaged(tmp_path, straight):
    train(config_of("cart", tmp_path), should_stop=stop_after(13))
    newest, older = checkpoints(tmp_path)
    assert (newest.name, older.name) == ("checkpoint-000000013.pt", "checkpoint-000000010.pt")
    damage(newest)
    with pytest.warns(UserWarning, match=r"checkpoint-000000013\.pt .*; going back to checkpoint-000000010\.pt"):
        resume(tmp_path, should_stop=stop_after(1))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-000000011.pt", "checkpoint-000000010.pt"]
    resume(tmp_path)
    assert different(tmp_path, straight("cart").run_dir) == []
    assert scalars(tmp_path) == of_lines(tmp_path)


def test_no_checkpoint_is_whole(tmp_path):
    train(config_of("lesson", tmp_path))
    for path in checkpoints(tmp_path):
        damage(path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"checkpoint-000000020\.pt .*checkpoint-000000015\.pt "):
        resume(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_record_that_lost_its_last_line_is_continued_from_an_older_checkpoint(tmp_path, straight):
    """Else the record would continue with a gap."""
    train(config_of("lesson", tmp_path), should_stop=stop_after(8))
    lines = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(lines[:-1])
    message = rf"metrics\.jsonl must hold at least the {len(lines)} bytes .*; going back to checkpoint-000000005\.pt"
    with pytest.warns(UserWarning, match=message):
        resume(tmp_path)
    assert different(tmp_path, straight("lesson").run_dir) == []
    assert scalars(tmp_path) == of_lines(tmp_path)


@pytest.mark.parametrize("lines", [b"", None])
def test_the_record_must_be_there(tmp_path, lines):
    train(config_of("lesson", tmp_path), should_stop=stop_after(8))
    if lines is None:
        (tmp_path / "metrics.jsonl").unlink()
    else:
        (tmp_path / "metrics.jsonl").write_bytes(lines)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl must hold at least .* bytes .*metrics\.jsonl must hold"):
        resume(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# What the loop around the trainer does with a state that cannot be put back; more in record/test_trainer_state.py.


class Opaque(gym.Env):
    """A random walk that holds an open file."""

    observation_space = gym.spaces.Box(-100.0, 100.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        self.file = open("/dev/null")  # noqa: SIM115 -- held on purpose
        self.begin()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.normal()
        return np.array([self.at], np.float32), {}

    def step(self, action):
        self.change()
        self.at += 2 * int(action) - 1
        return np.array([self.at], np.float32), self.at, abs(self.at) > 5, False, {}

    def begin(self):
        """Before the first step."""

    def change(self):
        """In each step."""

    def close(self):
        self.file.close()


class Clear(Opaque):
    """The same random walk, without the file."""

    def __init__(self):
        self.begin()

    def close(self):
        """Nothing to close."""


class Growing(Clear):
    """Objects come into being, and an attribute too: a fresh environment has nothing to put their state into."""

    def begin(self):
        self.foes = []

    def change(self):
        self.foes.append(types.SimpleNamespace(at=self.at))
        self.late = self.at


class Changing(Clear):
    """An object of another class takes the place of the first."""

    def begin(self):
        self.mode = types.SimpleNamespace(pace=1)

    def change(self):
        self.mode = Pace()


class Pace:
    """Nothing but its attributes."""


class Choosing(Clear):
    """A function takes the place of another."""

    def begin(self):
        self.rule = len

    def change(self):
        self.rule = abs


for kind in (Opaque, Growing, Changing, Choosing):
    gym.register(f"{kind.__name__}-v0", kind, max_episode_steps=30, disable_env_checker=True)


def test_new_episodes_begin_if_the_environment_cannot_give_its_state(tmp_path):
    """Once for each resumption; the record goes on as if nothing had happened."""
    train(TrainConfig("Opaque-v0", run_dir=tmp_path, pictures=False, seed=3, **SMALL), should_stop=stop_after(8))
    message = r"Opaque-v0 cannot save its state, .*file is a _io.TextIOWrapper.*new episodes begin"
    with pytest.warns(UserWarning, match=message):
        resume(tmp_path, should_stop=stop_after(0))
    assert not read_newest(tmp_path)[1]["trainer"]["collector"]["episodes"]["length"].any()
    with pytest.warns(UserWarning, match="new episodes begin"):
        assert resume(tmp_path).num_updates == LAST
    assert [line["update"] for line in read_metrics(tmp_path)] == list(range(1, LAST + 1))
    assert scalars(tmp_path) == of_lines(tmp_path)


@pytest.mark.parametrize("kind", ["Growing", "Changing", "Choosing"])
def test_a_state_that_cannot_be_put_back_does_not_end_a_run(tmp_path, kind):
    """That such an environment cannot save its state shows late; the policy is whole all the same."""
    train(TrainConfig(f"{kind}-v0", run_dir=tmp_path, pictures=False, seed=3, **SMALL), should_stop=stop_after(8))
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        assert resume(tmp_path).num_updates == LAST
    assert all("new episodes begin" in str(warning.message) for warning in given)


# What only watches changes nothing.


@pytest.mark.parametrize("case", ["restaurants", "cart"])
def test_watching_and_saving_change_nothing(tmp_path, case):
    ends = []
    for number, (every, check) in enumerate(itertools.product((0, 1, 7), (0, 1))):
        settings = {"checkpoint_every": every, "check_gradient": check, "pictures": number == 0}
        result = train(config_of(case, tmp_path / str(number), **settings))
        ends.append(leaves(read_newest(result.run_dir)[1]["trainer"]))
    assert all(end == ends[0] for end in ends)


def test_evaluating_between_updates_changes_nothing(tmp_path, straight):
    config, policy = config_of("lesson", tmp_path), BiasPolicy()

    def watch(update, figures):
        play_episodes(TrainedRun(config=config, policy=policy), 3, greedy=False, seed=update)

    train(config, policy=policy, callback=watch)
    assert different(tmp_path, straight("lesson").run_dir) == []


# Folders that hold no run.


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    train(config_of("lesson", tmp_path / "run", num_updates=9))
    (tmp_path / "young").mkdir()  # killed before its first checkpoint
    (tmp_path / "young" / "config.json").write_text((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "young" / "metrics.jsonl").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--resume missing", "'missing'"),
        ("--resume file", "'file'"),
        ("--resume", "--resume"),
        ("--resume run --num-updates 8", "num_updates must be at least 9"),
        ("--resume run --seed 3", "--seed"),
    ],
)
def test_what_cannot_be_resumed_is_said_in_one_line(folders, flags, named):
    def everything():
        return {path: path.read_bytes() for path in folders.rglob("*") if path.is_file()}

    before = everything()
    status, out, error = call("train", *flags.split(), cwd=folders)
    assert (status, out) == (2, "")
    assert len(error.splitlines()) == 1, error
    assert named in error
    assert everything() == before


def test_a_damaged_run_is_named_in_one_line(run_script, folders):
    for path in checkpoints(folders / "run"):
        damage(path)
    done = run_script("train.py", "--resume", "run", cwd=folders)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "checkpoint-000000009.pt" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\0b", "must be a folder that this run may write to"),
        ("x" * 300, "must be a folder that this run may write to"),
        ("", "resume must be the folder of a run with a checkpoint, got '.'"),
        ("empty", "resume must be the folder of a run with a checkpoint"),
        ("young", "resume must be the folder of a run with a checkpoint"),
    ],
)
def test_refuses_what_is_no_run(folders, monkeypatch, name, message):
    monkeypatch.chdir(folders / "empty")
    with pytest.raises(SetupError, match=message):
        resume(folders / name if name in ("empty", "young") else name)
    assert not list((folders / "empty").iterdir())


@pytest.mark.parametrize("number", [0, -1])
def test_refuses_a_number_of_updates_that_is_none(folders, number):
    with pytest.raises(SetupError, match="num_updates must be at least"):
        resume(folders / "run", num_updates=number)


def test_reads_what_it_wrote(tmp_path):
    """A checkpoint is plain types and tensors, and nothing of the folder's name: a run can be moved."""
    train(config_of("cart", tmp_path / "here"), should_stop=stop_after(8))
    (tmp_path / "here").rename(tmp_path / "there")
    assert resume(tmp_path / "there").run_dir == tmp_path / "there"
    assert read_checkpoint(checkpoints(tmp_path / "there")[0])["trainer"]["num_updates"] == LAST
