"""The exact gradient against slopes of the exact return, and by hand."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch

from pgtorch.proof.exact import FiniteMDP, expected_gradient, expected_return, softmax_gradient, state_values


def random_mdp(seed, num_states=4, num_actions=3, discount=0.9):
    rng = np.random.default_rng(seed)
    outcomes = []
    for _ in range(num_states):
        row = []
        for _ in range(num_actions):
            p = rng.dirichlet(np.ones(3))
            row.append(
                [(p[i], int(rng.integers(num_states)), float(rng.normal()), bool(rng.random() < 0.3)) for i in range(3)]
            )
        outcomes.append(row)
    return FiniteMDP(outcomes, torch.tensor(rng.dirichlet(np.ones(num_states))), discount)


def logits(mdp, seed=0):
    return torch.randn(mdp.reward.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slope_in_logits(mdp, z, horizon):
    result = torch.zeros_like(z)
    for s, a in itertools.product(*map(range, z.shape)):
        step = torch.zeros_like(z)
        step[s, a] = 1e-5
        up, down = (expected_return(mdp, torch.softmax(z + sign * step, 1), horizon) for sign in (1, -1))
        result[s, a] = (up - down) / 2e-5
    return result


@pytest.mark.parametrize("horizon", [None, 1, 7])
@pytest.mark.parametrize("seed", range(3))
def test_exact_gradient_is_the_slope_of_the_exact_return(seed, horizon):
    mdp = random_mdp(seed)
    z = logits(mdp)
    gradient = softmax_gradient(mdp, torch.softmax(z, 1), horizon)
    assert ((gradient - slope_in_logits(mdp, z, horizon)).abs().max() / gradient.abs().max()).item() < 1e-7


@pytest.mark.parametrize(("env_id", "discount"), [("FrozenLake-v1", 0.99), ("CliffWalking-v1", 0.99)])
def test_gymnasiums_tables_can_be_read(env_id, discount):
    mdp = FiniteMDP.from_gymnasium(gym.make(env_id), discount)
    z = logits(mdp)
    gradient = softmax_gradient(mdp, torch.softmax(z, 1))
    assert ((gradient - slope_in_logits(mdp, z, None)).abs().max() / gradient.abs().max()).item() < 1e-7


def test_frozen_lake_has_its_published_optimum():
    """Value iteration on the table gives the published optimum of the slippery 4x4 lake: 0.824 at discount 1."""
    mdp = FiniteMDP.from_gymnasium(gym.make("FrozenLake-v1"))
    value = torch.zeros(16).double()
    for _ in range(5000):
        action_value = mdp.reward + mdp.transition @ value
        value = action_value.max(1).values
    best = torch.nn.functional.one_hot(action_value.argmax(1), 4).double()
    assert state_values(FiniteMDP(mdp.outcomes, mdp.start, 0.999999), best)[0].item() == pytest.approx(0.8235, abs=1e-3)


def test_a_long_horizon_is_no_horizon():
    mdp = random_mdp(5)
    probability = torch.softmax(logits(mdp), 1)
    assert expected_return(mdp, probability, 400).item() == pytest.approx(
        expected_return(mdp, probability).item(), rel=1e-12
    )
    torch.testing.assert_close(
        expected_gradient(mdp, probability, 400), expected_gradient(mdp, probability), rtol=1e-11, atol=1e-13
    )


def test_the_future_is_discounted_and_states_too_unless_asked():
    """By hand. Kills gamma^t left out of d, and gamma left out of Q: state 1 is one step away and pays 2 or 0."""
    process = FiniteMDP(
        [[[(1.0, 1, 1.0, False)], [(1.0, 1, 0.0, False)]], [[(1.0, 0, 2.0, True)], [(1.0, 0, 0.0, True)]]],
        torch.tensor([1.0, 0.0], dtype=torch.float64),
        discount=0.5,
    )
    half = torch.full((2, 2), 0.5, dtype=torch.float64)
    for horizon in (None, 2):
        assert expected_gradient(process, half, horizon).tolist() == [[1.5, 0.5], [1.0, 0.0]]
        plain = expected_gradient(process, half, horizon, discounted_states=False)
        assert plain.tolist() == [[1.5, 0.5], [2.0, 0.0]]


def test_refuses_a_broken_table():
    good = random_mdp(0)
    with pytest.raises(ValueError, match=r"outcomes\[0\]\[0\] must have probabilities that sum to 1, got \[0.5\]"):
        FiniteMDP([[[(0.5, 0, 1.0, False)]]], torch.ones(1).double())
    with pytest.raises(ValueError, match="start must be 4 probabilities that sum to 1"):
        FiniteMDP(good.outcomes, torch.ones(4).double())
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\], got 1.5"):
        FiniteMDP(good.outcomes, good.start, 1.5)
    with pytest.raises(ValueError, match=r"outcomes\[0\]\[0\] must lead to a state below 1 .* got state 3, reward 1.0"):
        FiniteMDP([[[(1.0, 3, 1.0, False)]]], torch.ones(1).double())
    with pytest.raises(ValueError, match=r"outcomes\[1\] must have 1 actions like the first, got 2"):
        FiniteMDP([[[(1.0, 0, 0.0, True)]], [[(1.0, 0, 0.0, True)]] * 2], torch.tensor([1.0, 0.0]).double())
    with pytest.raises(TypeError, match="has no transition table"):
        FiniteMDP.from_gymnasium(gym.make("CartPole-v1"))
