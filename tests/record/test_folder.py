import fcntl
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import run_python, run_script

from pgtorch import TrainConfig
from pgtorch.record.folder import locked, naming, new_run_folder, note_hash, note_resumption


def made(config):
    """A run's folder, given back."""
    with new_run_folder(config) as folder:
        return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The folder of a new run.


def test_fresh_folders_never_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {made(TrainConfig(seed=4)) for _ in range(20)}
    assert len(folders) == 20
    assert all(folder.parent.name == "runs" and "seed4" in folder.name for folder in folders)
    assert all(folder.name.startswith("Restaurant-v0-") for folder in folders)


@pytest.mark.parametrize("env_id", ["../../evil:../x", "a/b/../../c-v0", "nul\0-v0", "x" * 300, "module:ns/Id-v0"])
def test_nothing_leaves_the_runs_folder(tmp_path, monkeypatch, env_id):
    monkeypatch.chdir(tmp_path)
    folder = made(TrainConfig(env_id=env_id)).resolve()
    assert folder.parent == tmp_path / "runs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]


def test_config_json_says_what_was_run(tmp_path):
    config = TrainConfig(run_dir=tmp_path / "deep" / "run", seed=3)
    record = json.loads((made(config) / "config.json").read_text())
    assert record["config"] == json.loads(json.dumps(config.to_dict()))
    assert record["command"] == sys.argv
    assert {"python", "torch", "gymnasium", "numpy", "pgtorch"} <= record["versions"].keys()


def test_an_empty_folder_will_do(tmp_path):
    assert made(TrainConfig(run_dir=tmp_path)) == tmp_path
    assert set(files(tmp_path)) == {"config.json"}


def test_what_a_crash_before_the_first_file_left_will_do(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on nowhere")
    assert made(TrainConfig(run_dir=tmp_path)) == tmp_path


def test_refuses_an_occupied_folder(tmp_path):
    made(TrainConfig(run_dir=tmp_path / "run"))
    before = files(tmp_path / "run")
    with pytest.raises(OSError, match=r"run_dir must be new or empty, one run per folder, got .*run"):
        made(TrainConfig(run_dir=tmp_path / "run", seed=9))
    assert files(tmp_path / "run") == before


def test_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"run_dir must be a folder that can be created, got .*file"):
        made(TrainConfig(run_dir=tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_refuses_what_is_no_name(tmp_path, name):
    with pytest.raises(OSError, match="run_dir must be a folder that can be created"):
        made(TrainConfig(run_dir=tmp_path / name))
    assert not list(tmp_path.iterdir())


def test_the_current_folder_is_no_run_folder(tmp_path, monkeypatch):
    """An empty name on the command line becomes it."""
    monkeypatch.chdir(tmp_path)
    for name in (Path(), "."):
        with pytest.raises(OSError, match="run_dir must name a folder"):
            made(TrainConfig(run_dir=name))
    assert not list(tmp_path.iterdir())


# config.json.


def test_a_resumption_is_noted_and_keeps_the_rest(tmp_path):
    folder = made(TrainConfig(run_dir=tmp_path / "run", num_updates=5))
    before = json.loads((folder / "config.json").read_text())
    note_hash(folder, "abc")
    assert json.loads((folder / "config.json").read_text()) == {**before, "hash": "abc"}
    note_resumption(folder, TrainConfig(run_dir=folder, num_updates=7))
    after = json.loads((folder / "config.json").read_text())
    assert after["resumed"] == [sys.argv]
    assert after["config"]["num_updates"] == 7
    assert (after["command"], after["versions"]) == (before["command"], before["versions"])
    assert "hash" not in after  # which the run outgrows
    note_resumption(folder, TrainConfig(run_dir=folder, num_updates=9))
    assert json.loads((folder / "config.json").read_text())["resumed"] == [sys.argv, sys.argv]


@pytest.mark.parametrize("damaged", ["", "{", "[1]", "[" * 100_000, '{"resumed": 3}', b"\xff"], ids=repr)
def test_a_damaged_config_json_is_written_afresh(tmp_path, damaged):
    (tmp_path / "config.json").write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    note_resumption(tmp_path, TrainConfig(run_dir=tmp_path))
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"] == json.loads(json.dumps(TrainConfig(run_dir=tmp_path).to_dict()))
    assert record["resumed"] == [sys.argv]


FULL = """
import resource, sys
from pathlib import Path
from pgtorch.record.folder import note_hash
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    note_hash(Path(sys.argv[1]), "x" * 1000)
except OSError as error:
    print(error)
"""


def test_config_json_outlives_a_full_disk(tmp_path):
    folder = made(TrainConfig(run_dir=tmp_path / "run"))
    before = files(folder)
    done = run_python("-c", FULL, folder)
    assert str(folder / "config.json") in done.stdout
    assert files(folder) == before


def test_an_error_is_named_once(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on device; is the disk full\?: '/a/b'"),
        naming(Path("/a/b")),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*/missing'"), naming(Path("/a/b")):
        (tmp_path / "missing").read_bytes()


# The lock.

HOLD = """
import sys, time
from pathlib import Path
from pgtorch.record.folder import locked
with locked(Path(sys.argv[1])):
    if sys.argv[2] == "worker":
        import multiprocessing
        multiprocessing.get_context("fork").Process(target=lambda: (print("held", flush=True), time.sleep(30))).start()
    else:
        print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder, way="alone"):
    """Another process that holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(folder), way]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as one:
        assert one.stdout.readline() == "held\n"
        try:
            yield one
        finally:
            with suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)


def test_the_second_learns_who_holds_a_folder(tmp_path):
    with holder(tmp_path) as first:
        before = files(tmp_path)
        host = re.escape(socket.gethostname())
        message = rf"it is in use by process {first.pid} on {host} since 20\d\d-\d\d-\d\d \d\d:\d\d"
        with pytest.raises(OSError, match=message), locked(tmp_path):
            pass
        with pytest.raises(OSError, match=message):
            made(TrainConfig(run_dir=tmp_path))
        assert files(tmp_path) == before
        first.stdin.close()
        first.wait(10)
    assert files(tmp_path) == {}
    with locked(tmp_path):
        assert os.getpid() == int((tmp_path / ".lock").read_text().split()[1])
    assert files(tmp_path) == {}


@pytest.mark.parametrize("way", ["alone", "worker"])
def test_a_crash_frees_the_lock(tmp_path, way):
    """Even if a worker process outlives the one that held it."""
    with holder(tmp_path, way) as first:
        first.kill()
        first.wait(10)
        assert (tmp_path / ".lock").exists()
        with locked(tmp_path):
            pass


FORK = """
import os, sys
from contextlib import ExitStack
from pathlib import Path
from pgtorch.record.folder import locked

with ExitStack() as stack:
    stack.enter_context(locked(Path(sys.argv[1])))
    if (child := os.fork()) == 0:
        stack.close()
        os._exit(0)
    os.waitpid(child, 0)
    print((Path(sys.argv[1]) / ".lock").read_text().split()[1] == str(os.getpid()))
    try:
        stack.enter_context(locked(Path(sys.argv[1])))
    except OSError as error:
        print(error)
"""


def test_a_forked_child_leaves_the_lock_to_its_parent(tmp_path):
    done = run_python("-c", FORK, tmp_path)
    assert done.stdout.startswith("True\n"), done.stderr
    assert "it is in use by process" in done.stdout
    assert files(tmp_path) == {}


def test_a_lock_is_held_against_the_same_process_too(tmp_path):
    with locked(tmp_path):
        with pytest.raises(OSError, match=f"in use by process {os.getpid()} "), locked(tmp_path):
            pass
        with pytest.raises(OSError, match="in use"), locked(tmp_path):  # the refused one has not freed it
            pass


def test_a_lock_file_that_its_holder_deletes_at_that_moment_is_made_again(tmp_path, monkeypatch):
    """Else the lock would be on a file that the next process does not find."""
    flock, calls = fcntl.flock, []

    def late(file, operation):
        flock(file, operation)
        calls.append(operation)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path):
        assert len(calls) == 2
        with pytest.raises(OSError, match="in use"), locked(tmp_path):
            pass


def test_an_error_frees_the_lock(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("name", ["missing", "file", "x" * 300, "a\0b"])
def test_only_a_folder_can_be_locked(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="must be a folder that this run may write to"), locked(tmp_path / name):
        pass
    assert files(tmp_path) == {"file": b"mine"}


@contextmanager
def as_nobody():
    """Without root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_is_refused_before_anything():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
        with as_nobody(), pytest.raises(OSError, match=f"'{name}' must be a folder .*: Permission denied"):
            made(TrainConfig(run_dir=folder))
        with (
            as_nobody(),
            pytest.raises(OSError, match=f"'{name}' must be a folder .*: Permission denied"),
            locked(folder),
        ):
            pass
        assert not list(folder.iterdir())


LONG = "--no-pictures --num-updates 1000000 --checkpoint-every 100"


@contextmanager
def training(folder, flags=""):
    """A real run that has saved a checkpoint and goes on."""
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    command = [sys.executable, str(script), "--run-dir", "run", *f"{LONG} {flags}".split()]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not list((folder / "run").glob("checkpoint-*.pt")) and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def test_of_two_commands_on_a_folder_the_second_exits_and_the_first_goes_on(tmp_path):
    with training(tmp_path) as first:
        for flags in (["--run-dir", "run"], ["--resume", "run"]):
            done = run_script("train.py", *flags, cwd=tmp_path)
            assert done.returncode == 2, done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert f"in use by process {first.pid} on " in done.stderr
        first.terminate()
        assert first.wait(20) == 128 + signal.SIGTERM
    updates = [json.loads(line)["update"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert updates == list(range(1, len(updates) + 1))


# Links.

OURS = [
    "metrics.jsonl",
    "config.json",
    "checkpoint-000000009.pt",
    "bias.png",
    ".lock",
    "events.out.tfevents.1.x.pgtorch",
]


@pytest.mark.parametrize("name", [*OURS, "anything"])
def test_links_are_refused_and_their_targets_stay(tmp_path, name):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=f"symbolic link, '{re.escape(name)}'"), locked(tmp_path / "run"):
        pass
    with pytest.raises(OSError, match=f"symbolic link, '{re.escape(name)}'"):
        made(TrainConfig(run_dir=tmp_path / "run"))
    assert (tmp_path / "target").read_text() == "mine"
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]


def test_a_link_to_a_folder_may_name_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "run")
    assert made(TrainConfig(run_dir=tmp_path / "latest")) == tmp_path / "latest"


def test_a_lock_that_is_another_file_is_not_written(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").hardlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"its \.lock must be its own file, not a hard link"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
