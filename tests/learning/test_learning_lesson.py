"""The lesson itself, through the public names: its worked example, and ten training runs."""

import numpy as np
import pytest
import torch

from pgtorch import BiasPolicy, TrainConfig, manual_gradient, policy_gradient_loss, train
from pgtorch.record.metrics import read_metrics


def visit(policy, hunger, action, reward):
    """One update of the lesson by autograd and PyTorch's SGD; returns the gradient."""
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    observation, action, reward = torch.tensor([[hunger]]), torch.tensor([action]), torch.tensor([reward])
    loss = policy_gradient_loss(policy.log_prob(observation, action), reward)
    loss.backward()
    assert torch.equal(policy.bias.grad, manual_gradient(policy, observation, action, reward)["bias"])
    optimizer.step()
    return policy.bias.grad.item()


def test_worked_example():
    policy, not_hungry = BiasPolicy(), torch.tensor([[0.0]])
    assert torch.sigmoid(policy(not_hungry)).item() == pytest.approx(0.5, abs=1e-6)
    assert visit(policy, hunger=0.0, action=0, reward=1.0) == pytest.approx(0.5, abs=1e-6)
    assert policy.bias.item() == pytest.approx(-0.5, abs=1e-6)

    policy.zero_grad()
    assert torch.sigmoid(policy(not_hungry)).item() == pytest.approx(0.377541, abs=1e-6)
    assert visit(policy, hunger=0.0, action=1, reward=-1.0) == pytest.approx(0.622459, abs=1e-6)
    assert policy.bias.item() == pytest.approx(-1.122459, abs=1e-6)
    assert torch.sigmoid(policy(not_hungry)).item() == pytest.approx(0.245555, abs=1e-6)


def test_double_reward_doubles_the_step():
    policy = BiasPolicy()
    visit(policy, hunger=0.0, action=0, reward=2.0)
    assert policy.bias.item() == pytest.approx(-1.0, abs=1e-6)


@pytest.fixture(scope="module")
def ten_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lesson")
    configs = [TrainConfig(seed=seed, run_dir=folder / str(seed), pictures=False) for seed in range(10)]
    return [read_metrics(train(config).run_dir) for config in configs]


def test_bias_hovers_around_minus_ten(ten_runs):
    means = [np.mean([line["policy/bias"] for line in lines[-1000:]]) for lines in ten_runs]
    assert all(len(lines) == 2000 for lines in ten_runs)
    assert np.abs(np.array(means) + 10).max() < 1.0  # expected spread over seeds 0.24
    assert abs(np.mean(means) + 10) < 0.25  # expected 0.08


def test_each_hunger_gets_its_place(ten_runs):
    for lines in ten_runs:
        assert lines[-1]["policy/p_norm/hunger_0.0"] < 0.001
        assert lines[-1]["policy/p_norm/hunger_1.0"] > 0.999


def test_autograd_and_manual_are_equal_at_every_update(ten_runs):
    for lines in ten_runs:
        assert all(line["gradient/absolute_difference"] == 0.0 for line in lines)
        assert all(line["gradient/autograd"] == line["gradient/manual"] for line in lines)
        assert len({line["gradient/autograd"] for line in lines}) > 100  # and they move


def test_both_places_are_tried(ten_runs):
    """Actions are drawn: at the optimum the policy earns about 0.56, where the likeliest actions would earn 0.65."""
    for lines in ten_runs:
        assert 0.3 < np.mean([line["rollout/episode_return"] for line in lines[-1000:]]) < 0.66
        entropy = np.mean([line["policy/entropy"] for line in lines[-1000:]])
        assert entropy == pytest.approx(np.pi**2 / 60, abs=0.05)  # the integral of the entropy over hunger at b = -10
