"""Anyone's estimator: is the gradient of its expected loss the policy gradient? Decided by enumeration, in float64.

    found = -d E[loss] / d logits        exact = d J / d logits

The loss and the advantages are two functions. They get a batch of episodes, as in training, and every batch that three
small processes can give is enumerated with its probability. So a mean over the batch, a standard deviation or a
baseline made of the other episodes has exactly the effect that it has in practice.

J is the mean over the batch's start states of the expected discounted return of an episode. After a cut it goes on with
gamma^T V, where V is a constant: the steps after a cut are not in the batch, so nothing can be learned about them.

T  steps of the longest episode    N  episodes in a batch    B  possible batches    S, A, V as in `exact.py`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from pgtorch.proof.measures import in_float64, relative_error
from pgtorch.proof.processes import PROCESSES, EpisodeBatch, Process, every_batch, objective

TOLERANCE = 1e-9  # relative; rounding stays below 1e-13

Loss = Callable[[Tensor, Tensor, Tensor, EpisodeBatch], Tensor]
Advantages = Callable[[EpisodeBatch], Tensor]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What an estimator finds in one process.

    Attributes:
        process: Its name.
        exact: The policy gradient with respect to the logits, float64 [S, A].
        found: Minus the gradient of the expected loss, float64 [S, A].
        not_finite: Probability of a batch whose gradient has NaN or infinity; such batches count as 0 in `found`.
    """

    process: str
    exact: Tensor
    found: Tensor
    not_finite: float = 0.0

    @property
    def relative_error(self) -> float:
        """|found - exact| / |exact|."""
        return relative_error(self.found, self.exact)

    @property
    def scale(self) -> float:
        """The c that brings c * exact nearest to found."""
        return float((self.found * self.exact).sum() / self.exact.square().sum())

    @property
    def residual(self) -> float:
        """|found - scale * exact| / |found|: the part of the found gradient that no scale explains, from 0 to 1."""
        length = float(self.found.norm())
        return float((self.found - self.scale * self.exact).norm()) / length if length else 0.0

    @property
    def cosine(self) -> float:
        """Of the angle between found and exact; 0 if nothing is found."""
        length = float(self.found.norm())
        return self.scale * float(self.exact.norm()) / length if length else 0.0

    @property
    def kind(self) -> str:
        """Unbiased, scaled (by a positive number) or biased."""
        if self.not_finite:
            return "biased"
        if self.relative_error < TOLERANCE:
            return "unbiased"
        return "scaled" if self.residual < TOLERANCE < self.scale else "biased"

    def __str__(self) -> str:
        """The verdict in words."""
        if self.kind == "unbiased":
            return "unbiased"
        if self.kind == "scaled":
            return f"scaled by exactly {number(self.scale)}"
        if self.not_finite:
            return f"biased: not finite in {self.not_finite:.1%} of the batches"
        if self.found.norm() < TOLERANCE * self.exact.norm():
            return "biased: the expected gradient is 0"
        if self.residual < TOLERANCE:
            return f"biased: wrong sign, scaled by exactly {number(self.scale)}"
        return (
            f"biased: off by {self.relative_error:.3g} of the exact length, cosine {self.cosine:.4f}; "
            f"the best scale, {self.scale:.3g}, leaves {self.residual:.3g} of the found length"
        )


@dataclass(frozen=True)
class Report:
    """The verdicts on one estimator, one for each process."""

    verdicts: tuple[Verdict, ...]

    @property
    def kind(self) -> str:
        """The worst of the processes: unbiased, scaled or biased."""
        return max((verdict.kind for verdict in self.verdicts), key=("unbiased", "scaled", "biased").index)

    def __str__(self) -> str:
        """A line for each process, the exact gradient beside the found one, and the worst verdict."""
        lines = []
        for verdict in self.verdicts:
            lines.append(f"{verdict.process:10}{verdict}")
            for s, (exact, found) in enumerate(zip(verdict.exact.tolist(), verdict.found.tolist(), strict=True)):
                texts = ("".join(f"{value:11.6f}" for value in row) for row in (exact, found))
                lines.append("  state {}   exact{}   found{}".format(s, *texts))
        return "\n".join([*lines, f"{'overall':10}{self._overall()}"])

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        names = ("process", "kind", "relative_error", "cosine", "scale", "residual", "not_finite")
        rows = [
            {name: getattr(verdict, name) for name in names}
            | {"exact": verdict.exact.tolist(), "found": verdict.found.tolist()}
            for verdict in self.verdicts
        ]
        return {"kind": self.kind, "processes": rows}

    def _overall(self) -> str:
        if self.kind == "unbiased":
            return "unbiased"
        if self.kind == "biased":
            return "biased in " + ", ".join(verdict.process for verdict in self.verdicts if verdict.kind == "biased")
        scales = [number(verdict.scale) for verdict in self.verdicts]
        if len(set(scales)) == 1:
            return f"scaled by exactly {scales[0]}"
        return f"scaled, by {', '.join(scales)}: the right direction in each process"


def number(value: float) -> str:
    """A fraction if it is one with a denominator up to 100, otherwise ten digits."""
    near = Fraction(value).limit_denominator(100)
    return str(near) if near and abs(value / near - 1) < TOLERANCE else f"{value:.10g}"


def verify_estimator(
    loss: Loss,
    advantages: Advantages,
    *,
    discount: float = 1.0,
    critic_error: float = 0.0,
    processes: Sequence[Process] = PROCESSES,
) -> Report:
    """Whether the gradient of the expected loss is the policy gradient.

    Both functions are called once for each possible batch, with torch's default dtype set to float64. They must not
    draw random numbers. The policy that is differentiated is the one that acted: `old_log_prob` has the values of
    `log_prob`, and every ratio is 1.

    Args:
        loss: `loss(log_prob, old_log_prob, advantages, batch)`, a scalar that is to be minimized. `log_prob` is
            log pi(action | state), float64 [T, N], 0 on filler, with gradient; `old_log_prob` the same without.
        advantages: `advantages(batch)`, floating, [T, N], or [N] for one number an episode. It is what `loss` gets.
        discount: gamma in [0, 1] of the objective J; 1 is the undiscounted one. `batch.discount` tells the functions.
        critic_error: Added to the critic's value of states 0, 2, ..., subtracted from that of the others. The value
            after a cut stays exact.
        processes: Where to look.

    Returns:
        A verdict for each process; `str()` of it is a table, and its `kind` the worst verdict.

    Raises:
        TypeError: If a function returns no tensor.
        ValueError: If shapes do not fit, the loss does not depend on `log_prob`, or the discount is outside [0, 1].

    Source: enumeration as in `trajectories.py`; the policy gradient theorem, Sutton et al. (2000).
    """
    return Report(tuple(_verdict(loss, advantages, process, discount, critic_error) for process in processes))


def _verdict(loss: Loss, advantages: Advantages, process: Process, discount: float, critic_error: float) -> Verdict:
    logits = process.logits.clone().requires_grad_()
    (exact,) = torch.autograd.grad(objective(process, logits.softmax(1), discount=discount), logits)
    every, probability = every_batch(process, discount=discount, critic_error=critic_error)
    log_prob = torch.where(every.valid, logits.log_softmax(1)[every.state, every.action], 0.0)  # [B, T, N]
    weight = torch.where(every.valid, _derivatives(loss, advantages, every, log_prob.detach()), 0.0)
    finite = weight.isfinite().flatten(1).all(1)
    weight = torch.where(finite[:, None, None], weight * probability[:, None, None], 0.0)
    (found,) = torch.autograd.grad((log_prob * -weight).sum(), logits)
    return Verdict(process.name, exact, found, float(probability[~finite].sum()))


def _derivatives(loss: Loss, advantages: Advantages, every: EpisodeBatch, log_prob: Tensor) -> Tensor:
    """The derivative of each batch's loss with respect to `log_prob`, [B, T, N]."""
    leaf = log_prob.clone().requires_grad_()
    results = []
    with in_float64():
        tensors = zip(*(part.clone().unbind(0) for part in every[:-1]), strict=True)
        for now, old, parts in zip(leaf.unbind(0), log_prob.clone().unbind(0), tensors, strict=True):
            batch = EpisodeBatch._make([*parts, every.discount])
            advantage = advantages(batch)
            _require("advantages", advantage, now.shape, now.shape[1:])
            result = loss(now, old, advantage, batch)
            _require("loss", result, torch.Size())
            results.append(result)
    if not any(result.requires_grad for result in results):
        raise ValueError("loss must depend on log_prob, got a number without gradient in every batch")
    (derivative,) = torch.autograd.grad(torch.stack(results).sum(), leaf)
    return derivative


def _require(name: str, result: object, *shapes: torch.Size) -> None:
    """A floating tensor of one of the shapes."""
    if not isinstance(result, Tensor) or not result.is_floating_point():
        kind = result.dtype if isinstance(result, Tensor) else type(result).__name__
        raise TypeError(f"{name} must return a floating tensor, got {kind}")
    if result.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"{name} must return shape {wanted}, got {list(result.shape)}")
