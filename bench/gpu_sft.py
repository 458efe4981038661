"""SFT of a Qwen3-4B shape on one GPU: packed rows of 32k tokens, activation checkpointing; MFU, memory, what limits it.

    python -m bench.gpu_sft [--layers N] [--tokens N] [--offload] [--attention Flash|Flex|Segments]
    python -m bench.gpu_sft --tiny        # on any machine: does it run?

Before it times anything it checks that the ways to attend agree in value and gradient.
"""

from __future__ import annotations

import random
import sys

import torch

from bench import gpu
from bench.figures import report
from qednano.training.attention import BLOCK_MASK, FLASH, FLEX, SEGMENTS, document_attention
from qednano.training.engine import negative_log_likelihood
from qednano.training.packing import Document, Layout

ROWS = 4  # rows of an optimizer step
BARS = {"mfu": (">=", 0.45)}


def attention_difference() -> float:
    """Largest relative difference of outputs and gradients between the ways to attend and the dense mask: all of them
    in bf16 on a GPU; on a CPU, where the others have no backward pass, the one that trains there, in fp32."""
    cuda = torch.cuda.is_available()
    ways = (SEGMENTS, FLASH, FLEX) if cuda else (SEGMENTS,)
    device = torch.device("cuda" if cuda else "cpu")
    # documents, and a prompt of 300 tokens with two samples behind it
    layout = Layout((700, 300, 24, 1, 1023), (-1, -1, 1, 1, -1))
    total = sum(layout.lengths)
    torch.manual_seed(0)
    shapes = ((1, 8, total, 128), (1, 2, total, 128), (1, 2, total, 128))
    dtype = torch.bfloat16 if cuda else torch.float32
    inputs = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes]
    results = {}
    for name in (BLOCK_MASK, *ways):
        out = document_attention(name, layout, device)(*inputs, None)
        results[name] = [out, *torch.autograd.grad(out.float().square().sum(), inputs)]
    worst = 0.0
    for name in ways:
        for expected, found in zip(results[BLOCK_MASK], results[name], strict=True):
            worst = max(worst, float((found - expected).float().norm() / expected.float().norm()))
    return worst


def main() -> int:
    args = gpu.arguments(__doc__, tokens=32_768)
    gpu.need_gpu(args)
    difference = attention_difference()
    engine = gpu.build(args)
    vocabulary, rng = engine.policy.causal_lm.config.vocab_size, random.Random(0)
    sizes = [length for _ in range(ROWS) for length in gpu.lengths(args.tokens)]
    total = sum(length - length // 8 for length in sizes)
    documents = [
        Document(
            [rng.randrange(vocabulary) for _ in range(length)],
            [0.0] * (length // 8) + [1 / total] * (length - length // 8),
            index=index,
        )
        for index, length in enumerate(sizes)
    ]
    micros = engine.micro_batches(documents, sequence_length=args.tokens, micro_batch_tokens=args.tokens)

    def step():
        return engine.train_step(micros, negative_log_likelihood)

    seconds, last = gpu.timed(step, args.steps)
    figures = gpu.figures_of(seconds, last, micros) | {"attention_difference": difference} | gpu.limits(step)
    gpu.say(figures)
    bars = {"attention_difference": ("<=", 0.02)} | (BARS if "mfu" in figures and not args.tiny else {})
    return report(f"SFT, {args.layers} layers, rows of {args.tokens} tokens", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
