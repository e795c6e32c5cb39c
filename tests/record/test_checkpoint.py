import os
import pickle
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pgtorch import CheckpointError, Policy, TrainConfig, Trainer, resume, train
from pgtorch.record.checkpoint import checkpoints, load_run, read_checkpoint, read_newest, save_checkpoint
from pgtorch.environment.state import take_state

LESSON = "restaurant_env:Restaurant-v0"
SHORT = {"num_updates": 3, "pictures": False}
CART = {"hidden_sizes": (4,), "num_envs": 2, "num_steps": 4, "vectorization": "sync", **SHORT}


def leaves(value, path=""):
    """Every number of nested state, by path, in a form in which equal means equal to the last bit."""
    if isinstance(value, dict):
        parts = [leaves(item, f"{path}.{key}") for key, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [{f"{path}.length": len(value)}, *(leaves(item, f"{path}[{i}]") for i, item in enumerate(value))]
    elif isinstance(value, torch.Tensor):
        return {path: (str(value.dtype), list(value.shape), value.detach().numpy().tobytes())}
    else:
        return {path: repr(value)}
    return {name: leaf for part in parts for name, leaf in part.items()}


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# A whole run.


def test_a_run_is_loaded_as_it_ended(tmp_path):
    for number, env_id in enumerate(["restaurant_env:Restaurant-v0", "CartPole-v1"]):
        result = train(TrainConfig(env_id, run_dir=tmp_path / str(number), **SHORT))
        run = load_run(result.run_dir)
        assert run.config == TrainConfig(env_id, run_dir=tmp_path / str(number), **SHORT)
        for name, value in result.policy.state_dict().items():
            assert torch.equal(run.policy.state_dict()[name], value)
        assert (run.normalize_observation is None) == (number == 0)
    assert abs(run.normalize_observation.moments.mean).max() > 0


def test_a_checkpoint_that_is_older_than_a_setting_goes_on_as_before(tmp_path):
    """Acrobot-v1 has its own number of passes now; a run from before that setting had one."""
    folder = train(
        TrainConfig("Acrobot-v1", num_epochs=1, num_minibatches=1, run_dir=tmp_path / "run", **SHORT)
    ).run_dir
    content = dict(read_newest(folder)[1])
    content["config"] = {
        name: value for name, value in content["config"].items() if name not in ("num_epochs", "num_minibatches")
    }
    save_checkpoint(folder, 3, content)
    config = load_run(folder).config
    assert (config.num_epochs, config.num_minibatches) == (1, 1)


def test_refuses_what_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_run(tmp_path)
    run = train(TrainConfig(run_dir=tmp_path / "run", **SHORT)).run_dir
    path = run / "checkpoint-000000003.pt"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"nonsense"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"checkpoint-000000003\.pt cannot be read"):
            load_run(run)


class Mine(Policy):
    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.zeros(2))

    def distribution(self, observation):
        return torch.distributions.Categorical(logits=self.scores.expand(len(observation), 2))


def test_says_when_a_policy_is_of_a_class_it_cannot_make(tmp_path):
    run = train(TrainConfig(run_dir=tmp_path / "run", check_gradient=0, **SHORT), policy=Mine()).run_dir
    with pytest.raises(CheckpointError, match="the policy is a Mine, which only its own code can make"):
        load_run(run)
    assert load_run(run, Mine()).policy.scores.abs().sum() > 0
    with pytest.raises(CheckpointError, match=r"policy\.class must be 'BiasPolicy', got 'Mine'"):
        resume(run)


def test_the_two_newest_are_kept(tmp_path):
    for number in range(5):
        path = save_checkpoint(tmp_path, number, {"number": number})
        assert checkpoints(tmp_path)[0] == path
        assert read_newest(tmp_path) == (path, {"format": 1, "number": number})
    assert sorted(files(tmp_path)) == ["checkpoint-000000003.pt", "checkpoint-000000004.pt"]


# Killed while it saves.

SAVE_UNTIL_KILLED = """
import os, signal, sys, time
from pathlib import Path
import torch
from pgtorch.record.checkpoint import checkpoints, save_checkpoint

folder = Path(sys.argv[1])
for milliseconds in map(float, sys.stdin):
    child = os.fork()
    if child == 0:
        known = checkpoints(folder)
        number = int(known[0].stem[11:]) + 3 if known else 1  # another one than the kill fell into
        while True:
            save_checkpoint(folder, number, {"numbers": [torch.full((50_000,), float(number))] * 4, "last": number})
            with (folder / "saved").open("a") as saved:
                saved.write(f"{number}\\n")
            number += 2
    while not (folder / "saved").exists() or not (folder / "saved").stat().st_size:
        time.sleep(0.001)  # so that the first kill, too, finds one
    time.sleep(milliseconds / 1000)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


def kill_while_saving(folder, kills):
    """Kills a process that saves, at random moments; yields after each kill."""
    command = [sys.executable, "-c", SAVE_UNTIL_KILLED, str(folder)]
    moments = random.Random(0)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        for _ in range(kills):
            process.stdin.write(f"{moments.uniform(2, 60)}\n")
            assert process.stdout.readline() == "killed\n"
            yield
        process.stdin.close()


@pytest.mark.parametrize("kills", [10, pytest.param(150, marks=pytest.mark.long)])
def test_killed_at_any_moment_the_newest_checkpoint_is_whole(tmp_path, kills):
    torn = 0
    for _ in kill_while_saving(tmp_path, kills):
        newest, content = read_newest(tmp_path)  # a warning, that it had to go back, would be an error
        assert all((numbers == content["last"]).all() for numbers in content["numbers"])
        assert newest.name == f"checkpoint-{content['last']:09d}.pt"
        assert content["last"] >= int((tmp_path / "saved").read_text().split()[-1])  # never behind what was promised
        torn += len(list(tmp_path.glob("*.tmp"))) > 0
    assert torn > kills / 20  # kills did fall into a save


def test_what_a_kill_left_behind_is_cleared_away(tmp_path):
    train(TrainConfig(run_dir=tmp_path, **SHORT))
    left = tmp_path / ".checkpoint-000000002.pt.tmp"
    left.write_bytes(b"half of it")
    resume(tmp_path, num_updates=4)
    assert not left.exists()


# Damaged.


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The bytes of a run's checkpoint."""
    trainer = Trainer(TrainConfig(LESSON))
    trainer.update()
    state = {**trainer.state_dict(), "generator": torch.arange(40, dtype=torch.uint8)}
    path = save_checkpoint(tmp_path_factory.mktemp("small"), 1, {"config": trainer.config.to_dict(), "trainer": state})
    return path.read_bytes()


def flipped(data, chance):
    bit = chance.randrange(8 * len(data))
    mutant = bytearray(data)
    mutant[bit // 8] ^= 1 << bit % 8
    return bytes(mutant)


def cut(data, chance):
    return data[: chance.randrange(len(data))]


def zeroed(data, chance):
    start = 512 * chance.randrange(-(-len(data) // 512))
    return data[:start] + bytes(len(data[start : start + 512])) + data[start + 512 :]


def swapped(data, chance):
    first, second = (512 * chance.randrange(len(data) // 512) for _ in range(2))
    mutant = bytearray(data)
    mutant[first : first + 512], mutant[second : second + 512] = data[second : second + 512], data[first : first + 512]
    return bytes(mutant)


def read_or_told(path):
    """What a checkpoint holds, or the message; any other error passes."""
    try:
        return leaves(read_checkpoint(path))
    except CheckpointError as error:
        return str(error)


@pytest.mark.parametrize("damage", [flipped, cut, zeroed, swapped])
@pytest.mark.parametrize("mutants", [38, pytest.param(1000, marks=pytest.mark.long)])
def test_a_damaged_checkpoint_is_refused_or_equal(tmp_path, small, damage, mutants):
    path = tmp_path / "checkpoint-000000001.pt"
    path.write_bytes(small)
    whole, chance, told = read_or_told(path), random.Random(1), []
    for _ in range(mutants):
        path.write_bytes(damage(small, chance))
        found = read_or_told(path)
        if found != whole:
            told.append(found)
    assert all(isinstance(found, str) and str(path) in found for found in told)
    assert len(told) > mutants / 3


def test_a_record_that_became_a_folder_is_refused(tmp_path, small):
    """One bit of a record's attributes, under no checksum, and torch reads nothing for it."""
    path = tmp_path / "checkpoint-000000001.pt"
    for directory in (match.start() for match in re.finditer(b"PK\1\2", small)):
        mutant = bytearray(small)
        mutant[directory + 38] ^= 16
        path.write_bytes(mutant)
        with pytest.raises(CheckpointError, match=r"checkpoint-000000001\.pt"):
            read_checkpoint(path)


@pytest.mark.long
def test_every_bit_of_the_directory(tmp_path, small):
    """The zip format's checksums do not cover its own directory."""
    path = tmp_path / "checkpoint-000000001.pt"
    path.write_bytes(small)
    whole = read_or_told(path)
    for bit in range(8 * small.index(b"PK\1\2"), 8 * len(small)):
        mutant = bytearray(small)
        mutant[bit // 8] ^= 1 << bit % 8
        path.write_bytes(mutant)
        found = read_or_told(path)
        assert found == whole or isinstance(found, str), bit


# Hostile.

HOSTILE = """
import sys
from pathlib import Path
from pgtorch.record.checkpoint import CheckpointError, load_run, read_checkpoint
from pgtorch import resume

for folder in map(Path, sys.argv[1:]):
    for read in (resume, load_run, lambda folder: read_checkpoint(folder / "checkpoint-000000001.pt")):
        try:
            read(folder)
        except CheckpointError:
            continue
        sys.exit(f"{folder} was read")
"""


class Hostile:
    """Leaves a file where it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def hostile_files(folder, canary, small):
    """A folder for each way to bring code into a checkpoint."""
    evil = Hostile(canary)
    made = {name: folder / name for name in ("pickle", "zip", "inside", "legacy", "polyglot")}
    for path in made.values():
        path.mkdir()
    paths = {name: path / "checkpoint-000000001.pt" for name, path in made.items()}
    paths["pickle"].write_bytes(pickle.dumps(evil))
    torch.save(evil, paths["zip"])
    torch.save({"format": 1, "config": {}, "files": {}, "trainer": {"policy": evil}}, paths["inside"])
    torch.save(evil, paths["legacy"], _use_new_zipfile_serialization=False)
    paths["polyglot"].write_bytes(paths["legacy"].read_bytes() + small)  # to zipfile it is the checkpoint behind it
    return paths


@pytest.mark.parametrize("force", ["0", "1"])
def test_a_hostile_checkpoint_is_refused_and_nothing_runs(tmp_path, small, force):
    canary = tmp_path / "canary"
    paths = hostile_files(tmp_path, canary, small)
    command = [sys.executable, "-c", HOSTILE, *(str(path.parent) for path in paths.values())]
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": force}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    assert not canary.exists()
    for name, path in paths.items():  # they are hostile indeed
        if name == "pickle":
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert canary.exists(), name
        canary.unlink()


# Whole, but of something else.


def trainer_of(env_id="CartPole-v1", **settings):
    trainer = Trainer(TrainConfig(env_id, **{**CART, "optimizer": "adam", **settings}))
    for _ in range(3):
        trainer.update()
    return trainer


def stored(state, folder):
    """A state as it comes out of a file."""
    return read_checkpoint(save_checkpoint(folder, 1, {"state": state}))["state"]


def changed(state, way, value):
    """A copy with another value at a path of keys; `...` takes it out."""
    key, *rest = way
    copied = dict(state) if isinstance(state, dict) else list(state)
    if rest:
        copied[key] = changed(state[key], rest, value)
    elif value is ...:
        del copied[key]
    else:
        copied[key] = value
    return copied if isinstance(state, dict | list) else tuple(copied)


NAN = float("nan")
WEIGHT = ("policy", "parameters", "layers.0.weight")
MOMENTS = ("collector", "observation_moments")
WRONG_PARTS = [
    (
        WEIGHT,
        torch.zeros(4, 5),
        r"trainer\.policy\.parameters\.layers\.0\.weight must be torch.float32 of shape \[4, 4\]",
    ),
    (WEIGHT, torch.zeros(4, 4, dtype=torch.float64), r"layers\.0\.weight must be torch\.float32 .* got torch\.float64"),
    (WEIGHT, torch.full((4, 4), NAN), r"layers\.0\.weight must be finite, got nan"),
    (WEIGHT, [1.0], r"layers\.0\.weight must be a Tensor, got list"),
    (WEIGHT, ..., r"trainer\.policy\.parameters must have keys .* missing \['layers\.0\.weight'\]"),
    (
        (*WEIGHT[:2], "extra"),
        torch.zeros(1),
        r"trainer\.policy\.parameters must have keys .* more than that \['extra'\]",
    ),
    (("policy", "class"), "BiasPolicy", r"trainer\.policy\.class must be 'MLPPolicy', got 'BiasPolicy'"),
    (("value_function",), ..., r"trainer must have keys .* missing \['value_function'\]"),
    (("surplus",), 1, r"trainer must have keys .* more than that \['surplus'\]"),
    ((7,), 1, r"trainer must have keys .* more than that \['7'\]"),
    (("optimizers", "value", "mean.0"), torch.full((4, 4), NAN), r"trainer\.optimizers\.value\.mean\.0 must be finite"),
    (
        ("optimizers", "policy", "steps.0"),
        torch.zeros(2),
        r"trainer\.optimizers\.policy\.steps\.0 must be .* shape \[\]",
    ),
    (("optimizers", "policy"), {}, r"trainer\.optimizers\.policy must have keys"),
    ((*MOMENTS, "mean"), torch.full((4,), NAN, dtype=torch.float64), r"observation_moments\.mean must be finite"),
    ((*MOMENTS, "count"), NAN, r"observation_moments\.count must be finite"),
    ((*MOMENTS, "count"), 3, r"observation_moments\.count must be a float, got int"),
    (("collector", "recent"), [1.0, NAN], r"collector\.recent must be finite"),
    (("collector", "recent"), ["x"], r"collector\.recent must be a list of numbers"),
    (("collector", "total"), torch.zeros(3, dtype=torch.float64), r"collector\.total must be .* shape \[2\]"),
    (("collector", "resetting"), torch.zeros(2), r"collector\.resetting must be torch\.bool"),
    (("num_updates",), -1, r"num_updates must be at least 0, got -1"),
    (("num_updates",), True, r"num_updates must be a int, got bool"),
    (("num_env_steps",), "3", r"num_env_steps must be a int, got str"),
    (("generator",), torch.zeros(7, dtype=torch.uint8), r"trainer\.generator must be"),
    (("generator",), torch.zeros_like(torch.get_rng_state()), r"trainer\.generator"),
    (("environment",), ("object", {}), r"trainer\.environment"),
    (("environment",), [], r"trainer\.environment"),
    (("environment",), ("value", None), r"trainer\.environment"),
]


def named(value):
    return ".".join(map(str, value)) if isinstance(value, tuple) and value[0] != "object" else None


@pytest.mark.parametrize(("way", "value", "message"), WRONG_PARTS, ids=named)
def test_a_wrong_part_is_named_and_nothing_changes(tmp_path, way, value, message):
    saved = stored(trainer_of(seed=1).state_dict(), tmp_path)
    trainer = trainer_of(seed=2)
    before = leaves(trainer.state_dict())
    with pytest.raises(CheckpointError, match=message):
        trainer.load_state_dict(changed(saved, way, value))
    assert leaves(trainer.state_dict()) == before
    trainer.load_state_dict(saved)
    assert leaves(trainer.state_dict()) == leaves(saved)
    trainer.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env_id": "Acrobot-v1"}, r"trainer\.policy\.parameters\.layers\.0\.weight must be"),
        ({"env_id": LESSON}, r"trainer must have keys"),
        ({"hidden_sizes": (5,)}, r"trainer\.policy\.parameters\.layers\.0\.weight must be"),
        ({"hidden_sizes": (4, 4)}, r"trainer\.policy\.parameters must have keys"),
        ({"optimizer": "sgd"}, r"trainer\.optimizers\.policy must have keys"),
        ({"num_envs": 3}, r"trainer\.collector\.observation must be"),
        ({"normalize_rewards": False}, r"trainer\.collector must have keys"),
        ({"multiplier": "reward", "baseline": "none"}, r"trainer must have keys"),
        ({"vectorization": "native"}, r"trainer\.environment: CartPoleVectorEnv"),
    ],
    ids=str,
)
def test_the_state_of_another_trainer_is_refused_and_nothing_changes(tmp_path, settings, message):
    saved = stored(trainer_of().state_dict(), tmp_path)
    trainer = trainer_of(**{"env_id": "CartPole-v1", **settings})
    before = leaves(trainer.state_dict())
    with pytest.raises(CheckpointError, match=message):
        trainer.load_state_dict(saved)
    assert leaves(trainer.state_dict()) == before
    trainer.close()


def without_generators(state):
    """The state of an environment, its generators' texts replaced."""
    if isinstance(state, dict):
        return {key: without_generators(item) for key, item in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(without_generators, state))
    return "{}" if isinstance(state, str) and "PCG64" in state and "{" in state else state


def test_a_wrong_generator_of_an_environment_is_refused_and_nothing_changes(tmp_path):
    saved = stored(trainer_of().state_dict(), tmp_path)
    spoiled = {**saved, "environment": without_generators(saved["environment"])}
    assert leaves(spoiled) != leaves(saved)
    trainer = trainer_of(seed=3)
    before = leaves(trainer.state_dict())
    with pytest.raises(CheckpointError, match=r"trainer\.environment"):
        trainer.load_state_dict(spoiled)
    assert leaves(trainer.state_dict()) == before
    trainer.close()


def test_a_state_without_the_environments_says_so(tmp_path):
    saved = stored(changed(trainer_of().state_dict(), ("environment",), ...), tmp_path)
    trainer = trainer_of()
    with pytest.warns(UserWarning, match=r"^\w.*: new episodes begin"):
        trainer.load_state_dict(saved)
    trainer.close()


@pytest.mark.parametrize("state", [{}, {"policy": 3}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(CheckpointError, match="trainer must have keys"):
        Trainer(TrainConfig(LESSON)).load_state_dict(state)


def test_a_state_can_be_put_into_a_trainer_that_has_played(tmp_path):
    trainer = Trainer(TrainConfig(LESSON))
    trainer.update()
    saved = stored(trainer.state_dict(), tmp_path)
    for _ in range(5):
        trainer.update()
    trainer.load_state_dict(saved)
    assert leaves(trainer.state_dict()) == leaves(saved)


def test_the_state_shares_nothing_with_the_trainer():
    trainer = trainer_of()
    state = trainer.state_dict()
    before = leaves(state)
    trainer.update()
    assert leaves(state) == before
    trainer.close()


def test_taking_the_state_changes_nothing():
    one, other = trainer_of(), trainer_of()
    for _ in range(3):
        one.state_dict()
    assert leaves(one.state_dict()) == leaves(other.state_dict())
    assert leaves(take_state(one.env)) == leaves(take_state(other.env))
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 2}, "must be a checkpoint of format 1, got 2"),
        ({"format": None}, "must be a checkpoint of format 1, got None"),
        ([1, 2], "must be a checkpoint of format 1, got 'list'"),
        ("text", "must be a checkpoint of format 1, got 'str'"),
    ],
)
def test_another_format_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "checkpoint-000000001.pt")
    with pytest.raises(CheckpointError, match=rf"checkpoint-000000001\.pt {message}"):
        read_checkpoint(tmp_path / "checkpoint-000000001.pt")


LINES = ("files", "metrics.jsonl")


@pytest.mark.parametrize(
    ("way", "value"),
    [
        (("config",), ...),
        (("config",), 3),
        (("config", "learning_rate"), -1.0),
        (("config", "spice"), 1),
        (("config", "hidden_sizes"), [7]),
        (("config", "num_envs"), 2),
        (("trainer",), ...),
        (("trainer",), 3),
        (("files",), ...),
        (("files", "../outside"), 1),
        ((*LINES[:1], "elsewhere/metrics.jsonl"), 1),
        (LINES, 10**9),
        (LINES, "x"),
        (("files",), []),
        (LINES, -5),
        (("files",), {}),
    ],
    ids=str,
)
def test_a_wrong_checkpoint_is_not_resumed_and_no_file_changes(tmp_path, way, value):
    train(TrainConfig(run_dir=tmp_path / "run", policy="mlp", **SHORT))
    path, content = read_newest(tmp_path / "run")
    save_checkpoint(path.parent, 3, changed(content, way, value))
    before = files(path.parent)
    with pytest.raises(CheckpointError, match=r"checkpoint-000000003\.pt"):
        resume(path.parent, num_updates=5)
    assert files(path.parent) == before


def test_numbers_that_are_not_finite_are_not_saved(tmp_path):
    save_checkpoint(tmp_path, 1, {"trainer": {"weight": torch.ones(2)}})
    for value in (torch.tensor([1.0, NAN]), float("inf"), [1.0, NAN]):
        with pytest.raises(CheckpointError, match=r"checkpoint-000000002\.pt: trainer\.weight must be finite"):
            save_checkpoint(tmp_path, 2, {"trainer": {"weight": value}})
    assert sorted(files(tmp_path)) == ["checkpoint-000000001.pt"]


def test_what_cannot_be_read_back_is_not_saved(tmp_path):
    """And leaves no temporary file."""
    save_checkpoint(tmp_path, 1, {"fine": 1})
    with pytest.raises(CheckpointError, match="cannot be read"):
        save_checkpoint(tmp_path, 2, {"strange": Path("x")})
    assert sorted(files(tmp_path)) == ["checkpoint-000000001.pt"]


# The disk is full.

FULL = """
import resource, sys
from pathlib import Path
import torch
from pgtorch.record.checkpoint import CheckpointError, save_checkpoint

folder = Path(sys.argv[1])
save_checkpoint(folder, 1, {"numbers": torch.ones(20_000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_checkpoint(folder, 2, {"numbers": torch.ones(20_000)})
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_is_told_and_the_older_checkpoint_stays(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], check=True, capture_output=True, text=True, timeout=100
    )
    path = tmp_path / "checkpoint-000000002.pt"
    assert done.stdout.startswith(f"{path}: no space left to write it")
    assert sorted(files(tmp_path)) == ["checkpoint-000000001.pt"]
    assert read_newest(tmp_path)[1]["numbers"].sum() == 20_000


LIMITED = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
LIMITED += "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"


@pytest.mark.parametrize(("every", "limit", "path"), [(0, 60_000, "metrics.jsonl"), (5, 9_000, "checkpoint-000000005")])
def test_a_run_on_a_full_disk_ends_in_one_line(tmp_path, every, limit, path):
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    flags = f"--run-dir run --no-pictures --num-updates 3000 --checkpoint-every {every}"
    command = [sys.executable, "-c", LIMITED, str(limit), str(script), *flags.split()]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    errors = [line for line in done.stderr.split("\r")[-1].splitlines() if "error: " in line]
    assert len(errors) == 1, done.stderr
    assert path in errors[0], errors
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_folder_that_is_gone_is_told(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_checkpoint(folder, 1, {})
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=r"run/checkpoint-000000002\.pt: it cannot be written \(No such file"):
        save_checkpoint(folder, 2, {})
