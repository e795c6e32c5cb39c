import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from support import CountingEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from pgtorch import BiasPolicy, MLPPolicy, Rollout, RolloutCollector
from pgtorch.environment.normalization import ObservationNormalizer, RewardNormalizer
from pgtorch.policies import Policy
from pgtorch.rollout import EpisodeStatistics

MODES = list(AutoresetMode)


class RandomPolicy(Policy):
    """Uniform over five actions."""

    def distribution(self, observation):
        return torch.distributions.Categorical(logits=torch.zeros(*observation.shape[:-1], 5))


def counting(mode, num_envs, truncate=False):
    makers = [lambda index=index: CountingEnv(index, truncate) for index in range(num_envs)]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def collect(mode, num_envs=3, num_steps=7, rollouts=4, truncate=False):
    """All valid rows of some rollouts, the environments, and the statistics of their episodes."""
    torch.manual_seed(0)
    env = counting(mode, num_envs, truncate)
    collector = RolloutCollector(env, num_steps, seed=0)
    rows = []
    for _ in range(rollouts):
        rollout = collector.collect(RandomPolicy())
        kept = [rollout.rows(values).clone() for values in (rollout.observation, rollout.action, rollout.reward)]
        rows += list(zip(*(values.tolist() for values in kept), strict=True))
    return rows, env.envs, collector.episodes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("num_steps", [1, 7])
@pytest.mark.parametrize("truncate", [False, True])
def test_rows_are_what_the_environments_did(mode, num_envs, num_steps, truncate):
    """No step missing, none twice, no filler: observation, action and reward of each, as the ledgers have them."""
    rows, envs, episodes = collect(mode, num_envs, num_steps, rollouts=8, truncate=truncate)
    ledger = [entry for env in envs for entry in env.ledger]
    assert sorted(rows) == sorted(ledger)
    totals, lengths = zip(*(episode for env in envs for episode in env.episodes), strict=True)
    assert sorted(episodes.recent) == sorted(totals)
    assert episodes.take() == pytest.approx((np.mean(totals), np.mean(lengths)), rel=1e-12)
    assert episodes.take() is None


def test_next_step_mode_has_filler_rows_and_marks_them():
    rollout = RolloutCollector(counting(AutoresetMode.NEXT_STEP, 3), 12, seed=0).collect(RandomPolicy())
    assert 0 < (~rollout.valid).sum() < rollout.valid.numel()
    ended = rollout.terminated | rollout.truncated
    after = ended[:-1] & ~ended[:-1].all(dim=1, keepdim=True)  # a step of nothing but filler is not stored
    assert torch.equal(~rollout.valid[1:], after)  # exactly the step after an episode's end
    assert (rollout.reward[~rollout.valid] == 0).all()
    assert rollout.rows(rollout.reward).shape == (rollout.valid.sum(),)


def test_filler_of_all_environments_at_once_is_not_stored():
    """One-step episodes in NEXT_STEP mode: every second step is filler, and no row of it is kept."""
    env = gym.make_vec("Restaurant-v0", num_envs=4, autoreset_mode=AutoresetMode.NEXT_STEP)
    collector = RolloutCollector(env, 10, seed=0)
    rollout = collector.collect(BiasPolicy())
    assert rollout.valid.all()
    assert (rollout.reward.abs() == 1).all()
    assert len(collector.episodes.recent) == 40
    assert collector.episodes.take()[1] == 1


def test_flags_say_how_an_episode_ended():
    for truncate in (False, True):
        env = counting(AutoresetMode.SAME_STEP, 2, truncate)
        rollout = RolloutCollector(env, 9, seed=0).collect(RandomPolicy())
        assert rollout.truncated.any() == truncate
        assert rollout.terminated.any() != truncate


def test_rows_keep_the_order_of_step_and_then_environment():
    zeros = torch.zeros(2, 3)
    valid = torch.tensor([[True, False, True], [True, True, False]])
    rollout = Rollout(torch.zeros(3, 3), zeros, zeros, zeros, zeros, valid, cut=[])
    assert rollout.rows(torch.arange(6).reshape(2, 3)).tolist() == [0, 2, 3, 4]
    assert rollout.rows(torch.arange(12).reshape(2, 3, 2)).tolist() == [[0, 1], [4, 5], [6, 7], [8, 9]]


def test_actions_are_drawn_not_arg_maxed():
    torch.manual_seed(0)
    env = gym.make_vec("Restaurant-v0", num_envs=1000)
    rollout = RolloutCollector(env, 5, seed=0).collect(BiasPolicy(weight=0.0, bias=-1.0))
    p_norm = 1 / (1 + np.exp(1.0))
    frequency = rollout.action.double().mean().item()
    assert abs(frequency - p_norm) < 5 * np.sqrt(p_norm * (1 - p_norm) / 5000)  # n = 5,000, 5 standard errors


def test_reward_belongs_to_observation_and_action():
    """With certain orders the reward follows from the row itself."""
    env = gym.make_vec("Restaurant-v0", num_envs=50, large_portion_probability=(0.0, 1.0))
    rollout = RolloutCollector(env, 20, seed=0).collect(BiasPolicy(weight=0.0))
    hungry = rollout.observation[:-1].squeeze(-1) > 0.5
    expected = torch.where(hungry == (rollout.action == 1), 1.0, -1.0)
    assert torch.equal(rollout.reward, expected)
    assert {-1.0, 1.0} == set(rollout.reward.unique().tolist())


def test_statistics_count_nothing_when_nothing_ended():
    episodes = EpisodeStatistics(2)
    episodes.record(np.ones(2), np.ones(2, bool), np.zeros(2, bool))
    assert episodes.take() is None


@pytest.mark.parametrize(
    ("space", "kind", "message"),
    [
        ("observation_space", gym.spaces.Text(3), r"observation space must be Box, .* got Text"),
        ("action_space", gym.spaces.Text(3), r"action space must be Discrete, .* got Text"),
    ],
)
def test_refuses_spaces_it_cannot_store(space, kind, message):
    class Strange(CountingEnv):
        def __init__(self):
            super().__init__()
            setattr(self, space, kind)

    env = SyncVectorEnv([Strange])
    with pytest.raises(TypeError, match=message):
        RolloutCollector(env, 1, seed=0)


def last_seen():
    """A value function that tells an observation by its numbers: 100 x environment + 10 x episode + step."""
    return lambda observation: observation @ torch.tensor([100.0, 10.0, 1.0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("truncate", [False, True])
def test_next_values_are_of_the_observation_a_step_led_to(mode, truncate):
    """After a cut that is the episode's final observation, in every mode; never the first of the next episode."""
    collector = RolloutCollector(counting(mode, 3, truncate), 9, seed=0)
    for _ in range(3):
        rollout = collector.collect(RandomPolicy())
        value, following = rollout.values(last_seen())
        judged = rollout.valid & ~rollout.terminated
        assert torch.equal(following[judged], value[judged] + 1)
        assert rollout.truncated.any() == truncate


def test_values_have_no_gradient():
    rollout = RolloutCollector(counting(AutoresetMode.SAME_STEP, 2), 5, seed=0).collect(RandomPolicy())
    weight = torch.ones(3, requires_grad=True)
    assert not any(values.requires_grad for values in rollout.values(lambda observation: observation @ weight))


def test_recent_returns_are_of_the_last_hundred_episodes():
    episodes = EpisodeStatistics(40)
    for step in range(5):
        episodes.record(np.full(40, step), np.ones(40, bool), np.ones(40, bool))
        episodes.take()
    assert len(episodes.recent) == 100
    assert list(episodes.recent) == [2.0] * 20 + [3.0] * 40 + [4.0] * 40


class Everything(gym.Env):
    """Observations of every kind at once, actions of one kind; the reward says what came in."""

    observation_space = gym.spaces.Dict(
        {
            "box": gym.spaces.Box(-1, 1, (2, 2)),
            "place": gym.spaces.Discrete(3, start=5),
            "pair": gym.spaces.Tuple([gym.spaces.MultiBinary(2), gym.spaces.MultiDiscrete([2, 3], start=[1, 0])]),
        }
    )

    def __init__(self, action_space):
        self.action_space = action_space
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.taken.append(action)
        return self.observation_space.sample(), 1.0, False, False, {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "action_space",
    [
        gym.spaces.Discrete(3, start=-1),
        gym.spaces.MultiDiscrete([2, 3], start=[4, 0]),
        gym.spaces.MultiBinary(3),
        gym.spaces.Box(-0.5, 0.5, (2,)),
    ],
)
def test_spaces_of_every_kind(mode, action_space):
    env = SyncVectorEnv([lambda: Everything(action_space)] * 2, autoreset_mode=mode)
    torch.manual_seed(0)
    policy = MLPPolicy(env.single_observation_space, action_space)
    rollout = RolloutCollector(env, 6, seed=0).collect(policy)
    assert rollout.observation.shape == (7, 2, 4 + 3 + 2 + 2 + 3)
    assert rollout.observation[:, :, 11:].sum(-1).eq(1).all()  # one-hot; a Dict has its keys in alphabetical order
    log_prob = policy.log_prob(rollout.rows(rollout.observation), rollout.rows(rollout.action))
    assert log_prob.isfinite().all()
    taken = np.array([sub.taken for sub in env.envs]).swapaxes(0, 1)
    stored = rollout.action.numpy()
    if isinstance(action_space, gym.spaces.Box):
        assert (np.abs(stored) > 0.5).any()  # the raw action is kept, the clipped one was played
        stored = stored.clip(-0.5, 0.5)
    assert np.array_equal(taken, stored)


def test_rewards_and_observations_are_normalized_but_statistics_are_not():
    env = counting(AutoresetMode.NEXT_STEP, 3)
    normalizers = ObservationNormalizer(3), RewardNormalizer(3, 0.9)
    collector = RolloutCollector(env, 50, 0, *normalizers)
    raw = RolloutCollector(counting(AutoresetMode.NEXT_STEP, 3), 50, 0)
    for _ in range(3):
        torch.manual_seed(0)
        before = copy.deepcopy(normalizers)
        rollout = collector.collect(RandomPolicy())
        torch.manual_seed(0)
        plain = raw.collect(RandomPolicy())
        scaled = (plain.observation[:-1].numpy() - before[0].moments.mean) / np.sqrt(before[0].moments.variance + 1e-8)
        np.testing.assert_allclose(rollout.observation[:-1], scaled.clip(-10, 10), rtol=1e-5, atol=1e-5)
        paid = plain.reward.numpy() / np.sqrt(normalizers[1].moments.variance[0] + 1e-8)
        np.testing.assert_allclose(rollout.reward, paid.clip(-10, 10), rtol=1e-5, atol=1e-6)
        assert collector.episodes.take() == raw.episodes.take()
    assert normalizers[0].moments.count == normalizers[1].moments.count > 100
