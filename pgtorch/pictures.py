"""The pictures of a run, drawn from its `metrics.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(folder: Path, lines: list[dict[str, Any]]) -> dict[str, Path]:
    """Draw what a run has to show.

    Args:
        folder: Where the pictures go, the run's folder.
        lines: Its metrics, from `pgtorch.metrics.read_metrics`, at least one.

    Returns:
        The PNG files by their TensorBoard tag; none where the run has no bias.
    """
    if "policy/bias" not in lines[-1]:
        return {}
    updates = [line["update"] for line in lines]
    bias = [line["policy/bias"] for line in lines]
    return {"pictures/bias": _draw_bias(folder / "bias.png", updates, bias)}


def _draw_bias(path: Path, updates: list[int], bias: list[float]) -> Path:
    from matplotlib.figure import Figure  # noqa: PLC0415 -- takes longer than a thousand updates

    late = bias[len(bias) // 2 :]
    mean = sum(late) / len(late)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(updates, bias, color="#1f4e79", linewidth=1.0, label="bias")
    axes.axhline(mean, color="#c03030", linestyle="--", linewidth=1.2, label=f"mean of the last half, {mean:.2f}")
    axes.set(xlabel="update", ylabel="bias", title="The bias on its way home")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path
