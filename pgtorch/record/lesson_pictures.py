"""The pictures of the lesson: the bias, P(Norm), the expected reward and the gradient."""

from __future__ import annotations

import math
from pathlib import Path

from pgtorch.config import TrainConfig
from pgtorch.lesson.model import RestaurantModel, model_of_run
from pgtorch.record import plot
from pgtorch.record.metrics import Curve, History

SHARES = (0.25, 0.5, 0.75)  # P(Norm) is shown this far along from the first bias to the late mean
MOST_DOTS = 300  # on the hill of expected rewards
ARRIVED = 1.0  # a bias this close to the optimum has arrived


def draw(folder: Path, history: History, config: TrainConfig, weight: float) -> dict[str, Path]:
    """Draw the pictures of a run that logs a bias.

    Args:
        folder: The folder of the run.
        history: Its summarized metrics, including the bias.
        config: Its settings.
        weight: The weight of its policy.

    Returns:
        The PNG files by their TensorBoard tag: the bias and P(Norm); the expected reward, if the environment is the
        lesson's; the gradient, if it was checked.

    Raises:
        OSError: If a file cannot be written; the message names it.
    """
    model = model_of_run(config, weight)
    curve = history.curves["policy/bias"]
    bias = {0: history.start["policy/bias"]} if "policy/bias" in history.start else {}  # by update
    bias |= {point.update: point.value for point in curve.points}
    mean = curve.late()[0]
    drawn = {
        "pictures/bias": _bias(folder / "bias.png", bias, mean, model),
        "pictures/p_norm": _p_norm(folder / "p_norm.png", bias, mean, weight),
    }
    if model is not None:
        drawn["pictures/expected_reward"] = _expected_reward(folder / "expected_reward.png", bias, model)
    if "gradient/manual" in history.curves:
        autograd, manual = history.curves["gradient/autograd"], history.curves["gradient/manual"]
        drawn["pictures/gradient"] = _gradient(folder / "gradient.png", autograd, manual, history.largest_difference)
    return drawn


def _bias(path: Path, bias: dict[int, float], mean: float, model: RestaurantModel | None) -> Path:
    first, *_, last = [*bias.values(), *bias.values()]
    title = f"The bias: {first:.2f} at the start, {last:.2f} after {max(bias):,} updates"
    if model is not None and math.isfinite(best := model.optimal_bias()):
        arrival = next((update for update, value in bias.items() if abs(value - best) < ARRIVED), None)
        reached = "it never came" if arrival is None else f"by update {arrival:,} it came"
        title += f"\n{reached} within {ARRIVED:g} of the optimum, {best:.2f}"
    axes = plot.axes(title, "update", "bias")
    axes.plot(list(bias), list(bias.values()), color=plot.DARK, linewidth=1.0, label="bias")
    axes.axhline(mean, color=plot.MIDDLE, linestyle=":", label=f"mean of the last half, {mean:.2f}")
    if model is not None and math.isfinite(best := model.optimal_bias()):
        axes.axhline(best, color=plot.SIGNAL, linestyle="--", label=f"exact optimum, {best:.2f}")
    return plot.save(axes, path)


def _p_norm(path: Path, bias: dict[int, float], mean: float, weight: float) -> Path:
    last = max(bias)
    title = f"P(Norm) by hunger: bias {bias[min(bias)]:.2f} at the start, {bias[last]:.2f} after {last:,} updates"
    axes = plot.axes(title, "hunger (0: not at all, 1: very)", "P(Norm)")
    hunger = [i / 200 for i in range(201)]
    styles = ["-", (0, (1, 1)), (0, (3, 1)), (0, (8, 2))]
    for update, style in zip(_moments(bias, mean), [*styles, "-"], strict=False):
        p_norm = [(1 + math.tanh((weight * h + bias[update]) / 2)) / 2 for h in hunger]  # sigmoid, without overflow
        final = update == last
        axes.plot(hunger, p_norm, color=plot.SIGNAL if final else plot.DARK, linestyle="-" if final else style)
        axes.lines[-1].set(linewidth=2.2 if final else 1.1)
        axes.lines[-1].set_label(f"after {update:,} updates, bias {bias[update]:.1f}")
    axes.set_ylim(-0.05, 1.05)
    return plot.save(axes, path)


def _moments(bias: dict[int, float], mean: float) -> list[int]:
    """The first update, those at a quarter, half and three quarters of the way to the late mean, and the last."""
    first = min(bias)
    way = mean - bias[first]
    reached = (
        next((update for update, value in bias.items() if abs(value - bias[first]) >= share * abs(way)), first)
        for share in SHARES
    )
    return sorted({first, *reached, max(bias)})


def _expected_reward(path: Path, bias: dict[int, float], model: RestaurantModel) -> Path:
    values, best = list(bias.values()), model.optimal_bias()
    shown = [*values, best] if math.isfinite(best) else values
    low, high = min(shown) - 2, max(shown) + 2
    grid = [low + (high - low) * i / 200 for i in range(201)]
    start, end = model.expected_reward(values[0]), model.expected_reward(values[-1])
    title = f"Exact mean reward of a visit: {start:.2f} at the start, {end:.2f} at the end"
    if math.isfinite(best):
        title += f", {model.expected_reward(best):.2f} at the optimum"
    axes = plot.axes(title, "bias", "J(bias), exact mean reward of a visit")
    axes.plot(grid, [model.expected_reward(b) for b in grid], color=plot.DARK, linewidth=1.2, label="J, in closed form")
    few = values[:: math.ceil(len(values) / MOST_DOTS)]
    ages, heights = list(range(len(few))), [model.expected_reward(b) for b in few]
    label = "where the bias was: light early, dark late"
    axes.scatter(few, heights, c=ages, cmap="copper_r", s=14, zorder=3, label=label)
    if math.isfinite(best):
        axes.axvline(best, color=plot.SIGNAL, linestyle="--", label=f"exact optimum, {best:.2f}")
    return plot.save(axes, path, "upper right")


def _gradient(path: Path, autograd: Curve, manual: Curve, largest: float | None) -> Path:
    x, y = [point.value for point in manual.points], [point.value for point in autograd.points]
    difference = max(largest or 0.0, *(abs(a - b) for a, b in zip(x, y, strict=True)))
    end = f"differ by at most {difference:g}" if difference else "agree to the last bit"
    axes = plot.axes(f"Autograd and the chain rule by hand {end}", "gradient by hand", "gradient by autograd")
    axes.plot([min(x), max(x)], [min(x), max(x)], color=plot.SIGNAL, linestyle="--", linewidth=1.2, label="equal")
    label = f"{manual.count:,} updates"
    axes.plot(x, y, color=plot.DARK, linestyle="none", marker="o", markersize=3, alpha=0.5, label=label)
    return plot.save(axes, path)
