"""Verdicts on estimators, against numbers by hand and a twin in plain Python; the page and the command line."""

import itertools
import json
import math
import re
import sys
from dataclasses import replace

import pytest
import torch
from gymnasium import spaces
from support import ROOT, call

from pgtorch.losses import importance_weighted
from pgtorch.proof import EpisodeBatch, verify_estimator
from pgtorch.proof.estimators import Report, Verdict, number
from pgtorch.proof.exact import expected_gradient
from pgtorch.proof.processes import CUTS, EPISODES, PROCESSES, TOKENS, every_batch, objective
from pgtorch.proof.published import (
    ROWS,
    a2c,
    dr_grpo_loss,
    episode_return,
    gae,
    grpo,
    grpo_loss,
    grpo_without_deviation,
    mean_loss,
    ppo_loss,
    reward_to_go,
    rloo,
    sb3_ppo,
    sum_loss,
)


def verdicts(loss, advantages, **settings):
    return {verdict.process: verdict for verdict in verify_estimator(loss, advantages, **settings).verdicts}


def kinds(loss, advantages, **settings):
    return {name: verdict.kind for name, verdict in verdicts(loss, advantages, **settings).items()}


def gradient_by_logits(function, process):
    """Gradient of a function of pi(a|s), [S, A]."""
    logits = process.logits.clone().requires_grad_()
    return torch.autograd.grad(function(logits.softmax(1)), logits)[0]


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


# J by hand


def j_of_episodes(p, discount=1.0, most=math.inf):
    def r(value):
        return min(value, most)

    last = p[2, 0] * r(-0.7) + p[2, 1] * r(3.1)
    middle = p[1, 0] * r(2.5) + p[1, 1] * (0.75 * (r(-0.3) + discount * last) + 0.25 * r(0.9))
    return p[0, 0] * r(1.0) + p[0, 1] * (r(0.4) + discount * middle)


def j_of_cuts(p, discount=1.0, after=None):
    """`after` is V of state 0; None solves V = a + b V, the same expression with V unknown."""

    def two_steps(value):
        at_1 = p[1, 0] * 2.0 + p[1, 1] * (0.3 + discount * value)
        at_2 = p[2, 0] * (1.4 + discount * value) + p[2, 1] * (0.5 * 3.0 + 0.5 * (-1.0 + discount * value))
        return p[0, 0] * (0.5 + discount * at_1) + p[0, 1] * (-0.2 + discount * at_2)

    if after is None:
        a = two_steps(0.0).item()
        after = a / (1 - (two_steps(1.0).item() - a))
    return two_steps(after)


def j_of_tokens(p, discount=1.0):
    first = p[0, 0] * 1.0 + p[0, 1] * 0.2 + p[0, 2] * discount * (p[1, 1] * 3.0 + p[1, 2] * 1.5)
    return 0.5 * first + 0.5 * (p[2, 0] * 0.6 - p[2, 1] * 0.4 + p[2, 2] * 2.2)


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.0])
@pytest.mark.parametrize(("process", "by_hand"), [(EPISODES, j_of_episodes), (CUTS, j_of_cuts), (TOKENS, j_of_tokens)])
def test_the_exact_gradient_is_that_of_the_objective_by_hand(process, by_hand, discount):
    p = process.logits.softmax(1)
    assert_close(objective(process, p, discount=discount), by_hand(p, discount))
    (verdict,) = verify_estimator(sum_loss, reward_to_go, discount=discount, processes=[process]).verdicts
    assert_close(verdict.exact, gradient_by_logits(lambda p: by_hand(p, discount), process))


# The verdicts


def test_reward_to_go_is_unbiased():
    report = verify_estimator(sum_loss, reward_to_go)
    assert report.kind == "unbiased"
    for verdict in report.verdicts:
        assert verdict.relative_error < 1e-12
        assert verdict.cosine == pytest.approx(1.0, abs=1e-12)
        assert str(verdict) == "unbiased"
    assert str(report).splitlines()[-1] == "overall   unbiased"


def test_a_factor_is_stated():
    report = verify_estimator(lambda *arguments: 0.5 * sum_loss(*arguments), reward_to_go)
    assert [verdict.scale for verdict in report.verdicts] == pytest.approx([0.5] * 3, rel=1e-12)
    assert {str(verdict) for verdict in report.verdicts} == {"scaled by exactly 1/2"}
    assert str(report).splitlines()[-1] == "overall   scaled by exactly 1/2"


def test_a_factor_a_little_off_1_is_seen():
    """Kills a loose tolerance."""
    report = verify_estimator(lambda *arguments: (1 + 1e-8) * sum_loss(*arguments), reward_to_go)
    assert report.kind == "scaled"
    assert {str(verdict) for verdict in report.verdicts} == {"scaled by exactly 1.00000001"}
    crooked = kinds(sum_loss, lambda batch: reward_to_go(batch) * (1 + 1e-7 * (batch.state == 0)))
    assert set(crooked.values()) == {"biased"}


def test_a_wrong_sign_is_biased():
    report = verify_estimator(lambda *arguments: -sum_loss(*arguments), reward_to_go)
    assert report.kind == "biased"
    for verdict in report.verdicts:
        assert (verdict.scale, verdict.cosine) == pytest.approx((-1.0, -1.0), rel=1e-12)
        assert verdict.relative_error == pytest.approx(2.0)
        assert str(verdict) == "biased: wrong sign, scaled by exactly -1"
    assert str(report).splitlines()[-1] == "overall   biased in episodes, cuts, tokens"


def test_a_mean_that_includes_the_own_return_scales():
    """By 1 - 1/N; the others' returns are independent of the action. N is 3, and 4 for tokens, with groups of 2."""
    found = verdicts(sum_loss, lambda batch: episode_return(batch) - episode_return(batch).mean())
    assert str(found["episodes"]) == "scaled by exactly 2/3"
    assert str(found["tokens"]) == "scaled by exactly 3/4"
    report = verify_estimator(sum_loss, grpo_without_deviation, processes=[EPISODES, TOKENS])
    assert str(report).splitlines()[-1] == "overall   scaled, by 2/3, 1/2: the right direction in each process"


def test_a_clamped_reward_gives_the_gradient_of_clamped_rewards():
    found = verdicts(sum_loss, lambda batch: reward_to_go(batch._replace(reward=batch.reward.clamp(max=1.0))))
    clamped = gradient_by_logits(lambda p: j_of_episodes(p, most=1.0), EPISODES)
    exact = gradient_by_logits(j_of_episodes, EPISODES)
    verdict = found["episodes"]
    assert verdict.kind == "biased"
    assert_close(verdict.found, clamped)
    assert verdict.relative_error == pytest.approx(((clamped - exact).norm() / exact.norm()).item(), rel=1e-9)
    cosine = (clamped * exact).sum() / clamped.norm() / exact.norm()
    assert verdict.cosine == pytest.approx(cosine.item(), rel=1e-9)
    assert verdict.scale == pytest.approx((cosine * clamped.norm() / exact.norm()).item(), rel=1e-9)
    assert verdict.residual == pytest.approx((1 - cosine**2).sqrt().item(), rel=1e-9)


def test_ignored_cuts_are_found_where_there_are_cuts():
    """The gradient is then that of two steps after which nothing comes."""
    found = verdicts(sum_loss, lambda batch: reward_to_go(batch._replace(next_value=0 * batch.reward)))
    assert {name: verdict.kind for name, verdict in found.items()} == {
        "episodes": "unbiased",
        "cuts": "biased",
        "tokens": "unbiased",
    }
    expected, exact = (gradient_by_logits(lambda p, a=a: j_of_cuts(p, after=a), CUTS) for a in (0.0, None))
    assert_close(found["cuts"].found, expected)
    error = ((expected - exact).norm() / exact.norm()).item()
    assert found["cuts"].relative_error == pytest.approx(error, rel=1e-9)
    assert f"off by {error:.3g} of the exact length, cosine {found['cuts'].cosine:.4f}; " in str(found["cuts"])


def test_cuts_treated_as_ends_are_found():
    assert kinds(sum_loss, lambda batch: gae(batch, gae_lambda=1.0, cuts_end=True))["cuts"] == "biased"
    assert kinds(sum_loss, lambda batch: gae(batch, gae_lambda=1.0))["cuts"] == "unbiased"


def test_missing_state_weights_are_those_of_the_theorem_without_them():
    verdict = verdicts(sum_loss, reward_to_go, discount=0.9)["episodes"]
    mdp, p = EPISODES.mdp(0.9), EPISODES.logits.softmax(1)
    undiscounted = expected_gradient(mdp, p, discounted_states=False)
    assert verdict.kind == "biased"
    assert_close(verdict.found, gradient_by_logits(lambda p: (p * undiscounted).sum(), EPISODES))


def test_a_constant_has_no_expected_gradient():
    report = verify_estimator(sum_loss, lambda batch: torch.ones_like(batch.reward))
    assert {str(verdict) for verdict in report.verdicts} == {"biased: the expected gradient is 0"}
    nothing = Verdict("", torch.ones(1, 2), torch.zeros(1, 2))
    assert (nothing.cosine, nothing.residual, nothing.kind) == (0.0, 0.0, "biased")


def test_batches_with_nan_are_counted_and_left_out():
    """NaN wherever the first episode begins with action 0, on valid rows only."""

    def advantages(batch):
        return torch.where(batch.valid & (batch.action[0, 0] == 0), math.nan, reward_to_go(batch))

    verdict = verdicts(sum_loss, advantages)["episodes"]
    assert verdict.not_finite == pytest.approx(EPISODES.logits.softmax(1)[0, 0].item(), rel=1e-12)
    assert verdict.kind == "biased"
    assert str(verdict) == f"biased: not finite in {verdict.not_finite:.1%} of the batches"
    assert verdict.found.isfinite().all()
    assert Verdict("", torch.ones(1, 2), torch.ones(1, 2), not_finite=1e-6).kind == "biased"
    filler = verdicts(mean_loss, lambda batch: torch.where(batch.valid, reward_to_go(batch), math.nan))
    assert not any(verdict.not_finite for verdict in filler.values())  # its loss leaves filler out


def test_one_bad_process_is_enough():
    good, scaled, bad = (Verdict("p", torch.eye(2), c * torch.eye(2)) for c in (1.0, 0.3, -1.0))
    assert [Report(tuple(parts)).kind for parts in ([good], [good, scaled], [scaled, bad, good])] == [
        "unbiased",
        "scaled",
        "biased",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(2 / 3, "2/3"), (-1.0, "-1"), (0.5 + 1e-7, "0.5000001"), (math.pi, "3.141592654")]
)
def test_numbers_are_fractions_if_they_are_exactly(value, text):
    assert number(value) == text


# A twin in plain Python


def twin(process, weigh):
    """-d E[loss] / d logits by lists and loops.

    Args:
        process: One without cuts.
        weigh: Takes the episodes of a batch, each a list of (state, action, reward), and gives what log pi of each of
            their steps is multiplied by in -loss, a list for each.
    """
    pi = process.logits.softmax(1).tolist()

    def continued(s, chance, steps):
        for a, outcomes in enumerate(process.outcomes[s]):
            for probability, following, reward, terminated in outcomes:
                now, played = chance * pi[s][a] * probability, [*steps, (s, a, reward)]
                yield from [(now, played)] if terminated else continued(following, now, played)

    gradient = [[0.0] * len(row) for row in pi]
    for batch in itertools.product(*(list(continued(s, 1.0, [])) for s in process.starts)):
        chance = math.prod(probability for probability, _ in batch)
        episodes = [steps for _, steps in batch]
        for steps, weights in zip(episodes, weigh(episodes), strict=True):
            for (s, a, _), weight in zip(steps, weights, strict=True):
                for b, p in enumerate(pi[s]):
                    gradient[s][b] += chance * weight * ((a == b) - p)
    return torch.tensor(gradient, dtype=torch.float64)


def sums(steps):
    """Rewards to go."""
    return [sum(reward for _, _, reward in steps[t:]) for t in range(len(steps))]


def by_rows(episodes):
    rows = sum(len(steps) for steps in episodes)
    return [[value / rows for value in sums(steps)] for steps in episodes]


def by_length(episodes):
    return [[sums(steps)[0] / len(steps) / len(episodes)] * len(steps) for steps in episodes]


def by_deviation(episodes):
    rows = [value for steps in episodes for value in sums(steps)]
    mean = sum(rows) / len(rows)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in rows) / (len(rows) - 1))
    return [[(value - mean) / (deviation + 0.1) / len(rows) for value in sums(steps)] for steps in episodes]


def by_group_deviation(episodes):
    """Of groups of completions that begin in one state, as GRPO has them."""
    result = []
    for steps in episodes:
        returns = [sums(other)[0] for other in episodes if other[0][0] == steps[0][0]]
        mean = sum(returns) / len(returns)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in returns) / (len(returns) - 1))
        advantage = (sums(steps)[0] - mean) / (deviation + 1e-4)
        result.append([advantage / len(steps) / len(episodes)] * len(steps))
    return result


def by_others(episodes):
    result = []
    for i, steps in enumerate(episodes):
        others = [sums(other)[0] for j, other in enumerate(episodes) if j != i and other[0][0] == steps[0][0]]
        result.append([(sums(steps)[0] - sum(others) / len(others)) / len(episodes)] * len(steps))
    return result


def standardized(batch):
    rows = batch.rows(reward_to_go(batch))
    return (reward_to_go(batch) - rows.mean()) / (rows.std() + 0.1)


@pytest.mark.parametrize("process", [EPISODES, TOKENS], ids=lambda process: process.name)
@pytest.mark.parametrize(
    ("loss", "advantages", "weigh"),
    [
        (mean_loss, reward_to_go, by_rows),
        (grpo_loss, episode_return, by_length),
        (ppo_loss, standardized, by_deviation),
        (grpo_loss, grpo, by_group_deviation),
        (sum_loss, rloo, by_others),
    ],
)
def test_a_twin_in_plain_python_finds_the_same(process, loss, advantages, weigh):
    (verdict,) = verify_estimator(loss, advantages, processes=[process]).verdicts
    assert_close(verdict.found, twin(process, weigh))
    assert verdict.kind == ("unbiased" if advantages is rloo else "biased")


# What the functions get


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
def test_batches_are_complete_and_as_documented(process):
    every, probability = every_batch(process, discount=0.9)
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-12)
    shape = (len(probability), process.horizon, len(process.starts))
    assert {tuple(part.shape) for part in every[:8]} == {shape}
    assert {tuple(part.shape) for part in every[8:10]} == {(shape[0], shape[2])}
    ended = every.terminated | every.truncated
    assert (ended.sum(1) == 1).all()
    assert not (every.terminated & every.truncated).any()
    assert torch.equal(every.valid.sum(1) - 1, ended.int().argmax(1))
    assert every.state[:, 0].unique(dim=0).tolist() == [list(process.starts)]
    assert every.truncated.any() == (process is CUTS)
    assert (every.valid.sum(1).unique().tolist()) == {"episodes": [1, 2, 3], "cuts": [2], "tokens": [1, 2]}[
        process.name
    ]
    for part in (every.reward, every.value, every.next_value):
        assert part.dtype == torch.float64
        assert (part[~every.valid] == 0).all()
    assert (every.next_value[every.terminated] == 0).all()
    assert torch.equal(every.next_value[:, :-1][every.valid[:, 1:]], every.value[:, 1:][every.valid[:, 1:]])


def test_what_is_cut_off_would_go_on_in_state_0():
    """`next_value` after a cut is V of state 0."""
    every, _ = every_batch(CUTS, discount=1.0, critic_error=5.0)
    value = j_of_cuts(CUTS.logits.softmax(1))  # J is V of state 0
    assert_close(every.next_value[every.truncated], value.expand_as(every.next_value[every.truncated]))
    assert_close(every.value[0, 0, 0], value + 5.0)


def test_a_process_that_goes_on_elsewhere_is_refused():
    with pytest.raises(ValueError, match=r"cuts must go on in state 0 after 1 steps, got states \[1, 2\] too"):
        replace(CUTS, horizon=1)
    with pytest.raises(ValueError, match=r"episodes must go on in state 0 after 2 steps, got states \[2\] too"):
        replace(EPISODES, horizon=2)


def test_groups_and_greedy_returns():
    """The likeliest tokens of prompt 0 are 2 and 2, worth 0.9 * 1.5; that of prompt 2 is 1, worth -0.4."""
    every, _ = every_batch(TOKENS, discount=0.9)
    assert every.group[0].tolist() == [0, 0, 1, 1]
    assert every.greedy_return[-1].tolist() == pytest.approx([1.35, 1.35, -0.4, -0.4])
    every, _ = every_batch(EPISODES, discount=1.0)  # actions 1, 1, 0
    assert every.greedy_return[0].tolist() == pytest.approx([0.4 + 0.75 * (-0.3 - 0.7) + 0.25 * 0.9] * 3)


def test_the_critics_error_biases_lambda_below_1_only():
    whole = {"processes": [EPISODES, TOKENS], "critic_error": 1.0}
    assert set(kinds(sum_loss, a2c, **whole).values()) == {"unbiased"}
    assert set(kinds(sum_loss, gae, **whole).values()) == {"biased"}
    assert set(kinds(sum_loss, gae).values()) == {"unbiased"}


def test_rows_are_the_valid_ones_by_step():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    batch = EpisodeBatch(*[None] * 5, torch.tensor([[True, True], [False, True]]), *[None] * 4, discount=1.0)
    assert batch.rows(values).tolist() == [1.0, 2.0, 4.0]


def test_functions_may_make_buffers_and_change_what_they_get():
    def advantages(batch):
        result = torch.zeros(batch.reward.shape)  # float64, or it would round
        result += reward_to_go(batch)
        batch.reward.fill_(9.0)
        batch.valid.logical_not_()
        return result

    before = torch.get_default_dtype(), torch.get_rng_state()
    assert verify_estimator(sum_loss, advantages).kind == "unbiased"
    assert torch.get_default_dtype() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize(
    ("loss", "advantages", "error", "message"),
    [
        (
            sum_loss,
            lambda b: b.reward[None],
            ValueError,
            r"advantages must return shape \[3, 3\] or \[3\], got \[1, 3, 3\]",
        ),
        (sum_loss, lambda b: 1.0, TypeError, "advantages must return a floating tensor, got float"),
        (sum_loss, lambda b: b.action, TypeError, "advantages must return a floating tensor, got torch.int64"),
        (lambda *a: a[0] * a[2], reward_to_go, ValueError, r"loss must return shape \[\], got \[3, 3\]"),
        (lambda *a: None, reward_to_go, TypeError, "loss must return a floating tensor, got NoneType"),
        (lambda *a: sum_loss(a[1], *a[1:]), reward_to_go, ValueError, "loss must depend on log_prob"),
        (lambda *a: 1 / 0, reward_to_go, ZeroDivisionError, "division by zero"),
    ],
)
def test_what_does_not_fit_is_refused(loss, advantages, error, message):
    with pytest.raises(error, match=message):
        verify_estimator(loss, advantages)
    assert torch.get_default_dtype() == torch.float32


def test_a_discount_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"discount must be in \[0, 1\], got 1.1"):
        verify_estimator(sum_loss, reward_to_go, discount=1.1)


def test_a_loss_may_skip_some_batches():
    """As dynamic sampling does: a constant without gradient where there is nothing to learn from."""

    def loss(log_prob, old_log_prob, advantages, batch):
        return sum_loss(log_prob, old_log_prob, advantages, batch) if advantages.any() else torch.tensor(0.0)

    assert verify_estimator(loss, rloo, processes=[EPISODES]).kind == "unbiased"


# Published algorithms


def test_published_verdicts_that_have_a_closed_form():
    """Groups of 3 and T = 3 for episodes, of 2 and T = 2 for tokens; two steps in every cut episode."""
    assert {str(v) for v in verify_estimator(mean_loss, a2c, processes=[CUTS]).verdicts} == {"scaled by exactly 1/2"}
    found = verdicts(dr_grpo_loss, grpo_without_deviation)
    assert str(found["episodes"]) == "scaled by exactly 2/9"  # (1 - 1/3) / 3
    assert str(found["tokens"]) == "scaled by exactly 1/4"  # (1 - 1/2) / 2


def test_the_baseline_of_rloo_is_the_mean_of_the_others():
    """A constant factor of the baseline would change no expectation."""
    every, _ = every_batch(TOKENS, discount=1.0)
    batch = EpisodeBatch._make([*(part[-3] for part in every[:-1]), 1.0])
    returns = batch.reward.sum(0)
    assert_close(rloo(batch), returns - returns[[1, 0, 3, 2]])
    batch = every_batch(EPISODES, discount=1.0)[0]
    batch = EpisodeBatch._make([*(part[1] for part in batch[:-1]), 1.0])
    returns = batch.reward.sum(0)
    assert_close(rloo(batch), returns - (returns[[1, 2, 0]] + returns[[2, 0, 1]]) / 2)


def test_the_clipped_loss_is_that_of_losses():
    """The verdicts have ratios of 1; here the policy has moved, on rows that are all valid."""
    every, _ = every_batch(CUTS, discount=1.0)
    batch = EpisodeBatch._make([*(part[0] for part in every[:-1]), 1.0])
    old, multiplier = torch.zeros(2, 3).double(), torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]).double()
    now = torch.tensor([[0.5, 0.1, -0.5]] * 2).double().requires_grad_()
    (found,) = torch.autograd.grad(ppo_loss(now, old, multiplier, batch), now)
    weighted = importance_weighted(multiplier, log_prob=now, old_log_prob=old, clip_range=0.2)
    assert_close(found, -weighted / 6)
    assert (weighted == 0).sum() == 2


def test_advantages_are_those_of_stable_baselines3():
    """A rollout of two steps, three environments; after a time limit it adds gamma times V to the reward."""
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    every, probability = every_batch(CUTS, discount=0.9, critic_error=0.5)
    which = int((probability * (every.terminated.any(1).sum(1) == 1)).argmax())  # one ends, two are cut off
    batch = EpisodeBatch._make([*(part[which] for part in every[:-1]), every.discount])
    space = spaces.Discrete(3)
    buffer = buffers.RolloutBuffer(2, space, space, "cpu", gae_lambda=0.95, gamma=0.9, n_envs=3)
    reward = batch.reward + 0.9 * batch.next_value * batch.truncated
    ended = (batch.terminated | batch.truncated).numpy()
    buffer.rewards, buffer.values = reward.numpy(), batch.value.numpy()
    buffer.episode_starts = torch.tensor([[True] * 3, [False] * 3]).float().numpy()
    buffer.compute_returns_and_advantage(torch.zeros(3), ended[-1])
    theirs = torch.as_tensor(buffer.advantages).double()
    torch.testing.assert_close(gae(batch), theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sb3_ppo(batch), (theirs - theirs.mean()) / (theirs.std() + 1e-8), rtol=1e-6, atol=1e-6)


def test_the_page_is_what_the_command_prints(tmp_path):
    status, out, error = call("verify", "--estimators", cwd=tmp_path)
    assert (status, error) == (0, "")
    assert out == (ROOT / "docs" / "estimators.md").read_text(), "pgtorch verify --estimators > docs/estimators.md"
    assert all(f"| {row.name} |" in out and f"**{row.name}**" in out for row in ROWS)


# The command line

MINE = """
import torch

def loss(log_prob, old_log_prob, advantages, batch):
    return -(log_prob * advantages).sum() / log_prob.shape[1]

def twice(*arguments):
    return 2 * loss(*arguments)

def returns(batch):
    weight = batch.discount ** torch.arange(len(batch.reward)).double()[:, None]
    return (weight * (batch.reward + batch.discount * batch.next_value * batch.truncated)).sum(0)

def rewards(batch):
    return batch.reward

def broken(batch):
    return 1 / 0

text = "no function"
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "status", "last"),
    [
        ("--loss mine:loss --advantages mine:returns", 0, "overall   unbiased"),
        ("--loss mine:loss --advantages mine:returns --discount 0.9", 0, "overall   unbiased"),
        ("--loss mine:twice --advantages mine:returns", 0, "overall   scaled by exactly 2"),
        ("--loss mine:loss --advantages mine:rewards", 1, "overall   biased in episodes, cuts, tokens"),
    ],
)
def test_the_command_gives_a_verdict(mine, flags, status, last):
    done, out, error = call("verify", *flags.split(), cwd=mine)
    assert (done, error) == (status, "")
    assert out.splitlines()[-1] == last
    assert len(re.findall(r"^  state \d   exact +-?\d.* found +-?\d", out, re.MULTILINE)) == 9


def test_the_command_gives_json(mine):
    status, out, _ = call("verify", *["--loss", "mine:twice", "--advantages", "mine:returns", "--json"], cwd=mine)
    found = json.loads(out)
    assert (status, found["kind"]) == (0, "scaled")
    assert [row["process"] for row in found["processes"]] == ["episodes", "cuts", "tokens"]
    for row in found["processes"]:
        assert row["scale"] == pytest.approx(2.0)
        assert torch.tensor(row["found"]).shape == torch.tensor(row["exact"]).shape


def test_functions_in_the_current_folder_are_found(run_script, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    done = run_script("verify.py", "--loss", "mine:loss", "--advantages", "mine:returns", cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "overall   unbiased"), done.stderr


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--loss mine:loss", "--loss and --advantages go together"),
        ("--advantages mine:returns", "--loss and --advantages go together"),
        ("--loss mine:loss --advantages mine:returns --policy mlp", "do not go with --policy and --env-id"),
        ("--loss mine:loss --advantages mine:returns --env-id CartPole-v1", "do not go with --policy and --env-id"),
        ("--estimators --loss mine:loss --advantages mine:returns", "--estimators does not go with --loss"),
        ("--loss mine --advantages mine:returns", "loss must be module:function, got 'mine'"),
        ("--loss mine:loss --advantages nowhere:returns", "No module named 'nowhere'"),
        ("--loss mine:text --advantages mine:returns", "loss must be a function, got mine:text, which is str"),
        ("--loss mine:spice --advantages mine:returns", "has no attribute 'spice'"),
        ("--loss mine:loss --advantages mine:broken", "ZeroDivisionError: division by zero"),
        ("--loss mine:loss --advantages mine:returns --discount 2", "discount must be"),
    ],
)
def test_what_the_command_refuses(mine, flags, named):
    status, out, error = call("verify", *flags.split(), cwd=mine)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"pgtorch: error: .+\n", error)
    assert named in error
