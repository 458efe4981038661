"""One DeepSpeed engine for SFT and RL: micro-batches in, one optimizer step out.

Every token carries its weight, normalised over the whole step before anything is packed; the engine only adds up.
So loss and gradients don't depend on how documents fall into rows, micro-batches or ranks. The engine knows nothing
of what the loss is.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qednano.errors import CheckpointError, NumericGuard, RendezvousError
from qednano.training.lora import adapters_of, merged, plain_name
from qednano.training.model import Policy, write_model_folder
from qednano.training.optim import GuardedAdamW, OptimizerConfig, learning_rate, parameter_groups
from qednano.training.packing import Document, MicroBatch, bundle, collate, deal
from qednano.training.state import OptimizerState, Shards, write_shard

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
ASK_SECONDS = 5.0  # between two questions, within a step, whether to give it up


@dataclass(frozen=True)
class EngineConfig:
    """How the engine lays out memory. `refusals_allowed`: steps in a row that may be refused as not finite."""

    zero_stage: int = 0
    precision: str = "fp32"
    temperature: float = 1.0
    refusals_allowed: int = 5


class Interrupted(Exception):
    """A step was given up between two micro-batches. Weights, moments and counters are as before it and can be saved;
    gradients are half a step's, so the engine can't go on."""


@dataclass(frozen=True)
class LossTerms:
    """What a loss function makes of one micro-batch: `total`, a scalar with gradient, already normalised over the
    step, and further scalars that add up over micro-batches and ranks."""

    total: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)


LossFunction = Callable[[MicroBatch, Tensor, Tensor], LossTerms]
"""(micro-batch, log-probs [N], entropies [N]) to LossTerms. Ranks that share rows all compute it for the whole row."""


def negative_log_likelihood(batch: MicroBatch, logprobs: Tensor, entropies: Tensor) -> LossTerms:
    """Weighted sum of -log p over the predicted tokens."""
    return LossTerms(-(batch.weights * logprobs).sum(), {"entropy": (batch.weights * entropies.detach()).sum()})


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, summed over micro-batches and ranks. `applied` is False when the guard refused it.

    `flops`: of the model, forward and backward; see `flops.ModelFlops.training`.
    """

    loss: float
    sums: dict[str, float]
    tokens: int
    grad_norm: float
    learning_rate: float
    applied: bool
    flops: float


@dataclass(frozen=True)
class Snapshot:
    """This rank's share of a checkpoint, in CPU memory: writing it needs neither GPU nor other ranks."""

    rank: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write it into `folder`."""
        write_shard(folder, self.rank, self.tensors, self.facts)


class TrainingEngine:
    """A policy, its optimizer and DeepSpeed. `step` counts optimizer steps done, refused ones included."""

    def __init__(self, policy: Policy, optimizer: OptimizerConfig, config: EngineConfig) -> None:
        import deepspeed

        join_ranks()
        self.config, self.optimizer_config = config, optimizer
        self.policy = policy
        self.step = 0
        self.refused_in_a_row = 0
        self.refused_steps = 0
        self.sequence = policy.sequence
        self.losses: list[float] = []  # of this rank's micro-batches in the last step
        self._ask_every = 1  # micro-batches between two questions whether to give a step up; the same on all ranks
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
        if self.zero_stage > 0:
            self._adamw.global_norm = lambda: self.engine.optimizer._global_grad_norm
        trained = [(_plain(name), p) for name, p in policy.named_parameters() if p.requires_grad]
        self._state = OptimizerState(trained, self._adamw, self.engine.optimizer, self.zero_stage)

    def _deepspeed_config(self) -> dict[str, Any]:
        config = {
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
        if self.config.precision == "bf16":
            # Summed in bf16, the gradient of a step of many micro-batches would lose the small ones.
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        return config

    @property
    def rank(self) -> int:
        """This process among all ranks."""
        return dist.get_rank()

    @property
    def ranks(self) -> int:
        """How many processes train together."""
        return dist.get_world_size()

    @property
    def shares(self) -> int:
        """Into how many shares a step's documents are dealt: one for each group of ranks that share rows."""
        return self.ranks // self.sequence.size

    @property
    def share(self) -> int:
        """Which of the shares this rank works on."""
        return self.rank // self.sequence.size

    def micro_batches(
        self,
        documents: Sequence[Document],
        field_names: Sequence[str] = (),
        *,
        sequence_length: int,
        micro_batch_tokens: int,
    ) -> list[MicroBatch]:
        """This rank's micro-batches of a step's documents, which every rank gives alike; balanced by what they cost.

        Documents with the same prompt share it, but where ranks share rows.
        """
        share = self.sequence.size == 1
        # Small bundles leave room to balance: a quarter of a row, or of what a rank has to do.
        total = sum(len(document.tokens) for document in documents)
        most = min(max(sequence_length, micro_batch_tokens), total // self.shares) // 4 if share else 0
        dealt = deal(
            [len(document.tokens) for document in documents],
            sequence_length=sequence_length,
            micro_batch_tokens=micro_batch_tokens,
            ranks=self.shares,
            cost=self.policy.flops.forward,
            bundles=bundle(documents, most),
            prompts=[document.prompt for document in documents],
        )
        return [collate([documents[index] for index in micro], field_names, share) for micro in dealt[self.share]]

    def train_step(
        self,
        batches: Sequence[MicroBatch],
        loss_function: LossFunction,
        give_up: Callable[[], bool] | None = None,
    ) -> StepReport:
        """Forward and backward over this rank's micro-batches, then one update.

        `give_up` is asked by all ranks between micro-batches, about every ASK_SECONDS, and must say the same on all.
        Raises NumericGuard when too many steps in a row were not finite, Interrupted when the step was given up.
        """
        self.engine.train()
        rate = learning_rate(self.optimizer_config, self.step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        sums = self._accumulate(batches, loss_function, give_up)
        self._adamw.refuse = not math.isfinite(sums["loss"])
        self._adamw.refused = False
        self.engine.step()
        applied = self.engine.was_step_applied() and not self._adamw.refused
        self.step += 1
        self._count_refusal(applied, sums["loss"])
        loss, tokens, flops = sums.pop("loss"), int(sums.pop("tokens")), sums.pop("flops")
        return StepReport(loss, sums, tokens, self._adamw.norm if applied else math.nan, rate, applied, flops)

    def _accumulate(
        self, batches: Sequence[MicroBatch], loss_function: LossFunction, give_up: Callable[[], bool] | None
    ) -> dict[str, float]:
        """Gradients of all micro-batches, and what adds up over them and over the ranks."""
        totals: dict[str, Tensor] = {}
        parts = []
        began = time.monotonic()
        for number, batch in enumerate(batches):
            self._ask(number, give_up)
            layout = batch.layout
            flops = self.policy.flops.training(layout.lengths, len(batch.targets), layout.seen())
            batch = batch.to(self.device)
            # Of this one the gradient is known before the log-probs are: it is made along with them.
            known = -batch.weights if loss_function is negative_log_likelihood else None
            terms = loss_function(batch, *self.engine(batch, self.config.temperature, known))
            # DeepSpeed averages gradients over ranks; the terms are normalised over the step, so they must add up.
            self.engine.backward(terms.total * self.ranks)
            parts.append(terms.total.detach())
            counted = {"loss": terms.total, "tokens": torch.tensor(batch.tokens), "flops": torch.tensor(flops)}
            for name, value in {**counted, **terms.sums}.items():
                totals[name] = totals.get(name, 0) + value.detach().double()
        self.losses = torch.stack(parts).tolist()
        totals["seconds"] = torch.tensor(time.monotonic() - began, dtype=torch.double)
        sums = self._sum_over_ranks(totals)
        each = sums.pop("seconds") / self.shares / len(batches)
        self._ask_every = max(1, int(ASK_SECONDS / max(each, 1e-9)))
        return sums

    def _ask(self, number: int, give_up: Callable[[], bool] | None) -> None:
        """Raise Interrupted when a step or measurement is to be given up before its micro-batch of this number."""
        if give_up is not None and number and number % self._ask_every == 0 and give_up():
            raise Interrupted

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
        # Ranks that share rows have each counted them whole.
        return dict(zip(names, (values / self.sequence.size).tolist(), strict=True))

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies of a micro-batch's targets, without gradients."""
        self.engine.eval()
        found: tuple[Tensor, Tensor] = self.engine(batch.to(self.device), self.config.temperature)
        return found

    def mean_loss(self, batches: Sequence[MicroBatch], give_up: Callable[[], bool] | None = None) -> float:
        """Mean negative log-likelihood by the batches' weights over all ranks, without gradients. Collective.

        `give_up` and Interrupted: as in `train_step`.
        """
        total, weight = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            self._ask(number, give_up)
            logprobs, _ = self.logprobs(batch)
            weights = batch.weights.to(self.device)
            total, weight = total - (weights * logprobs).sum(), weight + weights.sum()
        sums = self._sum_over_ranks({"loss": total.double(), "weight": weight.double()})
        return sums["loss"] / sums["weight"]

    def weights(self) -> dict[str, Tensor]:
        """All weights on the CPU under their Hugging Face names, adapters merged in; empty on ranks above 0.
        Every rank must call it."""
        import deepspeed

        parameters = {_plain(name): parameter for name, parameter in self.engine.module.named_parameters()}
        weights: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            plain = plain_name(name)
            if plain is None:
                continue
            together = [parameter, *(parameters[adapter] for adapter in adapters_of(name) or ())]
            with deepspeed.zero.GatheredParameters(together, enabled=self.zero_stage == 3):
                if self.rank == 0:
                    base, *adapters = (each.detach().to("cpu", copy=True) for each in together)
                    weights[plain] = merged(base, *adapters, self.policy.lora.scale) if adapters else base
        return weights

    def export(self, source: Path, folder: Path) -> None:
        """Write the weights as a plain Hugging Face folder with `source`'s tokenizer. Every rank must call it."""
        weights = self.weights()
        if self.rank == 0:
            write_model_folder(weights, source, folder)

    def snapshot(self) -> Snapshot:
        """Weights, optimizer and counters as they are now, this rank's share of them. Every rank must call it."""
        facts = {
            "step": self.step,
            "refused_in_a_row": self.refused_in_a_row,
            "refused_steps": self.refused_steps,
            "updates": self._state.steps,
            "dtype": "bfloat16" if self.config.precision == "bf16" else "float32",
            "lora_scale": self.policy.lora.scale if self.policy.lora else None,
        }
        return Snapshot(self.rank, self._state.snapshot(self.rank, self.ranks), facts)

    def load(self, folder: Path) -> None:
        """Continue from a snapshot that any number of ranks wrote into `folder`.

        Raises CheckpointError when it doesn't fit this engine.
        """
        try:
            with Shards(folder) as shards:
                facts = shards.facts
                self._state.restore(shards.read, facts["updates"])
        except (RuntimeError, OSError, KeyError, ValueError, CheckpointError) as error:
            raise CheckpointError(f"{folder} can't be loaded into this engine: {error}") from error
        self.step = facts["step"]
        self.refused_in_a_row, self.refused_steps = facts["refused_in_a_row"], facts["refused_steps"]


def _plain(name: str) -> str:
    return name.removeprefix("causal_lm.")


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


def leave_ranks() -> None:
    """Take the process group down, once no rank needs another any more.

    Left to the interpreter's end, the threads of gloo are now and then destroyed while they run, and the process of a
    trainer that has done its work ends with SIGABRT.
    """
    if dist.get_world_size() > 1:
        dist.destroy_process_group()
