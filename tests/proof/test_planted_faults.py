"""Faults planted in the shipped source: each is caught by the row that is named, which passes without the fault."""

import inspect
import sys
import textwrap

import pytest
import torch
from gymnasium import spaces

from pgtorch import distributions, losses, policies, returns, rollout
from pgtorch.proof import suite as verifier
from pgtorch.proof.exact import FiniteMDP
from pgtorch.policies import BiasPolicy, MLPPolicy
from pgtorch.proof.policy_rows import policy_rows
from restaurant_env import restaurant

manual_gradient = sys.modules["pgtorch.manual_gradient"]  # the module: the package has a function of that name
BOX = spaces.Box(-1.0, 1.0, (3,))
MANUAL = "autograd against manual, float64"
SLOPE = "autograd against finite differences"
SUM = "probabilities sum to 1"
SAMPLES = "samples against log-probability"
ENTROPY = "samples against entropy"
EXACT = "expectation against exact"
SAMPLED = "sampled mean against exact"

# Three states in which what one does matters later; ending, chance and rewards of both signs. State 2 pays most.
TINY = FiniteMDP(
    [
        [[(0.7, 1, 1.0, False), (0.3, 0, -2.0, False)], [(1.0, 2, 0.5, False)]],
        [[(0.5, 2, 0.0, False), (0.5, 1, 3.0, True)], [(1.0, 0, -1.0, False)]],
        [[(0.9, 0, 2.0, False), (0.1, 2, 5.0, True)], [(1.0, 1, 1.0, False)]],
    ],
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    discount=0.9,
)


def lesson():
    yield from policy_rows("lesson", BiasPolicy(), spaces.Box(0.0, 1.0, (1,)), spaces.Discrete(2), seed=0)


def visits():
    kwargs = {"reward_scheme": "graded", "hungry_above": 0.3, "large_portion_probability": (0.2, 0.7)}
    yield from verifier.restaurant_rows("visits", BiasPolicy(), "Restaurant-v0", kwargs, seed=0)


def network(action_space):
    yield from policy_rows("network", MLPPolicy(BOX, action_space, (6, 5)), BOX, action_space, seed=0)


def choice():
    yield from network(spaces.Discrete(4, start=1))


def choices():
    yield from network(spaces.MultiDiscrete([3, 2]))


def switches():
    yield from network(spaces.MultiBinary(3))


def numbers():
    yield from network(spaces.Box(-1.0, 1.0, (2,)))


def process():
    policy = MLPPolicy(spaces.Discrete(3), spaces.Discrete(2), ())
    yield from verifier.mdp_rows("process", policy, TINY, horizon=20, episodes=20_000, seed=0)


def game():
    yield from verifier.rollout_rows("game", seed=0)


def estimator(name):
    return f"{EXACT}: {name}"


# what goes wrong, in which function, what stands there, what is planted, what is verified, which row catches it
FAULTS = [
    ("sign of the loss", losses.policy_gradient_loss, "-multiplier", "multiplier", lesson, MANUAL),
    ("factor 1.00001", losses.policy_gradient_loss, ".mean()", ".mean() * 1.00001", choice, MANUAL),
    ("sum for mean", losses.policy_gradient_loss, ".mean()", ".sum()", lesson, MANUAL),
    ("reward dropped", losses.policy_gradient_loss, "multiplier.detach()", "1.0", lesson, MANUAL),
    ("neighbour's reward", losses.policy_gradient_loss, ".detach()", ".detach().roll(1)", lesson, MANUAL),
    (
        "gradient into the advantage",
        losses.policy_gradient_loss,
        ".detach()",
        "",
        lesson,
        "gradient into the multiplier",
    ),
    (
        "[B] times [B, 1]",
        losses.policy_gradient_loss,
        "log_prob.shape != multiplier.shape",
        "False",
        lesson,
        "shapes that broadcast and are accepted",
    ),
    ("ratio forgotten", losses.importance_weighted, "multiplier * ratio", "multiplier", process, estimator("reward, importance-weighted")),
    ("ratio upside down", losses.importance_weighted, "log_prob.detach() - played", "played - log_prob.detach()", process, estimator("reward, importance-weighted")),
    ("sign by hand", manual_gradient._bias_policy_gradient, "p_norm - a", "a - p_norm", lesson, MANUAL),
    ("sum for mean by hand", manual_gradient._bias_policy_gradient, " * (1.0 / len(multiplier))", "", lesson, MANUAL),
    ("1 - h for 1 - h^2", manual_gradient._mlp_policy_gradient, "inputs[layer].square()", "inputs[layer]", choice, MANUAL),
    ("log std forgotten", manual_gradient._mlp_policy_gradient, "dce_dlog_std * dl", "0 * dce_dlog_std * dl", numbers, MANUAL),
    ("bias forgotten", manual_gradient._mlp_policy_gradient, "weights[-1], biases[-1]", "weights[-1]", choice, MANUAL),
    ("weights' gradient off by 0.1 %", manual_gradient._mlp_policy_gradient, "dloss_dz.T @ dz_dweight", "(dz_dweight.T @ dloss_dz).T * 1.001", choice, MANUAL),
    ("sigma for sigma^2", manual_gradient._normal_head, "sigma.square()", "sigma", numbers, MANUAL),
    ("log std counted twice", manual_gradient._normal_head, "torch.ones_like(mu), (", "2 * torch.ones_like(mu), (", numbers, MANUAL),
    ("next action by hand", manual_gradient._categorical_head, "action - int(space.start)", "(action - int(space.start) + 1) % 4", choice, MANUAL),
    ("wrong action", policies.BiasPolicy.evaluate, "target = action", "target = 1 - action", lesson, MANUAL),
    ("weight left out", policies.BiasPolicy.forward, "self.weight * ", "", lesson, MANUAL),
    ("places swapped in the draw", policies.BiasPolicy.sample, ">= p_squatch", "< p_squatch", lesson, SAMPLES),
    ("draw off by 1 %", policies.BiasPolicy.sample, "torch.sigmoid(-self", "1.01 * torch.sigmoid(-self", lesson, SAMPLES),
    ("always the likelier place", policies.BiasPolicy.sample, "torch.rand_like(p_squatch)", "0.5", lesson, SAMPLES),
    ("tanh left out", policies.feed_forward, "layer(torch.tanh(output))", "layer(output)", choice, MANUAL),
    ("softmax over the batch", distributions.Categorical.log_probs.func, "dim=-1", "dim=0", choice, SUM),
    ("unnormalized", distributions.Categorical.log_probs.func, "functional.log_softmax(self.logits, dim=-1)", "self.logits", choice, SUM),
    ("neighbour's action", distributions.Categorical.log_prob, "(action - self.start)", "(action - self.start).roll(1)", choice, MANUAL),
    ("sign of the entropy", distributions.Categorical.entropy, "return -(", "return (", choice, ENTROPY),
    ("unlikeliest choice", distributions.Categorical.sample, "argmax", "argmin", choice, SAMPLES),
    ("Gumbel without its log", distributions.Categorical.sample, "exponential.log_()", "exponential", choice, SAMPLES),
    ("mean for sum over choices", distributions.MultiCategorical.log_prob, ".sum(0)", ".mean(0)", choices, MANUAL),
    ("yes for no", distributions.MultiBernoulli.sample, "< torch.sigmoid", "> torch.sigmoid", switches, SAMPLES),
    ("entropy of switches", distributions.MultiBernoulli.entropy, "softplus(self.logits) -", "softplus(self.logits) +", switches, ENTROPY),
    ("density not normalized", distributions.DiagonalNormal.log_prob, "- self.log_std", "", numbers, MANUAL),
    ("draws too wide by 1 %", distributions.DiagonalNormal.sample, "self.log_std.exp()", "1.01 * self.log_std.exp()", numbers, SAMPLES),
    ("entropy of numbers", distributions.DiagonalNormal.entropy, "0.5 * ", "", numbers, ENTROPY),
    ("discount off by one", returns.discount_weight, "torch.ones(", "discount * torch.ones(", process, estimator("reward-to-go")),
    ("discount forgotten", returns.reward_to_go, "discount * future", "future", process, estimator("reward-to-go")),
    ("reward-to-go with the past", returns.reward_to_go, "in reversed(range(len(reward)))", "in range(len(reward))", process, estimator("reward-to-go")),
    ("reward of the step after", returns.reward_to_go, "reward[t].double()", "reward.roll(-1, 0)[t].double()", process, estimator("reward-to-go")),
    ("return without the future", returns.episode_return, "sums[t] = whole", "pass", process, estimator("return")),
    ("return not discounted", returns.episode_return, " * discount_weight(terminated, truncated, valid, discount)", "", process, estimator("return")),
    ("baseline twice", returns.generalized_advantage, "- value.double()", "- 2 * value.double()", process, estimator("GAE, lambda 1")),
    ("next value not discounted", returns.generalized_advantage, "discount * torch.where", "torch.where", process, estimator("GAE, lambda 1")),
    ("value after the end", returns.generalized_advantage, "torch.where(terminated, 0.0, next_value.double())", "next_value.double()", process, estimator("GAE, lambda 1")),
    ("hunger reversed", restaurant.is_hungry, ">", "<", visits, EXACT),
    ("orders swapped", restaurant.serves_large, "<", ">", visits, EXACT),
    ("reward reversed", restaurant.reward_of, "==", "!=", visits, EXACT),
    ("grades forgotten", restaurant.significance, "1.0 + (", "1.0 + 0 * (", visits, EXACT),
    ("grades at the wrong places", restaurant.significance, ">", "<", visits, EXACT),
    ("places' chances off by 10 %", restaurant.serves_large, "< probability", "< 0.9 * probability", visits, SAMPLED),
    ("filler among the rows", rollout.Rollout.rows, "flat if self._all_valid else", "flat if True else", game, "filler among the rows"),
    ("filler counted as steps", rollout.EpisodeStatistics.record, "self.length += valid", "self.length += 1", game, "return against length of episodes"),
]  # fmt: skip


@pytest.fixture(scope="module")
def without_fault():
    """Each verification run once as shipped: rows by name."""
    return {verify: by_name(verify()) for verify in {fault[4] for fault in FAULTS}}


def by_name(rows):
    worst = {}
    for row in rows:
        if row.check not in worst or row.status == "FAIL":
            worst[row.check] = row
    return worst


@pytest.mark.parametrize(("what", "function", "old", "new", "verify", "check"), FAULTS, ids=[f[0] for f in FAULTS])
def test_a_planted_fault_is_caught(monkeypatch, without_fault, what, function, old, new, verify, check):
    assert without_fault[verify][check].status == "PASS"
    plant(monkeypatch, function, old, new)
    assert by_name(verify())[check].status == "FAIL", what


def plant(monkeypatch, function, old, new):
    """Replace a piece of a function's source, wherever the function is used."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    start = source.index("def ")
    body_at = source.index('"""', source.index('"""', start) + 3) + 3 if '"""' in source else start
    assert old in source[body_at:], "the shipped source has changed: plant another fault"
    changed = source[start:body_at] + source[body_at:].replace(old, new)
    scope = {}
    exec("from __future__ import annotations\n" + changed, function.__globals__, scope)
    monkeypatch.setattr(function, "__code__", scope[function.__name__].__code__)


def test_there_are_enough_of_them():
    assert len(FAULTS) >= 30
    assert len({fault[0] for fault in FAULTS}) == len(FAULTS)
