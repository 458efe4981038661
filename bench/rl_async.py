"""Asynchronous RL against this project's own synchronous mode, with a rollout server that uses no cores.

Actor and trainer are the real jobs, with the tiny model; the server is `bench.paced_rollouts`. Three runs of as many
steps, timed from the first to the last published weights:

- "keeps up": generation takes four fifths of what training takes, asynchronous: how busy is the trainer?
- "async" and "sync": both take the same. Synchronous is `maxStaleness: 0`: a step's groups are drawn with the weights
  of the step before, so generation and training take turns; asynchronous is `maxStaleness: 4`.

What training takes is measured first. All answers are equally long: stragglers, which a synchronous step waits for
and an asynchronous one doesn't, play no part.

    python -m bench.rl_async [--quick]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.figures import report
from bench.jobs import Job, job
from bench.paced_rollouts import paced_rollouts
from qednano.rl.weights import latest_version
from qednano.tiny import problems
from qednano.tiny.model import init

PROBLEMS, GROUP_SIZE, TOKENS = 16, 8, 120
STALENESS = 4
BARS = {"busy_share": (">=", 0.9), "speedup": (">=", 1.6)}
WARM_STEPS = 2  # not timed: compilation, first allocations, an empty queue


@dataclass(frozen=True)
class Timing:
    """Of the timed steps: seconds by the wall clock, of which in optimizer steps, publishing and waiting for groups."""

    steps: int
    wall: float
    busy: float
    publishing: float
    waiting: float


def spec(model: Path, steps: int, staleness: int) -> dict[str, Any]:
    """The RLRun."""
    return {
        "model": {"uri": str(model)},
        "dataset": {"uri": "/unused"},
        "algorithm": {
            "maxSteps": steps, "groupSize": GROUP_SIZE, "problemsPerStep": PROBLEMS, "maxStaleness": staleness,
            "aggregation": "TokenMean",
        },
        "sampling": {"maxTokens": TOKENS},
        "rollout": {"maxModelLength": 160, "maxConcurrent": PROBLEMS * GROUP_SIZE},
        "grader": {"entryPoint": {"name": "bench.paced_rollouts:Noise"}},
        "trainer": {
            "sequenceLength": 256, "microBatchTokens": 4096, "precision": "fp32", "threads": 1,
            "learningRate": "1e-5", "schedule": "constant", "warmupSteps": 0,
        },
        "checkpoint": {"everySteps": 1000},
    }  # fmt: skip


def wait_for_version(run_dir: Path, version: int, jobs: list[Job]) -> float:
    """When it was there, by the monotonic clock."""
    while latest_version(run_dir) < version:
        for each in jobs:
            each.check()
        time.sleep(0.005)
    return time.monotonic()


def spent(trainer: Job) -> tuple[float, float, float]:
    """Seconds so far: in steps, publishing, waiting."""
    found = trainer.metrics()
    names = ("trainer_busy_seconds_total", "weight_publish_seconds_sum", "trainer_wait_seconds_total")
    busy, publishing, waiting = (
        next((value for name, value in found.items() if name.endswith(end)), 0.0) for end in names
    )
    return busy, publishing, waiting


def run(folder: Path, name: str, steps: int, staleness: int, seconds: float) -> Timing:
    """One RL run whose server takes `seconds` for the answers of a step."""
    model, run_dir, dataset = folder / "model", folder / name, folder / "problems.jsonl"
    asked = spec(model, steps + WARM_STEPS + 1, staleness)
    inputs = {"model": model, "dataset": dataset}
    with (
        paced_rollouts(run_dir, PROBLEMS * GROUP_SIZE, TOKENS, seconds),
        job("rl_trainer", run_dir, asked, inputs, "trainer") as trainer,
        job("rl_actor", run_dir, asked, inputs, "actor") as actor,
    ):
        jobs = [trainer, actor]
        began = wait_for_version(run_dir, WARM_STEPS, jobs)
        before = spent(trainer)
        ended = wait_for_version(run_dir, WARM_STEPS + steps, jobs)
        busy, publishing, waiting = (late - early for late, early in zip(spent(trainer), before, strict=True))
    found = Timing(steps, ended - began, busy, publishing, waiting)
    print(
        f"{name}: {found.wall / steps:.2f} s a step, of which training {busy / steps:.2f}, publishing "
        f"{publishing / steps:.2f}, waiting {waiting / steps:.2f}; generation takes {seconds:.2f}",
        file=sys.stderr,
    )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--steps", type=int, default=0, help="timed optimizer steps of a run")
    args = parser.parse_args()
    steps = args.steps or (12 if args.quick else 30)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        init(folder / "model")
        rows = ({"id": item.id, "problem": item.text} for item in problems.generate(seed=1, count=2000))
        (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        first = run(folder, "calibration", max(4, steps // 4), STALENESS, 0.05)
        training = (first.busy + first.publishing) / first.steps
        fast = run(folder, "keeps-up", steps, STALENESS, 0.8 * training)
        asynchronous = run(folder, "async", steps, STALENESS, training)
        synchronous = run(folder, "sync", steps, 0, training)
    figures = {
        "training_seconds_a_step": training,
        "busy_share": (fast.busy + fast.publishing) / fast.wall,
        "busy_share_without_publishing": fast.busy / fast.wall,
        "waiting_share": fast.waiting / fast.wall,
        "async_seconds": asynchronous.wall,
        "sync_seconds": synchronous.wall,
        "async_training_seconds_a_step": asynchronous.busy / steps,
        "sync_training_seconds_a_step": synchronous.busy / steps,
        "speedup": synchronous.wall / asynchronous.wall,
    }
    return report("asynchronous RL against synchronous", figures, BARS)


if __name__ == "__main__":
    sys.exit(main())
