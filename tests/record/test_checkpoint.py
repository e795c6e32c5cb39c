import hashlib
import io
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import leaves, run_python

from pgtorch import CheckpointError, TrainConfig, Trainer, resume, train
from pgtorch.record.checkpoint import (
    FORMAT,
    HEADER,
    checkpoints,
    read_checkpoint,
    read_newest,
    remove_newer,
    require_like,
    save_checkpoint,
)
from pgtorch.record.trainer_state import take_trainer_state

LESSON = "restaurant_env:Restaurant-v0"
SHORT = {"num_updates": 3, "pictures": False}
NAN = float("nan")


def save(folder, update, **trainer):
    """A checkpoint with this state of a trainer."""
    return save_checkpoint(folder, update, config={}, record={}, trainer=trainer)


def sealed(payload):
    """The bytes of a file whose header and digest are right."""
    return HEADER + hashlib.sha256(payload).digest() + payload


def saved_by_torch(content, **settings):
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Which files are checkpoints.


def test_the_two_newest_are_kept(tmp_path):
    for number in range(5):
        path = save(tmp_path, number, number=number)
        assert checkpoints(tmp_path)[0] == path
        assert read_newest(tmp_path) == (path, {"config": {}, "record": {}, "trainer": {"number": number}, "best": {}})
    assert sorted(files(tmp_path)) == ["checkpoint-000000003.pt", "checkpoint-000000004.pt"]


def test_numbers_count_and_not_names(tmp_path):
    for number in (10**9, 999_999_999, 10**10):
        save(tmp_path, number)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10000000000.pt", "checkpoint-1000000000.pt"]


OTHERS = [
    "checkpoint-best.pt",
    "checkpoint-notes.pt",
    "checkpoint-.pt",
    "checkpoint--1.pt",
    "checkpoint-000000009.pt.bak",
    "checkpoint-1e9.pt",
    "my-checkpoint-000000009.pt",
    ".checkpoint-mine.pt.tmp",
    ".checkpoint-000000009.tmp",
]


def test_no_other_file_is_read_or_deleted(tmp_path):
    path = save(tmp_path, 1, number=1)
    for name in OTHERS:
        shutil.copy(path, tmp_path / name)
    (tmp_path / "checkpoint-000000077.pt").mkdir()
    (tmp_path / "checkpoint-000000078.pt").symlink_to(path)
    before = {name: (tmp_path / name).read_bytes() for name in OTHERS}
    for number in range(2, 6):
        save(tmp_path, number, number=number)
        assert read_newest(tmp_path)[1]["trainer"] == {"number": number}
    remove_newer(tmp_path / "checkpoint-000000004.pt")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-000000004.pt"]
    assert {name: (tmp_path / name).read_bytes() for name in OTHERS} == before
    assert (tmp_path / "checkpoint-000000077.pt").is_dir()
    assert (tmp_path / "checkpoint-000000078.pt").is_symlink()


def test_a_copy_under_another_number_is_refused(tmp_path):
    shutil.copy(save(tmp_path, 3), tmp_path / "checkpoint-000000009.pt")
    with pytest.warns(UserWarning, match=r"000000009\.pt must hold the update that its name says, got update 3"):
        assert read_newest(tmp_path)[0].name == "checkpoint-000000003.pt"


def test_newer_ones_are_removed_and_older_ones_kept(tmp_path):
    for number in (1, 2):
        save(tmp_path, number)
    remove_newer(tmp_path / "checkpoint-000000001.pt")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-000000001.pt"]


@pytest.mark.parametrize("name", ["missing", "file", "x" * 300, "a\0b"])
def test_where_no_folder_is_there_is_no_checkpoint(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    assert checkpoints(tmp_path / name) == []


# The newest that is whole and fits.


def test_the_next_older_one_is_tried(tmp_path):
    save(tmp_path, 1, fits=True)
    save(tmp_path, 2, fits=False)

    def use(path, content):
        if not content["trainer"]["fits"]:
            raise CheckpointError(f"{path} does not fit")
        return path.name, "used"

    message = r"checkpoint-000000002\.pt does not fit; going back to checkpoint-000000001\.pt"
    with pytest.warns(UserWarning, match=message):
        assert read_newest(tmp_path, use)[1] == ("checkpoint-000000001.pt", "used")
    remove_newer(tmp_path / "checkpoint-000000000.pt")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        read_newest(tmp_path, use)


def test_if_none_fits_each_reason_is_reported(tmp_path):
    for number in (1, 2):
        save(tmp_path, number)

    def use(path, content):
        raise CheckpointError(f"{path.name} does not fit")

    with pytest.raises(CheckpointError, match=r"000000002\.pt does not fit; checkpoint-000000001\.pt does not fit"):
        read_newest(tmp_path, use)


def test_another_error_comes_through(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)

    def use(path, content):
        raise RuntimeError(path.name)

    with pytest.raises(RuntimeError, match="checkpoint-000000002"):
        read_newest(tmp_path, use)


def test_a_run_whose_metrics_were_cut_goes_back_to_a_checkpoint_that_fits(tmp_path):
    config = TrainConfig(run_dir=tmp_path / "run", pictures=False, num_updates=7, checkpoint_every=5)
    straight = train(config).hash
    lines = (config.run_dir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (config.run_dir / "metrics.jsonl").write_bytes(b"".join(lines[:6]))
    message = r"metrics\.jsonl must hold at least .*; going back to checkpoint-000000005\.pt"
    with pytest.warns(UserWarning, match=message):
        assert resume(config.run_dir).hash == straight
    assert (config.run_dir / "metrics.jsonl").read_bytes() == b"".join(lines)
    (config.run_dir / "metrics.jsonl").write_bytes(b"".join(lines[:2]))
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl must hold .*; .*metrics\.jsonl must hold"):
        resume(config.run_dir)


# Killed while it saves.

SAVE_UNTIL_KILLED = """
import os, signal, sys, time
from pathlib import Path
import torch
from pgtorch.record.checkpoint import checkpoints, save_checkpoint

torch.set_num_threads(1)
folder = Path(sys.argv[1])
saved = folder / "saved"
saved.write_text("")
for milliseconds in map(float, sys.stdin):
    before = saved.stat().st_size
    child = os.fork()
    if child == 0:
        known = checkpoints(folder)
        number = int(known[0].stem[11:]) + 3 if known else 1  # another one than the kill fell into
        while True:
            state = {"numbers": [torch.full((50_000,), float(number))] * 4, "last": number}
            save_checkpoint(folder, number, config={}, record={}, trainer=state)
            with saved.open("a") as file:
                file.write(f"{number}\\n")
            number += 2
    while saved.stat().st_size == before:
        time.sleep(0.001)  # until it saves, so that the kill finds it at that
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
            process.stdin.write(f"{moments.uniform(0, 60)}\n")
            assert process.stdout.readline() == "killed\n"
            yield
        process.stdin.close()


@pytest.mark.parametrize("kills", [10, pytest.param(150, marks=pytest.mark.long)])
def test_killed_at_any_moment_the_newest_checkpoint_is_whole(tmp_path, kills):
    within = 0
    for _ in kill_while_saving(tmp_path, kills):
        newest, content = read_newest(tmp_path)  # a warning, that it had to go back, would be an error
        state, promised = content["trainer"], int((tmp_path / "saved").read_text().split()[-1])
        assert all((numbers == state["last"]).all() for numbers in state["numbers"])
        assert newest.name == f"checkpoint-{state['last']:09d}.pt"
        assert state["last"] >= promised
        within += state["last"] > promised or len(list(tmp_path.glob("*.tmp"))) > 0
    assert within > kills / 20  # kills did fall into a save


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
    state = {**take_trainer_state(trainer), "generator": torch.arange(40, dtype=torch.uint8), "streams": {}}
    folder = tmp_path_factory.mktemp("small")
    return save_checkpoint(folder, 1, config=trainer.config.to_dict(), record={}, trainer=state).read_bytes()


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


def longer(data, chance):
    return data + chance.randbytes(chance.randrange(1, 600))


@pytest.mark.parametrize("damage", [flipped, cut, zeroed, swapped, longer])
@pytest.mark.parametrize("mutants", [38, pytest.param(1000, marks=pytest.mark.long)])
def test_every_damage_is_found(tmp_path, small, damage, mutants):
    path, chance, damaged = tmp_path / "checkpoint-000000001.pt", random.Random(1), 0
    path.write_bytes(small)
    assert leaves(read_checkpoint(path)["trainer"])
    for _ in range(mutants):
        mutant = damage(small, chance)
        if mutant == small:
            continue
        damaged += 1
        path.write_bytes(mutant)
        with pytest.raises(CheckpointError, match=r"checkpoint-000000001\.pt cannot be read"):
            read_checkpoint(path)
    assert damaged > mutants / 3


@pytest.mark.long
def test_every_bit_of_the_header_and_the_end(tmp_path, small):
    path = tmp_path / "checkpoint-000000001.pt"
    places = [*range(len(HEADER) + 100), *range(len(small) - 100, len(small))]
    for bit in (8 * place + i for place in places for i in range(8)):
        mutant = bytearray(small)
        mutant[bit // 8] ^= 1 << bit % 8
        path.write_bytes(mutant)
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_checkpoint(path)


# Of another format, or forged: sealed as it should be, with something else inside.


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            saved_by_torch({"format": 1, "config": {}}),
            f"has format 1, from an earlier version, .* format {FORMAT}",
        ),
        (
            b"pgtorch checkpoint 1\n" + bytes(99),
            rf"must begin with b'pgtorch checkpoint {FORMAT}\\n', got b'pgtorch checkpoint 1",
        ),
        (b"", "must begin with"),
        (b"nonsense", "must begin with"),
        (HEADER, "it is damaged: its digest is wrong"),
        (sealed(b""), "cannot be read"),
        (sealed(b"nonsense"), "cannot be read"),
        (sealed(HEADER), "cannot be read"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, data, message):
    path = tmp_path / "checkpoint-000000001.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"checkpoint-000000001\.pt cannot be read.*{message}|{message}"):
        read_checkpoint(path)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt cannot be read: FileNotFoundError"):
        read_checkpoint(tmp_path / "nowhere.pt")


GOOD = {"number": 1, "config": {}, "record": {}, "trainer": {}, "best": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold number, config, record, trainer, best, got 'list'"),
        ("text", "must hold number, config, record, trainer, best, got 'str'"),
        ({**GOOD, "format": True}, "must hold number, config, record, trainer, best, got .*format"),
        ({**GOOD, 7: 1}, "must hold number, config, record, trainer, best, got .*7"),
        ({key: value for key, value in GOOD.items() if key != "record"}, "must hold number, config, record, trainer"),
        ({**GOOD, "number": True}, "must hold the update that its name says, got update True"),
        ({**GOOD, "number": 2}, "must hold the update that its name says, got update 2"),
        ({**GOOD, "number": torch.ones(3)}, "must hold the update that its name says"),
        ({**GOOD, "config": 3}, "config must be a dict, got int"),
        ({**GOOD, "record": []}, "record must be a dict, got list"),
        ({**GOOD, "trainer": None}, "trainer must be a dict, got NoneType"),
        ({**GOOD, "best": 2}, "best must be a dict, got int"),
    ],
    ids=str,
)
def test_a_forged_content_is_refused(tmp_path, content, message):
    path = tmp_path / "checkpoint-000000001.pt"
    path.write_bytes(sealed(saved_by_torch(GOOD)))
    read_checkpoint(path)
    path.write_bytes(sealed(saved_by_torch(content)))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


HOSTILE = """
import sys
from pathlib import Path
from pgtorch.record.checkpoint import CheckpointError, read_checkpoint
from pgtorch.record.trained_run import load_run
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


def hostile_payloads(canary):
    """The ways to bring code into a checkpoint."""
    evil = Hostile(canary)
    legacy = saved_by_torch(evil, _use_new_zipfile_serialization=False)
    return {
        "pickle": pickle.dumps(evil),
        "zip": saved_by_torch(evil),
        "inside": saved_by_torch({**GOOD, "trainer": {"policy": evil}}),
        "legacy": legacy,
        "polyglot": legacy + saved_by_torch(GOOD),  # to a reader that starts at the end it is the one behind it
    }


@pytest.mark.parametrize("force", ["0", "1"])
def test_a_hostile_checkpoint_is_refused_and_nothing_runs(tmp_path, force):
    canary = tmp_path / "canary"
    payloads = hostile_payloads(canary)
    folders = []
    for name, payload in payloads.items():
        for way, data in (("plain", payload), ("sealed", sealed(payload))):
            folders.append(tmp_path / f"{name}-{way}")
            folders[-1].mkdir()
            (folders[-1] / "checkpoint-000000001.pt").write_bytes(data)
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": force}
    done = run_python("-c", HOSTILE, *folders, env=environment)
    assert done.returncode == 0, done.stderr
    assert not canary.exists()
    for name, payload in payloads.items():  # they are hostile indeed
        if name == "pickle":
            pickle.loads(payload)
        else:
            torch.load(io.BytesIO(payload), weights_only=False)
        assert canary.exists(), name
        canary.unlink()


# State that is built like the live one.

MOMENTS = "trainer.collector.normalize_observation"


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        ({"a": 1}, [], "x must be of type list, got dict"),
        (True, 1, "x must be of type int, got bool"),
        ({"a": 1, 7: 2}, {"a": 1, "b": 1}, r"x must have keys \['a', 'b'\], got \['7'\] extra and \['b'\] missing"),
        ({"a": {"b": -1}}, {"a": {"b": 0}}, r"x\.a\.b must be at least 0, got -1"),
        ("mine", "yours", "x must be 'yours', got 'mine'"),
        (NAN, 1.0, "x must be finite, got nan"),
        (float("inf"), 1.0, "x must be finite, got inf"),
        ([1.0, NAN], [], "x must be finite, got nan"),
        (["x"], [], "x must be a list of at most 100 numbers"),
        ([1.0, 2], [], "x must be a list of at most 100 numbers"),
        ([0.0] * 101, [], "x must be a list of at most 100 numbers"),
        ([0.0] * 1_000_000, [], "x must be a list of at most 100 numbers"),
        (
            torch.ones(2),
            torch.ones(3),
            r"x must be a tensor torch\.float32 \[3\] on cpu, got torch\.float32 \[2\] on cpu",
        ),
        (torch.ones(2).double(), torch.ones(2), r"x must be a tensor torch\.float32 .*, got torch\.float64"),
        (torch.ones(2).to_sparse(), torch.ones(2), r"x must be a tensor .*got .* torch\.sparse_coo"),
        (torch.ones(2, device="meta"), torch.ones(2), r"x must be a tensor .* on cpu, got .* on meta"),
        (torch.tensor([1.0, NAN]), torch.ones(2), "x must be finite, got nan"),
    ],
    ids=str,
)
def test_what_differs_is_named(found, expected, message):
    with pytest.raises(CheckpointError, match=message):
        require_like(found, expected, "x")


NEVER_NEGATIVE = [
    f"{MOMENTS}.count",
    f"{MOMENTS}.variance",
    "trainer.optimizers.policy.mean_square.0",
    "trainer.optimizers.value.steps.11",
    "trainer.optimizers.policy.exp_avg_sq.3",
    "trainer.optimizers.policy.square_avg.0",
    "trainer.optimizers.policy.step.0",
]


@pytest.mark.parametrize("where", NEVER_NEGATIVE)
def test_what_is_never_negative(where):
    for of in (float, lambda value: torch.tensor([1.0, value])):
        require_like(of(0.0), of(1.0), f"run/checkpoint-000000001.pt: {where}")
        with pytest.raises(CheckpointError, match=r"must be at least 0, got -0\.5"):
            require_like(of(-0.5), of(1.0), f"run/checkpoint-000000001.pt: {where}")


@pytest.mark.parametrize(
    "where", [f"{MOMENTS}.mean", "trainer.optimizers.policy.mean.0", "trainer.policy.parameters.count"]
)
def test_what_may_be_negative(where):
    require_like(torch.tensor([-1.0]), torch.tensor([1.0]), where)


def test_what_is_alike_passes():
    state = {"a": 1, "b": [0.5], "c": torch.zeros(2), "d": "x", "e": {"f": 0.5}, "g": torch.zeros(0)}
    require_like(state, {**state, "a": 7, "b": [], "c": torch.ones(2)}, "x")


# What cannot be saved.


def test_numbers_that_are_not_finite_are_not_saved(tmp_path):
    save(tmp_path, 1, weight=torch.ones(2))
    for value in (torch.tensor([1.0, NAN]), float("inf"), [1.0, NAN], {"deep": [[NAN]]}):
        with pytest.raises(CheckpointError, match=r"checkpoint-000000002\.pt: trainer\.weight.* must be finite"):
            save(tmp_path, 2, weight=value)
    assert sorted(files(tmp_path)) == ["checkpoint-000000001.pt"]


def test_what_cannot_be_read_back_is_not_saved(tmp_path):
    """And leaves no temporary file."""
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="cannot be read"):
        save(tmp_path, 2, strange=Path("x"))
    assert sorted(files(tmp_path)) == ["checkpoint-000000001.pt"]


def test_integers_and_odd_numbers_come_back(tmp_path):
    state = {"list": [1, 2.5, [3, None]], "int": torch.arange(3), "bool": torch.tensor(True), "big": 2**62}
    assert leaves(read_checkpoint(save(tmp_path, 1, **state))["trainer"]) == leaves(state)


# The disk is full.

FULL = """
import resource, sys
from pathlib import Path
import torch
from pgtorch.record.checkpoint import CheckpointError, save_checkpoint

folder = Path(sys.argv[1])
save_checkpoint(folder, 1, config={}, record={}, trainer={"numbers": torch.ones(20_000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_checkpoint(folder, 2, config={}, record={}, trainer={"numbers": torch.ones(20_000)})
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_is_reported_and_the_older_checkpoint_stays(tmp_path):
    done = run_python("-c", FULL, tmp_path)
    assert done.stdout.startswith(f"{tmp_path / 'checkpoint-000000002.pt'}: no space left to write it")
    assert sorted(files(tmp_path)) == ["checkpoint-000000001.pt"]
    assert read_newest(tmp_path)[1]["trainer"]["numbers"].sum() == 20_000


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


def test_a_folder_that_is_gone_is_reported(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save(folder, 1)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=r"run/checkpoint-000000002\.pt: it cannot be written \(No such file"):
        save(folder, 2)
