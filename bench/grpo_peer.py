"""TRL's GRPOTrainer on the tiny task, in TRL's own environment: the other side of `bench.rl_trl`, started by it.

python -m bench.grpo_peer --start MODEL --problems FILE --out FOLDER --seed 1 --problems-per-step 32 --steps 40 \\
    --learning-rate 1e-4
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from bench.snapshots import EVERY, note, write_profile
from bench.tiny_learning import EXAMPLES
from qednano.data.schema import read_rows
from qednano.tiny.checker import FULL_SCORE, check


def rewards(completions: list[Any], problem: list[str], **_: Any) -> list[float]:
    """The checker's score, 0 to 1."""
    return [
        check(text, answer[0]["content"]).score / FULL_SCORE for text, answer in zip(problem, completions, strict=True)
    ]


class Timed(GRPOTrainer):
    """Knows how long it generated and rewarded."""

    generating = rewarding = 0.0

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        found, self.generating = _timed(super()._generate, self.generating, *args, **kwargs)
        return found

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        found, self.rewarding = _timed(super()._calculate_rewards, self.rewarding, *args, **kwargs)
        return found


def _timed(call: Callable[..., Any], so_far: float, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    began = time.monotonic()
    found = call(*args, **kwargs)
    return found, so_far + time.monotonic() - began


class Snapshots(TrainerCallback):
    """Every few steps the weights and the seconds since the first step began, those spent in here left out."""

    began = spent_here = cpu_began = cpu_here = 0.0

    def __init__(self, out: Path) -> None:
        self.out = out
        self.trainer: Timed

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began, self.cpu_began = time.monotonic(), time.process_time()

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step % EVERY:
            return
        here, cpu = time.monotonic(), time.process_time()
        seconds, processor = here - self.began - self.spent_here, cpu - self.cpu_began - self.cpu_here
        note(self.out, state.global_step, seconds, processor)
        self.trainer.model.save_pretrained(self.out / f"step-{state.global_step}")
        self.trainer.processing_class.save_pretrained(self.out / f"step-{state.global_step}")
        generating, rewarding, steps = self.trainer.generating, self.trainer.rewarding, state.global_step
        training = seconds - generating - rewarding
        shares = {"generating": generating, "rewarding": rewarding, "training": training, "processor": processor}
        write_profile(self.out, {name: value / steps for name, value in shares.items()})
        self.spent_here += time.monotonic() - here
        self.cpu_here += time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("start", "problems", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("seed", "problems-per-step", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    args = parser.parse_args()
    asked = yaml.safe_load((EXAMPLES / "3-rl.yaml").read_text())["spec"]
    algorithm, optimisation = asked["algorithm"], asked["trainer"]
    samples = algorithm["groupSize"] * args.problems_per_step
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = [
        {"prompt": [{"role": "user", "content": row.problem}], "problem": row.problem}
        for row in read_rows(args.problems)
    ]
    snapshots = Snapshots(args.out)
    config = GRPOConfig(
        output_dir=str(args.out / "trl"), max_steps=args.steps, per_device_train_batch_size=samples,
        num_generations=algorithm["groupSize"], gradient_accumulation_steps=1,
        max_completion_length=asked["sampling"]["maxTokens"],
        learning_rate=args.learning_rate, lr_scheduler_type="constant_with_warmup",
        warmup_steps=optimisation["warmupSteps"], adam_beta2=0.98, weight_decay=0.01, max_grad_norm=1.0, beta=0.0,
        loss_type="dapo", scale_rewards="batch", temperature=1.0, top_p=1.0, top_k=0, use_cpu=True, bf16=False,
        gradient_checkpointing=False, report_to=[], save_strategy="no", logging_steps=EVERY, disable_tqdm=True,
        dataloader_pin_memory=False, seed=args.seed,
    )  # fmt: skip
    snapshots.trainer = Timed(
        AutoModelForCausalLM.from_pretrained(args.start, dtype=torch.float32),
        reward_funcs=rewards, args=config, train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(args.start, padding_side="left"), callbacks=[snapshots],
    )  # fmt: skip
    snapshots.trainer.train()


if __name__ == "__main__":
    main()
