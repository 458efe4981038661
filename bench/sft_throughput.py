"""SFT against TRL's SFTTrainer with packing: tokens a second and peak memory, on this machine's CPU.

Both train the same Qwen3 (random weights, fp32) on the same tokenised proofs, loss on the answers, rows of the same
length, the same tokens an optimizer step in the same number of micro-batches, AdamW, no activation checkpointing, the
same threads. Each side is a process of its own, the sides take turns, and the median of the rounds' ratios counts;
tokens a processor second hardly depend on other work beside. Memory is the process's highest resident set, libraries
included.

    python -m bench.sft_throughput [--quick] [--trl-python PYTHON]

TRL lives in an environment of its own that borrows this one's torch and transformers; it is made on the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import ratios, report
from bench.peer import trl_python

ROW, ROWS = 2048, 4  # tokens of a row, rows of an optimizer step
SIZES = {  # of the model; "wide" has Qwen3's own vocabulary
    "tiny": {"hidden": 256, "layers": 6, "heads": 8, "kv_heads": 4, "mlp": 768, "vocabulary": 4096},
    "wide": {"hidden": 256, "layers": 8, "heads": 8, "kv_heads": 4, "mlp": 768, "vocabulary": 151_936},
}
RATIOS = {"tokens_per_second": "throughput_ratio", "tokens_per_processor_second": "processor_ratio",
          "peak_mib": "memory_ratio"}  # fmt: skip
BARS = {"throughput_ratio": (">=", 1.2), "memory_ratio": ("<=", 0.8)}


def make_model(folder: Path, size: dict[str, int]) -> None:
    """A Qwen3 of random weights, with the tiny task's tokenizer, which neither side uses for its text."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from qednano.tiny import tokenizer

    made = tokenizer.save(folder, ROW)
    config = Qwen3Config(
        vocab_size=size["vocabulary"],
        hidden_size=size["hidden"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        head_dim=size["hidden"] // size["heads"],
        intermediate_size=size["mlp"],
        max_position_embeddings=ROW,
        tie_word_embeddings=True,
        pad_token_id=made.pad_token_id,
        eos_token_id=made.eos_token_id,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(str(folder))


def examples(count: int, vocabulary: int) -> list[dict[str, list[int]]]:
    """Token ids and which of them are answer: lengths of proofs, log-normal about 500, prompts of about a seventh."""
    rng = random.Random(1)
    found = []
    for _ in range(count):
        length = min(ROW, max(32, int(rng.lognormvariate(6.2, 0.6))))
        prompt = max(4, int(length * rng.uniform(0.08, 0.2)))
        tokens = [rng.randrange(10, vocabulary) for _ in range(length)]
        found.append({"input_ids": tokens, "completion_mask": [0] * prompt + [1] * (length - prompt)})
    return found


Mark = tuple[float, float, int]  # seconds by the clock, of the processors, tokens: each so far


def mark(tokens: int) -> Mark:
    """Now."""
    return time.perf_counter(), time.process_time(), tokens


def train_ours(folder: Path, data: list[dict[str, list[int]]], steps: int) -> list[Mark]:
    """Marks before the first and after each step by this project's engine."""
    import torch

    from qednano.training.engine import EngineConfig, TrainingEngine, negative_log_likelihood
    from qednano.training.examples import DataOrder, Example, documents
    from qednano.training.model import load_policy
    from qednano.training.optim import OptimizerConfig

    engine = TrainingEngine(
        load_policy(folder, dtype=torch.float32), OptimizerConfig(1e-4, total_steps=steps), EngineConfig()
    )
    items = [Example(row["input_ids"], row["completion_mask"].index(1)) for row in data]
    order, seen, marks = DataOrder([len(item.tokens) for item in items], ROW * ROWS, seed=0), 0, [mark(0)]
    for _ in range(steps):
        batch = [items[index] for index in order.batch(seen)]
        seen += len(batch)
        batches = engine.micro_batches(documents(batch), sequence_length=ROW, micro_batch_tokens=ROW)
        step = engine.train_step(batches, negative_log_likelihood)
        marks.append(mark(marks[-1][2] + step.tokens))
    return marks


def train_trl(folder: Path, data: list[dict[str, list[int]]], steps: int) -> list[Mark]:
    """The same by TRL."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    marks: list[Mark] = []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not marks:
                marks.append(mark(trainer._total_train_tokens))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(mark(trainer._total_train_tokens))

    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out, max_steps=steps, packing=True, max_length=ROW, per_device_train_batch_size=1,
            gradient_accumulation_steps=ROWS, learning_rate=1e-4, bf16=False, gradient_checkpointing=False,
            use_cpu=True, report_to=[], save_strategy="no", logging_steps=1000, disable_tqdm=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = SFTTrainer(str(folder), args=config, train_dataset=Dataset.from_list(data), callbacks=[Watch()])
        trainer.train()
    return marks


def side(name: str, folder: Path, count: int, vocabulary: int, steps: int, threads: int) -> None:
    """One side, in this process: prints tokens a second (the first step is warm-up) and the peak, as JSON."""
    import torch

    torch.set_num_threads(threads)
    data = examples(count, vocabulary)
    marks = (train_ours if name == "ours" else train_trl)(folder, data, steps)[1:]
    wall, processor, tokens = (late - early for early, late in zip(marks[0], marks[-1], strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    rates = {"tokens_per_second": tokens / wall, "tokens_per_processor_second": tokens / processor}
    print(json.dumps(rates | {"peak_mib": peak, "tokens": tokens}))


def measure(python: str, name: str, folder: Path, arguments: list[str], threads: int) -> dict[str, Any]:
    """Run one side as a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-W", "ignore", "-m", "bench.sft_throughput", "--side", name, "--folder", str(folder), *arguments],
        env=env, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--trl-python", default="", help="an interpreter that has TRL")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--side", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps, the first is warm-up")
    args = parser.parse_args()
    if args.side:
        side(args.side, args.folder, args.count, args.vocabulary, args.steps, args.threads)
        return 0
    peer = args.trl_python or str(trl_python())
    rounds, sizes = (1, args.sizes) if args.quick else (3, args.sizes)
    figures, bars = {}, {}
    for name in sizes:
        size = SIZES[name]
        with tempfile.TemporaryDirectory() as folder:
            make_model(Path(folder), size)
            arguments = ["--count", "200", "--vocabulary", str(size["vocabulary"]), "--steps", str(args.steps),
                         "--threads", str(args.threads)]  # fmt: skip
            results: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
            for _ in range(rounds):
                for which, python in (("ours", sys.executable), ("trl", peer)):
                    results[which].append(measure(python, which, Path(folder), arguments, args.threads))
                    print(name, which, results[which][-1], file=sys.stderr)
        for key, figure in RATIOS.items():
            ours, trl = ([run[key] for run in results[which]] for which in ("ours", "trl"))
            figures |= {f"{name}_{key}": statistics.median(ours), f"{name}_{key}_trl": statistics.median(trl)}
            figures |= ratios(f"{name}_{figure}", ours, trl)
            if figure in BARS:
                bars[f"{name}_{figure}"] = BARS[figure]
    return report("SFT against TRL's SFTTrainer", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
