"""Faults planted in the shipped source: each is caught by the row that is named, which passes without the fault."""

import ast
import inspect
import sys
import textwrap

import pytest
import torch
from gymnasium import spaces

from pgtorch import BiasPolicy, MLPPolicy, distributions, losses, networks, policies, returns, rollout
from pgtorch.environment import episodes
from pgtorch.lesson.model import RestaurantModel
from pgtorch.proof.estimator_rows import mdp_rows
from pgtorch.proof.exact import FiniteMDP
from pgtorch.proof.policy_rows import policy_rows
from pgtorch.proof.restaurant_rows import restaurant_rows
from pgtorch.proof.update_rows import rollout_rows
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
    model = RestaurantModel(**kwargs)
    yield from restaurant_rows("visits", model, "Restaurant-v0", env_kwargs=kwargs, seed=0)


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
    yield from mdp_rows("process", policy, TINY, horizon=20, episodes=20_000, seed=0)


def game():
    yield from rollout_rows("game", seed=0)


def estimator(name):
    return f"{EXACT}: {name}"


# For each function and verification: what goes wrong, what is replaced, what is planted, which row catches it.
# Source is compared as `ast.unparse` writes it: without comments, docstring and line breaks.
FAULTS_OF = [
    (
        losses.policy_gradient_loss,
        lesson,
        ("sign of the loss", "-multiplier", "multiplier", MANUAL),
        ("sum for mean", ".mean()", ".sum()", MANUAL),
        ("reward dropped", "multiplier.detach()", "1.0", MANUAL),
        ("neighbor's reward", ".detach()", ".detach().roll(1)", MANUAL),
        ("gradient into the advantage", ".detach()", "", "gradient into the multiplier"),
        ("[B] times [B, 1]", "log_prob.shape != multiplier.shape", "False", "shapes that broadcast and are accepted"),
    ),
    (losses.policy_gradient_loss, choice, ("factor 1.00001", ".mean()", ".mean() * 1.00001", MANUAL)),
    (
        losses.importance_weighted,
        process,
        ("ratio forgotten", "multiplier * ratio", "multiplier", estimator("reward, importance-weighted")),
        (
            "ratio upside down",
            "log_prob.detach() - old_log_prob",
            "old_log_prob - log_prob.detach()",
            estimator("reward, importance-weighted"),
        ),
    ),
    (
        manual_gradient._bias_policy_gradient,
        lesson,
        ("sign by hand", "p_norm - a", "a - p_norm", MANUAL),
        ("sum for mean by hand", "(1.0 / len(multiplier))", "1.0", MANUAL),
    ),
    (
        manual_gradient._mlp_policy_gradient,
        choice,
        ("1 - h for 1 - h^2", "inputs[layer].square()", "inputs[layer]", MANUAL),
        ("bias forgotten", "weights[-1], biases[-1]", "weights[-1]", MANUAL),
        ("weights' gradient off by 0.1 %", "@ dz_dweight", "@ dz_dweight * 1.001", MANUAL),
    ),
    (
        manual_gradient._mlp_policy_gradient,
        numbers,
        ("log std forgotten", "dce_dlog_std * dloss_dce", "0 * dce_dlog_std * dloss_dce", MANUAL),
    ),
    (
        manual_gradient._normal_head,
        numbers,
        ("sigma for sigma^2", "sigma.square()", "sigma", MANUAL),
        ("log std counted twice", "torch.ones_like(mu), (", "2 * torch.ones_like(mu), (", MANUAL),
    ),
    (
        manual_gradient._categorical_head,
        choice,
        ("next action by hand", "action - int(space.start)", "(action - int(space.start) + 1) % 4", MANUAL),
    ),
    (policies.BiasPolicy.forward, lesson, ("weight left out", "self.weight * ", "", MANUAL)),
    (
        distributions.Bernoulli.log_prob,
        lesson,
        ("wrong action", "action.to(self.logit.dtype)", "1 - action.to(self.logit.dtype)", MANUAL),
    ),
    (
        distributions.Bernoulli.sample,
        lesson,
        ("places swapped in the draw", "noise >=", "noise <", SAMPLES),
        ("draw off by 1 %", "torch.sigmoid(-self", "1.01 * torch.sigmoid(-self", SAMPLES),
        ("always the likelier place", "noise >=", "0.5 >=", SAMPLES),
    ),
    (networks.feed_forward, choice, ("tanh left out", "layer(torch.tanh(output))", "layer(output)", MANUAL)),
    (
        distributions.Categorical.log_probs.func,
        choice,
        ("softmax over the batch", "dim=-1", "dim=0", SUM),
        ("unnormalized", "functional.log_softmax(self.logits, dim=-1)", "self.logits", SUM),
    ),
    (
        distributions.Categorical.log_prob,
        choice,
        ("neighbor's action", "(action - self.start)", "(action - self.start).roll(1)", MANUAL),
    ),
    (distributions.Categorical.entropy, choice, ("sign of the entropy", "return -(", "return (", ENTROPY)),
    (distributions.Categorical.sample, choice, ("unlikeliest choice", "argmax", "argmin", SAMPLES)),
    (
        distributions.gumbel,
        choice,
        ("Gumbel without its log", ".log_()", "", SAMPLES),
        ("Gumbel upside down", ".neg_()", "", SAMPLES),
    ),
    (distributions.MultiCategorical.log_prob, choices, ("mean for sum over choices", ".sum(0)", ".mean(0)", MANUAL)),
    (
        distributions.MultiBernoulli.sample,
        switches,
        ("yes for no", "self.choices.sample(noise)", "(1 - self.choices.sample(noise))", SAMPLES),
    ),
    (distributions.MultiBernoulli.entropy, switches, ("mean for sum over switches", ".sum(-1)", ".mean(-1)", ENTROPY)),
    (
        distributions.Bernoulli.entropy,
        switches,
        ("entropy of switches", "torch.sigmoid(self.logit)", "torch.sigmoid(-self.logit)", ENTROPY),
    ),
    (distributions.DiagonalNormal.log_prob, numbers, ("density not normalized", "- self.log_std", "", MANUAL)),
    (
        distributions.DiagonalNormal.sample,
        numbers,
        ("draws too wide by 1 %", "self.log_std.exp()", "1.01 * self.log_std.exp()", SAMPLES),
    ),
    (distributions.DiagonalNormal.entropy, numbers, ("entropy of numbers", "0.5 * ", "", ENTROPY)),
    (
        returns.discount_weight,
        process,
        ("discount off by one", "torch.ones(", "discount * torch.ones(", estimator("reward-to-go")),
    ),
    (
        returns.reward_to_go,
        process,
        ("discount forgotten", "discount * future", "future", estimator("reward-to-go")),
        (
            "reward-to-go with the past",
            "in reversed(range(len(reward)))",
            "in range(len(reward))",
            estimator("reward-to-go"),
        ),
        (
            "reward of the step after",
            "reward[t].double()",
            "reward.roll(-1, 0)[t].double()",
            estimator("reward-to-go"),
        ),
    ),
    (
        returns.episode_return,
        process,
        ("return without the future", "sums[t] = whole", "pass", estimator("return")),
        ("return not discounted", "reward.double() * weight", "reward.double()", estimator("return")),
    ),
    (
        returns.generalized_advantage,
        process,
        ("baseline twice", "- value.double()", "- 2 * value.double()", estimator("GAE, lambda 1")),
        ("next value not discounted", "discount * torch.where", "torch.where", estimator("GAE, lambda 1")),
        (
            "value after the end",
            "torch.where(terminated, 0.0, next_value.double())",
            "next_value.double()",
            estimator("GAE, lambda 1"),
        ),
    ),
    (restaurant.is_hungry, visits, ("hunger reversed", ">", "<", EXACT)),
    (
        restaurant.serves_large,
        visits,
        ("orders swapped", "<", ">", EXACT),
        ("places' chances off by 10 %", "< probability", "< 0.9 * probability", SAMPLED),
    ),
    (restaurant.reward_of, visits, ("reward reversed", "==", "!=", EXACT)),
    (
        restaurant.significance,
        visits,
        ("grades forgotten", "1.0 + (", "1.0 + 0 * (", EXACT),
        ("grades at the wrong places", ">", "<", EXACT),
    ),
    (
        rollout.Rollout.rows,
        game,
        ("filler among the rows", "flat if self.all_valid else", "flat if True else", "filler among the rows"),
    ),
    (
        episodes.EpisodeStatistics.record,
        game,
        ("filler counted as steps", "self.length += valid", "self.length += 1", "return against length of episodes"),
    ),
]
FAULTS = {
    what: (function, old, new, verify, check)
    for function, verify, *faults in FAULTS_OF
    for what, old, new, check in faults
}


@pytest.fixture(scope="module")
def without_fault():
    """Each verification run once as shipped: whether all rows of a name pass."""
    found = {verify: {} for _, verify, *_ in FAULTS_OF}
    for verify, passes in found.items():
        for row in verify():
            passes[row.check] = passes.get(row.check, True) and row.status == "PASS"
    return found


@pytest.mark.parametrize("what", FAULTS)
def test_a_planted_fault_is_caught(monkeypatch, without_fault, what):
    function, old, new, verify, check = FAULTS[what]
    assert without_fault[verify][check]
    plant(monkeypatch, function, old, new)
    assert any(row.check == check and row.status == "FAIL" for row in verify())


def plant(monkeypatch, function, old, new):
    """Replace a piece of a function's source, wherever the function is used."""
    function = inspect.unwrap(function)
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    definition.decorator_list = []
    if ast.get_docstring(definition) is not None:
        del definition.body[0]
    signature, _, body = ast.unparse(definition).partition("\n")
    assert old in body, f"{function.__qualname__} has changed: plant another fault in\n{body}"
    scope = {}
    exec(f"from __future__ import annotations\n{signature}\n{body.replace(old, new)}", function.__globals__, scope)
    monkeypatch.setattr(function, "__code__", scope[function.__name__].__code__)


def test_none_of_them_was_lost():
    assert len(FAULTS) == sum(len(faults) for _, _, *faults in FAULTS_OF)  # each has a name of its own
    assert len(FAULTS) >= 53
