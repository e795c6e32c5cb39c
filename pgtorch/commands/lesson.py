"""Tell the lesson in the terminal, in five acts, or in the browser. Every number is computed as it is shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal

import torch

from pgtorch.commands.command_line import parse
from pgtorch.lesson.page import PAGE, open_page
from pgtorch.lesson.story import OWN_VISIT, act_1, act_2, act_3, act_4, act_5, go_on
from pgtorch.limits import Limit, at_least


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    page: bool = False
    """Open the lesson in the browser: sliders, one visit step by step, many visits."""

    act: Annotated[int, at_least(1, 5)] | None = None
    """Show one act only."""

    hunger: Annotated[float, at_least(0, 1)] | None = None
    """Act 4: how hungry you are, from not at all to very. Without this flag 0.1."""

    draw: Annotated[float, Limit("at least 0 and below 1", lambda draw: 0 <= draw < 1)] | None = None
    """Act 4: the random number that picks the place. Without this flag 0.5."""

    portion: Literal["large", "small"] | None = None
    """Act 4: the order that you get there. Without this flag large."""

    bias: Annotated[float, at_least(-100, 100)] | None = None
    """Act 4: the bias before the visit. Without this flag 0."""

    reward_scale: Annotated[float, Limit("above 0 and at most 1e6", lambda scale: 0 < scale <= 1e6)] | None = None  # noqa: PLR2004
    """Act 4: rewards are plus or minus this. Without this flag 1."""

    learning_rate: Annotated[float, Limit("above 0 and at most 1e6", lambda rate: 0 < rate <= 1e6)] | None = None  # noqa: PLR2004
    """Act 4: how far to step. Without this flag 1."""

    wrong_sign: bool = False
    """Act 4: step the wrong way, to see why the sign matters."""

    pause: bool = True
    """Wait for Enter after each question and between two acts, in a terminal."""

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
    pauses = flags.pause and sys.stdin.isatty() and sys.stdout.isatty()
    try:
        for index, act in enumerate(_acts(flags, _wait if pauses else go_on)):
            if index and pauses:
                input("Press Enter for the next act. ")
            act()
    except EOFError:  # Ctrl-D
        print()
    return 0


def _wait() -> None:
    input("Press Enter to go on. ")
    print()


def _acts(flags: Arguments, wait: Callable[[], None]) -> list[Callable[[], None]]:
    """The acts to show."""

    def own_visit() -> None:
        asked: dict[str, Any] = {"hunger": flags.hunger, "draw": flags.draw}
        if flags.portion is not None:
            asked["large"] = flags.portion == "large"
        visit = OWN_VISIT._replace(**{name: value for name, value in asked.items() if value is not None})
        settings = {"bias": flags.bias, "reward_scale": flags.reward_scale, "learning_rate": flags.learning_rate}
        given = {name: value for name, value in settings.items() if value is not None}
        act_4(visit, wrong_sign=flags.wrong_sign, wait=wait, **given)

    acts: list[Callable[[], None]] = [
        partial(act_1, wait),
        partial(act_2, wait),
        partial(act_3, wait),
        own_visit,
        partial(act_5, wait),
    ]
    return acts if flags.act is None else [acts[flags.act - 1]]
