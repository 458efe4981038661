"""Train a few steps on fixed documents and write the weights: run alone or by torchrun.

python -m tests.training.engine_steps <model folder> <out folder> <stage>:<precision> ...
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from qednano.training.engine import EngineConfig, LossTerms, TrainingEngine
from qednano.training.model import load_policy
from qednano.training.optim import OptimizerConfig
from qednano.training.packing import Document, collate, deal

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


def new_engine(folder: Path, stage: int = 0, precision: str = "fp32", **options) -> TrainingEngine:
    """An engine with a large learning rate, weight decay and a clip that bites."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return TrainingEngine(
        load_policy(folder, dtype=dtype),
        OptimizerConfig(learning_rate=1e-2, total_steps=10, warmup_steps=2, weight_decay=0.1, grad_clip=0.1),
        EngineConfig(zero_stage=stage, precision=precision, **options),
    )


def run_step(engine: TrainingEngine, docs: list[Document], micro_batch_tokens: int = 128):
    """One optimizer step over `docs`, dealt to the engine's ranks."""
    dealt = deal(
        [len(d.tokens) for d in docs], sequence_length=64, micro_batch_tokens=micro_batch_tokens, ranks=engine.ranks
    )
    return engine.train_step([collate([docs[i] for i in micro]) for micro in dealt[engine.rank]], nll)


def main(folder: str, out: str, *variants: str) -> None:
    """Steps, weights, and that a resumed engine's next step is the same bit for bit, for each variant."""
    torch.set_num_threads(1)
    for variant in variants:
        stage, precision = variant.split(":")
        engine = new_engine(Path(folder), int(stage), precision)
        reports = [run_step(engine, step_documents(step)) for step in range(STEPS)]
        checkpoint = Path(out) / f"checkpoint-{variant}"
        engine.save(checkpoint)
        again = new_engine(Path(folder), int(stage), precision)
        again.load(checkpoint)
        for continuing in (engine, again):
            run_step(continuing, step_documents(STEPS))
        weights, restored = engine.weights(), again.weights()
        if engine.rank == 0:
            assert all(torch.equal(weights[name], restored[name]) for name in weights), f"{variant}: resume differs"
            meta = {f"{key}{step}": repr(value) for step, r in enumerate(reports)
                    for key, value in (("loss", r.loss), ("norm", r.grad_norm), ("tokens", r.tokens))}  # fmt: skip
            save_file(weights, Path(out) / f"{variant}.safetensors", metadata=meta)


if __name__ == "__main__":
    main(*sys.argv[1:])
