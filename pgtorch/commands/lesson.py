"""Tell the lesson in the terminal, in five acts, or in the browser. Every number is computed as it is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch

from pgtorch.commands.command_line import parse
from pgtorch.lesson.page import PAGE, open_page
from pgtorch.lesson.steps import Visit
from pgtorch.lesson.story import OWN_VISIT, act_1, act_2, act_3, act_4, act_5
from pgtorch.limits import Limit, at_least


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    page: bool = False
    """Open the lesson in the browser: sliders, one visit step by step, many visits."""

    act: Annotated[int, at_least(1, 5)] | None = None
    """Show one act only."""

    hunger: Annotated[float, at_least(0, 1)] = OWN_VISIT.hunger
    """Act 4: how hungry you are, from not at all to very."""

    draw: Annotated[float, Limit("at least 0 and below 1", lambda draw: 0 <= draw < 1)] = OWN_VISIT.draw
    """Act 4: the random number that picks the place."""

    portion: Literal["large", "small"] = "large"
    """Act 4: the order that you get there."""

    reward_scale: Annotated[float, Limit("above 0 and at most 1e6", lambda scale: 0 < scale <= 1e6)] = 1.0  # noqa: PLR2004
    """Act 4: rewards are plus or minus this."""

    wrong_sign: bool = False
    """Act 4: step the wrong way, to see why the sign matters."""

    pause: bool = True
    """Wait for Enter between two acts, in a terminal."""

    def __post_init__(self) -> None:
        """Refuse flags that the chosen act would ignore.

        Raises:
            ValueError: If one of act 4's flags comes with another act, or any flag with `page`.
        """
        for field in fields(self):
            is_set = getattr(self, field.name) != field.default
            if is_set and self.page and field.name != "page":
                raise ValueError(f"page opens the browser and takes no other flag, got {field.name}")
            if is_set and field.name not in ("page", "act", "pause") and self.act not in (None, 4):
                raise ValueError(f"{field.name} is used by act 4 only, got act {self.act}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, tell, and wait between the acts."""
    flags = parse(Arguments, __doc__, arguments, default=Arguments())
    if flags.page:
        print(f"the lesson as a page: {PAGE}", flush=True)
        if not open_page():
            print(f"no browser was found here: open this file in one, {PAGE.as_uri()}")
        return 0
    torch.set_num_threads(1)
    for index, act in enumerate(_acts(flags)):
        if index and flags.pause and sys.stdin.isatty() and sys.stdout.isatty():
            try:
                input("Press Enter for the next act. ")
            except EOFError:  # Ctrl-D
                print()
                break
        act()
    return 0


def _acts(flags: Arguments) -> list[Callable[[], None]]:
    """The acts to show."""

    def own_visit() -> None:
        visit = Visit(flags.hunger, flags.draw, flags.portion == "large")
        act_4(visit, reward_scale=flags.reward_scale, wrong_sign=flags.wrong_sign)

    acts = [act_1, act_2, act_3, own_visit, act_5]
    return acts if flags.act is None else [acts[flags.act - 1]]
