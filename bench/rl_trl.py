"""The tiny task's RL run against TRL's GRPOTrainer: seconds to the same score on held-out problems, on this CPU.

Both start from the same model after SFT and have the same problems, the same checker's reward, groups of 8, tokens'
mean, advantages over the batch's spread, temperature 1 and optimizer. Both are run with the same numbers of problems a
step and learning rates; of a side that run counts which is first at the target. Ours is examples/tiny: vLLM server,
actor and trainer, asynchronous, staleness up to 4. TRL generates with transformers in its trainer's process (its vLLM
mode wants GPUs), all answers of a step in one batch, fp32, one micro-batch, all cores, no checkpointing of activations,
nothing saved but the snapshots.

Every few steps either side leaves its weights; the snapshots of both are scored afterwards by the same code on the
same held-out problems. The clock starts when a side begins to sample: starting the processes is told, but not counted.
Processor seconds are read beside the clock, and where they and the time of a step go is printed for both sides.

    python -m bench.rl_trl [--seeds 1 2 3] [--tried 8:1e-4 32:1e-4 ...] [--target 0.85] [--sides ours trl]
        [--keep FOLDER]

Each seed has its own problems, model and draws: the dataset and the SFT of examples/tiny are run first. `--keep` leaves
models, snapshots and times in a folder and takes up what is there, so that seeds and sides can be run apart.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from bench.figures import report
from bench.jobs import Job, job
from bench.peer import trl_python
from bench.snapshots import EVERY, Point, curve, note, reached, read_profile, write_profile
from bench.tiny_learning import EXAMPLES, write_manifests

ROOT = Path(__file__).resolve().parents[1]
BARS = {"speedup": (">=", 2.0)}
TRIED = [(8, 1e-4), (8, 1.4e-4), (32, 2e-4)]  # problems a step and learning rate


@dataclass(frozen=True)
class Setting:
    """What both sides start from and do alike; `out` is the side's own folder."""

    start: Path
    problems: Path
    out: Path
    seed: int
    problems_per_step: int
    steps: int
    learning_rate: float


def prepare(folder: Path, seed: int) -> tuple[Path, Path]:
    """The model after SFT and the problems for RL, by the first two manifests of examples/tiny."""
    manifests, runs = folder / "manifests", folder / "runs"
    if not manifests.exists():
        write_manifests(manifests, seed)
        for name in ("3-rl.yaml", "4-eval.yaml"):
            (manifests / name).unlink()
        command = [sys.executable, "-m", "qednano.cli", "run", str(manifests), "--root", str(runs)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    (model,) = runs.rglob("tiny-sft*/artifact/model")
    (problems,) = (path for path in runs.rglob("proofdataset/**/artifact/rl*") if path.suffix != ".json")
    return model, problems


def train_ours(setting: Setting) -> None:
    """Server, actor and trainer of examples/tiny; snapshots of what the trainer publishes."""
    spec: dict[str, Any] = yaml.safe_load((EXAMPLES / "3-rl.yaml").read_text())["spec"]
    inputs = {"model": setting.start, "dataset": setting.problems}
    spec |= {name: {"uri": str(path)} for name, path in inputs.items()} | {"seed": setting.seed}
    spec["algorithm"] |= {"maxSteps": setting.steps, "problemsPerStep": setting.problems_per_step}
    spec["trainer"]["learningRate"] = str(setting.learning_rate)
    # a step that waits, one that is trained and a full server: nobody waits for another
    spec["actor"]["concurrentGroups"] = 2 * setting.problems_per_step + 40
    spec["checkpoint"]["everySteps"] = 1000
    run_dir, began = setting.out / "run", time.monotonic()
    with (
        job("serve", run_dir, spec, inputs, "rollout") as server,
        job("rl_trainer", run_dir, spec, inputs, "trainer") as trainer,
    ):
        while not (list((run_dir / "pool").glob("rollout-*.json")) and (run_dir / "weights" / "LATEST").exists()):
            server.check()
            trainer.check()
            time.sleep(0.1)
        print(f"ours: server and trainer ready after {time.monotonic() - began:.0f} s", file=sys.stderr)
        before = processor_seconds([server, trainer])
        with job("rl_actor", run_dir, spec, inputs, "actor") as actor:
            while not list((run_dir / "samples").glob("*.jsonl")):
                actor.check()
                time.sleep(0.01)
            keep_snapshots(run_dir, setting, [server, trainer, actor], before)


def keep_snapshots(run_dir: Path, setting: Setting, jobs: list[Job], before: dict[str, float]) -> None:
    """Copies of every fifth version as it appears, with the seconds since now, and what a step of them costs.

    Processor seconds include the actor's start, which is not on the clock.
    """
    from qednano.rl.weights import latest

    began, out = time.monotonic(), setting.out
    for step in range(EVERY, setting.steps + 1, EVERY):
        while (found := latest(run_dir)) is None or found.version < step:
            for each in jobs:
                each.check()
            time.sleep(0.01)
        seconds = time.monotonic() - began
        shutil.copytree(found.folder, out / f"step-{found.version}")
        spent = {name: value - before.get(name, 0.0) for name, value in processor_seconds(jobs).items()}
        note(out, found.version, seconds, sum(spent.values()))
        if step < setting.steps:  # after the last one they end
            processor = {f"processor ({name})": value for name, value in spent.items()}
            cost = trainer_seconds(jobs[1]) | processor | {"processor": sum(spent.values())}
            write_profile(out, {name: value / found.version for name, value in cost.items()})


def processor_seconds(jobs: list[Job]) -> dict[str, float]:
    """What each job has used so far, vLLM's processes by themselves."""
    found: dict[str, float] = {}
    for each in jobs:
        top = psutil.Process(each.process.pid)
        for process in [top, *top.children(recursive=True)]:
            try:
                name = each.log.stem if process == top else f"{each.log.stem}: {process.name()}"
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            found[name] = found.get(name, 0.0) + times.user + times.system
    return found


def trainer_seconds(trainer: Job) -> dict[str, float]:
    """By the clock: in steps, publishing weights, waiting for groups."""
    names = {"training": "trainer_busy_seconds_total", "publishing": "weight_publish_seconds_sum",
             "waiting": "trainer_wait_seconds_total"}  # fmt: skip
    found = trainer.metrics()
    return {name: next((v for key, v in found.items() if key.endswith(end)), 0.0) for name, end in names.items()}


def train_trl(setting: Setting) -> None:
    """TRL, in its own environment and process."""
    command = [str(trl_python()), "-W", "ignore", "-m", "bench.grpo_peer"]
    for name, value in vars(setting).items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}  # threads spin as they like: it has the cores for itself
    log_file = setting.out / "trl.log"
    with log_file.open("w") as log:
        done = subprocess.run(command, env=env, stdout=log, stderr=log, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"TRL failed:\n{log_file.read_text()[-3000:]}")


SIDES = {"ours": train_ours, "trl": train_trl}


def run_seed(folder: Path, seed: int, args: argparse.Namespace) -> dict[str, Point]:
    """Each side's fastest way to the target with one seed; all are printed with what a step costs."""
    start, problems = prepare(folder, seed)
    found: dict[str, list[Point]] = {side: [] for side in args.sides}
    for problems_per_step, rate in args.tried:
        for side in args.sides:  # one after the other, as the machine's speed changes over the hours
            out = folder / f"{side}-{problems_per_step}-{rate:g}"
            steps = args.steps or steps_for(problems_per_step)
            if not (out / "done").exists():
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir(parents=True)
                SIDES[side](Setting(start, problems, out, seed, problems_per_step, steps, rate))
                (out / "done").touch()
            points = curve(out, args.target)
            shown = ", ".join(f"{point.seconds:.0f} s (step {point.step}) {point.score:.3f}" for point in points)
            costs = ", ".join(f"{name} {value:.2f}" for name, value in read_profile(out).items())
            print(
                f"seed {seed}, {side}, {problems_per_step} problems at {rate:g}: {shown}\n    seconds a step: {costs}",
                flush=True,
            )
            if points[-1].score >= args.target:
                found[side].append(reached(points, args.target))
    for side, points in found.items():
        if not points:
            raise SystemExit(f"{side} never reached {args.target} with seed {seed}")
    return {side: min(points, key=lambda point: point.seconds) for side, points in found.items()}


def steps_for(problems_per_step: int) -> int:
    """Enough of them for the target: the smaller, the more, though not in proportion."""
    return EVERY * round(40 * math.sqrt(32 / problems_per_step) / EVERY)


def pair(text: str) -> tuple[int, float]:
    """ "8:1e-4" as numbers."""
    problems, rate = text.split(":")
    return int(problems), float(rate)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--target", type=float, default=0.85, help="score to reach on held-out problems")
    parser.add_argument("--tried", type=pair, nargs="*", default=TRIED, help="problems a step and learning rates")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run (default: 40 of 32 problems, 80 of 8)")
    parser.add_argument("--sides", nargs="*", choices=tuple(SIDES), default=list(SIDES))
    parser.add_argument("--keep", type=Path, help="where everything lies (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).absolute()
        arrivals = [run_seed(folder / f"seed-{seed}", seed, args) for seed in args.seeds]
    if len(args.sides) < len(SIDES):
        return 0
    ratios = [each["trl"].seconds / each["ours"].seconds for each in arrivals]
    work = [each["trl"].processor / each["ours"].processor for each in arrivals]
    figures = {"target": args.target}
    for side in SIDES:
        figures[f"{side}_seconds"] = statistics.median(each[side].seconds for each in arrivals)
        figures[f"{side}_steps"] = statistics.median(each[side].step for each in arrivals)
    figures |= {"speedup": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    figures["processor_seconds_ratio"] = statistics.median(work)
    return report("the tiny task's RL against TRL's GRPOTrainer", figures, BARS)


if __name__ == "__main__":
    sys.exit(main())
