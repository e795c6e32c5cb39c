import numpy as np
import own
import pytest
import torch
from gymnasium import spaces
from support import ROOT, run_python, seeded

from pgtorch import BiasPolicy, MLPPolicy, TrainConfig, export, train
from pgtorch.environment.normalization import ObservationNormalizer
from pgtorch.record.export import ExportError, exported_program
from pgtorch.record.trained_run import TrainedRun

SMALL = {"num_envs": 4, "num_steps": 16, "num_updates": 2, "hidden_sizes": (8,), "pictures": False}
RUNS = {
    "bias": ("restaurant_env:Restaurant-v0", {"num_updates": 50, "pictures": False}),
    "mlp": ("CartPole-v1", SMALL),
    "box": ("Pendulum-v1", {**SMALL, "normalize_observations": True}),
    "cnn": ("Dot-v0", {**SMALL, "normalize_observations": False}),
    "far": ("Far-v0", SMALL),
    "own": ("CartPole-v1", {**SMALL, "hidden_sizes": (64, 64), "policy": "own:ActorCritic"}),
}
WITHOUT = """
import sys
for name in ("pgtorch", "gymnasium"):
    sys.modules[name] = None  # an import raises ImportError
import numpy as np
import torch
for number in range(int(sys.argv[1])):
    program = torch.export.load(f"{number}.pt2").module()
    seen = torch.from_numpy(np.load(f"{number}.npy"))
    np.save(f"actions{number}.npy", program(seen).numpy())
    np.save(f"first{number}.npy", program(seen[:1]).numpy())
"""


def observations(space, count):
    space.seed(1)
    batch = np.stack([space.sample() for _ in range(count)])
    return np.clip(batch, -5, 5) if space.dtype == np.float32 else batch


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("runs"), {}
    for name, (env_id, settings) in RUNS.items():
        made[name] = train(TrainConfig(env_id, run_dir=folder / name, **settings))
    with torch.no_grad():  # after so few updates all act alike
        for layer in (made["box"].policy.layers[-1], made["own"].policy.actor):
            layer.weight.normal_(std=2, generator=seeded())
    return made


def test_a_process_without_pgtorch_acts_as_predict_does(runs, tmp_path):
    for number, run in enumerate(runs.values()):
        assert export(run, tmp_path / f"{number}.pt2") == tmp_path / f"{number}.pt2"
        np.save(tmp_path / f"{number}.npy", observations(run.spaces[0], 1000))
    done = run_python("-W", "error", "-c", WITHOUT, len(runs), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for number, (name, run) in enumerate(runs.items()):
        seen, found = np.load(tmp_path / f"{number}.npy"), np.load(tmp_path / f"actions{number}.npy")
        expected = run.predict(seen)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected), name
        assert np.array_equal(np.load(tmp_path / f"first{number}.npy"), run.predict(seen[:1])), name
        if name == "box":
            assert abs(found).max() == 2.0  # clipped
            assert len(np.unique(found)) > 100
        else:
            assert len(np.unique(found)) == 2, name


BOX = spaces.Box(-1, 1, (2, 3), np.float32)
SPACES = {
    "float64": (spaces.Box(-1, 1, (3,), np.float64), spaces.Discrete(3, start=-1)),
    "scalar": (spaces.Box(0, 1, ()), spaces.MultiDiscrete([2, 3], start=[5, -1], dtype=np.int32)),
    "Discrete": (spaces.Discrete(4, start=2), spaces.MultiBinary(3)),
    "MultiDiscrete": (spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [0, -3]]), spaces.Box(-0.1, 0.1, (2,))),
    "MultiBinary": (spaces.MultiBinary(3), spaces.Box(0, 9, (2,), np.uint8)),
    "unbounded": (BOX, spaces.Box(-np.inf, 0.05, (2,), np.float64)),
    "Dict": (spaces.Dict({"b": BOX, "a": spaces.Discrete(3)}), spaces.Discrete(5)),
}


def run_in(observation_space, action_space):
    """A run in these spaces, of which no environment needs to exist."""
    torch.manual_seed(0)
    policy = MLPPolicy(observation_space, action_space, (4,))
    size = spaces.flatdim(observation_space)
    normalizer = ObservationNormalizer(size)
    normalizer.moments.update(np.random.default_rng(0).normal(0.3, 0.5, (50, size)))
    with torch.no_grad():
        policy.layers[-1].weight.normal_(std=3)
    run = TrainedRun(config=TrainConfig("None-v0"), policy=policy, normalize_observation=normalizer)
    vars(run)["spaces"] = observation_space, action_space
    return run


@pytest.mark.parametrize("name", SPACES)
def test_spaces_of_any_kind(name):
    run = run_in(*SPACES[name])
    space = run.spaces[0]
    space.seed(0)
    seen = [space.sample() for _ in range(1000)]
    raw = np.stack([spaces.flatten(space, one) for one in seen]) if name == "Dict" else np.stack(seen)
    expected = np.stack([run.predict(one) for one in seen])
    found = exported_program(run).module()(torch.as_tensor(raw)).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len(np.unique(found)) > 1


def test_the_runs_policy_is_left_as_it_is(runs, tmp_path):
    policy = runs["own"].policy.train()
    checked = torch.distributions.Distribution._validate_args
    export(runs["own"], tmp_path / "policy.pt2")
    assert all(parameter.requires_grad for parameter in policy.parameters())
    assert policy.training
    assert torch.distributions.Distribution._validate_args == checked


class Fixed(own.Actor):
    """Takes the number of rows for a constant."""

    def distribution(self, observation):
        return super().distribution(observation + torch.zeros(len(observation), 1))


class Asking(own.Actor):
    """Depends on a number in a tensor."""

    def distribution(self, observation):
        return super().distribution(observation if observation.sum() > 0 else -observation)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Fixed, r"Fixed cannot be exported: it fixes the number of rows; write observation\.shape\[0\], not len"),
        (Asking, "Asking cannot be exported: .+"),
    ],
)
def test_a_policy_that_cannot_be_traced_is_named(tmp_path, kind, message):
    run = TrainedRun(config=TrainConfig("Dot-v0"), policy=kind(*run_in(BOX, spaces.Discrete(2)).spaces))
    vars(run)["spaces"] = BOX, spaces.Discrete(2)
    with pytest.raises(ExportError, match=message):
        export(run, tmp_path / "policy.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["policy.pt", "policy", "nowhere/policy.pt2", "folder.pt2", ""])
def test_a_path_that_cannot_be_is_refused(tmp_path, name):
    (tmp_path / "folder.pt2").mkdir()
    run = TrainedRun(config=TrainConfig(), policy=BiasPolicy())
    with pytest.raises(ExportError, match=r"path must name a file that ends in \.pt2, in a folder that exists, got"):
        export(run, tmp_path / name)


def test_a_folder_is_enough_and_an_older_file_is_replaced(runs, tmp_path):
    path = tmp_path / "policy.pt2"
    path.write_text("old")
    export(runs["bias"].run_dir, str(path))
    hunger = np.linspace(0, 1, 30, dtype=np.float32)[:, None]
    found = torch.export.load(path).module()(torch.from_numpy(hunger))
    assert np.array_equal(found.numpy(), runs["bias"].predict(hunger))
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.pt2"]
    assert (ROOT / "scripts" / "export.py").exists()
