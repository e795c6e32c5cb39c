"""What must hold on a GPU, in a few minutes: python scripts/device.py [cuda|mps]. It writes nothing.

The tests of devices, the lesson, CartPole-v1 and a network of convolutions there, gradient steps that wait for nothing,
and how long an update takes, compared with the CPU. The exit status is 1 if something does not hold.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from pgtorch import TrainConfig, evaluate, load_run, resume, train
from pgtorch.device import resolve
from pgtorch.returns import weigh
from pgtorch.trainer import Trainer

TESTS = Path(__file__).parents[1] / "tests"
IMAGES: dict[str, Any] = {"env_id": "own:Dot-v0", "num_updates": 30, "num_epochs": 4, "num_minibatches": 8}
WIDE: dict[str, Any] = {"hidden_sizes": (1024, 1024), "num_envs": 64, "num_steps": 64, "num_minibatches": 1}


def main() -> int:
    """Print a line for each check."""
    name = resolve(sys.argv[1] if len(sys.argv) > 1 else "auto").type
    if name == "cpu":
        print("no other device than the CPU is available here", file=sys.stderr)
        return 2
    print(f"device    {torch.cuda.get_device_name() if name == 'cuda' else name}, torch {torch.__version__}")
    sys.path.insert(0, str(TESTS))  # for own.py, whose images are learned
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-n0", str(TESTS / "test_device.py")], check=False)
    with tempfile.TemporaryDirectory() as folder:
        held = [_report("tests of devices pass", done.returncode == 0), *_trainings(name, Path(folder))]
    held.append(_report("gradient steps wait for nothing", _waits_for_nothing()) if name == "cuda" else True)
    for title, settings in (("CartPole-v1, as tuned", {}), ("two layers of 1,024, 4,096 rows", WIDE)):
        here, there = _seconds("cpu", settings), _seconds(name, settings)
        print(
            f"          {title}: an update takes {here * 1e3:.1f} ms on the CPU, {there / here:.2f} times as long there"
        )
    return 0 if all(held) else 1


def _report(what: str, holds: bool) -> bool:
    print(f"{'holds' if holds else 'FAILS':9} {what}", flush=True)
    return holds


def _trainings(name: Any, folder: Path) -> list[bool]:
    lesson = train(TrainConfig(device=name, run_dir=folder / "lesson"))
    cart = train(TrainConfig("CartPole-v1", device=name, target_return=475.0, run_dir=folder / "cart"))
    images = train(TrainConfig(device=name, run_dir=folder / "images", **IMAGES))
    played = evaluate(load_run(folder / "cart"))["greedy"]["mean_return"]
    moved = resume(folder / "images", num_updates=40, device="cpu", allow_import=("own",))
    back = resume(folder / "images", num_updates=50, device=name, allow_import=("own",))
    return [
        _report(f"the lesson's bias hovers near -10: {lesson.summary['late_bias']:.2f}", _near(lesson.summary)),
        _report(f"CartPole-v1 reaches 475, after {cart.num_updates} updates", cart.reached_target),
        _report(f"and its checkpoint, on the CPU, plays {played:.0f}", played >= 475.0),  # noqa: PLR2004
        *(
            _report(f"images: {run.summary['recent_return']:.2f} of 1 {where}", run.summary["recent_return"] > 0.9)  # noqa: PLR2004
            for run, where in ((images, "there"), (moved, "resumed on the CPU"), (back, "and resumed there"))
        ),
    ]


def _near(summary: dict[str, float]) -> bool:
    return abs(summary["late_bias"] + 10.0) < 1.0


def _waits_for_nothing() -> bool:
    """Whether CUDA finds no operation that waits in the gradient steps of a rollout."""
    with closing(Trainer(TrainConfig("CartPole-v1", device="cuda", num_epochs=2, check_gradient=0))) as trainer:
        trainer.update()
        rollout, values = trainer.collector.collect(trainer.policy, trainer.generator), trainer.value_function
        assert values is not None
        batch = weigh(rollout, lambda rows: values(rows.to(trainer.device)), trainer.config).to(trainer.device)
        parts = list(trainer._parts(batch))
        torch.cuda.set_sync_debug_mode("error")
        try:
            for part in parts:
                trainer._step(part)
        except RuntimeError as error:
            print(error)
            return False
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return True


def _seconds(name: Any, settings: dict[str, Any]) -> float:
    """Median time of an update."""
    config = TrainConfig("CartPole-v1", device=name, check_gradient=0, num_threads=1, **settings)
    with closing(Trainer(config)) as trainer:
        times = []
        for _ in range(15):
            start = time.perf_counter()
            trainer.update()  # its figures are read at its end
            times.append(time.perf_counter() - start)
    return statistics.median(times[5:])


if __name__ == "__main__":
    sys.exit(main())
