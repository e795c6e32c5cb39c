"""The pictures of a run: those of the lesson if its policy logs a bias, else the episode return."""

from __future__ import annotations

from pathlib import Path

from pgtorch.config import TrainConfig
from pgtorch.policies import Policy
from pgtorch.record import lesson_pictures, plot
from pgtorch.record.metrics import Curve, History

WINDOW = 20  # points in the running mean of the returns


def draw(folder: Path, history: History, config: TrainConfig, policy: Policy) -> dict[str, Path]:
    """Draw the pictures of a run.

    Args:
        folder: The folder of the run.
        history: Its summarized metrics.
        config: Its settings.
        policy: Its policy.

    Returns:
        The PNG files by their TensorBoard tag: those of `lesson_pictures.draw` for a policy that logs a bias; else the
        episode return, if an episode has ended.

    Raises:
        OSError: If a file cannot be written; the message names it.
    """
    weight = dict(policy.named_buffers()).get("weight")
    if "policy/bias" in history.curves and weight is not None:
        return lesson_pictures.draw(folder, history, config, weight.item())
    if "rollout/episode_return" not in history.curves:
        return {}
    path = _episode_return(folder / "episode_return.png", history.curves["rollout/episode_return"])
    return {"pictures/episode_return": path}


def _episode_return(path: Path, returns: Curve) -> Path:
    count, means = returns.running_mean(WINDOW)
    steps = [point.env_steps for point in returns.points]
    title = f"Return of an episode: {means[0]:.2f} at the start, {means[-1]:.2f} at the end"
    axes = plot.axes(title, "environment steps", "episode return (sum of rewards)")
    values = [point.value for point in returns.points]
    axes.plot(steps, values, color=plot.MIDDLE, linestyle="none", marker=".", markersize=4, label="mean of an update")
    axes.plot(steps, means, color=plot.DARK, linewidth=1.8, label=f"running mean of {count:,}")
    return plot.save(axes, path)
