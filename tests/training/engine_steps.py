"""Train a few steps on fixed documents and write the weights: run alone or by torchrun.

python -m tests.training.engine_steps <model folder> <out folder> <stage>:<precision>[:sequence][:lora][:offload] ...
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from qednano.training.engine import EngineConfig, LossTerms, TrainingEngine, join_ranks
from qednano.training.lora import LoraConfig
from qednano.training.model import PolicyOptions, load_policy
from qednano.training.optim import OptimizerConfig
from qednano.training.packing import Document
from qednano.training.sequence import ALONE, sequence_group

STEPS = 3


def step_documents(step: int) -> list[Document]:
    """Twenty documents of mixed lengths whose weights add up to 1."""
    rng = random.Random(step)
    lengths = [rng.randint(3, 60) for _ in range(20)]
    total = sum(length - 2 for length in lengths)
    return [
        Document([rng.randrange(4, 300) for _ in range(n)], [0.0, 0.0] + [1 / total] * (n - 2), index=i)
        for i, n in enumerate(lengths)
    ]


def nll(batch, logprobs, entropies) -> LossTerms:
    """Weighted negative log-likelihood."""
    return LossTerms(-(batch.weights * logprobs).sum(), {"entropy": (batch.weights * entropies).sum()})


def new_engine(folder: Path, stage: int = 0, precision: str = "fp32", options=PolicyOptions(), **more):
    """An engine with a large learning rate, weight decay and a clip that bites."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return TrainingEngine(
        load_policy(folder, dtype=dtype, options=options),
        OptimizerConfig(learning_rate=1e-2, total_steps=10, warmup_steps=2, weight_decay=0.1, grad_clip=0.1),
        EngineConfig(zero_stage=stage, precision=precision, **more),
    )


def run_step(engine: TrainingEngine, docs: list[Document], micro_batch_tokens: int = 128):
    """One optimizer step over `docs`, dealt to the engine's ranks."""
    return engine.train_step(engine.micro_batches(docs, sequence_length=64, micro_batch_tokens=micro_batch_tokens), nll)


def save(engine: TrainingEngine, folder: Path) -> None:
    """Write the engine's state from all ranks."""
    snapshot = engine.snapshot()
    folder.mkdir(parents=True, exist_ok=True)
    snapshot.write(folder)
    dist.barrier()


def variant_engine(folder: Path, variant: str) -> TrainingEngine:
    """stage:precision[:sequence=n][:lora][:offload] as an engine."""
    stage, precision, *more = variant.split(":")
    options = PolicyOptions(
        lora=LoraConfig(4, 8, 0.0, ("q_proj", "down_proj")) if "lora" in more else None,
        activation_checkpointing="Offload" if "offload" in more else "None",
        sequence=sequence_group(2) if "sequence" in more else ALONE,
    )
    return new_engine(folder, int(stage), precision, options)


def main(folder: str, out: str, *variants: str) -> None:
    """Steps, weights, and that a resumed engine's next step is the same bit for bit, for each variant."""
    torch.set_num_threads(1)
    join_ranks()
    for variant in variants:
        engine = variant_engine(Path(folder), variant)
        reports = [run_step(engine, step_documents(step)) for step in range(STEPS)]
        checkpoint = Path(out) / f"checkpoint-{variant}"
        save(engine, checkpoint)
        again = variant_engine(Path(folder), variant)
        again.load(checkpoint)
        before = engine.weights()
        for continuing in (engine, again):
            run_step(continuing, step_documents(STEPS))
        weights, restored = engine.weights(), again.weights()
        if engine.rank == 0:
            assert all(torch.equal(weights[name], restored[name]) for name in weights), f"{variant}: resume differs"
            assert not all(torch.equal(weights[name], before[name]) for name in weights), f"{variant}: nothing learned"
            meta = {f"{key}{step}": repr(value) for step, r in enumerate(reports)
                    for key, value in (("loss", r.loss), ("norm", r.grad_norm), ("tokens", r.tokens))}  # fmt: skip
            save_file(weights, Path(out) / f"{variant}.safetensors", metadata=meta)


if __name__ == "__main__":
    main(*sys.argv[1:])
