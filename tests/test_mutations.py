"""Edits planted on purpose to slip past the other tests: each of these tests fails on at least one of them."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from pgtorch import (
    BiasPolicy,
    MLPPolicy,
    RolloutCollector,
    TrainConfig,
    Trainer,
    manual_gradient,
    policy_gradient_loss,
)
from pgtorch import returns as ret
from pgtorch.distributions import Categorical, DiagonalNormal, MultiBernoulli, MultiCategorical
from pgtorch.lesson.model import RestaurantModel
from pgtorch.proof.exact import (
    FiniteMDP,
    enumerate_trajectories,
    expected_gradient,
    sample_trajectories,
)
from pgtorch.gradient_check import LIMIT, UNIT_ROUNDOFF, check_gradient, difference_in_units
from pgtorch.manual_gradient import gradient_magnitude, has_derivation
from pgtorch.rollout import EpisodeStatistics
from restaurant_env import RestaurantEnv, RestaurantVectorEnv

BOX = spaces.Box(-1, 1, (3,))
f64 = lambda *v: torch.tensor(v, dtype=torch.float64)


def test_L_sizes():
    for m in (1e-8, 1e8):
        lp = torch.tensor([-1e4, -2.0], requires_grad=True)
        policy_gradient_loss(lp, torch.tensor([m, -m])).backward()
        assert lp.grad.tolist() == pytest.approx([-m / 2, m / 2], rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_L_not_finite(bad):
    assert not policy_gradient_loss(torch.tensor([-1.0, -2.0]), torch.tensor([bad, 1.0])).isfinite()


T = torch.ones(3, 1, dtype=torch.bool)
F = ~T
END, VALID = torch.tensor([[True], [False], [True]]), torch.tensor([[True], [False], [True]])


def test_R_return_filler():
    r = torch.tensor([[1.0], [1000.0], [2.0]])
    keep = r.clone()
    out = ret.episode_return(r, END, F, VALID, 0.5)
    assert out.tolist() == [[1.0], [0.0], [2.0]] and torch.equal(r, keep)


def test_R_unchanged_and_dtype():
    r, v = torch.tensor([[1.0], [1000.0], [2.0]]), torch.rand(3, 1)
    keep = r.clone()
    for out in (
        ret.reward_to_go(r, END, F, v, VALID, 0.5),
        ret.episode_return(r, END, F, VALID, 0.5),
        ret.generalized_advantage(r, v, END, F, v, VALID, 0.5, 0.5),
    ):
        assert out.dtype == torch.float32
    assert torch.equal(r, keep)


def test_R_checks():
    z = torch.zeros(3, 1)
    for call in (
        lambda: ret.discount_weight(F, F, T, 1.5),
        lambda: ret.generalized_advantage(z, z, F, F, z, T, 1.5, 0.5),
        lambda: ret.generalized_advantage(z, torch.zeros(3, 2), F, F, z, T, 0.5, 0.5),
        lambda: ret.episode_return(torch.zeros(3, 2), F, F, T, 0.5),
        lambda: ret.subtract_mean(z, torch.ones(3, 1, 1, dtype=torch.bool)[:, :, 0][:2]),
    ):
        with pytest.raises(ValueError, match="must"):
            call()


def test_R_gae_float64():
    n = 10_000
    r, z = torch.full((n, 1), 0.1), torch.zeros(n, 1)
    no = z.bool()
    exact = r[0].double().item() * (1 - 0.9999**n) / (1 - 0.9999)
    assert ret.generalized_advantage(r, z, no, no, z, ~no, 0.9999, 1.0)[0].item() == pytest.approx(exact, rel=1e-7)


def test_R_standardize_small():
    one = ret.standardize(f64(1, 2, 4).reshape(1, 3), torch.ones(1, 3).bool())
    torch.testing.assert_close(
        ret.standardize(1e-8 * f64(1, 2, 4).reshape(1, 3), torch.ones(1, 3).bool()), one, rtol=1e-12, atol=0
    )


def test_M_subclass():
    class Mine(MLPPolicy):
        pass

    assert not has_derivation(Mine(BOX, spaces.Discrete(2)))


def test_M_rows():
    with pytest.raises(ValueError):
        manual_gradient(BiasPolicy(), torch.zeros(1, 1), torch.zeros(3), torch.ones(3))


def test_M_no_graph():
    p = MLPPolicy(BOX, spaces.Box(-1, 1, (2,)))
    o = torch.rand(4, 3)
    assert not any(g.requires_grad for g in manual_gradient(p, o, p.sample(o), torch.ones(4)).values())


def test_M_large():
    torch.manual_seed(0)
    for scale in (1.0, 1e3):
        p = MLPPolicy(BOX, spaces.Discrete(3), ())
        p.layers[0].weight.data.mul_(scale * 100)
        o = 1e2 * torch.randn(50, 3)
        a = p.sample(o)
        m = torch.randn(50)
        policy_gradient_loss(p.log_prob(o, a), m).backward()
        assert math.isfinite(check_gradient(p, o, a, m, 1)["gradient/difference_in_units_of_u_c"])
        torch.testing.assert_close(p(o), o @ p.layers[0].weight.T, rtol=1e-4, atol=1e-2)


def test_G_scale():
    assert LIMIT == 32 and {torch.float32: 2.0**-24, torch.float64: 2.0**-53} == UNIT_ROUNDOFF
    p = BiasPolicy(weight=0.0).double()
    assert (
        gradient_magnitude(p, torch.zeros(2, 1).double(), torch.tensor([1, 0]), f64(-3, 1))["bias"].item()
        == (1.5 * 3 + 0.5) / 2
    )
    c = {"a": f64(1, 1, 1), "b": f64(1, 1)}
    z = {k: 0 * v for k, v in c.items()}
    assert difference_in_units({"a": f64(0, 0, 40 * 2.0**-53), "b": f64(0, 20 * 2.0**-53)}, z, c) == (40.0, "a")


def test_G_largest():
    torch.manual_seed(0)
    p = MLPPolicy(BOX, spaces.Discrete(3))
    o = torch.rand(50, 3)
    a = p.sample(o)
    m = torch.randn(50)
    policy_gradient_loss(p.log_prob(o, a), m).backward()
    man = manual_gradient(p, o, a, m)
    assert check_gradient(p, o, a, m, 1)["gradient/absolute_difference"] == max(
        (q.grad - man[n]).abs().max().item() for n, q in p.named_parameters()
    )


def test_P_start():
    p = MLPPolicy(BOX, spaces.Box(-1, 1, (2,)))
    assert [l.out_features for l in p.layers] == [64, 64, 2] and p.log_std.tolist() == [0, 0]
    for l, g in zip(p.layers, (2.0, 2.0, 1e-4)):
        w = l.weight if l.weight.shape[0] < l.weight.shape[1] else l.weight.T
        torch.testing.assert_close(w @ w.T, g * torch.eye(len(w)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([[2, 3]]), spaces.MultiBinary((2, 2))])
def test_P_two_dims(space):
    with pytest.raises(TypeError, match="one dimension"):
        MLPPolicy(BOX, space)


def test_P_wide_std():
    p = MLPPolicy(BOX, spaces.Box(-1, 1, (1,)))
    p.log_std.data.fill_(6.0)
    assert p.distribution(torch.zeros(1, 3)).entropy().item() == pytest.approx(6 + 0.5 * math.log(2 * math.pi * math.e))


def test_P_sure_sampler():
    torch.manual_seed(0)
    p = BiasPolicy(weight=0.0, bias=-9.0)
    n = 4_000_000
    q = 1 / (1 + math.exp(9))
    assert abs(p.sample(torch.zeros(n, 1)).double().mean().item() - q) < 5 * math.sqrt(q / n)


def test_P_nan_stays():
    assert (
        MLPPolicy(BOX, spaces.Discrete(2))(torch.full((1, 3), math.nan)).isnan().all()
        and BiasPolicy()(torch.full((1, 1), math.nan)).isnan().all()
    )


def test_D_independent():
    torch.manual_seed(0)
    n = 100_000
    for d in (
        DiagonalNormal(torch.zeros(n, 3), torch.zeros(3)),
        MultiBernoulli(torch.zeros(n, 3)),
        MultiCategorical(torch.zeros(n, 6), [2, 2, 2], [0, 0, 0]),
    ):
        corr = torch.corrcoef(d.sample().double().T) - torch.eye(3)
        assert corr.abs().max() < 5 / math.sqrt(n)


def test_D_tail():
    torch.manual_seed(0)
    n = 1_000_000
    x = DiagonalNormal(torch.zeros(n, 1), torch.zeros(1)).sample().double()
    k = x.pow(4).mean().item()
    assert abs(k - 3) < 5 * math.sqrt(96 / n)
    q = 1e-4
    s = Categorical(torch.tensor([[math.log(q), math.log1p(-q)]]).expand(4 * n, 2)).sample()
    assert abs((s == 0).double().mean().item() - q) < 5 * math.sqrt(q / (4 * n))
    q = 1e-5
    s = Categorical(torch.tensor([[math.log(q), math.log1p(-q)]]).expand(4 * n, 2)).sample()
    assert abs((s == 0).double().mean().item() - q) < 5 * math.sqrt(q / (4 * n))


def test_D_rows():
    certain = 1e4 * torch.eye(3)[[0, 2, 1, 1]]
    assert Categorical(certain).sample().tolist() == [0, 2, 1, 1]
    assert MultiCategorical(torch.cat([certain, certain], 1), [3, 3], [0, 0]).sample()[:, 1].tolist() == [0, 2, 1, 1]
    assert (
        DiagonalNormal(torch.tensor([[5.0], [-5.0]]), torch.tensor([-20.0])).sample() - torch.tensor([[5.0], [-5.0]])
    ).abs().max() < 1e-5


def test_O_stats():
    e = EpisodeStatistics(2)
    one = np.ones(2, bool)
    e.record(np.array([1.0, 5.0]), np.array([True, False]), np.array([True, False]))
    e.record(np.ones(2), one, one)
    assert list(e.recent) == [1, 1, 1]
    assert e.take() == (1, 1)


def test_O_sees_its_own_row():
    class Sees(BiasPolicy):
        def sample(self, o):
            return (o.squeeze(-1) > 0.5).long()

    r = RolloutCollector(gym.make_vec("Restaurant-v0", num_envs=9), 8, seed=0).collect(Sees())
    assert torch.equal(r.action == 1, r.observation[:-1].squeeze(-1) > 0.5)


def test_O_seed_and_disabled():
    def seen(seed, mode):
        return (
            RolloutCollector(gym.make_vec("Restaurant-v0", num_envs=2, autoreset_mode=mode), 50, seed)
            .collect(BiasPolicy())
            .observation
        )

    assert not torch.equal(seen(1, "SameStep")[0], seen(2, "SameStep")[0])
    assert len(seen(0, "Disabled").unique()) > 90


@pytest.mark.parametrize("scale", [1e8, 1e-8])
def test_O_scale(scale):
    r = RolloutCollector(gym.make_vec("Restaurant-v0", num_envs=4, reward_scale=scale), 3, 0).collect(BiasPolicy())
    assert (r.reward.abs() == np.float32(scale)).all()


def test_X_extremes():
    for b in (-1e3, 1e3):
        assert math.isfinite(RestaurantModel().expected_reward(b)) and RestaurantModel().gradient(b) == 0
    assert RestaurantModel(weight=20.0, hungry_above=0.01).optimal_bias() == pytest.approx(
        RestaurantModel(weight=20.0, hungry_above=0.01).optimal_bias()
    )
    for m in (
        RestaurantModel(),
        RestaurantModel(weight=3.0, hungry_above=0.1),
        RestaurantModel(weight=-20.0),
        RestaurantModel(large_portion_probability=(0.8, 0.15), hungry_above=0.9),
    ):
        best = m.expected_reward(max(min(m.optimal_bias(), 500.0), -500.0))
        assert all(m.expected_reward(b) <= best + 1e-12 for b in np.linspace(-60, 60, 1201))


def test_X_filler_and_flags():
    one = FiniteMDP([[[(1.0, 0, 3.0, True)]]], f64(1))
    for t in (
        enumerate_trajectories(one, f64([1.0]), 1),
        sample_trajectories(one, f64([1.0]), 2, 1, torch.Generator()),
    ):
        assert not (t.truncated & t.terminated).any()
    t = sample_trajectories(one, f64([1.0]), 2, 3, torch.Generator())
    assert (t.reward[~t.valid] == 0).all() and not t.terminated[~t.valid].any()


def test_X_undiscounted():
    m = FiniteMDP(
        [[[(1.0, 1, 1.0, False)], [(1.0, 1, 0.0, False)]], [[(1.0, 0, 2.0, True)], [(1.0, 0, 0.0, True)]]],
        f64(1, 0),
        0.5,
    )
    p = torch.full((2, 2), 0.5).double()
    for h in (None, 2):
        assert expected_gradient(m, p, h).tolist() == [[1.5, 0.5], [1.0, 0.0]] and expected_gradient(
            m, p, h, discounted_states=False
        ).tolist() == [[1.5, 0.5], [2.0, 0.0]]


def test_X_rare():
    m = FiniteMDP([[[(1.0, 0, 1.0, True)], [(1.0, 0, 0.0, True)]]], f64(1))
    assert enumerate_trajectories(m, f64([1 - 1e-6, 1e-6]), 1).probability.sum().item() == 1.0


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_S_order_tells_nothing_of_the_next_hunger(mode):
    n = 200_000
    e = RestaurantVectorEnv(n, autoreset_mode=mode, large_portion_probability=(0.5, 0.5))
    e.reset(seed=0)
    a = np.zeros(n, int)
    o, r, *_, i = e.step(a)
    large = i.get("final_info", i)["large_portion"]
    if mode == "NextStep":
        o = e.step(a)[0]
    assert abs(o[large].mean() - o[~large].mean()) < 5 * math.sqrt(1 / 12 * 4 / n)


def test_S_next_filler_draw():
    n = 200_000
    e = RestaurantVectorEnv(n, autoreset_mode="NextStep", large_portion_probability=(0.5, 0.5))
    e.reset(seed=0)
    a = np.zeros(n, int)
    e.step(a)
    o = e.step(a)[0]
    large = e.step(a)[4]["large_portion"]
    assert abs(o[large].mean() - o[~large].mean()) < 5 * math.sqrt(1 / 12 * 4 / n)


def test_S_scalar_chance():
    n = 400_000
    e = RestaurantEnv(large_portion_probability=(0.15, 0.8))
    e.reset(seed=0)
    h = np.empty(n)
    g = np.empty(n)
    for k in range(n):
        h[k] = e.reset()[0][0]
        g[k] = e.step(0)[4]["large_portion"]
    assert abs(h.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n) and abs(g.mean() - 0.15) < 5 * math.sqrt(0.15 * 0.85 / n)


def test_S_settings_copied():
    q = np.array([0.0, 0.0])
    e = RestaurantVectorEnv(4, large_portion_probability=q)
    q[:] = 1
    e.reset(seed=0)
    assert not e.step(np.zeros(4, int))[4]["final_info"]["large_portion"].any()


def test_T_metrics():
    torch.manual_seed(0)
    p = MLPPolicy(spaces.Box(-9, 9, (4,)), spaces.Discrete(2))
    t = Trainer(
        TrainConfig(
            env_id="CartPole-v1",
            num_envs=3,
            num_steps=40,
            learning_rate=1e-9,
            multiplier="reward",
            baseline="none",
            standardize=False,
            max_gradient_norm=None,
            normalize_observations=False,
            normalize_rewards=False,
        ),
        p,
    )
    got = t.update()
    r = t.collector.rollout
    o, a, m = (r.rows(x) for x in (r.observation, r.action, r.reward))
    lp, ent = p.evaluate(o, a)
    assert got["gradient/norm"] == pytest.approx(math.sqrt(sum(q.grad.square().sum().item() for q in p.parameters())))
    assert got["policy/entropy"] == pytest.approx(ent.mean().item(), rel=1e-5) and got[
        "loss/policy_gradient"
    ] == pytest.approx(-(lp * m).mean().item(), rel=1e-5)


def test_T_seed():
    first = [torch.rand(1).item() for s in (1, 2) for _ in [Trainer(TrainConfig(seed=s))]]
    assert first[0] != first[1]
