"""Does RL with the reasoning cache learn proofs that don't fit one turn, and RL without it not?

``python -m bench.rl_reasoning_cache [--seeds 3] [--root FOLDER]``: the tiny task with turns of 14 tokens, of which a
proof needs three, as two lines fit one. SFT teaches the form of a turn: a proof begun, and at most two lines that go on
with it; four proofs in five of its teacher leave something out, mostly behind the first turn. Two RL runs start from
that model with the same groups, samples and steps, asynchronous with samples up to four steps old. Without it only
first turns are trained; with it turns from proofs begun are, too. Held-out problems are then answered in three turns by
either model, the lines kept between. Exit code 1 when a bar is missed.

What earlier forms of this bench missed, and why: 450 steps on harder problems, or 350 on these, left a model that adds
wrongly, and a false line early in a proof leaves later turns nothing to earn; and the checker pays more for a hasty
conclusion than for two good first lines, so that first turns learn to be hasty. Hence easy problems here, a longer SFT
and `bench.begun_proofs`. The same with a policy of seven numbers, in seconds: tests/rl/test_cache_learns.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.begun_proofs import NAME as GRADER
from bench.figures import report
from bench.line_keeper import PROMPT, line_keeper
from qednano.tiny import problems, teacher
from qednano.tiny.checker import FULL_SCORE, check
from qednano.tiny.tokenizer import build

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
TURN_TOKENS, CYCLES = 14, 2
FLAWED_PERCENT = 80
FLAWS = {"no second substitution": 1, "no sum": 3, "no factoring": 4}  # of the teacher, and how often each comes
SFT_STEPS, RL_STEPS = 900, 40
PROBLEMS, HELD_OUT, TURNS = 1200, 150, 10  # TURNS to imitate of each problem


def proof_of(problem: problems.Problem, rng: random.Random) -> list[str]:
    """The teacher's proof, line by line."""
    if rng.randrange(100) >= FLAWED_PERCENT:
        return teacher.steps(problem)
    return teacher.write_flawed(problem, rng.choices(list(FLAWS), list(FLAWS.values()))[0], rng).split("\n")


def turn_of(lines: list[str], begun: int, rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """What follows the first `begun` lines: as many as fit a turn, or one less. Never empty for a proof not ended."""
    ends = [
        end
        for end in range(begun + 1, len(lines) + 1)
        if len(tokenizer("\n".join(lines[begun:end]))["input_ids"]) < TURN_TOKENS
    ]
    return lines[begun : rng.choice(ends[-2:])]


def write_data(folder: Path, seed: int) -> list[str]:
    """Turns to imitate, problems to learn from; the held-out problems."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, rng = build(), random.Random(seed)
    # of the least difficulty: a false sum early in a proof leaves nothing to earn later, and sums are not the point
    easy: dict[str, Any] = {"seed": seed, "families": ["linear"], "max_difficulty": 1}
    held_out = list(problems.generate(count=HELD_OUT, fold="heldout", **easy))
    rest = problems.generate(count=PROBLEMS, **easy)
    turns, unsolved = [], []
    for number, problem in enumerate(rest):
        unsolved.append({"id": f"p{number}", "problem": problem.text})
        for _ in range(TURNS):
            lines = proof_of(problem, rng)
            begun = rng.randrange(len(lines))
            turns.append(
                {
                    "id": f"t{len(turns)}",
                    "problem": "\n".join([problem.text, *lines[:begun]]),
                    "solutions": ["\n".join(turn_of(lines, begun, rng, tokenizer))],
                }
            )
    for name, rows in (("turns", turns), ("problems", unsolved)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [problem.text for problem in held_out]


def manifest(kind: str, name: str, spec: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run."""
    return {
        "apiVersion": "qednano.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {**spec, "seed": seed},
    }


def write_manifests(folder: Path, data: Path, summariser: str, seed: int) -> None:
    """The SFT run and the two RL runs."""
    folder.mkdir(parents=True, exist_ok=True)
    small = {"precision": "fp32", "sequenceLength": 256, "threads": 1}
    sft = {
        "model": {"init": {}},
        "dataset": {"uri": str(data / "turns.jsonl")},
        "trainer": {
            **small,
            "maxSteps": SFT_STEPS,
            "batchTokens": 4096,
            "microBatchTokens": 4096,
            "learningRate": "2e-3",
            "warmupSteps": 20,
            "threads": 2,
        },
    }
    rl = {
        "model": {"sftRun": {"name": "cache-sft"}},
        "dataset": {"uri": str(data / "problems.jsonl")},
        "algorithm": {
            "groupSize": 8,
            "problemsPerStep": 32,
            "maxSteps": RL_STEPS,
            "advantage": "BatchScaled",
            "aggregation": "TokenMean",
            "maxStaleness": 4,
            "dropZeroVariance": False,  # else the run without cache would look for groups that differ until it ends
        },
        "sampling": {"maxTokens": TURN_TOKENS},
        "rollout": {"maxModelLength": 160, "maxConcurrent": 256, "threads": 1},
        "actor": {"concurrentGroups": 40},
        "grader": {"entryPoint": {"name": GRADER}},
        "trainer": {
            **small,
            "learningRate": "3e-4",
            "schedule": "constant",
            "warmupSteps": 5,
            "microBatchTokens": 8192,
        },
    }
    cache = {
        "cycles": CYCLES,
        "statesPerProblem": 2,
        "graded": "Joined",
        "summariser": {"endpoint": {"url": summariser, "model": "line-keeper"}},
        "prompts": {"proceed": "{{ problem }}\n{{ summary }}", "summarise": PROMPT},
    }
    runs = [
        manifest("SFTRun", "cache-sft", sft, seed),
        manifest("RLRun", "with-cache", {**rl, "reasoningCache": cache}, seed),
        manifest("RLRun", "without-cache", rl, seed),
    ]
    for number, run in enumerate(runs, start=1):
        (folder / f"{number}-{run['metadata']['name']}.yaml").write_text(yaml.safe_dump(run, sort_keys=False))


def run(file: Path, root: Path) -> None:
    """One manifest; its output goes beside it."""
    log = file.with_suffix(".log")
    with log.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "qednano.cli", "run", str(file), "--root", str(root)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},  # the grader is of this package
        )
    if done.returncode:
        raise SystemExit("\n".join([f"{file.name} failed:", *log.read_text().splitlines()[-15:]]))


def artifact(root: Path, name: str) -> Path:
    """The model that a run left; the newest, where the folder has runs of an earlier call."""
    found = [path for path in root.rglob("artifact/model") if path.parts[-3].startswith(name)]
    return max(found, key=lambda path: path.stat().st_mtime)


def mean_scores(model: Path, texts: list[str], turns: int, seed: int) -> list[float]:
    """Mean score (0 to 1) of proofs written in one turn, in two, … up to `turns`, with all lines kept between."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    proofs = [""] * len(texts)
    means = []
    for _ in range(turns):
        messages = [
            [{"role": "user", "content": f"{text}\n{proof}" if proof else text}]
            for text, proof in zip(texts, proofs, strict=True)
        ]
        batch = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            out = policy.generate(**batch, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=TURN_TOKENS)
        written = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        proofs = [
            proof if concluded(proof) else f"{proof}\n{turn.strip()}".strip()
            for proof, turn in zip(proofs, written, strict=True)
        ]
        scores = [check(text, proof).score for text, proof in zip(texts, proofs, strict=True)]
        means.append(sum(scores) / len(scores) / FULL_SCORE)
    return means


def concluded(proof: str) -> bool:
    """Whether its last line is a conclusion, after which no turn is taken."""
    return proof.rpartition("\n")[2].startswith("So ")


def main() -> int:
    """Run the seeds one after another; the figures are the means over them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--root", type=Path, help="where to keep the runs (default: a new temporary folder)")
    arguments = parser.parse_args()
    folder = arguments.root or Path(tempfile.mkdtemp(prefix="reasoning-cache-"))
    found: dict[str, list[float]] = {}
    for seed in range(1, arguments.seeds + 1):
        began, base = time.monotonic(), folder / f"seed-{seed}"
        held_out = write_data(base / "data", seed)
        with line_keeper() as summariser:
            write_manifests(base / "manifests", base / "data", summariser, seed)
            for file in sorted((base / "manifests").glob("*.yaml")):
                run(file, base / "runs")
        models = {name: artifact(base / "runs", name) for name in ("cache-sft", "with-cache", "without-cache")}
        for name, model in models.items():
            one, *_, three = mean_scores(model, held_out, CYCLES + 1, seed)
            print(f"seed {seed}: {name}: {one:.3f} in one turn, {three:.3f} in {CYCLES + 1} turns", flush=True)
            found.setdefault(f"{name} one turn", []).append(one)
            found.setdefault(f"{name} three turns", []).append(three)
        found.setdefault("seconds", []).append(time.monotonic() - began)
    figures = {name: sum(values) / len(values) for name, values in found.items()}
    figures["gain over no cache"] = figures["with-cache three turns"] - figures["without-cache one turn"]
    figures["gain at equal turns"] = figures["with-cache three turns"] - figures["without-cache three turns"]
    figures["gain over sft"] = figures["with-cache three turns"] - figures["cache-sft three turns"]
    bars = {"with-cache three turns": (">=", 0.6), "gain at equal turns": (">=", 0.1)}
    return report("rl_reasoning_cache", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
