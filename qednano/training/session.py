"""What SFT and RL trainers do alike around their steps: fence, resume, save, stop, report, and leave the artifact."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from qednano import metrics
from qednano.api.engine import CheckpointPolicy, Engine, Lora, Optimisation
from qednano.artifacts import check_fence, claim_attempt, publish, read_manifest, staging, write_atomic, write_manifest
from qednano.errors import ArtifactError, NumericGuard, Stopped
from qednano.job import JobContext, Outcome
from qednano.plan.evaluations import chooses
from qednano.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    random_state,
    seed_generators,
    set_random_state,
    step_of,
)
from qednano.training.engine import (
    EngineConfig,
    Interrupted,
    LossFunction,
    StepReport,
    TrainingEngine,
    join_ranks,
    leave_ranks,
)
from qednano.training.export import export_checkpoint, exported_steps, prune_exports, write_origin
from qednano.training.flops import peak_flops
from qednano.training.lora import LoraConfig
from qednano.training.model import PolicyOptions, check_model_folder, load_policy, load_tokenizer, write_model_folder
from qednano.training.optim import OptimizerConfig
from qednano.training.packing import Document, MicroBatch
from qednano.training.sequence import sequence_group

log = logging.getLogger(__name__)


@dataclass
class Session:
    """One attempt of a trainer: its engine, checkpoints and the right to write into the run's folder."""

    context: JobContext
    engine: TrainingEngine
    checkpoints: Checkpoints
    model_folder: Path
    trainer: Engine
    policy: CheckpointPolicy
    total_steps: int
    _then: list[Callable[[], None]] = field(default_factory=list)  # what waits for the checkpoint being written
    _began: float = 0.0
    _gpu_seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def resume(self) -> Checkpoint | None:
        """Load the newest checkpoint that verifies; None when the run starts from its model."""
        if self.engine.rank == 0:
            self._sweep()
        checkpoint = self.checkpoints.newest()
        if checkpoint is not None:
            if self.engine.rank == 0 and self._exports(checkpoint.step):
                # The attempt before may have ended between its checkpoint and the export.
                export_checkpoint(self.context.run_dir, checkpoint.folder)
            self.engine.load(checkpoint.folder)
            self.checkpoints.restore_random_state(checkpoint)
            log.info("resumed from %s", checkpoint.folder)
        if self.engine.rank == 0:
            self.context.reporter.update(exports=exported_steps(self.context.run_dir))
        return checkpoint

    def _sweep(self) -> None:
        """Remove what attempts that were killed left half-written: each may be as large as the model."""
        self.checkpoints.sweep()
        run_dir = self.context.run_dir
        for leftover in (
            *run_dir.glob(".tmp-artifact-*"),
            *run_dir.glob(".tmp-initial-*"),
            *run_dir.glob("exports/.*"),
        ):
            shutil.rmtree(leftover, ignore_errors=True)

    def micro_batches(self, documents: Sequence[Document], field_names: Sequence[str] = ()) -> list[MicroBatch]:
        """This rank's micro-batches of documents that every rank gives alike."""
        return self.engine.micro_batches(
            documents,
            field_names,
            sequence_length=self.trainer.sequence_length,
            micro_batch_tokens=self.trainer.micro_batch_tokens,
        )

    def train(self, documents: Sequence[Document], loss: LossFunction, field_names: Sequence[str] = ()) -> StepReport:
        """One optimizer step on documents that every rank gives alike.

        Raises NumericGuard after too many steps that were not finite; the last batch is left in ``anomalies/`` then.
        Raises Interrupted when a stop is requested meanwhile: what `save` writes then is the state before the step,
        random numbers included.
        """
        batches = self.micro_batches(documents, field_names)
        drawn = random_state()
        try:
            return self.engine.train_step(batches, loss, self.stop_requested)
        except Interrupted:
            set_random_state(drawn)
            raise
        except NumericGuard as error:
            raise NumericGuard(f"{error}. Its batch is in {self._keep_for_a_look(batches)}") from None

    def _keep_for_a_look(self, batches: Sequence[MicroBatch]) -> Path:
        """Write what this rank was trained on, as JSON with the texts; the file's path."""
        tokenizer = load_tokenizer(self.model_folder)
        micros = []
        for batch, loss in zip(batches, self.engine.losses, strict=True):
            numbers = {name: value.tolist() for name, value in {**batch.fields, "weights": batch.weights}.items()}
            micros.append(
                {
                    "loss": repr(loss),
                    "documents": [{"text": tokenizer.decode(ids), "tokens": ids.tolist()} for ids in batch.documents()],
                    "sample": batch.sample.tolist(),
                    "targets": batch.targets.tolist(),
                    **{name: [repr(value) for value in values] for name, values in numbers.items()},
                }
            )
        step, rank = self.engine.step, self.engine.rank
        path = self.context.run_dir / "anomalies" / f"step-{step:06d}-rank-{rank:05d}.json"
        write_atomic(path, json.dumps({"step": step, "rank": rank, "microBatches": micros}, ensure_ascii=False) + "\n")
        return path

    def save(
        self,
        state: dict[str, Any],
        *,
        score: float | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Write a checkpoint of now. Every rank calls it with the same state.

        Training goes on while a thread writes. `then` is called from this thread once the checkpoint is complete: at
        the next `save`, `stop_requested` or `settle`. Highest `score`s are kept longest.
        """
        self.settle()
        self._began = time.monotonic()
        self._then = [then] if then else []
        self.checkpoints.start(self.engine.step, state, self.engine.snapshot().write, score)

    def settle(self) -> None:
        """Wait until the checkpoint being written is complete. Every rank calls it."""
        self.checkpoints.wait()
        self._complete()

    def _complete(self) -> None:
        then, self._then = self._then, []
        for call in then:
            call()

    def _published(self, checkpoint: Path, kept: list[Path]) -> None:
        """After a checkpoint is there (rank 0, in the writing thread): its metrics, and its export if wanted."""
        role = self.context.role
        metrics.CHECKPOINT_SECONDS.labels(role).observe(time.monotonic() - self._began)
        metrics.CHECKPOINT_TIME.labels(role).set_to_current_time()
        run_dir, step = self.context.run_dir, step_of(checkpoint)
        if self._exports(step):
            export_checkpoint(run_dir, checkpoint)
        evaluated = {step for step in exported_steps(run_dir) if self._evaluated(step)}
        prune_exports(run_dir, kept, evaluated)
        self.context.reporter.update(exports=exported_steps(run_dir), checkpointed=time.time())

    def _evaluated(self, step: int) -> bool:
        """Whether an evaluation of the spec is of this step."""
        return any(chooses(item, step, self.total_steps) for item in self.context.spec.evaluations)

    def _exports(self, step: int) -> bool:
        """Whether a checkpoint of this step is exported too."""
        return self.policy.export or self._evaluated(step)

    def due(self) -> bool:
        """Whether a checkpoint is due after the step just done."""
        return self.engine.step % self.policy.every_steps == 0 or self._evaluated(self.engine.step)

    def stop_requested(self) -> bool:
        """Whether any rank was asked to stop; all ranks get the same answer, and each must ask."""
        stop, failed = any_rank([self.context.stopping.is_set(), self.checkpoints.failed()], self.engine.device)
        if failed:
            self.settle()  # raises what went wrong
        if not self.checkpoints.busy():
            self._complete()
        return stop

    def stopped(self) -> Stopped:
        """What to raise after a stop was requested and `save` called: waits until the state is there. Collective."""
        self.settle()
        return Stopped(f"stopped after step {self.engine.step} of {self.total_steps}, which is saved")

    def report(self, step: StepReport, extra: dict[str, float], seconds: float) -> None:
        """Show the step in progress, metrics and, now and then, the log. `seconds`: that the step took."""
        if self.engine.rank != 0:
            return
        role = self.context.role
        rate = step.tokens / max(seconds, 1e-9)
        shown = {
            "loss": step.loss,
            "learningRate": step.learning_rate,
            "gradNorm": step.grad_norm,
            "tokensPerSecond": rate,
            "skippedSteps": float(self.engine.refused_steps),
            "memoryGiB": memory_bytes() / 2**30,
            **self._gpu_use(step, seconds),
            **extra,
        }
        metrics.LOSS.labels(role).set(step.loss)
        metrics.LEARNING_RATE.labels(role).set(step.learning_rate)
        metrics.GRAD_NORM.labels(role).set(step.grad_norm)
        metrics.TOKENS_TRAINED.labels(role).inc(step.tokens)
        metrics.TOKEN_RATE.labels(role).set(rate)
        metrics.SKIPPED_STEPS.labels(role).inc(not step.applied)
        metrics.TRAINER_MEMORY.labels(role).set(memory_bytes())
        finite = {name: value for name, value in shown.items() if value == value}
        self.context.reporter.update(
            step=self.engine.step, total=self.total_steps, stage="training", unit="step", metrics=finite
        )
        if not step.applied:
            log.warning("step %d was skipped: loss or gradients not finite (loss %s)", self.engine.step, step.loss)
        if self.engine.step % max(1, self.total_steps // 50) == 0:
            log.info("step %d/%d %s", self.engine.step, self.total_steps, _line(finite))

    def _gpu_use(self, step: StepReport, seconds: float) -> dict[str, float]:
        """MFU, where the GPU's peak is known (see `ModelFlops.training`), and GPU-seconds since the start."""
        if self.engine.device.type != "cuda":
            return {}
        now, role = time.monotonic(), self.context.role
        spent = (now - self._started) * self.engine.ranks
        metrics.GPU_SECONDS.labels(role).inc(spent - self._gpu_seconds)
        self._gpu_seconds = spent
        found = {"gpuSeconds": spent}
        if peak := peak_flops(torch.cuda.get_device_name(self.engine.device)):
            found["mfu"] = step.flops / max(seconds, 1e-9) / (peak * self.engine.ranks)
            metrics.MFU.labels(role).set(found["mfu"])
        return found

    def write_model(self, weights: dict[str, torch.Tensor], folder: Path) -> None:
        """Write weights as a plain model folder, with tokenizer and chat template of the model we started from."""
        write_model_folder(weights, self.model_folder, folder)

    def finish(self, message: str, numbers: dict[str, float]) -> Outcome:
        """Write ``artifact/`` (model folder and manifest) and say so. Every rank calls it."""
        self.settle()
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
            any_rank([False], self.engine.device)  # no rank leaves before the artifact is there
        leave_ranks()
        return Outcome(message, numbers, final)


def _line(values: dict[str, float]) -> str:
    return " ".join(f"{name}={value:.5g}" for name, value in values.items())


def memory_bytes() -> int:
    """The most memory this process has held: of its GPU, or else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def any_rank(flags: Sequence[bool], device: torch.device | None = None) -> list[bool]:
    """For each flag whether it is set on any rank. Collective."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return list(flags)
    values = torch.tensor([float(flag) for flag in flags], device=device)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


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
    total_steps: int | Callable[[Path], int],
    temperature: float = 1.0,
) -> Session:
    """Join the ranks, claim the run's folder, load the model into an engine.

    `model_folder` is called once the folder is claimed, by every rank, and may make the model on rank 0;
    `total_steps` may be counted with the model's tokenizer at hand.
    """
    _quiet_libraries()
    torch.set_num_threads(trainer.threads)
    join_ranks()
    fence = [claim_attempt(context.run_dir) if dist.get_rank() == 0 else 0]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(fence)
    folder = model_folder()
    check_model_folder(folder)
    steps = total_steps if isinstance(total_steps, int) else total_steps(folder)
    context.reporter.update(total=steps)
    precision, seed = str(trainer.precision), int(context.config.spec.get("seed", 0))
    policy = load_policy(
        folder,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        options=PolicyOptions(
            attention=str(trainer.attention),
            activation_checkpointing=str(trainer.activation_checkpointing),
            lora=_lora(trainer.lora),
            sequence=sequence_group(trainer.sequence_parallel),
            seed=seed,
        ),
    )
    engine = TrainingEngine(
        policy,
        OptimizerConfig(
            learning_rate=float(optimisation.learning_rate),
            total_steps=steps,
            schedule=str(optimisation.schedule),  # type: ignore[arg-type]
            warmup_steps=optimisation.warmup_steps,
            weight_decay=float(optimisation.weight_decay),
            grad_clip=float(optimisation.grad_clip),
            beta1=float(optimisation.beta1),
            beta2=float(optimisation.beta2),
        ),
        EngineConfig(
            zero_stage=trainer.zero_stage,
            precision=precision,
            temperature=temperature,
            refusals_allowed=trainer.max_skipped_steps,
        ),
    )
    seed_generators(seed, engine.rank)  # after all that may draw numbers while it loads
    checkpoints = Checkpoints(
        context.run_dir,
        keep_last=checkpoint.keep_last,
        keep_best=checkpoint.keep_best,
        attempt=fence[0],
        before_publish=lambda: check_fence(context.run_dir, fence[0]),
    )
    session = Session(context, engine, checkpoints, folder, trainer, checkpoint, steps)
    checkpoints.published = session._published
    if engine.rank == 0:
        config = context.config
        write_origin(context.run_dir, model_folder=folder, kind=config.kind, name=config.name, spec=config.spec)
    log.info("rank %d of %d, pid %d, %s", engine.rank, engine.ranks, os.getpid(), engine.device)
    return session


def _lora(lora: Lora | None) -> LoraConfig | None:
    return None if lora is None else LoraConfig(lora.rank, lora.alpha, float(lora.dropout), tuple(lora.targets))


def _quiet_libraries() -> None:
    """Their progress bars and per-file notes would bury ours: an RL run writes a model folder every step."""
    import warnings

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # DeepSpeed's to heed
    for name in ("DeepSpeed", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
