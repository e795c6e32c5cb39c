"""The pictures of a run, drawn from its `metrics.jsonl`; one style, to be told apart in grey as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pgtorch.config import LESSON, TrainConfig
from pgtorch.lesson.model import RestaurantModel
from pgtorch.policies import BiasPolicy, Policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DARK, MIDDLE, LIGHT, SIGNAL = "#12304f", "#5b8db8", "#c3d7e8", "#c03030"
MOST_POINTS = 4000  # of a run, evenly spaced: more cannot be told apart
WINDOW = 20  # logged updates in the running mean of the returns
MOMENTS = (0, 5, 60, 100, 150)  # updates after which P(Norm) is shown, beside the last


def draw(folder: Path, lines: list[dict[str, Any]], config: TrainConfig, policy: Policy) -> dict[str, Path]:
    """Draw what a run has to show.

    Args:
        folder: Where the pictures go, the run's folder.
        lines: Its metrics, from `pgtorch.record.metrics.read_metrics`, at least one.
        config: Its settings.
        policy: What it trained.

    Returns:
        The PNG files by their TensorBoard tag: for the lesson bias, P(Norm), expected reward and gradient; for other
        environments the episode return, where an episode has ended.
    """
    if not isinstance(policy, BiasPolicy):
        ended = [line for line in lines if "rollout/episode_return" in line]
        return {"pictures/episode_return": _episode_return(folder / "episode_return.png", ended)} if ended else {}
    weight = policy.weight.item()
    drawn = {
        "pictures/bias": _bias(folder / "bias.png", lines, _model(config, weight)),
        "pictures/p_norm": _p_norm(folder / "p_norm.png", lines, weight),
    }
    if model := _model(config, weight):
        drawn["pictures/expected_reward"] = _expected_reward(folder / "expected_reward.png", lines, model)
    if compared := [line for line in lines if "gradient/manual" in line]:
        drawn["pictures/gradient"] = _gradient(folder / "gradient.png", compared)
    return drawn


def _model(config: TrainConfig, weight: float) -> RestaurantModel | None:
    """The lesson in formulas; None where another environment was played."""
    if config.env_id.rpartition(":")[2] != LESSON.rpartition(":")[2]:
        return None
    return RestaurantModel(weight, **{name: value for name, value in config.env_kwargs.items() if name in _SETTINGS})


_SETTINGS = ("large_portion_probability", "hungry_above", "reward_scheme", "reward_scale")


def _bias(path: Path, lines: list[dict[str, Any]], model: RestaurantModel | None) -> Path:
    bias, few = _column(lines, "policy/bias"), _thinned(lines)
    axes = _axes("The bias on its way home", "update", "bias")
    axes.plot(_column(few, "update"), _column(few, "policy/bias"), color=DARK, linewidth=1.0, label="bias")
    late = bias[len(bias) // 2 :]
    axes.axhline(sum(late) / len(late), color=MIDDLE, linestyle=":", label=f"mean of the last half, {_mean(late):.2f}")
    if model is not None and math.isfinite(best := model.optimal_bias()):
        axes.axhline(best, color=SIGNAL, linestyle="--", label=f"exact optimum, {best:.2f}")
    return _save(axes, path)


def _p_norm(path: Path, lines: list[dict[str, Any]], weight: float) -> Path:
    by_update = {line["update"]: line["policy/bias"] for line in lines}
    moments = {0: 0.0, **{update: by_update[update] for update in MOMENTS if update in by_update}}
    last = lines[-1]["update"]
    moments[last] = by_update[last]
    axes = _axes("From nearly always Norm to Norm when hungry", "hunger (0: not at all, 1: very)", "P(Norm)")
    hunger = [i / 200 for i in range(201)]
    styles = ["-", (0, (1, 1)), (0, (3, 1)), (0, (5, 1, 1, 1)), (0, (8, 2))]
    for i, (update, bias) in enumerate(moments.items()):
        p_norm = [(1 + math.tanh((weight * h + bias) / 2)) / 2 for h in hunger]  # sigmoid, and it cannot overflow
        final = update == last
        color, style = (SIGNAL if final else DARK), ("-" if final else styles[i % len(styles)])
        axes.plot(hunger, p_norm, color=color, linestyle=style, linewidth=2.2 if final else 1.1)
        axes.lines[-1].set_label(f"after {update:,} updates, bias {bias:.1f}")
    return _save(axes, path)


def _expected_reward(path: Path, lines: list[dict[str, Any]], model: RestaurantModel) -> Path:
    bias = _column(lines, "policy/bias")
    low, high = min(bias) - 2, max(*bias, 0.0) + 2
    grid = [low + (high - low) * i / 200 for i in range(201)]
    axes = _axes("The hill that the bias climbs", "bias", "J(bias), exact mean reward of a visit")
    axes.plot(grid, [model.expected_reward(b) for b in grid], color=DARK, linewidth=1.2, label="J, in closed form")
    few = bias[:: max(1, len(bias) // 300)]
    ages = [i / max(1, len(few) - 1) for i in range(len(few))]
    heights = [model.expected_reward(b) for b in few]
    axes.scatter(
        few, heights, c=ages, cmap="copper_r", s=14, zorder=3, label="where the bias was: light early, dark late"
    )
    if math.isfinite(best := model.optimal_bias()) and low < best < high:
        axes.axvline(best, color=SIGNAL, linestyle="--", label=f"exact optimum, {best:.2f}")
    return _save(axes, path, "upper right")


def _gradient(path: Path, lines: list[dict[str, Any]]) -> Path:
    largest = max(abs(line["gradient/autograd"] - line["gradient/manual"]) for line in lines)
    few = _thinned(lines)
    autograd, manual = _column(few, "gradient/autograd"), _column(few, "gradient/manual")
    axes = _axes("Autograd against the chain rule by hand", "gradient by hand", "gradient by autograd")
    ends = [min(manual), max(manual)]
    axes.plot(ends, ends, color=SIGNAL, linestyle="--", linewidth=1.2, label="equal")
    label = f"{len(lines):,} updates, largest difference {largest:g}"
    axes.plot(manual, autograd, color=DARK, linestyle="none", marker="o", markersize=3, alpha=0.5, label=label)
    return _save(axes, path)


def _episode_return(path: Path, lines: list[dict[str, Any]]) -> Path:
    returns = _column(lines, "rollout/episode_return")
    for i, line in enumerate(lines):
        line["running"] = _mean(returns[max(0, i - WINDOW + 1) : i + 1])
    few = _thinned(lines)
    steps, returns, running = (_column(few, name) for name in ("env_steps", "rollout/episode_return", "running"))
    axes = _axes("What an episode brings", "environment steps", "episode return (sum of rewards)")
    axes.plot(steps, returns, color=MIDDLE, linestyle="none", marker=".", markersize=4, label="mean of an update")
    axes.plot(steps, running, color=DARK, linewidth=1.8, label=f"running mean of {WINDOW}")
    return _save(axes, path)


def _thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most some 4,000 lines, the last among them."""
    every = math.ceil(len(lines) / MOST_POINTS)
    return lines[::-every][::-1]


def _column(lines: list[dict[str, Any]], tag: str) -> list[float]:
    return [line[tag] for line in lines]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _axes(title: str, xlabel: str, ylabel: str) -> Axes:
    from matplotlib.figure import Figure  # noqa: PLC0415 -- takes longer than a thousand updates

    axes = Figure(figsize=(8, 4.5), dpi=100).subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(color=LIGHT, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _save(axes: Axes, path: Path, legend: Literal["best", "upper right"] = "best") -> Path:
    axes.legend(frameon=False, loc=legend)
    axes.get_figure().savefig(path, pil_kwargs={"compress_level": 1})  # type: ignore[union-attr]
    return path
