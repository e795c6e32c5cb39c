"""Train many learners: one for each seed, and for each combination of several values of any setting of `train`.

`--seeds 0:1000` or `--seeds 0 1 5`; `--learning-rate 0.1 1 10`. Repeat a flag for values of several words or of none,
as in `--hidden-sizes 32 32 --hidden-sizes 64 64`. Each learner is bit for bit the run of its own settings and seed.
`pgtorch sweep --resume DIR` trains the learners that a sweep still lacks, after Ctrl-C for instance.
`pgtorch sweep DIR --learner N` writes learner N of a sweep as a run folder of its own, DIR/learner-N.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_origin

from tqdm import tqdm

from pgtorch.commands.command_line import FAILED, WRONG_INPUT, complain, parse, printable
from pgtorch.commands.train import Progress, StopSignals, read_settings, summary
from pgtorch.config import ANNOTATIONS, TrainConfig
from pgtorch.lesson.learners import can_train_together
from pgtorch.lesson.model import model_of_run
from pgtorch.limits import at_least
from pgtorch.record import sweeps
from pgtorch.record.folder import locked, new_folder
from pgtorch.record.sweeps import Learner, Outcome
from pgtorch.record.trust import UntrustedModuleError, require_trusted
from pgtorch.run import SetupError, check_setup, train
from pgtorch.scale.sweep import sweep

MOST_LEARNERS = 100_000


@dataclass(frozen=True)
class WriteOut:
    """Flags of `pgtorch sweep DIR`."""

    sweep_dir: Path
    """Folder of a sweep."""

    learner: Annotated[int, at_least(0)] = 0
    """Number of the learner in its sweep.json, from 0."""

    allow_import: tuple[str, ...] = ()
    """Modules to import if the sweep names them, even if they are not installed. Their code is executed."""


@dataclass(frozen=True)
class Resume:
    """Flags of `pgtorch sweep --resume`."""

    resume: Path = Path()
    """Folder of a sweep that was stopped. No other settings can be given."""

    allow_import: tuple[str, ...] = ()
    """Modules to import if the sweep names them, even if they are not installed. Their code is executed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, print."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    stop = StopSignals()
    if words and not words[0].startswith("-"):
        return write_out(parse(WriteOut, __doc__, words, command="sweep"), stop)
    finished: dict[Learner, Outcome] = {}
    with ExitStack() as stack:
        try:
            if "--resume" in [word.partition("=")[0] for word in words]:
                hint = " with --resume, which allows only --allow-import"
                flags = parse(Resume, __doc__, words, command="sweep", hint=hint)
                folder = flags.resume
                stack.enter_context(locked(folder))
                seeds, configs = settings_of(folder, flags.allow_import)
                if len(sweeps.read(folder)["learners"]) == len(configs) * len(seeds):
                    print("nothing left to do           all learners have finished")
                    return 0
                finished = sweeps.read_finished(folder)
                check_setups(configs)
                sweeps.clear_remains(folder)
            else:
                seeds, configs = read_sweep(words)
                check_setups(configs)
                folder = stack.enter_context(new_folder(next(iter(configs.values())), "sweep"))
                record(folder, configs, seeds, finished)
        except (SetupError, ValueError, OSError, UntrustedModuleError) as error:
            return complain(str(error), WRONG_INPUT)
        outcomes = train_all(folder, list(configs.values()), seeds, finished, stop)
        print(table(record(folder, configs, seeds, outcomes)))
        count = len(configs) * len(seeds)
        if len(outcomes) == count:
            (folder / sweeps.FINISHED).unlink(missing_ok=True)
    print(f"sweep folder                 {printable(folder)}")
    print(f"one of its learners          pgtorch sweep {printable(folder)} --learner 0")
    print(f"see it                       tensorboard --logdir {printable(folder)}")
    failed = [(i, seed, outcome.error) for i, ((_, seed), outcome) in enumerate(outcomes.items()) if outcome.error]
    if failed:
        number, seed, reason = failed[0]
        complain(f"{len(failed)} of {count} learners failed, first learner {number} (seed {seed}): {reason}", FAILED)
    if stop() and len(outcomes) < count:
        print(f"stopped early                {len(outcomes):,} of {count:,} learners had finished")
        print(f"continue with                pgtorch sweep --resume {printable(folder)}")
        return 128 + stop.number
    return FAILED if failed else 0


def read_sweep(words: Sequence[str]) -> tuple[list[int], dict[str, TrainConfig]]:
    """The seeds, and settings by label: what differs between them, in words.

    Raises:
        ValueError: If it is not a sweep. A wrong flag or value of `train` ends this as it ends `train`.
    """
    options = read_options(words)
    if wrong := options.keys() & {"seed", "resume"}:
        raise ValueError(f"sweep does not take --{wrong.pop()}, but --seeds, such as --seeds 0:100")
    if len(options.get("run_dir", [])) > 1:
        raise ValueError("run_dir must name one folder, for the whole sweep")
    seeds = read_seeds([word for words in options.pop("seeds", [["--seeds=0:10"]]) for word in words])
    count = len(seeds) * math.prod(map(len, options.values()))
    if count > MOST_LEARNERS:
        raise ValueError(f"a sweep must have at most {MOST_LEARNERS:,} learners, got {count:,}")
    configs = {}
    for choice in itertools.product(*options.values()):
        config = read_settings([word for words in choice for word in words], __doc__, "sweep")
        configs[" ".join(f"{name}={shown(config, name)}" for name in options if len(options[name]) > 1)] = config
    for seed in (min(seeds), max(seeds)):
        replace(config, seed=seed)  # refuses one out of range
    return seeds, configs


def settings_of(folder: Path, allow_import: Sequence[str]) -> tuple[list[int], dict[str, TrainConfig]]:
    """What `read_sweep` returned for the sweep of a folder.

    Raises:
        ValueError: If it is not the folder of a sweep.
        UntrustedModuleError: If it names a module that is neither installed nor allowed.
    """
    content = sweeps.read(folder)
    try:
        configs = {row["label"]: TrainConfig(**row["config"]) for row in content["settings"]}
    except (LookupError, TypeError) as error:
        raise ValueError(f"{str(folder)!r} must be the folder of a sweep: {error}") from error
    for config in configs.values():
        for name in config.imports:
            require_trusted(name, folder, allow_import)
    return content["seeds"], configs


def check_setups(configs: Mapping[str, TrainConfig]) -> None:
    """Raise the `SetupError` of the first settings that do not fit together."""
    for config in configs.values():
        check_setup(config)


def read_options(words: Sequence[str]) -> dict[str, list[list[str]]]:
    """For each setting the words of each of its values; a flag may be given several values, or several times."""
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if re.match(r"--?[a-zA-Z]", word):  # not a negative number
            flag, equals, value = word.partition("=")
            groups.append((flag, [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise ValueError(f"unexpected argument {word!r}")
    options: dict[str, list[list[str]]] = {}
    for flag, values in groups:
        name = flag.lstrip("-").replace("-", "_").removeprefix("no_")
        whole = get_origin(ANNOTATIONS.get(name)) is tuple  # its value has several words
        choices = [[f"{flag}={value}"] for value in values]
        options.setdefault(name, []).extend([[flag, *values]] if whole or not values else choices)
    return options


def read_seeds(words: Sequence[str]) -> list[int]:
    """Seeds from `--seeds=7` and `--seeds=0:1000`, each once."""
    seeds: dict[int, None] = {}
    for word in words:
        text = word.partition("=")[2]
        if not (found := re.fullmatch(r"(\d+)(?::(\d+))?", text)):
            raise ValueError(f"seeds must be numbers or ranges, such as 0 1 5 or 0:1000, got {text!r}")
        start, end = int(found[1]), int(found[2] or int(found[1]) + 1)
        if not 0 < end - start <= MOST_LEARNERS:
            raise ValueError(f"seeds must be a range of 1 to {MOST_LEARNERS:,} seeds, got {text!r}")
        seeds |= dict.fromkeys(range(start, end))
    return list(seeds)


def shown(config: TrainConfig, name: str) -> str:
    """The value of a setting, as on a command line."""
    value = config.to_dict()[name]
    return value if isinstance(value, str) else json.dumps(value)


def train_all(
    folder: Path,
    configs: Sequence[TrainConfig],
    seeds: Sequence[int],
    finished: Mapping[Learner, Outcome],
    stop: StopSignals,
) -> dict[Learner, Outcome]:
    """The outcomes of the learners that have finished, now or before, by settings, then by seed."""
    outcomes = dict(finished)
    order = list(itertools.product(range(len(configs)), seeds))
    missing = [learner for learner in order if learner not in outcomes]
    with tqdm(total=len(order), initial=len(outcomes), unit="learner") as bar:
        for learner, outcome in sweep(configs, missing, folder, stop) if missing else ():
            if not can_train_together(configs[learner[0]]):  # the lesson's would take longer to note than to train
                sweeps.note_finished(folder, learner, outcome)
            outcomes[learner] = outcome
            bar.update()
    return {learner: outcomes[learner] for learner in order if learner in outcomes}


def record(
    folder: Path, configs: Mapping[str, TrainConfig], seeds: Sequence[int], outcomes: Mapping[Learner, Outcome]
) -> dict[str, dict[str, Any]]:
    """Write `sweep.json`, the pictures and TensorBoard's events; return the table's rows by label."""
    rows: dict[str, dict[str, Any]] = {}
    curves: dict[str, dict[str, list[sweeps.Curve]]] = {"policy/bias": {}, "rollout/episode_return": {}}
    optima = {label: optimum_of(config) for label, config in configs.items()}
    for number, (label, config) in enumerate(configs.items()):
        found = [outcome for (which, _), outcome in outcomes.items() if which == number]
        good = [outcome for outcome in found if not outcome.error and len(outcome.curve)]
        summary = sweeps.summarize([o.summary for o in good], [o.curve for o in good], optima[label])
        counts = {"learners": len(found), "failed": sum(bool(outcome.error) for outcome in found)}
        rows[label] = {"label": label, "config": config.to_dict(), **counts, **summary}
        if good:
            tag = "policy/bias" if "bias" in good[0].summary else "rollout/episode_return"
            curves[tag][label] = [outcome.curve for outcome in good]
    values = [config.to_dict() for config in configs.values()]
    swept = [name for name in values[0] if any(other[name] != values[0][name] for other in values)]
    learners = []
    for (number, seed), outcome in outcomes.items():
        result = {"error": outcome.error} if outcome.error else {"hash": outcome.hash}
        steps = {"num_updates": outcome.num_updates, "num_env_steps": outcome.num_env_steps}
        which = {"setting": number, "settings": {name: values[number][name] for name in swept}, "seed": seed}
        learners.append({**which, **result, **steps, "summary": outcome.summary})
    sweeps.write(folder, {"settings": list(rows.values()), "seeds": seeds, "learners": learners})
    for tag, some in curves.items():
        if some:
            best = {optima[label] for label in some}
            sweeps.draw(folder, some, tag, best.pop() if len(best) == 1 else None)
    return rows


def optimum_of(config: TrainConfig) -> float | None:
    """The exact best bias of the lesson; None elsewhere, or if it is infinite."""
    model = model_of_run(config, config.weight) if config.policy == "bias" else None
    best = math.inf if model is None else model.optimal_bias()
    return best if math.isfinite(best) else None


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as text."""
    width = max(8, *map(len, rows)) + 2
    lines = ["interquartile means, with 95 % bootstrap intervals over seeds", f"{'':{width}}learners"]
    lines[1] += "".join(f"{name.replace('_', ' '):>30}" for name in sweeps.OUTCOMES)
    for label, row in rows.items():
        line = f"{printable(label):{width}}{row['learners']:8,}"
        for name in sweeps.OUTCOMES:
            cell = ""
            if name in row:
                low, high = row[name]["interval"]
                cell = f"{row[name]['interquartile_mean']:.4g} ({low:.4g} to {high:.4g})"
            line += f"{cell:>30}"
        lines.append(line.rstrip())
    for label, row in rows.items():
        if near := row.get("near_optimum"):
            counts = ", ".join(f"{count:,} after {int(step):,}" for step, count in near["learners_after_steps"].items())
            first = near["median_first"]
            half = "" if first is None else f"; half of them for the first time by step {first:,.0f}"
            line = f"{printable(label)} within 1 of the optimum, {near['optimum']:.2f}: {counts} steps{half}"
            lines.append(line.lstrip())
    return "\n".join(lines)


def write_out(flags: WriteOut, stop: StopSignals) -> int:
    """Train a learner of a sweep again, into a run folder of its own."""
    try:
        learners = sweeps.read(flags.sweep_dir)["learners"]
        if flags.learner >= len(learners):
            raise ValueError(f"learner must be below {len(learners)}, got {flags.learner}")  # noqa: TRY301
        learner = learners[flags.learner]
        run_dir = flags.sweep_dir / f"learner-{flags.learner}"
        configs = list(settings_of(flags.sweep_dir, flags.allow_import)[1].values())
        config = replace(configs[learner["setting"]], seed=learner["seed"], run_dir=run_dir)
    except (ValueError, LookupError, TypeError, UntrustedModuleError) as error:
        return complain(str(error), WRONG_INPUT)
    try:
        with tqdm(total=config.num_updates, unit="update", delay=1e-6) as bar:
            progress = Progress(bar)
            result = train(config, callback=progress, should_stop=stop)
            progress.finish(result.num_updates)
    except SetupError as error:
        return complain(str(error), WRONG_INPUT)
    print(summary(result))
    if result.num_updates != learner["num_updates"] and stop():
        print(f"stopped early                continue with: pgtorch train --resume {printable(result.run_dir)}")
        return 128 + stop.number
    if result.hash != learner.get("hash"):
        return complain(f"its hash in the sweep was {learner.get('hash')}: not the same machine or versions", FAILED)
    return 0
