"""A visit as one line of text and as a picture, in NumPy alone: neither a display nor a font is needed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PLACES = ("Squatch's Fry Shack", "Norm's Fry Hut")
WIDTH, HEIGHT = 480, 320  # pixels

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]

INK: Colour = (43, 45, 66)
PAPER: Colour = (250, 246, 237)
SHADE: Colour = (226, 219, 203)
HUNGER: Colour = (239, 131, 84)
WALLS: tuple[Colour, Colour] = ((126, 178, 156), (214, 96, 96))  # Squatch, Norm
BOX: Colour = (200, 48, 48)
FRY: Colour = (255, 200, 61)
GOOD: Colour = (42, 130, 90)
BAD: Colour = (178, 34, 52)


class Visit(NamedTuple):
    """What was chosen and what came of it."""

    action: int
    large: bool
    reward: float


def visit_text(hunger: float, visit: Visit | None, hungry_above: float) -> str:
    """One line: hunger and, once served, the place, the order and the reward."""
    state = "hungry" if hunger > hungry_above else "not hungry"
    if visit is None:
        return f"hunger {hunger:.2f} ({state}): where to?"
    size = "large" if visit.large else "small"
    return f"hunger {hunger:.2f} ({state}): {PLACES[visit.action]} serves a {size} order, reward {visit.reward:+g}"


def visit_picture(
    hunger: float, visit: Visit | None, hungry_above: float, large_portion_probability: tuple[float, float]
) -> Picture:
    """Hunger as a bar with its threshold, the two places with their odds and, once served, the order and reward.

    Args:
        hunger: In [0, 1].
        visit: What was served, or None before the order.
        hungry_above: In [0, 1].
        large_portion_probability: Of Squatch and Norm, each in [0, 1].

    Returns:
        uint8 [320, 480, 3].
    """
    picture = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
    _draw_hunger(picture, hunger, hungry_above)
    for action in (0, 1):
        chosen = visit is not None and visit.action == action
        _draw_place(picture, action, large_portion_probability[action], chosen, faded=visit is not None and not chosen)
    if visit is None:
        _write(picture, "WHERE TO?", 286, 284, 3)
    else:
        _draw_order(picture, visit)
    return picture


def _draw_hunger(picture: Picture, hunger: float, hungry_above: float) -> None:
    left, right, top, bottom = 34, 70, 44, 254
    _write(picture, "HUNGER", 52, 16, 2)
    _fill(picture, left - 3, top - 3, right + 3, bottom + 3, INK)
    _fill(picture, left, top, right, bottom, SHADE)
    _fill(picture, left, bottom - round(hunger * (bottom - top)), right, bottom, HUNGER)
    threshold = bottom - round(hungry_above * (bottom - top))
    _fill(picture, left - 9, threshold - 1, right + 9, threshold + 2, INK)
    _write(picture, f"{hunger:.2f}", 52, 264, 2)
    _write(picture, "HUNGRY" if hunger > hungry_above else "NOT HUNGRY", 62, 292, 2 if hunger > hungry_above else 1)


def _draw_place(picture: Picture, action: int, probability: float, chosen: bool, faded: bool) -> None:
    left = 120 + 180 * action
    right, top, bottom = left + 150, 84, 214
    wall = _blend(WALLS[action], PAPER, 0.65) if faded else WALLS[action]
    ink = _blend(INK, PAPER, 0.5) if faded else INK
    if chosen:
        _fill(picture, left - 8, top - 46, right + 8, bottom + 10, FRY)
    for row in range(30):  # the roof, a trapezoid
        _fill(picture, left + 30 - row, top - 36 + row, right - 30 + row, top - 35 + row, ink)
    _fill(picture, left, top - 6, right, bottom, wall)
    _write(picture, ("SQUATCH'S", "NORM'S")[action], left + 75, top + 8, 2, ink)
    _write(picture, ("FRY SHACK", "FRY HUT")[action], left + 75, top + 28, 2, ink)
    _fill(picture, left + 16, top + 60, left + 66, top + 96, PAPER)  # a window
    _fill(picture, left + 39, top + 60, left + 43, top + 96, wall)
    _fill(picture, right - 56, top + 60, right - 20, bottom, ink)  # the door
    _fill(picture, right - 30, top + 94, right - 26, top + 98, FRY)
    _write(picture, f"LARGE {100 * probability:.0f} %", left + 75, bottom + 16, 2, ink)


def _draw_order(picture: Picture, visit: Visit) -> None:
    centre = 160
    fries, height, half = (7, 27, 25) if visit.large else (4, 16, 14)
    bottom = 308
    for fry in range(fries):
        x = centre - half + 3 + fry * (2 * half - 6) // fries
        _fill(picture, x, bottom - 2 * height + (fry * 5) % 9, x + 5, bottom - height, FRY)
    for row in range(height):  # the box, narrower at its foot
        inset = row * half // (4 * height)
        _fill(
            picture, centre - half + inset, bottom - height + row, centre + half - inset, bottom - height + row + 1, BOX
        )
    _write(picture, "LARGE" if visit.large else "SMALL", 250, 272, 3)
    reward = f"REWARD {visit.reward:+g}".upper()
    size = min(3, 176 // (6 * len(reward)))  # the largest that fits between the order and the edge
    _write(picture, reward, 388, 272, size, GOOD if visit.reward > 0 else BAD)


def _blend(color: Colour, other: Colour, share: float) -> Colour:
    mixed = [round((1 - share) * a + share * b) for a, b in zip(color, other, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def _fill(picture: Picture, left: int, top: int, right: int, bottom: int, color: Colour) -> None:
    picture[max(top, 0) : bottom, max(left, 0) : right] = color


def _write(picture: Picture, text: str, centre: int, top: int, size: int, color: Colour = INK) -> None:
    """Write `text` centered on a column; `size` is the edge of a font pixel."""
    mask = np.concatenate([_glyph(character) for character in text], axis=1)  # [7, 6 * len(text)]
    mask = mask.repeat(size, axis=0).repeat(size, axis=1)
    left = max(centre - (mask.shape[1] - size) // 2, 0)
    mask = mask[:, : WIDTH - left]
    picture[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = color


def _glyph(character: str) -> NDArray[np.bool_]:
    """Pixels of a character, bool [7, 6]: five columns and a gap."""
    columns = np.frombuffer(bytes.fromhex(GLYPHS.get(character, GLYPHS["?"]) + "00"), np.uint8)
    rows: NDArray[Any] = np.arange(7, dtype=np.uint8)[:, None]
    return np.array(columns >> rows & 1, np.bool_)


# Five columns a character, a byte a column, its lowest bit the top row.
GLYPHS = {
    " ": "0000000000", "A": "7e1111117e", "B": "7f49494936", "C": "3e41414122", "D": "7f4141221c",
    "E": "7f49494941", "F": "7f09090901", "G": "3e4149497a", "H": "7f0808087f", "I": "00417f4100",
    "J": "2040413f01", "K": "7f08142241", "L": "7f40404040", "M": "7f020c027f", "N": "7f0408107f",
    "O": "3e4141413e", "P": "7f09090906", "Q": "3e4151215e", "R": "7f09192946", "S": "4649494931",
    "T": "01017f0101", "U": "3f4040403f", "V": "1f2040201f", "W": "3f4038403f", "X": "6314081463",
    "Y": "0708700807", "Z": "6151494543", "0": "3e5149453e", "1": "00427f4000", "2": "4261514946",
    "3": "2141454b31", "4": "1814127f10", "5": "2745454539", "6": "3c4a494930", "7": "0171090503",
    "8": "3649494936", "9": "064949291e", "+": "08083e0808", "-": "0808080808", ".": "0060600000",
    "%": "2313086462", "'": "0005030000", "?": "0201510906",
}  # fmt: skip
