"""A job that follows the script of its role: files in the run folder steer it and tell what it did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from qednano.artifacts import publish, staging, write_manifest
from qednano.errors import ConfigError, DataError, Stopped, Unavailable
from qednano.job import JobContext, Outcome, job
from qednano.plan.references import export_path

_ERRORS = {"config": ConfigError, "data": DataError, "unavailable": Unavailable}


def _note(ctx: JobContext, **facts: object) -> None:
    with (ctx.run_dir / f"{ctx.role}-{ctx.index}.starts").open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "attempt": ctx.attempt, **facts}) + "\n")


def _misbehave(ctx: JobContext, script: dict) -> None:
    """The next of ``script.failures`` that has not happened yet."""
    happened = ctx.run_dir / f"{ctx.role}-{ctx.index}.failures"
    count = int(happened.read_text()) if happened.exists() else 0
    failures = script.get("failures", [])
    if count >= len(failures):
        return
    happened.write_text(str(count + 1))
    failure = failures[count]
    if failure == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if failure == "stand still":
        ctx.reporter.update(step=1, stage="count")
        ctx.stopping.wait(600)
        raise Stopped("stopped where it stood")
    raise _ERRORS[failure](f"{ctx.role} was told to fail with {failure}")


def _work(ctx: JobContext, steps: int, pause: float) -> None:
    """Count to ``steps``, one file a step, from where an earlier attempt stopped."""
    saved = ctx.run_dir / f"{ctx.role}-{ctx.index}.step"
    step = int(saved.read_text()) if saved.exists() else 0
    while step < steps:
        if ctx.stopping.wait(pause):
            saved.write_text(str(step))
            raise Stopped(f"saved at step {step}")
        step += 1
        ctx.reporter.update(step=step, total=steps, stage="count", metrics={"loss": 1 / step, "reward": step / steps})
    saved.write_text(str(step))


def _publish(ctx: JobContext) -> Path:
    final = ctx.run_dir / "artifact"
    with staging(final) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(json.dumps(ctx.config.spec["seed"]))
        (folder / "train.parquet").write_text(ctx.config.name)
        write_manifest(folder, kind=ctx.config.kind, name=ctx.config.name)
        publish(folder, final)
    return final


@job
def main(ctx: JobContext) -> Outcome:
    script = json.loads(os.environ.get("SCRIPT", "{}")).get(ctx.role, {})
    child = None
    if script.get("grandchild"):  # of a session of its own, as torchrun's workers are
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    _note(ctx, port=ctx.port, grandchild=child.pid if child else None, threads=os.environ["OMP_NUM_THREADS"])
    _misbehave(ctx, script)
    if script.get("hang"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    _work(ctx, script.get("steps", 3), script.get("pause", 0.02))
    for step in script.get("exports", []):
        (ctx.run_dir / export_path(step)).mkdir(parents=True)
    if script.get("publish", True) and ctx.rank == 0:
        return Outcome("done", {"steps": 3}, _publish(ctx))
    return Outcome("done")


if __name__ == "__main__":
    sys.exit(main())
