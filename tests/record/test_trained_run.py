import copy
import random
import shutil
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from support import numpy_stream, run_python, seeded

from pgtorch import BiasPolicy, CheckpointError, CNNPolicy, MLPPolicy, Policy, TrainConfig, resume, train
from pgtorch.distributions import as_global_stream
from pgtorch.environment.normalization import ObservationNormalizer
from pgtorch.record.checkpoint import read_newest, save_checkpoint
from pgtorch.record.metrics import read_metrics
from pgtorch.record.trained_run import TrainedRun, load_run
from pgtorch.record.trainer_state import class_of

LESSON = "restaurant_env:Restaurant-v0"
SHORT = {"num_updates": 3, "pictures": False}

DICT = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3), "c": spaces.Tuple([spaces.MultiBinary(2)])})
OBSERVATIONS = {
    "Box": spaces.Box(-1, 1, (2, 3)),
    "one number": spaces.Box(0, 1, (1,)),
    "scalar": spaces.Box(0, 1, ()),
    "Discrete": spaces.Discrete(4, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
    "Dict": DICT,
}
ACTIONS = {
    "Discrete": spaces.Discrete(3, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3], dtype=np.int32),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(-0.01, 0.01, (2,), np.float64),
}


class OddEnv(gym.Env):
    def __init__(self, observation, action):
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 0.0, True, False, {}


gym.register("Odd-v0", OddEnv, disable_env_checker=True)


def odd_run(observation, action, **settings):
    config = TrainConfig("Odd-v0", env_kwargs={"observation": observation, "action": action})
    torch.manual_seed(0)
    policy = MLPPolicy(OBSERVATIONS[observation], ACTIONS[action], (4,))
    return TrainedRun(config=config, policy=policy, **settings)


# predict


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("deterministic", [True, False])
def test_one_observation_and_a_batch_of_any_spaces(observation, action, deterministic):
    run, env = odd_run(observation, action), gym.make("Odd-v0", observation=observation, action=action)
    one = env.reset(seed=0)[0]
    for _ in range(3):
        one = env.step(run.predict(one, deterministic))[0]  # which asserts that the space contains the action
    vector = gym.make_vec("Odd-v0", 5, observation=observation, action=action)
    batch = vector.reset(seed=0)[0]
    taken = run.predict(batch, deterministic)
    assert taken.shape == vector.action_space.shape
    assert taken.dtype == ACTIONS[action].dtype
    vector.step(taken)
    if deterministic:
        singles = [run.predict(each) for each in gym.vector.utils.iterate(vector.observation_space, batch)]
        np.testing.assert_allclose(singles, taken, atol=1e-6)


@pytest.mark.parametrize(
    ("observation", "wrong"),
    [
        ("Box", np.zeros(6)),
        ("Box", np.zeros((5, 3, 2))),
        ("Box", np.zeros((4, 5, 2, 3))),
        ("one number", 0.5),
        ("Discrete", [[2, 3]]),
        ("Dict", {"a": np.zeros((5, 2)), "b": 1, "c": (np.zeros(2, np.int8),)}),
        ("Dict", {"a": np.zeros(3), "b": 1, "c": (np.zeros(2, np.int8),)}),
    ],
)
def test_an_observation_of_another_shape_is_refused(observation, wrong):
    with pytest.raises(ValueError, match=r"observation must (have shape \[|be one or a batch in every part)"):
        odd_run(observation, "Discrete").predict(wrong)


def test_observations_are_normalized_and_actions_clipped():
    normalizer = ObservationNormalizer(6)
    normalizer.moments.update(5 + np.random.default_rng(0).normal(size=(100, 6)))
    plain = odd_run("Box", "Box")
    with torch.no_grad():
        plain.policy.layers[-1].weight.mul_(100)
    normalized = TrainedRun(config=plain.config, policy=plain.policy, normalize_observation=normalizer)
    seen = np.full((2, 3), 5.0, np.float32)
    rows = torch.as_tensor(normalizer(seen.reshape(1, 6)), dtype=torch.float32)
    unclipped = plain.policy.mode(rows).numpy()[0]
    assert abs(unclipped).max() > 0.01
    np.testing.assert_allclose(normalized.predict(seen), np.clip(unclipped, -0.01, 0.01))
    assert not np.allclose(normalized.predict(seen), plain.predict(seen))


def test_draws_come_from_the_generator_that_is_given_or_else_from_the_runs_own():
    config = TrainConfig()
    run = TrainedRun(config=config, policy=BiasPolicy(weight=0.0))
    hunger = np.full((200, 1), 0.5, np.float32)
    before = torch.get_rng_state(), numpy_stream(), random.getstate()
    first, second = (run.predict(hunger, False, torch.Generator().manual_seed(5)) for _ in range(2))
    assert np.array_equal(first, second)
    assert 60 < first.sum() < 140
    own = [run.predict(hunger, deterministic=False) for _ in range(2)]
    assert not np.array_equal(*own)
    fresh = TrainedRun(config=config, policy=BiasPolicy(weight=0.0))
    assert np.array_equal(fresh.predict(hunger, deterministic=False), own[0])
    after = torch.get_rng_state(), numpy_stream(), random.getstate()
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]


def test_the_lesson_goes_to_norm_when_hungry():
    run = TrainedRun(config=TrainConfig(), policy=BiasPolicy(bias=-10.0))
    assert run.predict(np.array([0.9], np.float32)) == 1
    assert run.predict([[0.1], [0.9]]).tolist() == [0, 1]


# load_run


@pytest.mark.parametrize("env_id", [LESSON, "CartPole-v1"])
def test_a_run_is_loaded_as_it_ended(tmp_path, env_id):
    result = train(TrainConfig(env_id, run_dir=tmp_path / "run", **SHORT))
    for run in (load_run(result.run_dir), load_run(str(result.run_dir))):
        assert run.config == result.config
        assert type(run.policy) is type(result.policy)
        for name, value in result.policy.state_dict().items():
            assert torch.equal(run.policy.state_dict()[name], value)
        seen = np.random.default_rng(0).uniform(0, 1, (50, *run.spaces[0].shape)).astype(np.float32)
        assert np.array_equal(run.predict(seen), result.predict(seen))
        drawn = [each.predict(seen, False, torch.Generator().manual_seed(1)) for each in (run, result)]
        assert np.array_equal(*drawn)
    if env_id == LESSON:
        assert run.normalize_observation is None
    else:
        assert abs(run.normalize_observation.moments.mean).max() > 0


def test_loading_draws_from_no_global_stream(tmp_path):
    folder = train(TrainConfig("CartPole-v1", run_dir=tmp_path / "run", **SHORT)).run_dir
    before = torch.get_rng_state(), numpy_stream(), random.getstate()
    load_run(folder)
    after = torch.get_rng_state(), numpy_stream(), random.getstate()
    assert torch.equal(after[0], before[0])
    assert after[1:] == before[1:]


class Mine(Policy):
    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.zeros(2))

    def distribution(self, observation):
        return torch.distributions.Categorical(logits=self.scores.expand(len(observation), 2))


def test_a_policy_that_no_setting_names_must_be_passed(tmp_path):
    folder = train(TrainConfig(run_dir=tmp_path / "run", check_gradient=0, **SHORT), policy=Mine()).run_dir
    with pytest.raises(CheckpointError, match="the policy is a Mine, which only you can create: pass one"):
        load_run(folder)
    assert load_run(folder, Mine()).policy.scores.abs().sum() > 0
    with pytest.raises(CheckpointError, match=r"policy\.class must be 'BiasPolicy', got 'Mine'"):
        resume(folder)


@pytest.mark.parametrize("name", ["missing", "file", "empty", "x" * 300, "a\0b"])
def test_what_is_no_run_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no checkpoint|must be the folder of a run"):
        load_run(tmp_path / name)


def test_links_are_not_followed(tmp_path):
    train(TrainConfig(run_dir=tmp_path / "run", **SHORT))
    (tmp_path / "run" / "checkpoint-000000003.pt").rename(tmp_path / "elsewhere.pt")
    (tmp_path / "run" / "checkpoint-000000003.pt").symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(CheckpointError, match=r"it holds a symbolic link, 'checkpoint-000000003\.pt'"):
        load_run(tmp_path / "run")


@pytest.fixture(scope="module")
def cart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cart") / "run"
    return train(TrainConfig("CartPole-v1", num_envs=2, hidden_sizes=(4,), run_dir=folder, **SHORT)).run_dir


def altered(state, way, value):
    """A copy with another value at a path of keys; `...` takes it out."""
    key, *rest = way
    copied = dict(state)
    if rest:
        copied[key] = altered(state[key], rest, value)
    elif value is ...:
        del copied[key]
    else:
        copied[key] = value
    return copied


POLICY, MOMENTS = ("trainer", "policy"), ("trainer", "collector", "normalize_observation")
WEIGHT = (*POLICY, "parameters", "layers.0.weight")


@pytest.mark.parametrize(
    ("way", "value", "message"),
    [
        (WEIGHT, torch.zeros(4, 5), r"layers\.0\.weight must be a tensor"),
        (WEIGHT, ..., r"missing|keys"),
        ((*POLICY, "class"), "BiasPolicy", "the policy is a BiasPolicy"),
        (POLICY, ..., "does not hold the state of a run"),
        (POLICY, 3, "does not hold the state of a run"),
        ((*MOMENTS, "variance"), torch.full((4,), -1.0, dtype=torch.float64), r"variance must be at least 0, got -1"),
        ((*MOMENTS, "mean"), torch.zeros(()), "does not hold the state of a run"),
        ((*MOMENTS, "mean"), torch.zeros(4), r"mean must be a tensor torch\.float64"),
        (MOMENTS, ..., "does not hold the state of a run"),
        (("config", "env_id"), "Nowhere-v0", "its environment or policy cannot be created: NameNotFound"),
        (("config", "env_id"), "CartPole-v9", "its environment or policy cannot be created"),
        (("config", "env_kwargs"), {"spice": 1}, "its environment or policy cannot be created: TypeError"),
        (("config", "hidden_sizes"), [5], r"layers\.0\.weight must be a tensor"),
        (("config", "policy"), "bias", "its environment or policy cannot be created: TypeError"),
        (("config", "learning_rate"), -1.0, "config: learning_rate must be"),
        (("config", "spice"), 1, r"config must hold every setting, got \['spice'\] extra"),
        (("config", "seed"), ..., r"config must hold every setting, got \[\] extra and \['seed'\] missing"),
        (("config", "seed"), torch.tensor(1), "config: seed must be"),
    ],
    ids=str,
)
def test_a_wrong_part_is_named(cart, tmp_path, way, value, message):
    shutil.copy(cart / "metrics.jsonl", tmp_path)
    path = save_checkpoint(tmp_path, 3, **altered(read_newest(cart)[1], way, value))
    with pytest.raises(CheckpointError, match=message) as raised:
        load_run(tmp_path)
    assert str(path) in str(raised.value)
    load_run(cart)


def test_a_network_with_another_activation_is_another_policy(tmp_path):
    """Its parameters would fit the network that the settings name, which computes something else."""
    with as_global_stream(seeded()):
        policy = MLPPolicy(spaces.Box(-9, 9, (4,)), spaces.Discrete(2), (4,), "relu")
    config = TrainConfig("CartPole-v1", num_envs=2, hidden_sizes=(4,), run_dir=tmp_path, **SHORT)
    trained = train(config, policy=copy.deepcopy(policy)).policy
    with pytest.raises(CheckpointError, match="the policy is a MLPPolicy, relu, which only you can create: pass one"):
        load_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"trainer\.policy\.class must be 'MLPPolicy', got 'MLPPolicy, relu'"):
        resume(tmp_path, num_updates=4)
    loaded = load_run(tmp_path, policy=policy).policy
    assert torch.equal(loaded.layers[0].weight, trained.layers[0].weight)
    run = train(TrainConfig("CartPole-v1", activation="elu", run_dir=tmp_path / "elu", evaluate_every=1, **SHORT))
    assert load_run(run.run_dir).policy.activation == run.policy.activation == "elu"
    assert load_run(run.run_dir, which="best").policy.activation == "elu"


def test_the_activation_of_a_network_within_a_policy_counts_too():
    space = spaces.Box(0, 255, (5, 5, 3), np.uint8)
    assert class_of(CNNPolicy(space, spaces.Discrete(2), (4,), "relu")) == "CNNPolicy, relu"
    assert class_of(CNNPolicy(space, spaces.Discrete(2), (4,))) == "CNNPolicy"


def test_an_environment_that_exits_is_reported(cart, tmp_path):
    gym.register("Exits-v0", lambda: sys.exit(0), disable_env_checker=True)
    shutil.copy(cart / "metrics.jsonl", tmp_path)
    save_checkpoint(tmp_path, 3, **altered(read_newest(cart)[1], ("config", "env_id"), "Exits-v0"))
    with pytest.raises(CheckpointError, match="its environment or policy cannot be created: SystemExit"):
        load_run(tmp_path)


LOAD = """
import sys
from pgtorch import CheckpointError
from pgtorch.record.trained_run import load_run
try:
    load_run("run", allow_import=sys.argv[1:])
    print("loaded")
except (CheckpointError, ImportError) as error:
    print(error)
"""
EVIL = """
from pathlib import Path
import gymnasium
Path("canary").touch()
gymnasium.register("Evil-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=500)
"""


def test_a_module_that_only_the_folder_names_is_not_imported(cart, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "evilmod.py").write_text(EVIL)
    shutil.copy(cart / "metrics.jsonl", tmp_path / "run")
    save_checkpoint(tmp_path / "run", 3, **altered(read_newest(cart)[1], ("config", "env_id"), "evilmod:Evil-v0"))
    done = run_python("-c", LOAD, cwd=tmp_path)
    assert "'evilmod'" in done.stdout, done.stderr
    assert not (tmp_path / "canary").exists()
    assert run_python("-c", LOAD, "evilmod", cwd=tmp_path).stdout == "loaded\n"
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("module", ["mpl_toolkits.evilmod", "mpl_toolkits.inner.evilmod"])
def test_a_part_of_a_namespace_package_is_not_taken_for_installed(cart, tmp_path, module):
    """`mpl_toolkits` comes with matplotlib, and any folder of that name on the path is a part of it."""
    (tmp_path / "run").mkdir()
    path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True)
    path.write_text(EVIL)
    shutil.copy(cart / "metrics.jsonl", tmp_path / "run")
    save_checkpoint(tmp_path / "run", 3, **altered(read_newest(cart)[1], ("config", "env_id"), f"{module}:Evil-v0"))
    for code in (LOAD, f"import mpl_toolkits\n{LOAD}"):
        done = run_python("-c", code, cwd=tmp_path)
        assert f"'{module}'" in done.stdout, done.stderr
        assert not (tmp_path / "canary").exists()
    assert run_python("-c", LOAD, module, cwd=tmp_path).stdout == "loaded\n"


def test_a_checkpoint_of_another_run_is_skipped(tmp_path):
    for seed in (0, 1):
        train(TrainConfig(seed=seed, num_updates=4, checkpoint_every=2, pictures=False, run_dir=tmp_path / str(seed)))
    shutil.copy(tmp_path / "1" / "checkpoint-000000004.pt", tmp_path / "0")
    with pytest.warns(UserWarning, match="metrics.jsonl .*; going back to checkpoint-000000002"):
        run = load_run(tmp_path / "0")
    assert run.policy.bias.item() == read_metrics(tmp_path / "0")[1]["policy/bias"]
