"""Other people's learners, and two plain loops, on Restaurant-v0 as it is.

TorchRL and Tianshou are too heavy for the dev extra: if they are not installed, their tests are skipped.
"""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

CERTAIN = {"large_portion_probability": (0.0, 1.0)}  # Squatch always serves a small order, Norm always a large one
GRID = np.linspace(0.0, 1.0, 21, dtype=np.float32)[:, None]  # hunger


def assert_learned(choose):
    """`choose` maps hunger, float32 [N, 1], to actions [N].

    Always right earns 0.65 on average, one place for all 0.0, chance 0.0; n = 10,000, so a standard error is 0.01.
    """
    assert choose(GRID[[0, -1]]).tolist() == [0, 1]
    envs = gym.make_vec("Restaurant-v0", num_envs=10_000)
    observations, _ = envs.reset(seed=9)
    assert envs.step(choose(observations))[1].mean() > 0.45


DQN_SETTINGS = {"learning_starts": 200, "batch_size": 64, "target_update_interval": 100, "gradient_steps": 2}


@pytest.mark.parametrize(
    ("learner", "visits", "settings"),
    [
        (PPO, 2_048, {"n_steps": 32, "batch_size": 64, "n_epochs": 4, "learning_rate": 1e-2}),
        (A2C, 6_400, {"n_steps": 8, "learning_rate": 5e-3}),
        (DQN, 2_400, {"train_freq": 1, "learning_rate": 1e-2, **DQN_SETTINGS}),
    ],
)
def test_stable_baselines_learns_where_to_go(learner, visits, settings):
    """Visits in 8 environments at once."""
    model = learner("MlpPolicy", make_vec_env("Restaurant-v0", 8), seed=0, device="cpu", **settings)
    model.learn(visits)
    assert_learned(lambda observations: model.predict(observations, deterministic=True)[0])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_plain_loop_learns_the_bias_of_the_lesson():
    """Learning rate 1: the bias hovers around -10; the mean of the last 1,000 has a standard deviation of 0.25."""
    env, rng = gym.make("Restaurant-v0"), np.random.default_rng(0)
    bias, biases = 0.0, []
    observation, _ = env.reset(seed=0)
    for _ in range(2_000):
        norm = sigmoid(20 * observation[0] + bias)
        action = int(rng.random() < norm)
        _, reward, terminated, truncated, _ = env.step(action)
        assert terminated
        assert not truncated
        bias += reward * (action - norm)
        biases.append(bias)
        observation, _ = env.reset()
    env.close()
    assert np.mean(biases[1_000:]) == pytest.approx(-10, abs=1.25)


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_plain_vector_loop_learns_the_bias_of_the_lesson(mode):
    """As above with 100 visits an update: the mean over the last 400 updates has a standard deviation of 0.03."""
    envs, rng = gym.make_vec("Restaurant-v0", num_envs=100, autoreset_mode=mode), np.random.default_rng(0)
    bias, biases = 0.0, []
    observations, _ = envs.reset(seed=0)
    for _ in range(800):
        norm = sigmoid(20 * observations[:, 0] + bias)
        actions = (rng.random(100) < norm).astype(np.int64)
        observations, rewards, terminated, _, _ = envs.step(actions)
        assert terminated.all()
        bias += np.mean(rewards * (actions - norm))
        biases.append(bias)
        if mode == "NextStep":
            observations, *_ = envs.step(actions)
        elif mode == "Disabled":
            observations, _ = envs.reset(options={"reset_mask": terminated})
    envs.close()
    assert np.mean(biases[400:]) == pytest.approx(-10, abs=0.2)


def network(outputs):
    return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, outputs))


@pytest.mark.filterwarnings("ignore")  # TorchRL's own
def test_torchrl_learns_where_to_go():
    pytest.importorskip("torchrl")
    from tensordict import TensorDict  # noqa: PLC0415
    from tensordict.nn import InteractionType, TensorDictModule  # noqa: PLC0415
    from torchrl.envs import GymEnv, check_env_specs  # noqa: PLC0415
    from torchrl.modules import ProbabilisticActor, ValueOperator  # noqa: PLC0415
    from torchrl.objectives import ReinforceLoss  # noqa: PLC0415

    torch.manual_seed(0)
    env = GymEnv("Restaurant-v0", categorical_action_encoding=True)
    check_env_specs(env)
    env.set_seed(0)
    actor = ProbabilisticActor(
        TensorDictModule(network(2), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=env.action_spec,
        distribution_class=torch.distributions.Categorical,
        default_interaction_type=InteractionType.RANDOM,
    )
    loss = ReinforceLoss(actor, ValueOperator(network(1), in_keys=["observation"]))
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-2)
    for _ in range(40):
        losses = loss(env.rollout(64, actor, break_when_any_done=False))
        optimizer.zero_grad()
        (losses["loss_actor"] + losses["loss_value"]).backward()
        optimizer.step()

    def choose(observations):
        data = TensorDict({"observation": torch.from_numpy(observations)}, [len(observations)])
        return actor.get_dist(data).probs.argmax(dim=1).numpy()

    assert_learned(choose)


@pytest.mark.filterwarnings("ignore")  # TorchRL's own
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])  # NextStep it refuses
def test_torchrl_keeps_observations_and_rewards_of_the_vector_environment_together(mode):
    pytest.importorskip("torchrl")
    from torchrl.envs import GymWrapper  # noqa: PLC0415

    torch.manual_seed(0)
    envs = gym.make_vec("Restaurant-v0", num_envs=4, autoreset_mode=mode, **CERTAIN)
    env = GymWrapper(envs, categorical_action_encoding=True)
    env.set_seed(0)
    data = env.rollout(50, break_when_any_done=False)
    hunger, action, after = data["observation"][..., 0], data["action"], data["next"]
    assert hunger.unique().numel() == 200
    assert torch.equal(after["observation"][..., 0], hunger)
    assert torch.equal(after["reward"][..., 0], torch.where((action == 1) == (hunger > 0.5), 1.0, -1.0))
    assert after["terminated"].all()


@pytest.mark.filterwarnings("ignore")  # Tianshou's own
def test_tianshou_learns_where_to_go():
    pytest.importorskip("tianshou")
    from tianshou.algorithm import Reinforce  # noqa: PLC0415
    from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy  # noqa: PLC0415
    from tianshou.algorithm.optim import AdamOptimizerFactory  # noqa: PLC0415
    from tianshou.data import Batch, Collector, VectorReplayBuffer  # noqa: PLC0415
    from tianshou.env import DummyVectorEnv  # noqa: PLC0415
    from tianshou.trainer import OnPolicyTrainerParams  # noqa: PLC0415
    from tianshou.utils.net.common import Net  # noqa: PLC0415

    torch.manual_seed(0)
    env = gym.make("Restaurant-v0")
    envs = DummyVectorEnv([lambda: gym.make("Restaurant-v0")] * 8)
    envs.seed(0)
    actor = Net(state_shape=(1,), action_shape=2, hidden_sizes=[32], activation=nn.Tanh)
    policy = DiscreteActorPolicy(actor=actor, action_space=env.action_space, observation_space=env.observation_space)
    learner = Reinforce(policy=policy, optim=AdamOptimizerFactory(lr=3e-2))
    learner.run_training(
        OnPolicyTrainerParams(
            training_collector=Collector(learner, envs, VectorReplayBuffer(1024, 8)),
            max_epochs=1,
            epoch_num_steps=4096,
            collection_step_num_env_steps=64,
            batch_size=None,
            show_progress=False,
        )
    )

    def choose(observations):
        return policy(Batch(obs=observations, info={})).dist.probs.argmax(dim=1).numpy()

    assert_learned(choose)
