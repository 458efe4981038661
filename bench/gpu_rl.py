"""One RL step on a sample of 49,152 tokens, Qwen3-4B shape, one GPU: does it fit, how fast, and what limits it.

python -m bench.gpu_rl [--layers N] [--tokens N] [--offload]
python -m bench.gpu_rl --tiny        # on any machine: does it run?
"""

from __future__ import annotations

import random
import sys

from bench import gpu
from bench.figures import report
from qednano.training.engine import LossTerms
from qednano.training.packing import Document

SAMPLES, CAP = 2, 5.0  # of an optimizer step; of the importance weight


def truncated_importance(batch, logprobs, entropies) -> LossTerms:
    """REINFORCE with truncated importance weights, as the recipe has it."""
    ratio = (logprobs - batch.fields["behaviour"]).exp().clamp(max=CAP).detach()
    loss = -(batch.weights * ratio * batch.fields["advantage"] * logprobs).sum()
    return LossTerms(loss, {"entropy": (batch.weights * entropies.detach()).sum()})


def main() -> int:
    args = gpu.arguments(__doc__, tokens=49_152)
    gpu.need_gpu(args)
    engine = gpu.build(args)
    vocabulary, rng, length = engine.policy.causal_lm.config.vocab_size, random.Random(0), args.tokens
    documents = [
        Document(
            [rng.randrange(vocabulary) for _ in range(length)],
            [0.0] * 256 + [1 / length / SAMPLES] * (length - 256),
            {"behaviour": [-11.9] * length, "advantage": [1.0 if index % 2 else -1.0] * length},
            index=index,
        )
        for index in range(SAMPLES)
    ]
    micros = engine.micro_batches(
        documents, ("behaviour", "advantage"), sequence_length=length, micro_batch_tokens=length
    )

    def step():
        return engine.train_step(micros, truncated_importance)

    seconds, last = gpu.timed(step, args.steps)
    figures = gpu.figures_of(seconds, last, micros) | {"applied": float(last.applied)} | gpu.limits(step)
    gpu.say(figures)
    return report(f"RL step, {args.layers} layers, {length} tokens", figures, {"applied": (">=", 1.0)})


if __name__ == "__main__":
    sys.exit(main())
