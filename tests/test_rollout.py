import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from support import ENDS, MODES, CountingEnv, RandomPolicy, counting, seeded

from pgtorch import BiasPolicy, MLPPolicy, Policy, Rollout, RolloutCollector
from pgtorch.distributions import as_global_stream
from pgtorch.environment.normalization import ObservationNormalizer, RewardNormalizer
from pgtorch.rollout import Batch


def collected(mode, *, num_envs=3, num_steps=7, rollouts=1, ends="terminated", seed=0):
    """Some rollouts of a uniform policy, the environments, and the statistics of their episodes."""
    env = counting(mode, num_envs, ENDS[ends])
    collector, generator = RolloutCollector(env, num_steps=num_steps, seed=0), seeded(seed)
    return [collector.collect(RandomPolicy(), generator) for _ in range(rollouts)], env.envs, collector.episodes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("num_steps", [1, 7])
@pytest.mark.parametrize("ends", ENDS)
def test_rows_are_what_the_environments_did(mode, num_envs, num_steps, ends):
    """No step missing, none twice, no filler: observation, action and reward of each, as the ledgers have them."""
    rollouts, envs, episodes = collected(mode, num_envs=num_envs, num_steps=num_steps, rollouts=8, ends=ends)
    rows = []
    for rollout in rollouts:
        kept = (rollout.observation[:-1], rollout.action, rollout.reward)
        rows += list(zip(*(rollout.rows(values).tolist() for values in kept), strict=True))
    ledger = [entry for env in envs for entry in env.ledger]
    assert sorted(rows) == sorted(ledger)
    totals, lengths = zip(*(episode for env in envs for episode in env.episodes), strict=True)
    assert sorted(episodes.recent) == sorted(totals)
    figures = {"rollout/episode_return": np.mean(totals), "rollout/episode_length": np.mean(lengths)}
    assert episodes.figures() == pytest.approx(figures, rel=1e-12)
    assert episodes.figures() == {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ends", ENDS)
def test_flags_say_how_an_episode_ended(mode, ends):
    """As often as the ledgers have it; kills terminated and truncated that are swapped or joined."""
    rollouts, envs, _ = collected(mode, rollouts=5, ends=ends)
    ways = [ENDS[ends][(env.index + e // 3) % len(ENDS[ends])] for env in envs for e in range(len(env.episodes))]
    terminated, truncated = (torch.stack([getattr(r, flag) for r in rollouts]) for flag in ("terminated", "truncated"))
    assert (terminated & ~truncated).sum() == ways.count("terminated")
    assert (truncated & ~terminated).sum() == ways.count("truncated")
    assert (terminated & truncated).sum() == ways.count("both")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ends", ENDS)
def test_next_values_are_of_the_observation_a_step_led_to(mode, ends):
    """After a cut that is the episode's final observation, in every mode; never the first of the next episode."""
    number = torch.tensor([100.0, 10.0, 1.0])  # environment, episode, step: no two observations have the same value

    def value_of(observation):
        assert observation.ndim == 2  # [B, D]
        return observation @ number

    for rollout in collected(mode, num_steps=9, rollouts=3, ends=ends)[0]:
        value, following = rollout.values(value_of)
        judged = rollout.valid & ~rollout.terminated
        assert torch.equal(following[judged], value[judged] + 1)
        assert torch.equal(value, rollout.observation[:-1] @ number)


def test_values_have_no_gradient():
    (rollout,), *_ = collected(AutoresetMode.SAME_STEP, ends="truncated")
    weight = torch.ones(3, requires_grad=True)
    assert not any(values.requires_grad for values in rollout.values(lambda observation: observation @ weight))


def test_the_last_observation_is_the_first_of_the_next_rollout():
    first, second = collected(AutoresetMode.NEXT_STEP, rollouts=2)[0]
    assert torch.equal(first.observation[-1], second.observation[0])
    assert first.observation.shape == (8, 3, 3)


def test_next_step_mode_has_filler_rows_and_marks_them():
    (rollout,), *_ = collected(AutoresetMode.NEXT_STEP, num_steps=12)
    assert 0 < (~rollout.valid).sum() < rollout.valid.numel()
    ended = rollout.terminated | rollout.truncated
    after = ended[:-1] & ~ended[:-1].all(dim=1, keepdim=True)  # a step of nothing but filler is not stored
    assert torch.equal(~rollout.valid[1:], after)  # exactly the step after an episode's end
    assert (rollout.reward[~rollout.valid] == 0).all()
    assert rollout.rows(rollout.reward).shape == (rollout.valid.sum(),)
    assert not rollout.all_valid


def test_filler_of_all_environments_at_once_is_not_stored():
    """One-step episodes in NEXT_STEP mode: every second step is filler, and no row of it is kept."""
    env = gym.make_vec("Restaurant-v0", num_envs=4, autoreset_mode=AutoresetMode.NEXT_STEP)
    collector = RolloutCollector(env, num_steps=10, seed=0)
    rollout = collector.collect(BiasPolicy(), seeded())
    assert rollout.valid.all()
    assert rollout.all_valid
    assert (rollout.reward.abs() == 1).all()
    assert len(collector.episodes.recent) == 40
    assert collector.episodes.figures()["rollout/episode_length"] == 1


def test_rows_keep_the_order_of_step_and_then_environment():
    zeros = torch.zeros(2, 3)
    valid = torch.tensor([[True, False, True], [True, True, False]])
    rollout = Rollout(
        observation=torch.zeros(3, 3),
        action=zeros,
        reward=zeros,
        scaled_reward=zeros,
        terminated=zeros,
        truncated=zeros,
        valid=valid,
        final=[],
        all_valid=False,
    )
    assert rollout.rows(torch.arange(6).reshape(2, 3)).tolist() == [0, 2, 3, 4]
    assert rollout.rows(torch.arange(12).reshape(2, 3, 2)).tolist() == [[0, 1], [4, 5], [6, 7], [8, 9]]


def test_some_rows_of_a_batch():
    numbers = torch.arange(4.0)
    batch = Batch(numbers[:, None], numbers + 10, numbers + 20, numbers + 30, numbers + 40)
    part = batch[torch.tensor([3, 1])]
    found = [part.observation.squeeze(1), part.action, part.multiplier, part.target, part.old_log_prob]
    assert [values.tolist() for values in found] == [[3 + add, 1 + add] for add in (0, 10, 20, 30, 40)]
    assert (len(batch), len(part)) == (4, 2)
    bare = Batch(numbers[:, None], numbers, numbers)[torch.tensor([0])]
    assert (bare.target, bare.old_log_prob) == (None, None)
    with pytest.raises(AttributeError):
        bare.multipliers = numbers  # a misspelled field


def test_the_parts_of_a_batch_hold_each_row_once():
    numbers = torch.arange(7.0)
    parts = list(Batch(numbers[:, None], numbers + 10, numbers + 20, None, numbers + 40).split(3))
    assert [len(part) for part in parts] == [3, 2, 2]
    assert torch.equal(torch.cat([part.observation for part in parts]), numbers[:, None])
    for part in parts:
        first = part.observation[:, 0]
        assert torch.equal(part.action, first + 10)
        assert torch.equal(part.multiplier, first + 20)
        assert torch.equal(part.old_log_prob, first + 40)
        assert part.target is None


# Randomness is an argument


def test_actions_are_drawn_not_arg_maxed():
    env = gym.make_vec("Restaurant-v0", num_envs=1000)
    rollout = RolloutCollector(env, num_steps=5, seed=0).collect(BiasPolicy(weight=0.0, bias=-1.0), seeded())
    p_norm = 1 / (1 + np.exp(1.0))
    frequency = rollout.action.double().mean().item()
    assert abs(frequency - p_norm) < 5 * np.sqrt(p_norm * (1 - p_norm) / 5000)  # n = 5,000, 5 standard errors


def test_actions_are_those_of_the_noise_drawn_before():
    policy = BiasPolicy(bias=-9.0)
    rollout = RolloutCollector(gym.make_vec("Restaurant-v0", num_envs=6), num_steps=20, seed=0).collect(
        policy, seeded(4)
    )
    draws = torch.rand(20, 6, generator=seeded(4))
    expected = [policy.sample(*pair) for pair in zip(rollout.observation[:-1], draws, strict=True)]
    assert torch.equal(rollout.action, torch.stack(expected))
    assert 10 < rollout.action.sum() < 110


def test_the_generator_makes_the_actions_and_the_seed_the_environment():
    def observed(seed, generator, kind=RandomPolicy):
        env = gym.make_vec("CartPole-v1", num_envs=2)
        policy = MLPPolicy(env.single_observation_space, env.single_action_space) if kind is MLPPolicy else kind()
        return RolloutCollector(env, num_steps=10, seed=seed).collect(policy, generator)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = observed(1, seeded(1), MLPPolicy)
    other = observed(1, seeded(2), MLPPolicy)
    assert torch.equal(one.observation[0], other.observation[0])
    assert not torch.equal(one.action, other.action)
    assert not torch.equal(one.observation[0], observed(2, seeded(1), MLPPolicy).observation[0])
    torch.set_rng_state(before)
    (rollout,), *_ = collected(AutoresetMode.SAME_STEP)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(collected(AutoresetMode.SAME_STEP)[0][0].action, rollout.action)


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_the_seed_is_for_the_first_reset_only(mode):
    """Kills a seed that is handed out again at each reset: the same hungers would come over and over."""
    env = gym.make_vec("Restaurant-v0", num_envs=2, autoreset_mode=mode)
    rollout = RolloutCollector(env, num_steps=50, seed=0).collect(BiasPolicy(), seeded())
    assert len(rollout.observation.unique()) > 90


# What belongs together


def test_reward_belongs_to_observation_and_action():
    """With certain orders the reward follows from the row itself."""
    env = gym.make_vec("Restaurant-v0", num_envs=50, large_portion_probability=(0.0, 1.0))
    rollout = RolloutCollector(env, num_steps=20, seed=0).collect(BiasPolicy(weight=0.0), seeded())
    hungry = rollout.observation[:-1].squeeze(-1) > 0.5
    expected = torch.where(hungry == (rollout.action == 1), 1.0, -1.0)
    assert torch.equal(rollout.reward, expected)
    assert {-1.0, 1.0} == set(rollout.reward.unique().tolist())


def test_a_policy_sees_its_own_row():
    """Kills an observation of the step before or after, and rows in another order."""

    class Sees(BiasPolicy):
        def sample(self, observation, noise):
            return (observation.squeeze(-1) > 0.5).long()

    rollout = RolloutCollector(gym.make_vec("Restaurant-v0", num_envs=9), num_steps=8, seed=0).collect(Sees(), seeded())
    assert torch.equal(rollout.action == 1, rollout.observation[:-1].squeeze(-1) > 0.5)


@pytest.mark.parametrize("scale", [1e8, 1e-8])
def test_rewards_of_any_size_are_kept_as_paid(scale):
    """Kills a clipped reward."""
    env = gym.make_vec("Restaurant-v0", num_envs=4, reward_scale=scale)
    rollout = RolloutCollector(env, num_steps=3, seed=0).collect(BiasPolicy(), seeded())
    assert (rollout.reward.abs() == np.float32(scale)).all()
    assert torch.equal(rollout.scaled_reward, rollout.reward)


OBSERVATIONS = gym.spaces.Dict(
    {
        "box": gym.spaces.Box(-1, 1, (2, 2)),
        "place": gym.spaces.Discrete(3, start=5),
        "pair": gym.spaces.Tuple([gym.spaces.MultiBinary(2), gym.spaces.MultiDiscrete([2, 3], start=[1, 0])]),
    }
)


class Everything(gym.Env):
    """Observations of every kind at once, and any action space; it never ends."""

    observation_space = OBSERVATIONS

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
    ids=lambda space: type(space).__name__,
)
def test_spaces_of_every_kind(mode, action_space):
    env = SyncVectorEnv([lambda: Everything(action_space)] * 2, autoreset_mode=mode)
    with as_global_stream(seeded()):
        policy = MLPPolicy(env.single_observation_space, action_space)
    rollout = RolloutCollector(env, num_steps=6, seed=0).collect(policy, seeded())
    assert rollout.observation.shape == (7, 2, 4 + 3 + 2 + 2 + 3)
    assert rollout.observation[:, :, 11:].sum(-1).eq(1).all()  # one-hot; a Dict has its keys in alphabetical order
    log_prob = policy.log_prob(rollout.rows(rollout.observation[:-1]), rollout.rows(rollout.action))
    assert log_prob.isfinite().all()
    taken = np.array([sub.taken for sub in env.envs]).swapaxes(0, 1)
    stored = rollout.action.numpy()
    if isinstance(action_space, gym.spaces.Box):
        assert (np.abs(stored) > 0.5).any()  # the raw action is kept, the clipped one was played
        stored = stored.clip(-0.5, 0.5)
    assert np.array_equal(taken, stored)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("observation_space", r"observation space must be Box, .* got Text"),
        ("action_space", r"action space must be Discrete, .* got Text"),
    ],
)
def test_refuses_spaces_it_cannot_store(space, message):
    class Strange(CountingEnv):
        def __init__(self):
            super().__init__()
            setattr(self, space, gym.spaces.Text(3))

    env = SyncVectorEnv([Strange])
    with pytest.raises(TypeError, match=message):
        RolloutCollector(env, num_steps=1, seed=0)


def test_steps_and_seed_cannot_be_swapped_by_place():
    with pytest.raises(TypeError, match="positional"):
        RolloutCollector(counting(AutoresetMode.SAME_STEP, 1), 7, 0)


# Normalization, and a rollout that is never changed


def normalized(num_steps=50):
    env = counting(AutoresetMode.NEXT_STEP, 3, ENDS["all three"])
    return RolloutCollector(
        env,
        num_steps=num_steps,
        seed=0,
        normalize_observation=ObservationNormalizer(3),
        normalize_reward=RewardNormalizer(3, 0.9),
    )


def test_observations_and_rewards_are_normalized_but_statistics_are_not():
    """Observations by the moments before the rollout, rewards by those after it."""
    collector = normalized()
    raw = RolloutCollector(counting(AutoresetMode.NEXT_STEP, 3, ENDS["all three"]), num_steps=50, seed=0)
    for number in range(3):
        observed = copy.deepcopy(collector.normalize_observation.moments)
        rollout, plain = (each.collect(RandomPolicy(), seeded(number)) for each in (collector, raw))
        scaled = (plain.observation.numpy() - observed.mean) / np.sqrt(observed.variance + 1e-8)
        np.testing.assert_allclose(rollout.observation, scaled.clip(-10, 10), rtol=1e-5, atol=1e-5)
        assert torch.equal(rollout.reward, plain.reward)  # as paid
        variance = collector.normalize_reward.moments.variance[0]
        expected = (plain.reward.numpy() / np.sqrt(variance + 1e-8)).clip(-10, 10)
        np.testing.assert_allclose(rollout.scaled_reward, expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(rollout.scaled_reward, rollout.reward)
        for (t, who, final), (raw_t, raw_who, raw_final) in zip(rollout.final, plain.final, strict=True):
            assert (t, who.tolist()) == (raw_t, raw_who.tolist())
            scaled = (raw_final.numpy() - observed.mean) / np.sqrt(observed.variance + 1e-8)
            np.testing.assert_allclose(final, scaled.clip(-10, 10), rtol=1e-5, atol=1e-5)
        assert collector.episodes.figures() == raw.episodes.figures()
    rows = collector.normalize_observation.moments.count
    assert rows == collector.normalize_reward.moments.count > 100


def test_moments_take_in_real_rows_only():
    """Those of the valid observations of all rollouts, unscaled, and none of the last ones, which come again."""
    collector = normalized(num_steps=20)
    raw = RolloutCollector(counting(AutoresetMode.NEXT_STEP, 3, ENDS["all three"]), num_steps=20, seed=0)
    seen = []
    for number in range(3):
        collector.collect(RandomPolicy(), seeded(number))
        plain = raw.collect(RandomPolicy(), seeded(number))
        assert not plain.all_valid
        seen.append(plain.rows(plain.observation[:-1]).numpy())
    rows, moments = np.concatenate(seen), collector.normalize_observation.moments
    assert moments.count == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, rows.var(0, dtype=np.float64), rtol=1e-6)


def tensors(rollout):
    """Every tensor of a rollout, by name."""
    found = {name: value for name, value in rollout._asdict().items() if isinstance(value, torch.Tensor)}
    return found | {f"final {i} {j}": item[j] for i, item in enumerate(rollout.final) for j in (1, 2)}


@pytest.mark.parametrize("scaled", [False, True])
def test_a_rollout_is_never_changed_after_it_was_made(scaled):
    """Three in a row share no memory with each other or with the environment, and keep their numbers."""
    env = counting(AutoresetMode.SAME_STEP, 3, ENDS["all three"])
    normalizers = (
        {"normalize_observation": ObservationNormalizer(3), "normalize_reward": RewardNormalizer(3, 0.9)}
        if scaled
        else {}
    )
    collector, generator = RolloutCollector(env, num_steps=7, seed=0, **normalizers), seeded()
    rollouts, kept = [], []
    for _ in range(3):
        rollouts.append(collector.collect(RandomPolicy(), generator))
        kept.append({name: tensor.clone() for name, tensor in tensors(rollouts[-1]).items()})
        assert collector.rollout is rollouts[-1]
    for rollout, values in zip(rollouts, kept, strict=True):
        assert all(torch.equal(tensor, values[name]) for name, tensor in tensors(rollout).items())
    held = [*vars(collector.stepper).values(), *vars(collector.episodes).values(), env._observations, env._rewards]
    outside = [value for value in held if isinstance(value, np.ndarray)]
    for i, rollout in enumerate(rollouts):
        others = [tensor.numpy() for other in rollouts[:i] for tensor in tensors(other).values()]
        for name, tensor in tensors(rollout).items():
            assert not any(np.shares_memory(tensor.numpy(), other) for other in outside + others), name


def test_rewards_as_paid_and_as_learned_from_share_memory_only_if_they_are_the_same():
    rollout = normalized().collect(RandomPolicy(), seeded())
    assert not np.shares_memory(rollout.reward.numpy(), rollout.scaled_reward.numpy())


def test_a_policys_own_action_is_not_shared_with_the_environment():
    """An environment that writes into the actions it is given spoils no rollout."""

    class Fixed(Policy):
        def sample(self, observation, noise):
            return torch.full((len(observation),), 3)

    env = gym.make_vec("CartPole-v1", num_envs=2)
    env.single_action_space = gym.spaces.Discrete(5)
    step = env.step

    def spoil(actions):
        returned = step(actions * 0)
        actions[:] = 0
        return returned

    env.step = spoil
    rollout = RolloutCollector(env, num_steps=4, seed=0).collect(Fixed(), seeded())
    assert (rollout.action == 3).all()
