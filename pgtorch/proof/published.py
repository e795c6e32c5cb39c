"""The losses and advantages of published algorithms, for `verify_estimator`; `page()` is docs/estimators.md.

The formulas are written from the papers and from what the named projects document; none of their code is used. Each is
the policy's part of the loss at the first step after the batch was played, when every ratio of probabilities is 1.
Entropy bonuses, penalties and the critic's loss are left out.

All advantages take an `EpisodeBatch` and return [T, N], or [N] for one number an episode. All losses take
`log_prob`, `old_log_prob`, `advantages` and the batch, and return a scalar.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgtorch import returns
from pgtorch.proof.estimators import Advantages, Loss, Verdict, number, verify_estimator
from pgtorch.proof.processes import CUTS, EPISODES, TOKENS, EpisodeBatch

CLIP_RANGE = 0.2


def sum_loss(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, batch: EpisodeBatch) -> Tensor:
    """-sum(log_prob * advantages) over an episode, mean over the episodes: Williams (1992)."""
    return -(log_prob * advantages).sum(0).mean()


def mean_loss(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, batch: EpisodeBatch) -> Tensor:
    """-mean(log_prob * advantages) over all rows: A2C, Spinning Up."""
    return -batch.rows(log_prob * advantages).mean()


def ppo_loss(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, batch: EpisodeBatch) -> Tensor:
    """The clipped objective, mean over all rows: Schulman et al. (2017), equation 7."""
    return -batch.rows(_clipped(log_prob, old_log_prob, advantages)).mean()


def grpo_loss(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, batch: EpisodeBatch) -> Tensor:
    """The clipped objective, mean over the tokens of a completion, mean over completions: Shao et al. (2024)."""
    return -(_clipped(log_prob, old_log_prob, advantages).sum(0) / batch.valid.sum(0)).mean()


def dr_grpo_loss(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, batch: EpisodeBatch) -> Tensor:
    """The clipped objective, sum over tokens, over the longest possible length T: Liu et al. (2025)."""
    return -(_clipped(log_prob, old_log_prob, advantages).sum(0) / len(log_prob)).mean()


def reward(batch: EpisodeBatch) -> Tensor:
    """r_t."""
    return batch.reward


def episode_return(batch: EpisodeBatch) -> Tensor:
    """Discounted rewards of the whole episode, [N]; nothing for what would follow a cut."""
    return returns.episode_return(batch.reward, **_ends(batch), discount=batch.discount)[0]


def reward_to_go(batch: EpisodeBatch) -> Tensor:
    """Discounted rewards from this step on, with the value after a cut: Sutton et al. (2000)."""
    return returns.reward_to_go(batch.reward, **_ends(batch), next_value=batch.next_value, discount=batch.discount)


def discounted_reward_to_go(batch: EpisodeBatch) -> Tensor:
    """gamma^t times `reward_to_go`: Sutton et al. (2000), theorem 1."""
    return returns.discount_weight(**_ends(batch), discount=batch.discount) * reward_to_go(batch)


def gae(batch: EpisodeBatch, *, gae_lambda: float = 0.95, cuts_end: bool = False) -> Tensor:
    """Generalized advantages: Schulman et al. (2016). With `cuts_end` a cut counts as the episode's end."""
    ends = _ends(batch)
    if cuts_end:
        ends["terminated"] = batch.terminated | batch.truncated
    values = {"value": batch.value, "next_value": batch.next_value}
    return returns.generalized_advantage(batch.reward, **values, **ends, discount=batch.discount, gae_lambda=gae_lambda)


def a2c(batch: EpisodeBatch) -> Tensor:
    """Stable-Baselines3, `A2C`: lambda = 1, no normalization, the critic's value after a cut."""
    return gae(batch, gae_lambda=1.0)


def sb3_ppo(batch: EpisodeBatch) -> Tensor:
    """Stable-Baselines3, `PPO`: normalized in each minibatch, the critic's value after a cut."""
    return _standardized(gae(batch), batch.valid, correction=1, epsilon=1e-8)


def cleanrl_ppo(batch: EpisodeBatch) -> Tensor:
    """CleanRL, `ppo.py`: normalized in each minibatch; a cut counts as an end."""
    return _standardized(gae(batch, cuts_end=True), batch.valid, correction=1, epsilon=1e-8)


def spinning_up_vpg(batch: EpisodeBatch) -> Tensor:
    """Spinning Up, `vpg`: lambda = 0.97, normalized over the epoch, without an epsilon."""
    return _standardized(gae(batch, gae_lambda=0.97), batch.valid, correction=0, epsilon=0.0)


def pytorch_examples_reinforce(batch: EpisodeBatch) -> Tensor:
    """pytorch/examples, `reinforce.py`: reward-to-go, standardized in each episode; a cut counts as an end."""
    played = reward_to_go(batch._replace(next_value=torch.zeros_like(batch.reward)))
    epsilon = torch.finfo(torch.float32).eps
    columns = zip(played.unbind(1), batch.valid.unbind(1), strict=True)
    return torch.stack([_standardized(*column, correction=1, epsilon=epsilon) for column in columns], dim=1)


def rloo(batch: EpisodeBatch) -> Tensor:
    """Return minus the mean return of the others in its group, [N]: Kool et al. (2019), Ahmadian et al. (2024)."""
    played, same = episode_return(batch), _same_group(batch)
    return played - (same @ played - played) / (same.sum(1) - 1)


def grpo(batch: EpisodeBatch) -> Tensor:
    """Return minus the mean of its group, over the group's standard deviation, [N]: Shao et al. (2024)."""
    centered, same = grpo_without_deviation(batch), _same_group(batch)
    deviation = (same @ centered.square() / (same.sum(1) - 1)).sqrt()
    return centered / (deviation + 1e-4)  # as in TRL; the paper has no epsilon


def grpo_without_deviation(batch: EpisodeBatch) -> Tensor:
    """Return minus the mean of its group, itself included, [N]: Liu et al. (2025)."""
    played, same = episode_return(batch), _same_group(batch)
    return played - same @ played / same.sum(1)


def remax(batch: EpisodeBatch) -> Tensor:
    """Return minus that of the likeliest actions from the same start, [N]: Li et al. (2023)."""
    return episode_return(batch) - batch.greedy_return


def _ends(batch: EpisodeBatch) -> dict[str, Any]:
    return {"terminated": batch.terminated, "truncated": batch.truncated, "valid": batch.valid}


def _clipped(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor) -> Tensor:
    ratio = (log_prob - old_log_prob).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP_RANGE, 1 + CLIP_RANGE) * advantages)


def _same_group(batch: EpisodeBatch) -> Tensor:
    """1 where two episodes began in the same state, float64 [N, N]."""
    return (batch.group[:, None] == batch.group).double()


def _standardized(values: Tensor, valid: Tensor, *, correction: int, epsilon: float) -> Tensor:
    """(values - mean) / (deviation + epsilon) over the valid ones; equal values have deviation 0, without rounding."""
    kept = values[valid]
    centered = kept - kept.mean()
    centered = torch.where(centered.abs() <= 1e-12 * kept.abs().max(), 0.0, centered)
    deviation = (centered.square().sum() / (len(kept) - correction)).sqrt()
    return torch.zeros_like(values).masked_scatter(valid, centered / (deviation + epsilon))


@dataclass(frozen=True)
class Published:
    """A row of the page: an estimator, and why its verdicts are what they are."""

    name: str
    loss: Loss
    advantages: Advantages
    why: str
    critic_error: float = 0.0


ROWS = (
    Published(
        "REINFORCE, immediate reward",
        sum_loss,
        reward,
        "An action also changes later rewards, and these are left out. It is right only for episodes of one step.",
    ),
    Published(
        "REINFORCE, return",
        sum_loss,
        episode_return,
        "Unbiased for whole episodes. After a cut the rewards that would follow are missing.",
    ),
    Published(
        "REINFORCE, reward-to-go",
        sum_loss,
        reward_to_go,
        "Unbiased, given the exact value after a cut. For a discounted objective the weight gamma^t of later states is "
        "missing.",
    ),
    Published(
        "reward-to-go times gamma^t",
        sum_loss,
        discounted_reward_to_go,
        "The policy gradient theorem as it stands: unbiased for any discount.",
    ),
    Published(
        "reward-to-go, mean over rows",
        mean_loss,
        reward_to_go,
        "The number of rows depends on the actions if episodes differ in length, so rows of short episodes count more. "
        "If the number is fixed, as in cuts, only the scale changes: T = 2 steps, so 1/2.",
    ),
    Published(
        "GAE, lambda 0.95",
        sum_loss,
        gae,
        "With an exact critic any lambda is unbiased. The weight gamma^t is missing, as in most published code.",
    ),
    Published(
        "GAE, lambda 0.95, critic off by 1",
        sum_loss,
        gae,
        "With lambda below 1 the critic's errors reach the gradient.",
        critic_error=1.0,
    ),
    Published(
        "Stable-Baselines3 A2C",
        mean_loss,
        a2c,
        "Lambda is 1 and nothing is normalized: what is left is the mean over rows, and with gamma = 0.9 the "
        "missing weight gamma^t.",
    ),
    Published(
        "Stable-Baselines3 PPO",
        ppo_loss,
        sb3_ppo,
        "The standard deviation depends on the advantages that it divides, so batches with a large spread count less. "
        "The mean over rows adds to it if their number varies.",
    ),
    Published(
        "CleanRL PPO",
        ppo_loss,
        cleanrl_ppo,
        "As Stable-Baselines3 PPO, but an episode that a time limit cuts off counts as ended, and what would follow as "
        "0. Where only the rollout ends, it uses the critic's value, and the verdict is that of Stable-Baselines3.",
    ),
    Published(
        "Spinning Up VPG",
        mean_loss,
        spinning_up_vpg,
        "Biased by the standard deviation too. No epsilon is added to it, so a batch of equal advantages gives 0/0; "
        "its own batches have thousands of rows, where that is unlikely.",
    ),
    Published(
        "pytorch/examples REINFORCE",
        sum_loss,
        pytorch_examples_reinforce,
        "Each episode is standardized by itself, so good and bad episodes look alike: of two steps only the larger is "
        "known. One step has no standard deviation and gives NaN. The original learns from one episode at a time, here "
        "a batch has several.",
    ),
    Published(
        "RLOO",
        sum_loss,
        rloo,
        "The baseline comes from the other completions only, so it does not depend on the action. Made for whole "
        "completions, it ignores what would follow a cut.",
    ),
    Published(
        "GRPO",
        grpo_loss,
        grpo,
        "Divided by the length of the completion, tokens of long ones count less. Divided by the group's standard "
        "deviation, groups with a large spread count less.",
    ),
    Published(
        "GRPO without the deviation",
        grpo_loss,
        grpo_without_deviation,
        "The division by the length is left.",
    ),
    Published(
        "Dr. GRPO",
        dr_grpo_loss,
        grpo_without_deviation,
        "Only scaled. A completion's own reward is part of the baseline of its group of G, which gives 1 - 1/G; "
        "dividing by the constant T gives 1/T. In tokens that is 1/2 times 1/2, in episodes 2/3 times 1/3.",
    ),
    Published(
        "ReMax",
        sum_loss,
        remax,
        "The reward of the likeliest completion does not depend on the sampled one. Cuts are ignored, as in RLOO.",
    ),
)

HEAD = """# Published estimators, enumerated

Written by `pgtorch verify --estimators > docs/estimators.md`; a test compares the file with what the command prints.

Each row is a loss and its advantages as an algorithm is published, written for this project in
[`published.py`](../pgtorch/proof/published.py). The question is whether the gradient of the expected loss is the policy
gradient. All batches of three small processes are enumerated, so the numbers are exact: nothing is sampled. Only the
policy's part of the loss counts, at the first step after the batch was played, when every ratio of probabilities is 1.

- **episodes**: three whole episodes of one to three steps. With gamma = 0.9 the objective is the discounted return.
- **cuts**: three episodes, cut off after two steps unless they end there. What would follow is worth the exact V.
- **tokens**: two prompts with two completions each, of one or two tokens. The reward comes with the last token.

Stable-Baselines3, CleanRL and Spinning Up learn from a fixed number of rows: cuts is closest to that. The critic is
exact unless a row says otherwise.

- **scaled by c**: c times the policy gradient. A learning rate can undo that.
- **biased by p, scale c**: c times the policy gradient plus a vector at right angles to it, which is p of the whole
  length. A negative c points away from the policy gradient.
- **not finite in p**: that share of the batches, by probability, gives NaN.

A biased estimator may still learn well: a bias can be worth less variance.
"""


def page() -> str:
    """docs/estimators.md, in Markdown."""
    lines = [HEAD, "| estimator | episodes | episodes, gamma = 0.9 | cuts | tokens |", "|---|---|---|---|---|"]
    for row in ROWS:
        verdicts: list[Verdict] = []
        for process, discount in ((EPISODES, 1.0), (EPISODES, 0.9), (CUTS, 1.0), (TOKENS, 1.0)):
            report = verify_estimator(
                row.loss, row.advantages, discount=discount, critic_error=row.critic_error, processes=[process]
            )
            verdicts += report.verdicts
        lines.append(f"| {row.name} | {' | '.join(map(_cell, verdicts))} |")
    lines.append("\n## Why\n")
    for row in ROWS:
        text = f"- **{row.name}** (`{row.loss.__name__}` with `{row.advantages.__name__}`). {row.why}"
        lines.append(textwrap.fill(text, 120, subsequent_indent="  ", break_on_hyphens=False))
    lines.append("\nThe full verdict on a row, with the exact gradient beside the found one:\n")
    example = "--loss pgtorch.proof.published:ppo_loss --advantages pgtorch.proof.published:sb3_ppo"
    lines.append(f"```\npgtorch verify {example}\n```")
    return "\n".join(lines) + "\n"


def _cell(verdict: Verdict) -> str:
    if verdict.not_finite:
        return f"not finite in {verdict.not_finite:.1%}"
    if verdict.kind == "biased":
        return f"biased by {verdict.residual:.1%}, scale {verdict.scale:.2f}"
    return "unbiased" if verdict.kind == "unbiased" else f"scaled by {number(verdict.scale)}"
