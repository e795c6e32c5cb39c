"""Runs on another device: the numbers of the CPU, no forgotten tensor, and no waiting in the middle of an update.

Without a GPU the device is `other_device`'s; a real one that is available is tested as well.
"""

import io
import json
import pickletools
import re
import types
import zipfile

import numpy as np
import own  # noqa: F401 -- registers Dot-v0
import pytest
import torch
from gymnasium import spaces
from other_device import OTHER, OtherDevice

import pgtorch.trainer
from pgtorch import SetupError, TrainConfig, load_run, resume, train
from pgtorch.commands.train import read_flags
from pgtorch.device import AVAILABLE, CPU, resolve
from pgtorch.distributions import as_global_stream
from pgtorch.environment.checks import NonFiniteError
from pgtorch.gradient_check import check_gradient
from pgtorch.losses import policy_gradient_loss
from pgtorch.networks import MLPPolicy
from pgtorch.record.checkpoint import checkpoints, read_checkpoint
from pgtorch.record.evaluation import evaluate
from pgtorch.record.export import export
from pgtorch.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")  # `Elsewhere` copies it
REAL = [name for name, is_available in AVAILABLE.items() if is_available()]
SMALL = {"num_envs": 3, "num_steps": 8, "hidden_sizes": (6,), "num_epochs": 2, "num_minibatches": 3}
SMALL |= {"max_gradient_norm": None, "learning_rate_schedule": "constant"}
LESSON = TrainConfig().env_id
CASES = {
    "lesson": (LESSON, {"num_envs": 3}),
    "cart": ("CartPole-v1", {**SMALL, "check_gradient": 1}),
    "cut off": ("CartPole-v1", {**SMALL, "env_kwargs": {"max_episode_steps": 5}, "vectorization": "sync"}),
    "clipped": ("CartPole-v1", {**SMALL, "max_gradient_norm": 0.1}),
    "to go": ("CartPole-v1", {**SMALL, "multiplier": "reward-to-go", "baseline": "mean", "entropy_coefficient": 0.1}),
    "pendulum": ("Pendulum-v1", {**SMALL, "check_gradient": 1, "entropy_coefficient": 0.1}),
    "lake": ("FrozenLake-v1", {**SMALL, "optimizer": "torch.optim.RMSprop"}),
    "images": ("Dot-v0", {**SMALL, "env_kwargs": {"shape": [5, 5, 1]}}),
    "shards": ("CartPole-v1", {**SMALL, "num_shards": 3}),
    "twin": ("CartPole-v1", {**SMALL, "check_update": 1}),
}


@pytest.fixture(params=["other", *REAL])
def device(request, monkeypatch):
    """The name of another device than the CPU, for `TrainConfig`."""
    if request.param != "other":
        yield request.param
        return
    monkeypatch.setattr(pgtorch.trainer, "resolve", lambda name: CPU if name == "cpu" else OTHER)
    streams = {name: getattr(torch, name) for name in ("get_rng_state", "set_rng_state")}
    seed = torch.default_generator.manual_seed
    monkeypatch.setattr(torch, "meta", types.SimpleNamespace(manual_seed=seed, **streams), raising=False)
    with OtherDevice():
        yield "cuda"


def trained(env_id, folder, **settings):
    return train(TrainConfig(env_id, run_dir=folder, num_updates=3, pictures=False, **settings))


def parameters(run):
    return {name: tensor.detach().cpu() for name, tensor in run.policy.state_dict().items()}


def assert_same(found, expected, device):
    exact = {"rtol": 1e-5, "atol": 1e-6} if device == "cuda" and not REAL else {"rtol": 1e-2, "atol": 1e-3}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(torch.as_tensor(found[name]), torch.as_tensor(value), **exact)


@pytest.mark.parametrize("case", CASES)
def test_a_run_learns_the_same_there(device, case, tmp_path):
    env_id, settings = CASES[case]
    here = trained(env_id, tmp_path / "here", **settings)
    there = trained(env_id, tmp_path / "there", device=device, **settings)
    assert next(there.policy.parameters()).device.type != "cpu"
    assert_same(parameters(there), parameters(here), device)
    here, there = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("here", "there")
    )
    rounding = ("gradient/absolute_difference", "gradient/difference_in_units_of_u_c", "update/relative_difference")
    for found, expected in zip(there, here, strict=True):
        for line in (found, expected):
            for tag in rounding:
                line.pop(tag, None)
        assert_same(found, expected, device)


@pytest.mark.parametrize(
    "actions", [spaces.MultiDiscrete([2, 3], start=[0, 4]), spaces.MultiBinary(3), spaces.Discrete(3, start=2)], ids=str
)
def test_gradients_of_every_action_space_are_checked_there(device, actions):
    place = resolve(device) if REAL else OTHER
    policy = MLPPolicy(spaces.Box(-1.0, 1.0, (2,)), actions, (4,)).to(place)
    observation, multiplier = torch.ones(5, 2, device=place), torch.ones(5, device=place)
    action = policy.sample(observation, torch.Generator().manual_seed(0))
    distribution = policy.distribution(observation)
    loss = policy_gradient_loss(distribution.log_prob(action), multiplier) - 0.1 * distribution.entropy().mean()
    loss.backward()
    figures = check_gradient(policy, observation, action, multiplier, env_steps=0, entropy_coefficient=0.1)
    assert figures["gradient/absolute_difference"] < 1e-6


# Waiting


def learned(**settings):
    """The waits and the transfers of an update."""
    settings = {"num_envs": 4, "num_steps": 8, "vectorization": "sync", "check_gradient": 0, **settings}
    with OtherDevice() as device:
        trainer = Trainer(TrainConfig(device="cuda", **settings))
        trainer.update()
        device.waits.clear(), device.sends.clear()
        trainer.update()
        trainer.close()
        return device.waits.total(), device.sends.total()


@pytest.fixture
def other(monkeypatch):
    monkeypatch.setattr(pgtorch.trainer, "resolve", lambda _: OTHER)


@pytest.mark.parametrize(
    "settings",
    [
        {"env_id": "CartPole-v1", "optimizer": "sgd"},
        {"env_id": "CartPole-v1", "env_kwargs": {"max_episode_steps": 3}},
        {"env_id": "Pendulum-v1", "optimizer": "torch.optim.AdamW"},
        {"env_id": "Dot-v0", "env_kwargs": {"shape": [5, 5, 1]}},
    ],
)
def test_an_update_waits_for_actions_values_and_figures_however_many_steps_it_takes(other, settings):
    (waits, sends), *others = (
        learned(num_epochs=epochs, num_minibatches=parts, entropy_coefficient=0.1, **settings)
        for epochs, parts in ((2, 1), (2, 3), (3, 5))
    )
    assert waits == 8 + 1 + 1  # the actions of each step, the values, the figures
    assert others == [(waits, sends), (waits, sends)]


def test_the_lesson_also_waits_for_the_figures_of_its_policy(other):
    assert learned(env_id=LESSON)[0] == 8 + 1 + 2  # the bias, and the three probabilities


def test_the_other_device_counts_waits_and_refuses_tensors_that_were_not_moved():
    with OtherDevice() as device:
        there = torch.ones(2, device=OTHER)
        for read in (there.sum().item, there.cpu, lambda: bool(there.any()), lambda: there[there > 0], there.nonzero):
            before = device.waits.total()
            read()
            assert device.waits.total() == before + 1
        assert there.mul(3.0).cpu().tolist() == [3.0, 3.0]
        with pytest.raises(RuntimeError, match="both devices"):
            there + torch.ones(2)


# What is not finite


def test_a_gradient_that_is_not_finite_ends_the_update_and_is_named(device, tmp_path):
    settings = {"policy": "mlp", "optimizer": "adam", "env_kwargs": {"reward_scale": 1e38}, **SMALL}
    with pytest.raises(NonFiniteError) as caught:
        trained(LESSON, tmp_path / "run", device=device, **settings)
    text = "; ".join([str(caught.value), *caught.value.__notes__])
    assert "update 1, step 24: the norms of the gradients must be finite, got {'all': nan} at loss " in text
    assert re.search(r"(gradient|optimizer's mean_square) of policy layers\.0\.weight must be finite, got ", text)
    assert "last good checkpoint: none yet" in text


def test_a_value_functions_gradient_counts(device, monkeypatch):
    trainer = Trainer(TrainConfig("CartPole-v1", device=device, **SMALL))
    weight = trainer.value_function.layers[0].weight
    weight.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(NonFiniteError, match="update 1, step 24: the norms"):
        trainer.update()
    trainer.close()


# Choosing


def test_auto_takes_the_first_device_there_is(monkeypatch):
    for name in AVAILABLE:
        monkeypatch.setitem(AVAILABLE, name, lambda: False)
    assert resolve("auto") == resolve("cpu") == CPU
    monkeypatch.setitem(AVAILABLE, "mps", lambda: True)
    assert resolve("auto") == resolve("mps") == torch.device("mps")
    monkeypatch.setitem(AVAILABLE, "cuda", lambda: True)
    assert resolve("auto") == torch.device("cuda")


def test_a_device_that_is_not_there_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(AVAILABLE, "cuda", lambda: False)
    with pytest.raises(SetupError, match=r"device must be available, but torch .* finds no cuda here; use cpu or auto"):
        trained(LESSON, tmp_path / "run", device="cuda")
    assert not list(tmp_path.iterdir())


def test_the_flag_is_for_new_runs_and_for_resumed_ones():
    assert read_flags(["--device", "auto"]).device == "auto"
    assert read_flags([]).device == "cpu"
    assert read_flags(["--resume", "runs/x", "--device", "cpu"]).device == "cpu"
    assert read_flags(["--resume", "runs/x"]).device is None


# Moving


@pytest.mark.parametrize("optimizer", ["adam", "torch.optim.Adam"])
@pytest.mark.parametrize("here_first", [True, False])
def test_a_run_moves_between_devices(device, tmp_path, here_first, optimizer):
    settings = {**SMALL, "optimizer": optimizer, "evaluate_every": 2, "evaluation_episodes": 2}
    straight = trained("CartPole-v1", tmp_path / "straight", **settings)
    first, second = ("cpu", device) if here_first else (device, "cpu")
    config = TrainConfig(
        "CartPole-v1", run_dir=tmp_path / "run", num_updates=2, device=first, pictures=False, **settings
    )
    train(config)
    moved = resume(tmp_path / "run", num_updates=3, device=second)
    assert moved.config.device == second == json.loads((tmp_path / "run/config.json").read_text())["config"]["device"]
    assert_same(parameters(moved), parameters(straight), device)
    (newest, *_) = checkpoints(tmp_path / "run")
    assert read_checkpoint(newest)["config"]["device"] == second


def test_a_checkpoint_holds_tensors_of_the_cpu(device, tmp_path):
    trained("CartPole-v1", tmp_path / "run", device=device, **SMALL, evaluate_every=1, evaluation_episodes=2)
    (newest, *_) = checkpoints(tmp_path / "run")
    with zipfile.ZipFile(io.BytesIO(newest.read_bytes().partition(b"\n")[2][32:])) as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    places = [text for _, text, _ in pickletools.genops(pickled) if text in ("cpu", "cuda", "cuda:0", "meta", "mps:0")]
    assert sorted(set(places)) == sorted({"cpu", device})  # of the tensors, and the setting
    assert places.count(device) == 1


def test_a_trained_policy_plays_and_is_exported_from_where_it_is(device, tmp_path):
    run = trained("CartPole-v1", tmp_path / "run", device=device, **SMALL)
    loaded = load_run(tmp_path / "run")
    assert {parameter.device for parameter in loaded.policy.parameters()} == {CPU}
    observation = np.full((5, 4), 0.1, np.float32)
    np.testing.assert_array_equal(run.predict(observation), loaded.predict(observation))
    assert evaluate(run, 3)["greedy"] == evaluate(loaded, 3)["greedy"]
    program = torch.export.load(export(loaded, tmp_path / "policy.pt2")).module()
    np.testing.assert_array_equal(program(torch.from_numpy(observation)), run.predict(observation))


# Random numbers


def test_a_policy_that_draws_there_draws_from_the_runs_generator(device, tmp_path):
    settings = {"policy": "own:Actor", "device": device, **SMALL}
    one = trained("CartPole-v1", tmp_path / "one", **settings)
    torch.get_device_module(next(one.policy.parameters()).device).manual_seed(7)
    other = trained("CartPole-v1", tmp_path / "other", **settings)
    if device == "cuda" and not REAL:
        assert one.hash == other.hash
    assert_same(parameters(other), parameters(one), device)


def test_the_devices_own_stream_is_left_as_it_was(device):
    place = OTHER if not REAL else resolve(device)
    streams = torch.get_device_module(place)
    before = streams.get_rng_state()
    draws = []
    for _ in range(2):
        with as_global_stream(torch.Generator().manual_seed(3), place):
            draws.append(torch.rand(3, device=place).cpu().tolist())
    assert draws[0] == draws[1]
    assert torch.equal(streams.get_rng_state(), before)
