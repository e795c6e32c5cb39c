"""Faults planted in the shipped source: each is caught by the row that is named, which passes without the fault."""

import ast
import functools
import inspect
import sys
import textwrap

import pytest
import torch
from gymnasium import spaces
from support import seeded

from pgtorch import (
    BiasPolicy,
    MLPPolicy,
    distributions,
    losses,
    networks,
    optimizers,
    policies,
    returns,
    rollout,
    trainer,
)
from pgtorch.distributions import as_global_stream
from pgtorch.environment import autoreset, episodes, normalization
from pgtorch.lesson.model import RestaurantModel
from pgtorch.proof.estimator_rows import mdp_rows
from pgtorch.proof.evaluation_rows import evaluation_rows
from pgtorch.proof.exact import FiniteMDP
from pgtorch.proof.policy_rows import policy_rows
from pgtorch.proof.restaurant_rows import restaurant_rows
from pgtorch.proof.update_rows import rollout_rows, variant_row
from pgtorch.record import evaluation, trained_run
from restaurant_env import restaurant

manual_gradient = sys.modules["pgtorch.manual_gradient"]  # the module: the package has a function of that name
BOX = spaces.Box(-1.0, 1.0, (3,))
MANUAL = "autograd against manual, float64"
SLOPE = "autograd against finite differences"
SUM = "probabilities sum to 1"
SAMPLES = "samples against log-probability"
ENTROPY = "samples against entropy"
EXACT = "expectation against exact"
CLIPPED = "clipped objective by autograd"
JOINT = "samples against joint probability"
ROWS, DRAWS = "independence of rows", "independence of draws"
REPEATED = "repeated random numbers"
ALONE = "rows by themselves and again"
MODE = "likelier than the mode"
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


def lesson(only=None):
    yield from policy_rows("lesson", BiasPolicy(), spaces.Box(0.0, 1.0, (1,)), spaces.Discrete(2), seed=0, only=only)


def visits(_only=None):
    kwargs = {"reward_scheme": "graded", "hungry_above": 0.3, "large_portion_probability": (0.2, 0.7)}
    model = RestaurantModel(**kwargs)
    yield from restaurant_rows("visits", model, "Restaurant-v0", env_kwargs=kwargs, seed=0)


def seeded_policy(observation_space, action_space, hidden_sizes):
    with as_global_stream(seeded()):
        return MLPPolicy(observation_space, action_space, hidden_sizes)


def network(action_space, only):
    yield from policy_rows("network", seeded_policy(BOX, action_space, (6, 5)), BOX, action_space, seed=0, only=only)


def choice(only=None):
    yield from network(spaces.Discrete(4, start=1), only)


def sharp(only=None):
    box, space = spaces.Box(-4.0, 4.0, (3,)), spaces.Discrete(4)
    yield from policy_rows("sharp", seeded_policy(box, space, ()), box, space, seed=0, only=only)


def deep(only=None):
    box, space = spaces.Box(-1.0, 1.0, (5,)), spaces.Discrete(3)
    yield from policy_rows("deep", seeded_policy(box, space, (5, 5, 5)), box, space, seed=0, only=only)


def activated(activation, only):
    """The rows of gradients: the others are those of a network of tanh layers."""
    with as_global_stream(seeded()):
        policy = MLPPolicy(BOX, spaces.Discrete(3), (6, 5), activation)
    for check in (MANUAL, SLOPE) if only is None else (only,):
        yield from policy_rows(activation, policy, BOX, spaces.Discrete(3), seed=0, only=check)


def rectified(only=None):
    yield from activated("relu", only)


def elu(only=None):
    yield from activated("elu", only)


def choices(only=None):
    yield from network(spaces.MultiDiscrete([3, 2]), only)


def switches(only=None):
    yield from network(spaces.MultiBinary(3), only)


def numbers(only=None):
    yield from network(spaces.Box(-1.0, 1.0, (2,)), only)


def process(_only=None):
    policy = seeded_policy(spaces.Discrete(3), spaces.Discrete(2), ())
    yield from mdp_rows("process", policy, TINY, horizon=20, episodes=20_000, seed=0)


def game(_only=None):
    yield from rollout_rows("game", seed=0)


@functools.cache
def update_with(variant):
    """A function that yields the row of a whole update with these settings."""
    return lambda _only=None: iter([variant_row(variant, seed=0)])


GENERAL, NEXT_STEP, PASSES = (
    update_with(name) for name in ("one gradient step", "next-step autoreset", "passes and minibatches")
)
ENTROPY_BONUS, RETURN = update_with("entropy, MultiDiscrete"), update_with("return minus mean")
WHOLE = "training against the reference"
GREEDY, DRAWN = "evaluation against by hand: greedy", "evaluation against by hand: sampled"


def evaluated(_only=None):
    yield from evaluation_rows("evaluated", seed=0)


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
        manual_gradient.bias_policy_gradient,
        lesson,
        ("sign by hand", "p_norm - a", "a - p_norm", MANUAL),
        ("sum for mean by hand", "(1.0 / len(multiplier))", "1.0", MANUAL),
    ),
    (
        manual_gradient._mlp_policy_gradient,
        choice,
        ("bias forgotten", "weights[-1], biases[-1]", "weights[-1]", MANUAL),
        ("weights' gradient off by 0.1 %", "@ dz_dweight", "@ dz_dweight * 1.001", MANUAL),
    ),
    (manual_gradient._tanh_slope, choice, ("1 - h for 1 - h^2", "x.square()", "x", MANUAL)),
    (manual_gradient._relu_slope, rectified, ("relu that lets all through", "x > 0", "x >= 0", MANUAL)),
    (manual_gradient._elu_slope, elu, ("slope of elu 1 too small", "minus(x, -torch.ones_like(x))", "term(x)", MANUAL)),
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
    (networks.feed_forward, choice, ("tanh left out", "activate(features)", "features", MANUAL)),
    (
        networks.feed_forward,
        rectified,
        (
            "gradient through a relu off by 0.01 %",
            "activate(features)",
            "(1.0001 * activate(features) - 0.0001 * activate(features).detach())",
            SLOPE,
        ),
    ),
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
MORE_OF_POLICIES = [
    (
        distributions.Categorical.entropy,
        choice,
        ("entropy without gradient", ".sum(-1)", ".sum(-1).detach()", "entropy against finite differences"),
    ),
    (
        losses.importance_weighted,
        choice,
        ("log ratio clamped at 2", ".exp()", ".clamp(-2, 2).exp()", CLIPPED),
        ("clip range doubled", "1 + clip_range", "1 + 2 * clip_range", CLIPPED),
        ("never clipped below", "ratio < 1 - clip_range", "False", CLIPPED),
    ),
    (
        distributions.Categorical.log_probs.func,
        sharp,
        ("temperature of log pi", "log_softmax(self.logits", "log_softmax(self.logits / 1.05", SAMPLES),
    ),
    (
        distributions.Categorical.sample,
        sharp,
        (
            "5 % of the actions are uniform",
            "self.logits + noise",
            "torch.where(1000 * noise.sum(-1, keepdim=True) % 1 < 0.05, 0.0, self.logits) + noise",
            SAMPLES,
        ),
    ),
    (
        distributions.Categorical.sample,
        choice,
        ("one draw for all rows", "self.logits + noise", "self.logits + noise[:1]", ROWS),
    ),
    (
        distributions.MultiCategorical.sample,
        choices,
        (
            "one draw for all choices",
            "torch.split(noise, self.sizes, dim=-1)",
            "[noise[..., :n] for n in self.sizes]",
            JOINT,
        ),
    ),
    (
        distributions.MultiBernoulli.sample,
        switches,
        ("one draw for all switches", "sample(noise)", "sample(noise[..., :1].expand_as(noise))", JOINT),
    ),
    (
        distributions.DiagonalNormal.sample,
        numbers,
        ("one draw for all numbers", "* noise", "* noise[..., :1]", JOINT),
        ("one draw for all rows of numbers", "* noise", "* noise[:1]", ROWS),
    ),
    (
        networks.MLPPolicy.noise,
        choice,
        (
            "one draw for all steps",
            "noise((num_steps, num_rows, self.num_outputs), generator)",
            "noise((1, num_rows, self.num_outputs), generator).expand(num_steps, -1, -1)",
            DRAWS,
        ),
    ),
    (distributions.gumbel, choice, ("Gumbel in float16", ".neg_()", ".neg_().half().float()", REPEATED)),
    (
        distributions.normal,
        numbers,
        (
            "normal in float16",
            "torch.randn(*shape, generator=generator)",
            "torch.randn(*shape, generator=generator).half().float()",
            REPEATED,
        ),
    ),
    (
        distributions.uniform,
        switches,
        (
            "draws of eight bits",
            "torch.rand(*shape, generator=generator)",
            "torch.rand(*shape, generator=generator).mul(256).floor() / 256",
            REPEATED,
        ),
    ),
    (
        distributions.Categorical.mode.fget,
        choice,
        ("mode that draws", "self.logits.argmax", "(self.logits + torch.rand_like(self.logits)).argmax", MODE),
        ("unlikeliest for the mode", "argmax", "argmin", MODE),
    ),
    (distributions.DiagonalNormal.mode.fget, numbers, ("mode off the mean", "self.mean", "self.mean + 0.1", MODE)),
    (
        networks.feed_forward,
        choice,
        ("batch normalized", "activate(features)", "(activate(features) - features.mean(0))", ALONE),
    ),
    (
        networks.feed_forward,
        deep,
        (
            "one layer in place of another",
            "enumerate(layers)",
            "enumerate([layers[min(i, 1)] for i in range(len(layers) - 1)] + [layers[-1]])",
            MANUAL,
        ),
    ),
    (
        returns.reward_to_go,
        process,
        (
            "cut taken for an end",
            "torch.where(truncated[t], next_value[t].double(), future)",
            "torch.where(truncated[t], 0.0, future)",
            estimator("reward-to-go, cut off"),
        ),
    ),
    (
        returns.generalized_advantage,
        process,
        ("nothing after a cut", "where(terminated, 0.0", "where(ended, 0.0", estimator("GAE, exact values, cut off")),
        (
            "lambda squared",
            "(discount * gae_lambda)",
            "(discount * gae_lambda**2)",
            "written out: GAE, lambda 0.95, wrong values",
        ),
    ),
    (
        returns.subtract_mean,
        process,
        ("mean added to a pair", "multiplier - mean", "multiplier + mean", "written out: mean of a batch of 2 removed"),
    ),
    (
        returns.standardize,
        process,
        (
            "variance for deviation",
            "centered / deviation",
            "centered / deviation**2",
            "written out: mean and deviation of a batch of 2 removed",
        ),
    ),
]
JOINS = [  # of proved parts: each part passes alone
    (
        trainer.Trainer.__init__,
        GENERAL,
        (
            "value rate without effect",
            "config.value_learning_rate or learning_rate",
            "config.learning_rate",
            WHOLE,
        ),
        (
            "reward scale with lambda for gamma",
            "config.num_envs, config.discount",
            "config.num_envs, config.gae_lambda",
            WHOLE,
        ),
        ("rewards not normalized", "if config.normalize_rewards", "if False", WHOLE),
    ),
    (
        trainer.Trainer._step,
        ENTROPY_BONUS,
        ("entropy subtracted from the objective", "loss - config.entropy", "loss + config.entropy", WHOLE),
        ("entropy detached", "bool(config.entropy_coefficient)", "False", WHOLE),
    ),
    (
        trainer.Trainer._step,
        GENERAL,
        ("joint norm clipped", "clip(norms[name]", "clip(sum(norm**2 for norm in norms.values()) ** 0.5", WHOLE),
        ("policy's norm for both", "clip(norms[name]", "clip(norms['policy']", WHOLE),
        ("schedule off by one", "(self.num_updates - 1)", "self.num_updates", WHOLE),
        ("schedule ignored", "optimizer.step(factor)", "optimizer.step()", WHOLE),
        ("gradients added up", "optimizer.zero_grad()", "pass", WHOLE),
    ),
    (
        trainer.Trainer._step,
        update_with("value weight, one rate"),
        ("value coefficient ignored", "config.value_coefficient * ", "", WHOLE),
    ),
    (
        trainer.Trainer._step,
        PASSES,
        ("ratio left out", "if batch.old_log_prob is not None", "if False", WHOLE),
    ),
    (
        trainer.Trainer._parts,
        PASSES,
        (
            "remainder of the minibatches dropped",
            "torch.randperm(len(batch),",
            "torch.randperm(len(batch) // 4 * 4,",
            WHOLE,
        ),
        ("one order for all passes", "in range(config.num_epochs)", "in [0]", WHOLE),
        (
            "old log pi of each step anew",
            "yield from batch[order].split(min(config.num_minibatches, len(batch)))",
            "for part in batch[order].split(min(config.num_minibatches, len(batch))): "
            "part.old_log_prob = self.policy.log_prob(part.observation, part.action).detach(); yield part",
            WHOLE,
        ),
    ),
    (
        returns.weigh,
        GENERAL,
        (
            "gamma and lambda swapped",
            "discount=discount, gae_lambda=config.gae_lambda",
            "discount=config.gae_lambda, gae_lambda=discount",
            WHOLE,
        ),
        (
            "terminated and truncated swapped",
            "'terminated': rollout.terminated, 'truncated': rollout.truncated",
            "'terminated': rollout.truncated, 'truncated': rollout.terminated",
            WHOLE,
        ),
        ("targets from standardized advantages", "rollout.rows(target)", "rollout.rows(multiplier)", WHOLE),
        ("raw rewards learned from", "rollout.scaled_reward", "rollout.reward", WHOLE),
        ("not standardized", "config.standardize and", "False and", WHOLE),
    ),
    (
        returns.weigh,
        update_with("to-go, value baseline"),
        ("value baseline added", "multiplier - value", "multiplier + value", WHOLE),
    ),
    (returns.subtract_mean, RETURN, ("mean added", "multiplier - mean", "multiplier + mean", WHOLE)),
    (returns.standardize, GENERAL, ("population deviation", "kept.std()", "kept.std(unbiased=False)", WHOLE)),
    (
        rollout.Shard._play,
        GENERAL,
        ("policy acts on raw observations", "policy.sample(seen[t]", "policy.sample(torch.from_numpy(raw[t])", WHOLE),
        ("final observations not normalized", "last if normalize is None else normalize(last)", "last", WHOLE),
        ("the same noise at each step", "noise[t]", "noise[0]", WHOLE),
    ),
    (
        rollout.RolloutCollector._complete,
        GENERAL,
        ("final observations of other environments", "(who)", "((who + 1) % played.valid.shape[1])", WHOLE),
        ("reward scale runs on over a cut", "(rewards, ended=ended", "(rewards, ended=played.terminated", WHOLE),
        ("statistics of the rollout left out", "played.raw[played.valid]", "played.raw[:1][played.valid[:1]]", WHOLE),
    ),
    (
        rollout.RolloutCollector._complete,
        NEXT_STEP,
        ("statistics of filler", "played.raw[played.valid]", "played.raw.reshape(-1, played.raw.shape[-1])", WHOLE),
    ),
    (
        rollout.Rollout.values,
        GENERAL,
        ("final values left out", "= end", "= following[t, environments]", WHOLE),
    ),
    (
        losses.importance_weighted,
        PASSES,
        ("log ratio clamped", ".exp()", ".clamp(-0.01, 0.01).exp()", WHOLE),
        ("clipped on the wrong side", "multiplier > 0", "multiplier < 0", WHOLE),
    ),
    (
        networks.ValueFunction.forward,
        GENERAL,
        (
            "value in [-1, 1]",
            "feed_forward(self.layers, observation, self.activation)",
            "feed_forward(self.layers, observation, self.activation).tanh()",
            WHOLE,
        ),
    ),
    (
        networks.MLPPolicy.distribution,
        GENERAL,
        ("temperature of 1.05", "self(observation)", "self(observation) / 1.05", WHOLE),
    ),
    (
        optimizers.Adam.step,
        GENERAL,
        ("beta2 of Adam", "beta2=0.999", "beta2=0.99", WHOLE),
        ("factor without effect on Adam", "self.learning_rate * factor", "self.learning_rate", WHOLE),
    ),
    (
        optimizers.SGD.step,
        update_with("reward, sgd"),
        ("factor without effect on SGD", "self.learning_rate * factor", "self.learning_rate", WHOLE),
    ),
    (
        optimizers.Optimizer.clip,
        GENERAL,
        ("twice as long after clipping", "max_norm / norm", "2 * max_norm / norm", WHOLE),
    ),
    (
        normalization.RunningMoments.update,
        GENERAL,
        ("variance between batches", "variance * share + between", "variance * share", WHOLE),
        ("later batches weigh too much", "len(rows) / count", "min(1.0, 1.1 * len(rows) / count)", WHOLE),
    ),
    (
        autoreset.SameStep._start_episodes,
        GENERAL,
        ("first for final observation", "_one(infos['final_obs'], int(i))", "self.observation[int(i)]", WHOLE),
    ),
    (
        episodes.EpisodeStatistics.record,
        GENERAL,
        ("returns run on", "self.total[who] = 0.0", "pass", WHOLE),
        ("returns left out of the last hundred", "totals[-100:]", "totals[-1:]", WHOLE),
    ),
    (
        evaluation.play_episodes,
        evaluated,
        ("counting on after a cut", "ended = terminated | truncated", "ended = terminated", GREEDY),
        ("rewards of later episodes", "reward * playing", "reward", GREEDY),
        ("greedy and drawn swapped", "predict(observation, greedy", "predict(observation, not greedy", DRAWN),
    ),
    (
        trained_run.TrainedRun.predict,
        evaluated,
        (
            "raw observations in evaluation",
            "self.normalize_observation(rows)",
            "rows",
            "evaluation sees what training saw",
        ),
        ("actions not clipped", "taken = clip(action.cpu().numpy())", "taken = action.cpu().numpy()", DRAWN),
    ),
    (
        distributions.Categorical.mode.fget,
        evaluated,
        ("second choice for mode", "self.logits.argmax(-1)", "self.logits.argsort(-1)[..., -2]", GREEDY),
    ),
]
FAULTS = {
    what: (function, old, new, verify, check)
    for function, verify, *faults in FAULTS_OF + MORE_OF_POLICIES + JOINS
    for what, old, new, check in faults
}


@pytest.fixture(scope="module")
def without_fault():
    """Each verification run once as shipped: whether all rows of a name pass."""
    found = {verify: {} for _, verify, *_ in FAULTS_OF + MORE_OF_POLICIES + JOINS}
    for verify, passes in found.items():
        for row in verify():
            passes[row.check] = passes.get(row.check, True) and row.status == "PASS"
    return found


@pytest.mark.parametrize("what", FAULTS)
def test_a_planted_fault_is_caught(monkeypatch, without_fault, what):
    function, old, new, verify, check = FAULTS[what]
    assert without_fault[verify][check]
    plant(monkeypatch, function, old, new)
    assert any(row.check == check and row.status == "FAIL" for row in verify(check))


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
    assert len(FAULTS) == sum(
        len(faults) for _, _, *faults in FAULTS_OF + MORE_OF_POLICIES + JOINS
    )  # each has its own name
    assert len(FAULTS) == 133  # the number in README
