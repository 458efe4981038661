"""What the GPU benches share: the model's shape, an engine around random weights, and where the time of a step goes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from qednano.training.engine import EngineConfig, StepReport, TrainingEngine
from qednano.training.flops import peak_flops
from qednano.training.model import Policy, PolicyOptions
from qednano.training.optim import OptimizerConfig
from qednano.training.packing import MicroBatch

QWEN3_4B = {
    "vocab_size": 151_936, "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728,
}  # fmt: skip
TINY = {
    "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 192,
}  # fmt: skip
BYTES_PER_PARAMETER = 18  # bf16 weight, fp32 gradient, fp32 master and two moments


def arguments(about: str | None, tokens: int) -> argparse.Namespace:
    """The command line that both benches have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model in fp32, also on a CPU: checks that it runs")
    parser.add_argument("--layers", type=int, default=36, help="fewer, for a GPU with less memory")
    parser.add_argument("--tokens", type=int, default=tokens, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps, the first two are warm-up")
    parser.add_argument("--offload", action="store_true", help="move checkpointed activations to CPU memory")
    parser.add_argument("--attention", default="Auto", help="as spec.trainer.attention")
    args = parser.parse_args()
    if args.tiny:
        args.tokens, args.layers = min(args.tokens, 2048), 2
    return args


def need_gpu(args: argparse.Namespace) -> None:
    """End with 78 and a sentence unless there is a GPU that can hold the run; called before anything is allocated."""
    if args.tiny:
        return
    per_layer = 2560 * 128 * (2 * 32 + 2 * 8) + 3 * 2560 * 9728
    state = (args.layers * per_layer + 151_936 * 2560) * BYTES_PER_PARAMETER / 2**30
    inputs = 0 if args.offload else args.layers * args.tokens * 2560 * 2 / 2**30
    wanted = state + inputs + 12 * args.tokens / 49_152 + 4
    said = (
        f"it needs one CUDA GPU with about {wanted:.0f} GiB for {args.layers} layers and rows of {args.tokens} tokens "
        "(an H200 for all 36; --layers 20 fits 80 GB), or --tiny to try it on a CPU"
    )
    if not torch.cuda.is_available():
        print(f"{sys.argv[0]}: there is no CUDA GPU here; {said}", file=sys.stderr)
        raise SystemExit(78)
    there = torch.cuda.get_device_properties(0).total_memory / 2**30
    if there < wanted:
        print(f"{sys.argv[0]}: this GPU has {there:.0f} GiB; {said}", file=sys.stderr)
        raise SystemExit(78)
    # PYTORCH_ALLOC_CONF says the same, but is read when torch is imported.
    torch.cuda.memory._set_allocator_settings("expandable_segments:True")


def build(args: argparse.Namespace) -> TrainingEngine:
    """An engine around random weights of the shape: bf16 with ZeRO-2's fp32 state, activations checkpointed."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from qednano.training.attention import choose_attention

    shape = dict(TINY if args.tiny else QWEN3_4B) | {"num_hidden_layers": args.layers}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    config = Qwen3Config(**shape, tie_word_embeddings=True, max_position_embeddings=args.tokens)
    with device:
        torch.set_default_dtype(dtype)
        model = Qwen3ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    options = PolicyOptions(activation_checkpointing="Offload" if args.offload else "Full")
    policy = Policy(model, options, choose_attention(args.attention, device, dtype)).to(device)
    return TrainingEngine(
        policy,
        OptimizerConfig(1e-6, total_steps=1000, schedule="constant"),
        EngineConfig(zero_stage=2, precision="bf16" if dtype == torch.bfloat16 else "fp32"),
    )


def lengths(total: int) -> list[int]:
    """Documents that fill a row: a long proof, some middling, many short."""
    shares = [0.35, 0.2, 0.12, 0.1, 0.08, 0.05, 0.04, 0.03, 0.02]
    found = [max(4, int(total * share)) for share in shares]
    return [*found, total - sum(found)] if total > sum(found) else found


def timed(step: Callable[[], StepReport], steps: int) -> tuple[float, StepReport]:
    """Seconds of the median step after two of warm-up, and the last report."""
    seconds, report = [], None
    for _ in range(max(3, steps)):
        began = time.perf_counter()
        report = step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    assert report is not None
    after = sorted(seconds[2:])
    return after[len(after) // 2], report


KINDS = {
    "matrix": ("gemm", "cutlass", "nvjet", "aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("flash", "fmha", "scaled_dot_product", "varlen"),
    "copy": ("memcpy", "memset", "aten::copy_"),
    "optimizer": ("adam", "multi_tensor"),
}  # of kernels on a GPU, of operators on a CPU: what the names hold


def limits(step: Callable[[], Any]) -> dict[str, float]:
    """Shares of one step's time by kind of work, and of the time in which the GPU stood idle: what keeps MFU from 1.

    On a CPU shares of the operators' own time, which knows no idleness.
    """
    cuda = torch.cuda.is_available()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    began = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profile:
        step()
        if cuda:
            torch.cuda.synchronize()
    wall = (time.perf_counter() - began) * 1e6
    spent = dict.fromkeys([*KINDS, "other"], 0.0)
    for event in profile.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")
        if not cuda:
            spent[kind] += event.self_cpu_time_total
        elif event.device_type == torch.autograd.DeviceType.CUDA:
            spent[kind] += event.self_device_time_total
    total = wall if cuda else sum(spent.values())
    found = {f"time_{kind}": value / total for kind, value in spent.items()}
    return found | ({"time_idle": max(0.0, 1 - sum(found.values()))} if cuda else {})


def say(figures: Mapping[str, float]) -> None:
    """Print the MFU and what limits it."""
    mfu = f"{figures['mfu']:.1%}" if "mfu" in figures else "n/a, no peak is known for this device"
    shares = {name.removeprefix("time_"): value for name, value in figures.items() if name.startswith("time_")}
    ordered = sorted(shares, key=lambda name: -shares[name])
    told = ", ".join(f"{name} {shares[name]:.0%}" for name in ordered)
    print(f"MFU: {mfu}. A step's time: {told}; {ordered[0]} limits it.")


def figures_of(seconds: float, step: StepReport, batches: Sequence[MicroBatch]) -> dict[str, float]:
    """Tokens a second, MFU where the peak is known, and the memory of a step."""
    found = {"seconds": seconds, "tokens_per_second": step.tokens / seconds, "micro_batches": float(len(batches))}
    found["model_tflops_per_second"] = step.flops / seconds / 1e12
    if torch.cuda.is_available():
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if peak := peak_flops(torch.cuda.get_device_name()):
            found["mfu"] = step.flops / seconds / peak
    return found
