"""The one style of all pictures: what differs in color also differs in dash, width or brightness."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pgtorch.record.folder import naming

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DARK, MIDDLE, LIGHT, SIGNAL = "#12304f", "#5b8db8", "#c3d7e8", "#c03030"


def axes(title: str, xlabel: str, ylabel: str) -> Axes:
    """Empty axes of 800 x 450 pixels."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- takes longer than a thousand updates

    made = Figure(figsize=(8, 4.5), dpi=100).subplots()
    made.set(title=title, xlabel=xlabel, ylabel=ylabel)
    made.grid(color=LIGHT, linewidth=0.5)
    made.spines[["top", "right"]].set_visible(False)
    return made


def save(drawn: Axes, path: Path, legend: Literal["best", "upper right"] = "best") -> Path:
    """Add the legend and write a PNG file.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written; the message names it.
    """
    drawn.legend(frameon=False, loc=legend)
    with naming(path):
        drawn.get_figure().savefig(path, pil_kwargs={"compress_level": 1})  # type: ignore[union-attr]
    return path
