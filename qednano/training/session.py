"""What SFT and RL trainers do alike around their steps: fence, resume, save, stop, report, and leave the artifact."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from qednano import metrics
from qednano.api.engine import CheckpointPolicy, Engine, Optimisation
from qednano.artifacts import check_fence, claim_attempt, publish, read_manifest, staging, write_manifest
from qednano.errors import ArtifactError, Stopped
from qednano.job import JobContext, Outcome
from qednano.training.checkpoint import Checkpoint, Checkpoints
from qednano.training.engine import EngineConfig, StepReport, TrainingEngine, join_ranks
from qednano.training.model import load_policy, write_model_folder
from qednano.training.optim import OptimizerConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Session:
    """One attempt of a trainer: its engine, checkpoints and the right to write into the run's folder."""

    context: JobContext
    engine: TrainingEngine
    checkpoints: Checkpoints
    model_folder: Path
    every_steps: int
    total_steps: int

    def resume(self) -> Checkpoint | None:
        """Load the newest checkpoint that verifies; None when the run starts from its model."""
        if self.engine.rank == 0:
            self.checkpoints.sweep()
        checkpoint = self.checkpoints.newest()
        if checkpoint is not None:
            self.engine.load(checkpoint.folder)
            self.checkpoints.restore_random_state(checkpoint)
            log.info("resumed from %s", checkpoint.folder)
        return checkpoint

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint of now. Every rank calls it with the same state."""
        began = time.monotonic()
        self.checkpoints.save(self.engine.step, state, self.engine.save)
        role = self.context.role
        metrics.CHECKPOINT_SECONDS.labels(role).observe(time.monotonic() - began)
        metrics.CHECKPOINT_TIME.labels(role).set_to_current_time()

    def due(self) -> bool:
        """Whether a checkpoint is due after the step just done."""
        return self.engine.step % self.every_steps == 0

    def stop_requested(self) -> bool:
        """Whether any rank was asked to stop; all ranks get the same answer, and each must ask."""
        return any_rank(self.context.stopping.is_set(), self.engine.device)

    def stopped(self) -> Stopped:
        """What to raise once a stop was requested and the state is saved."""
        return Stopped(f"stopped after step {self.engine.step} of {self.total_steps}, which is saved")

    def report(self, step: StepReport, extra: dict[str, float], seconds: float) -> None:
        """Show the step in progress, metrics and, now and then, the log."""
        if self.engine.rank != 0:
            return
        role = self.context.role
        metrics.STEP.labels(role).set(self.engine.step)
        metrics.STEPS_TOTAL.labels(role).set(self.total_steps)
        metrics.LOSS.labels(role).set(step.loss)
        metrics.LEARNING_RATE.labels(role).set(step.learning_rate)
        metrics.GRAD_NORM.labels(role).set(step.grad_norm)
        metrics.TOKENS_TRAINED.labels(role).inc(step.tokens)
        metrics.SKIPPED_STEPS.labels(role).inc(not step.applied)
        shown = {
            "loss": step.loss,
            "learningRate": step.learning_rate,
            "gradNorm": step.grad_norm,
            "tokensPerSecond": step.tokens / max(seconds, 1e-9),
            "skippedSteps": float(self.engine.refused_steps),
            **extra,
        }
        finite = {name: value for name, value in shown.items() if value == value}
        self.context.reporter.update(
            step=self.engine.step, total=self.total_steps, stage="training", unit="step", metrics=finite
        )
        if not step.applied:
            log.warning("step %d was skipped: loss or gradients not finite (loss %s)", self.engine.step, step.loss)
        if self.engine.step % max(1, self.total_steps // 50) == 0:
            log.info("step %d/%d %s", self.engine.step, self.total_steps, _line(finite))

    def write_model(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        """Write weights as a plain model folder, with tokenizer and chat template of the model we started from."""
        write_model_folder(weights, self.model_folder, folder)

    def finish(self, message: str, numbers: dict[str, float]) -> Outcome:
        """Write ``artifact/`` (model folder and manifest) and say so. Every rank calls it."""
        context, final = self.context, self.context.run_dir / "artifact"
        context.reporter.update(stage="saving")
        with staging(final) as folder:
            self.engine.export(self.model_folder, folder / "model")
            if self.engine.rank == 0:
                write_manifest(
                    folder,
                    kind=context.config.kind,
                    name=context.config.name,
                    spec=context.config.spec,
                    inputs={name: value.model_dump() for name, value in context.config.inputs.items()},
                    seeds={"seed": int(context.config.spec.get("seed", 0))},
                    metrics=numbers,
                )
                self.checkpoints.before_publish()
                publish(folder, final)
            any_rank(False, self.engine.device)  # no rank leaves before the artifact is there
        return Outcome(message, numbers, final)


def _line(values: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.5g}" for name, value in values.items())


def any_rank(flag: bool, device: torch.device | None = None) -> bool:
    """Whether `flag` is set on any rank. Collective."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value)


def finished(context: JobContext) -> Outcome | None:
    """The outcome of a run whose artifact is there already: it was started once more after its end."""
    final = context.run_dir / "artifact"
    try:
        manifest = read_manifest(final)
    except ArtifactError:
        return None
    return Outcome("already done", {name: float(value) for name, value in manifest.metrics.items()}, final)


def open_session(
    context: JobContext,
    model_folder: Callable[[], Path],
    *,
    trainer: Engine,
    optimisation: Optimisation,
    checkpoint: CheckpointPolicy,
    total_steps: int,
    temperature: float = 1.0,
) -> Session:
    """Join the ranks, claim the run's folder, load the model into an engine.

    `model_folder` is called once the folder is claimed, by every rank, and may make the model on rank 0.
    """
    _quiet_libraries()
    torch.set_num_threads(trainer.threads)
    join_ranks()
    fence = [claim_attempt(context.run_dir) if dist.get_rank() == 0 else 0]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(fence)
    folder = model_folder()
    precision = str(trainer.precision)
    policy = load_policy(folder, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    engine = TrainingEngine(
        policy,
        OptimizerConfig(
            learning_rate=float(optimisation.learning_rate),
            total_steps=total_steps,
            schedule=str(optimisation.schedule),  # type: ignore[arg-type]
            warmup_steps=optimisation.warmup_steps,
            weight_decay=float(optimisation.weight_decay),
            grad_clip=float(optimisation.grad_clip),
            beta1=float(optimisation.beta1),
            beta2=float(optimisation.beta2),
        ),
        EngineConfig(zero_stage=trainer.zero_stage, precision=precision, temperature=temperature),
    )
    checkpoints = Checkpoints(
        context.run_dir,
        keep_last=checkpoint.keep_last,
        before_publish=lambda: check_fence(context.run_dir, fence[0]),
    )
    log.info("rank %d of %d, pid %d, %s", engine.rank, engine.ranks, os.getpid(), engine.device)
    return Session(context, engine, checkpoints, folder, checkpoint.every_steps, total_steps)


def _quiet_libraries() -> None:
    """Their progress bars and per-file notes would bury ours: an RL run writes a model folder every step."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("DeepSpeed", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
