"""Do the tests notice? Changes the source in one place at a time (a mutant), and reports the changes that no test sees.

    python tests/mutation.py                    # the modules of the table below, 80 mutants of each, about an hour
    python tests/mutation.py losses --sample 0  # all mutants of one module

cosmic-ray makes the mutants: another operator, another number, a condition negated, a loop that does not run, a
decorator removed. Only a temporary copy is changed, never the user's files. Each mutant is tested in a process forked
from this one, which has imported torch already. A mutant that hangs is stopped, and counts as killed.

Left out, since no test could tell or each would: mutants of annotations, which are never evaluated (`from __future__
import annotations`), and those that Python refuses or warns of (cosmic-ray takes the `*` of a signature for a
multiplication, and compares literals by `is`).
"""

import argparse
import ast
import contextlib
import difflib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import gymnasium  # noqa: F401 -- this and torch take seconds, once
import hypothesis
import pytest
import torch
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import use_db

ROOT = Path(__file__).resolve().parents[1]
TWIN = "proof/test_reference.py::test_training_is_that_of_the_reference"
SHIPPED = "proof/test_reference.py::test_every_shipped_configuration_passes[0]"
TESTS = {  # the tests that concern a module, fastest first
    "losses": ["test_losses.py", "test_gradient_check.py", "test_trainer.py", TWIN],
    "returns": ["test_returns.py", SHIPPED, "test_trainer.py", "proof/test_estimator_rows.py", TWIN],
    "manual_gradient": ["lesson/test_steps.py", "test_gradient_check.py", "test_manual_gradient.py"],
    "distributions": ["test_networks.py", "test_policies.py", "test_distributions.py", SHIPPED],
    "policies": ["lesson/test_steps.py", "test_policies.py", SHIPPED, "test_trainer.py"],
    "networks": ["test_networks.py", "test_manual_gradient.py", SHIPPED, "test_trainer.py"],
    "rollout": ["test_rollout.py", SHIPPED, "environment/test_checks.py", TWIN],
    "trainer": ["test_gradient_check.py", SHIPPED, "test_trainer.py", TWIN],
    "optimizers": ["test_optimizers.py", SHIPPED],
    "environment/normalization": ["environment/test_normalization.py", "test_rollout.py", TWIN],
    "record/evaluation": ["record/test_evaluation.py"],
}


def main():
    """Print the mutants that survive, and the score of each module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help=f"any of {', '.join(TESTS)}; all by default")
    parser.add_argument("--sample", type=int, default=80, help="mutants of each module, drawn at random; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(TESTS):
        parser.error(f"no tests are named for {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    hypothesis.settings.register_profile(  # the same examples for each mutant; the first failure is enough
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    hypothesis.settings.load_profile("mutation")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs"))
        for module in options.modules or TESTS:
            score(copy, module, options.sample, options.seed)


def score(copy, module, sample, seed):
    """Test the mutants of one module."""
    path, tests = copy / "pgtorch" / f"{module}.py", [f"tests/{name}" for name in TESTS[module]]
    source = path.read_text()
    began = time.monotonic()
    if not passes(copy, tests, timeout=600):
        sys.exit(f"{module}: its tests must pass before anything is changed\n{(copy.parent / 'output').read_text()}")
    timeout = 10 + 3 * (time.monotonic() - began)
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()  # Python would take it for that of a mutant of the same size
    mutants = mutants_of(path, source)
    chosen = random.Random(seed).sample(mutants, sample) if 0 < sample < len(mutants) else mutants
    survivors = 0
    try:
        for mutation, after in chosen:
            path.write_text(after)
            if passes(copy, tests, timeout, PYTHONDONTWRITEBYTECODE="1"):
                survivors += 1
                print(describe(mutation, source, after), flush=True)
    finally:
        path.write_text(source)
    killed = len(chosen) - survivors
    print(f"{module}: {killed} of {len(chosen)} killed, {killed / len(chosen):.1%}; {len(mutants)} in all", flush=True)


def mutants_of(path, source):
    """Each mutant that a test could notice, in a fixed order: (its description by cosmic-ray, the changed source)."""
    with tempfile.TemporaryDirectory() as folder, use_db(Path(folder, "session.sqlite")) as session:
        init([path], session, {})
        items = [item.mutations[0] for item in session.work_items]
    items.sort(key=lambda item: (item.start_pos, item.operator_name, item.occurrence))
    annotations = list(annotations_of(source))
    mutants = []
    for item in items:
        if not any(start <= item.start_pos < end for start, end in annotations):
            after = mutate_code(source, get_operator(item.operator_name)(), item.occurrence)
            with contextlib.suppress(SyntaxError), warnings.catch_warnings(action="error"):
                compile(after, path, "exec")
                mutants.append((item, after))
    return mutants


def annotations_of(source):
    """Where each annotation begins and ends, as (line, column)."""
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            if part := getattr(node, name, None):
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def passes(copy, tests, timeout, **environment):
    """Whether the tests pass in the copy, in a process of their own, within so many seconds."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(copy, tests, environment))
    process.start()
    try:
        process.join(timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        process.join()
    return process.exitcode == 0


def run_tests(copy, tests, environment):
    """Run them, as `pytest -x` does in the folder of the copy."""
    os.setsid()
    os.chdir(copy)
    os.environ.update({"PYTHONPATH": os.pathsep.join([str(copy), str(copy / "envs")]), **environment})
    sys.dont_write_bytecode = bool(environment)
    sys.path[:0] = [str(copy), str(copy / "envs")]
    with Path(copy.parent, "output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis has been imported already
    os._exit(pytest.main(["-x", "-n0", "-p", "no:cacheprovider", *quiet, *tests]))


def describe(mutation, before, after):
    """File, line and operator of a mutant, and its changed lines."""
    changed = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[3:]
    operator = mutation.operator_name.removeprefix("core/")
    return "\n".join([f"  {mutation.module_path.name}:{mutation.start_pos[0]} {operator} survived", *changed])


if __name__ == "__main__":
    main()
