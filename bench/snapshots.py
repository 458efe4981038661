"""Weights that a side of `bench.rl_trl` leaves every few steps: when they were there, what they score, and what a step
costs. Known to both sides, so it needs nothing but the standard library until something is scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

EVERY = 5  # optimizer steps between two
HELD_OUT, SAMPLES = 200, 4


@dataclass(frozen=True)
class Point:
    """One of them. Seconds by the clock and of the processors since the side began to sample; score from 0 to 1."""

    seconds: float
    processor: float
    step: int
    score: float


def note(out: Path, step: int, seconds: float, processor: float) -> None:
    """When one was there."""
    with (out / "times.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "seconds": seconds, "processor": processor}) + "\n")


def write_profile(out: Path, seconds_a_step: Mapping[str, float]) -> None:
    """Where a step's seconds go."""
    (out / "profile.json").write_text(json.dumps(dict(seconds_a_step)))


def read_profile(out: Path) -> dict[str, float]:
    """What the side wrote last."""
    found: dict[str, float] = json.loads((out / "profile.json").read_text())
    return found


def curve(out: Path, target: float) -> list[Point]:
    """A side's snapshots in order, up to the first that has the target; scores are kept beside the weights."""
    points = []
    for line in (out / "times.jsonl").read_text().splitlines():
        mark = json.loads(line)
        kept = out / f"step-{mark['step']}" / "score.json"
        if not kept.exists():
            kept.write_text(json.dumps(score(kept.parent)))
        points.append(Point(mark["seconds"], mark["processor"], mark["step"], json.loads(kept.read_text())))
        if points[-1].score >= target:
            break
    return points


def reached(points: list[Point], target: float) -> Point:
    """Where the curve first has the target, between snapshots in a straight line; SystemExit when it never does."""
    before = points[0]
    for point in points:
        if point.score >= target:
            gain = point.score - before.score
            share = (target - before.score) / gain if gain else 1.0
            seconds, processor, step = (
                early + share * (late - early)
                for early, late in (
                    (before.seconds, point.seconds), (before.processor, point.processor), (before.step, point.step)
                )
            )  # fmt: skip
            return Point(seconds, processor, round(step), target)
        before = point
    last = points[-1]
    raise SystemExit(f"a score of {target} was not reached in {last.step} steps; the last is {last.score:.3f}")


def score(model: Path) -> float:
    """Mean score (0 to 1) on the held-out problems, `SAMPLES` proofs of each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from qednano.tiny import problems
    from qednano.tiny.checker import FULL_SCORE, check

    torch.manual_seed(0)
    held_out = list(problems.generate(seed=77, count=HELD_OUT, fold="heldout", families=["linear"]))
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    messages = [[{"role": "user", "content": problem.text}] for problem in held_out for _ in range(SAMPLES)]
    batch = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        out = policy.generate(**batch, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=96)
    written = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    texts = [problem.text for problem in held_out for _ in range(SAMPLES)]
    found = [check(text, proof).score for text, proof in zip(texts, written, strict=True)]
    return sum(found) / len(found) / FULL_SCORE
