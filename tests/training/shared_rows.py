"""RL steps by four ranks, of which two and two share rows, and by one; all that can be seen of them, as JSON.

python -m tests.training.shared_rows <model folder> <out file> <stage>:<precision>:<ranks that share rows>
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from qednano.rl.losses import LossConfig
from qednano.rl.trainer import FIELDS, PolicyLoss
from qednano.training.engine import TrainingEngine, join_ranks
from qednano.training.model import PolicyOptions
from qednano.training.packing import Document
from qednano.training.sequence import sequence_group
from tests.training.engine_steps import new_engine


def samples(step: int, count: int) -> list[Document]:
    """So many samples of two prompts, whose weights add up to 1."""
    rng = random.Random(100 + step)
    prompts = [[rng.randrange(4, 300) for _ in range(length)] for length in (7, 4)]
    found = []
    for index in range(count):
        prompt, answer = prompts[index % 2], [rng.randrange(4, 300) for _ in range(rng.randint(1, 50))]
        behaviour = [0.0] * len(prompt) + [rng.uniform(-7, -4) for _ in answer]
        fields: dict[str, Sequence[float]] = {
            "behaviour": behaviour,
            "advantage": [rng.uniform(-1, 1)] * len(behaviour),
        }
        weights = [0.0] * len(prompt) + [1 / (count * len(answer))] * len(answer)
        found.append(Document([*prompt, *answer], weights, fields, index=index, prompt=len(prompt)))
    return found


def steps(engine: TrainingEngine) -> list[dict[str, Any]]:
    """Steps of many samples, one of a single one (half of the ranks have none), one that is bad on the last rank."""
    told = []
    for step, count in enumerate((14, 1, 14, 14)):
        loss = PolicyLoss(LossConfig(loss="GSPO", entropy_bonus=0.5, clip_low=0.5, clip_high=0.5))
        batches = engine.micro_batches(samples(step, count), FIELDS, sequence_length=64, micro_batch_tokens=128)
        hook = None
        if step == 2 and engine.rank == engine.ranks - 1:
            hook = engine.policy.causal_lm.model.norm.weight.register_hook(lambda grad: grad * math.inf)
        report = engine.train_step(batches, loss)
        if hook is not None:
            hook.remove()
        told.append({"loss": report.loss, "norm": report.grad_norm, "applied": report.applied, **report.sums})
    return told


def main(folder: str, out: str, variant: str) -> None:
    """The steps, what they said, and the weights after them."""
    torch.set_num_threads(1)
    join_ranks()
    stage, precision, shared = variant.split(":")
    engine = new_engine(Path(folder), int(stage), precision, PolicyOptions(sequence=sequence_group(int(shared))))
    told, weights = steps(engine), engine.weights()
    if engine.rank == 0:
        save_file(weights, out, metadata={"told": json.dumps(told)})


if __name__ == "__main__":
    main(*sys.argv[1:])
