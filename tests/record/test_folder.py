import json
import sys

import pytest

from pgtorch import TrainConfig
from pgtorch.record.folder import create_run_folder


def test_fresh_folders_never_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {create_run_folder(TrainConfig(seed=4)) for _ in range(20)}
    assert len(folders) == 20
    assert all(folder.parent.name == "runs" and "seed4" in folder.name for folder in folders)
    assert all(folder.name.startswith("Restaurant-v0-") for folder in folders)


@pytest.mark.parametrize("env_id", ["../../evil:../x", "a/b/../../c-v0", "nul\0-v0", "x" * 300, "module:ns/Id-v0"])
def test_nothing_leaves_the_runs_folder(tmp_path, monkeypatch, env_id):
    monkeypatch.chdir(tmp_path)
    folder = create_run_folder(TrainConfig(env_id=env_id)).resolve()
    assert folder.parent == tmp_path / "runs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]


def test_config_json_says_what_was_run(tmp_path):
    config = TrainConfig(run_dir=tmp_path / "deep" / "run", seed=3)
    record = json.loads((create_run_folder(config) / "config.json").read_text())
    assert record["config"] == json.loads(json.dumps(config.to_dict()))
    assert record["command"] == sys.argv
    assert {"python", "torch", "gymnasium", "numpy", "pgtorch"} <= record["versions"].keys()


def test_an_empty_folder_will_do(tmp_path):
    assert create_run_folder(TrainConfig(run_dir=tmp_path)) == tmp_path


def test_refuses_an_occupied_folder(tmp_path):
    create_run_folder(TrainConfig(run_dir=tmp_path / "run"))
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(OSError, match=r"run_dir must be new or empty, one run a folder, got .*run"):
        create_run_folder(TrainConfig(run_dir=tmp_path / "run", seed=9))
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"run_dir must be a folder that can be made, got .*file"):
        create_run_folder(TrainConfig(run_dir=tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_refuses_what_is_no_name(tmp_path, name):
    with pytest.raises(OSError, match="run_dir must be a folder that can be made"):
        create_run_folder(TrainConfig(run_dir=tmp_path / name))
    assert not list(tmp_path.iterdir())
