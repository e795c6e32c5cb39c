"""Write a run's policy to one file that runs without pgtorch, with normalizer and clipping inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, describe, parse, printable
from pgtorch.record.checkpoint import CheckpointError, checkpoints
from pgtorch.record.export import export, input_space
from pgtorch.record.trained_run import load_run
from pgtorch.record.trust import UntrustedModuleError


@dataclass(frozen=True)
class Arguments:
    """Flags."""

    run_dir: Path
    """Folder of a run."""

    path: Path
    """File to write, such as policy.pt2; an older one is replaced."""

    allow_import: tuple[str, ...] = ()
    """Modules to import if the run names them, even if they are not installed. Their code is executed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, export, print."""
    flags = parse(Arguments, __doc__, arguments)
    torch.set_num_threads(1)
    try:
        run = load_run(flags.run_dir, allow_import=flags.allow_import)
        export(run, flags.path)
    except CheckpointError as error:
        return complain(str(error), FAILED if checkpoints(flags.run_dir) else WRONG_INPUT)
    except (ValueError, OSError, UntrustedModuleError) as error:
        return complain(describe(error), WRONG_INPUT)
    print(f"wrote         {printable(flags.path)}")
    print(f"observations  {form(input_space(run))}")
    print(f"actions       {form(run.spaces[1])}")
    print(f"use it        torch.export.load({str(flags.path)!r}).module()(observations)")
    return 0


def form(space: gym.Space[Any]) -> str:
    """Dtype and shape of a batch."""
    return f"{space.dtype} [{', '.join(['N', *map(str, space.shape or ())])}]"
