"""An RL step whose log-probs come in chunks, against one that makes all logits at once: peak memory and time.

One optimizer step of a small Qwen3 with Qwen3's vocabulary (151,936) on 8,192 tokens: importance-weighted policy
gradient, entropies shown. The full side is a frugal one: logits once, log-probs by logsumexp, entropy without a graph
and in slices. Each side is a process of its own; memory is its highest resident set, libraries included; they take
turns, and the median of the rounds' ratios counts; processor seconds hardly depend on other work beside.

    python -m bench.rl_logprobs [--quick] [--tokens N]

The full side needs about 18 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.figures import ratios, report

VOCABULARY, HIDDEN, LAYERS, DOCUMENTS = 151_936, 256, 2, 16
BARS = {"memory_ratio": ("<=", 0.2), "time_ratio": ("<=", 1.15)}
CAP = 5.0  # of the importance ratio


def full_logits(policy, batch):
    """Log-probs and entropies from all logits at once."""
    import torch

    from qednano.training.attention import document_attention

    hidden = policy.causal_lm.model(
        input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False,
        documents=document_attention(policy.attention_name, batch.layout, batch.input_ids.device),
    ).last_hidden_state[0]  # fmt: skip
    logits = hidden.index_select(0, batch.predictors) @ policy.causal_lm.lm_head.weight.T
    logprobs = logits.gather(1, batch.targets[:, None]).squeeze(1) - logits.logsumexp(-1)
    with torch.no_grad():
        entropies = torch.cat(
            [-(p.exp() * p).sum(-1) for p in (part.log_softmax(-1) for part in logits.detach().split(128))]
        )
    return logprobs, entropies


def side(name: str, tokens: int, steps: int, threads: int) -> None:
    """One side, in this process: prints seconds of the last step and the peak, as JSON."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from qednano.training.model import Policy, PolicyOptions
    from qednano.training.packing import Document, collate

    # Should memory run out, this process is the one to go.
    Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, intermediate_size=3 * HIDDEN, tie_word_embeddings=True,
    )  # fmt: skip
    policy = Policy(Qwen3ForCausalLM(config), PolicyOptions(), "Segments")
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5, fused=True)
    length = tokens // DOCUMENTS
    ids = torch.randint(0, VOCABULARY, (DOCUMENTS, length)).tolist()
    batch = collate([Document(row, [0.0] + [1 / tokens] * (length - 1), index=i) for i, row in enumerate(ids)])
    advantage = torch.randn(len(batch.targets))
    for _ in range(steps):
        began, processor_began = time.perf_counter(), time.process_time()
        logprobs, entropies = policy(batch) if name == "chunked" else full_logits(policy, batch)
        ratio = (logprobs - logprobs.detach()).exp().clamp(max=CAP).detach()
        loss = -(batch.weights * ratio * advantage * logprobs).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds, processor = time.perf_counter() - began, time.process_time() - processor_began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    spent = {"seconds": seconds, "processor_seconds": processor, "peak_mib": peak}
    print(json.dumps(spent | {"loss": float(loss), "entropy": float(entropies.mean())}))


def measure(name: str, tokens: int, steps: int, threads: int) -> dict[str, float]:
    """Run one side as a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.rl_logprobs", "--side", name, "--tokens", str(tokens),
               "--steps", str(steps), "--threads", str(threads)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=("chunked", "full"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args.side, args.tokens, args.steps, args.threads)
        return 0
    results: dict[str, list[dict[str, float]]] = {"chunked": [], "full": []}
    for _ in range(1 if args.quick else 3):
        for name, found in results.items():
            found.append(measure(name, args.tokens, args.steps, args.threads))
            print(name, found[-1], file=sys.stderr)
    figures = {}
    for key, figure in (("peak_mib", "memory"), ("seconds", "time"), ("processor_seconds", "processor_time")):
        ours, full = ([run[key] for run in results[name]] for name in ("chunked", "full"))
        figures |= {f"chunked_{key}": statistics.median(ours), f"full_{key}": statistics.median(full)}
        figures |= ratios(f"{figure}_ratio", ours, full)
    losses = [run["loss"] for runs in results.values() for run in runs]
    figures["loss_difference"] = max(losses) - min(losses)
    return report("RL step: chunked log-probs against full logits", figures, BARS | {"loss_difference": ("<=", 1e-5)})


if __name__ == "__main__":
    sys.exit(main())
