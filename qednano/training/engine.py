"""One DeepSpeed engine for SFT and RL: micro-batches in, one optimizer step out.

Every token carries its weight, normalised over the whole step before anything is packed; the engine only adds up.
So loss and gradients don't depend on how documents fall into rows, micro-batches or ranks. The engine knows nothing
of what the loss is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qednano.errors import CheckpointError, NumericGuard, RendezvousError
from qednano.training.model import Policy, write_model_folder
from qednano.training.optim import GuardedAdamW, OptimizerConfig, learning_rate, parameter_groups
from qednano.training.packing import MicroBatch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
RENDEZVOUS_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class EngineConfig:
    """How the engine lays out memory. `refusals_allowed`: steps in a row that may be refused as not finite."""

    zero_stage: int = 0
    precision: str = "fp32"
    temperature: float = 1.0
    refusals_allowed: int = 5


@dataclass(frozen=True)
class LossTerms:
    """What a loss function makes of one micro-batch: `total`, a scalar with gradient, already normalised over the
    step, and further scalars that add up over micro-batches and ranks."""

    total: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)


LossFunction = Callable[[MicroBatch, Tensor, Tensor], LossTerms]
"""(micro-batch, log-probs [N], entropies [N]) to LossTerms."""


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, summed over micro-batches and ranks. `applied` is False when the guard refused it."""

    loss: float
    sums: dict[str, float]
    tokens: int
    grad_norm: float
    learning_rate: float
    applied: bool


class TrainingEngine:
    """A policy, its optimizer and DeepSpeed. `step` counts optimizer steps done, refused ones included."""

    def __init__(self, policy: Policy, optimizer: OptimizerConfig, config: EngineConfig) -> None:
        import deepspeed

        join_ranks()
        self.config, self.optimizer_config = config, optimizer
        self.step = 0
        self.refused_in_a_row = 0
        self.refused_steps = 0
        # bf16 trains fp32 master weights, which ZeRO-1 and up hold; with fp32 stage 0 there is nothing to wrap.
        self.zero_stage = max(1, config.zero_stage) if config.precision == "bf16" else config.zero_stage
        self._adamw = GuardedAdamW(
            parameter_groups(policy.named_parameters(), optimizer.weight_decay),
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            fused=True,
        )
        if self.zero_stage == 0:
            self._adamw.max_norm = optimizer.grad_clip
        self.engine, *_ = deepspeed.initialize(
            model=policy, optimizer=self._adamw, config=self._deepspeed_config(), dist_init_required=False
        )
        self.device = self.engine.device

    def _deepspeed_config(self) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,  # step() is the boundary, after any number of micro-batches
            "gradient_clipping": 0.0 if self.zero_stage == 0 else self.optimizer_config.grad_clip,
            "bf16": {"enabled": self.config.precision == "bf16"},
            "zero_optimization": {
                "stage": self.zero_stage,
                "overlap_comm": False,
                "contiguous_gradients": True,
                "stage3_param_persistence_threshold": 10_000,
            },
            "zero_allow_untested_optimizer": True,
            "steps_per_print": None,
            "wall_clock_breakdown": False,
        }

    @property
    def rank(self) -> int:
        """This process among all ranks."""
        return dist.get_rank()

    @property
    def ranks(self) -> int:
        """How many processes train together."""
        return dist.get_world_size()

    def train_step(self, batches: Sequence[MicroBatch], loss_function: LossFunction) -> StepReport:
        """Forward and backward over this rank's micro-batches, then one update.

        Raises NumericGuard when too many steps in a row were not finite.
        """
        self.engine.train()
        rate = learning_rate(self.optimizer_config, self.step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        totals: dict[str, Tensor] = {}
        for batch in batches:
            batch = batch.to(self.device)
            terms = loss_function(batch, *self.engine(batch, self.config.temperature))
            # DeepSpeed averages gradients over ranks; the terms are normalised over the step, so they must add up.
            self.engine.backward(terms.total * self.ranks)
            for name, value in {"loss": terms.total, "tokens": torch.tensor(batch.tokens), **terms.sums}.items():
                totals[name] = totals.get(name, 0) + value.detach().double()
        sums = self._sum_over_ranks(totals)
        self._adamw.refuse = not math.isfinite(sums["loss"])
        self._adamw.refused = False
        self.engine.step()
        applied = self.engine.was_step_applied() and not self._adamw.refused
        self.step += 1
        self._count_refusal(applied, sums["loss"])
        norm = self._adamw.norm if self.zero_stage == 0 else float(self.engine.get_global_grad_norm() or math.nan)
        loss, tokens = sums.pop("loss"), int(sums.pop("tokens"))
        return StepReport(loss, sums, tokens, norm if applied else math.nan, rate, applied)

    def _count_refusal(self, applied: bool, loss: float) -> None:
        self.refused_in_a_row = 0 if applied else self.refused_in_a_row + 1
        self.refused_steps += not applied
        if self.refused_in_a_row > self.config.refusals_allowed:
            raise NumericGuard(
                f"loss or gradients were not finite for {self.refused_in_a_row} steps in a row, up to step {self.step} "
                f"(loss {loss}); lower learningRate, or check the data near this step"
            )

    def _sum_over_ranks(self, totals: dict[str, Tensor]) -> dict[str, float]:
        names = sorted(totals)
        values = torch.stack([totals[name].to(self.device) for name in names])
        if self.ranks > 1:
            dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of a micro-batch's targets, without gradients."""
        self.engine.eval()
        found: tuple[Tensor, Tensor] = self.engine(batch.to(self.device), self.config.temperature)
        return found

    def weights(self) -> dict[str, Tensor]:
        """All weights on the CPU under their Hugging Face names; empty on ranks above 0. Every rank must call it."""
        import deepspeed

        tied = set(getattr(self.engine.module.causal_lm, "_tied_weights_keys", None) or {})
        if not self.engine.module.causal_lm.config.tie_word_embeddings:
            tied = set()
        weights: dict[str, Tensor] = {}
        for name, parameter in self.engine.module.named_parameters(remove_duplicate=False):
            name = name.removeprefix("causal_lm.")
            if name in tied:
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.zero_stage == 3):
                if self.rank == 0:
                    weights[name] = parameter.detach().cpu().clone()
        return weights

    def export(self, source: Path, folder: Path) -> None:
        """Write the weights as a plain Hugging Face folder with `source`'s tokenizer. Every rank must call it."""
        weights = self.weights()
        if self.rank == 0:
            write_model_folder(weights, source, folder)

    def save(self, folder: Path) -> None:
        """Write weights, optimizer and counters of this rank into `folder` (every rank calls it with the same)."""
        state = {
            "step": self.step,
            "refused_in_a_row": self.refused_in_a_row,
            "refused_steps": self.refused_steps,
            "ranks": self.ranks,
        }
        self.engine.save_checkpoint(str(folder), tag="engine", client_state=state, save_latest=False)

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote. Raises CheckpointError when it doesn't fit this engine."""
        try:
            path, state = self.engine.load_checkpoint(str(folder), tag="engine")
        except (RuntimeError, OSError, KeyError, ValueError, AssertionError) as error:
            raise CheckpointError(f"{folder} can't be loaded into this engine: {error}") from error
        if path is None or state["ranks"] != self.ranks:
            was = "nothing" if path is None else f"the state of {state['ranks']} processes"
            raise CheckpointError(f"{folder} holds {was}, and this run has {self.ranks}; keep spec.trainer as it was")
        self.step = state["step"]
        self.refused_in_a_row, self.refused_steps = state["refused_in_a_row"], state["refused_steps"]


def join_ranks() -> None:
    """Join the process group that torchrun describes; alone, a group of one. Idempotent.

    Raises RendezvousError when the others don't come in time.
    """
    if dist.is_initialized():
        return
    import deepspeed
    import deepspeed.ops

    cuda = torch.cuda.is_available()
    if not cuda:
        # DeepSpeed would compile a shared-memory collective at start; gloo needs no compiler.
        deepspeed.ops.__compatible_ops__ = {}
    os.environ.setdefault("LOCAL_RANK", "0")
    try:
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if "RANK" not in os.environ:  # alone: no launcher, no address, no port
            store = torch._C._distributed_c10d.HashStore()
            dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=0, world_size=1)
        deepspeed.init_distributed(auto_mpi_discovery=False, timeout=RENDEZVOUS_TIMEOUT)
    except (RuntimeError, TimeoutError) as error:
        raise RendezvousError(f"the trainer's ranks did not find one another: {error}") from None
