"""`qednano init`: a manifest to start from, made by asking. What is written passes `qednano validate` as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from qednano.api.common import NAME_LIMIT, NAME_PATTERN
from qednano.artifacts import write_atomic
from qednano.errors import UsageError

Ask = Callable[[str, str], str]
"""Question and default to the answer."""

GOALS = {
    "tiny": "the whole pipeline on this machine, without a GPU",
    "data": "a dataset from files of problems",
    "sft": "fine-tune a model on a dataset of proofs",
    "rl": "reinforcement learning on graded proofs",
    "eval": "score a model on a benchmark",
}

_HEAD = "apiVersion: qednano.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"

_DATA = """  sources:
    - name: problems
      files: {{uris: [{file}]}} # JSONL, Parquet or CSV; `columns` renames what it has
  stages:
    - normalise: {{}}
    - filter: {{minCharacters: 30}}
    - deduplicate: {{}}
  splits:
    - {{name: train, problems: {problems}}}
"""
_SFT = """  model: {{uri: {model}}}
  dataset: {dataset}
  trainer:
    maxSteps: {steps}
    sequenceLength: {length}
    learningRate: "1e-5"
    resources: {{cpu: "8", memory: 64Gi, gpus: {gpus}}}
    processes: {processes}
"""
_RL = """  model: {{uri: {model}}}
  dataset: {dataset}
  algorithm: {{maxSteps: {steps}, groupSize: 16, problemsPerStep: 64}}
  sampling: {{temperature: "0.8", maxTokens: {tokens}}}
  rollout:
    replicas: {servers}
    maxModelLength: {length}
    resources: {{cpu: "8", memory: 64Gi, gpus: 1}}
  grader:
    rubric:
      model: {{endpoint: {{url: {grader}, model: {grader_model}}}}}
  trainer:
    learningRate: "1e-6"
    schedule: constant
    sequenceLength: {length}
    resources: {{cpu: "8", memory: 128Gi, gpus: {gpus}}}
    processes: {processes}
"""
_EVAL = """  model: {{uri: {model}}}
  benchmark: {{uri: {file}}}
  samplesPerProblem: {samples}
  sampling: {{maxTokens: {tokens}}}
  grader:
    rubric:
      model: {{endpoint: {{url: {grader}, model: {grader_model}}}}}
  server:
    maxModelLength: {length}
    resources: {{cpu: "8", memory: 64Gi, gpus: 1}}
"""
_TINY = (
    _HEAD.replace("{kind}", "ProofDataset")
    + """  sources: [{{name: tiny, generator: {{name: tiny-divisibility}}}}]
  splits:
    - {{name: train, problems: 6000}}
    - {{name: test, problems: 100, heldOut: true}}
---
"""
    + _HEAD.replace("{kind}", "SFTRun").replace("{name}", "{name}-sft")
    + """  model: {{init: {{}}}}
  dataset: {{proofDataset: {{name: {name}}}}}
  trainer: {{maxSteps: {steps}, batchTokens: 4096, microBatchTokens: 4096, sequenceLength: 256, learningRate: "2e-3",
            precision: fp32}}
---
"""
    + _HEAD.replace("{kind}", "EvalRun").replace("{name}", "{name}-eval")
    + """  model: {{sftRun: {{name: {name}-sft}}}}
  benchmark: {{proofDataset: {{name: {name}, split: test}}}}
  sampling: {{maxTokens: 96}}
  grader: {{checker: {{name: tiny-divisibility}}}}
  server: {{maxModelLength: 160}}
"""
)


def _name(ask: Ask, default: str) -> str:
    name = ask("Name of the run", default)
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > NAME_LIMIT:
        raise UsageError(
            f"{name!r} is no name: use a-z, 0-9 and '-', start with a letter, at most {NAME_LIMIT} characters"
        )
    return name


def _whole(ask: Ask, question: str, default: int) -> int:
    answer = ask(question, str(default))
    if not answer.isdigit() or int(answer) < 1:
        raise UsageError(f"{question}: {answer!r} is not a whole number above 0")
    return int(answer)


def _dataset(ask: Ask) -> str:
    answer = ask("Rows to learn from (a file, or the name of a ProofDataset)", "/qed/proofs.parquet")
    is_name = re.fullmatch(NAME_PATTERN, answer) and "." not in answer
    return f"{{proofDataset: {{name: {answer}}}}}" if is_name else f"{{uri: {answer}}}"


def _gpus(ask: Ask) -> dict[str, int]:
    gpus = _whole(ask, "GPUs of the trainer", 8)
    return {"gpus": gpus, "processes": min(gpus, 16)}


def _grader(ask: Ask) -> dict[str, str]:
    return {
        "grader": ask("Address of the grader (OpenAI protocol)", "http://grader.example.org/v1"),
        "grader_model": ask("Name of its model", "gpt-oss-20b"),
    }


def compose(goal: str, ask: Ask) -> str:
    """The manifest for a goal, from the answers. Raises UsageError for an answer that can't be used."""
    if goal == "tiny":
        return _TINY.format(name=_name(ask, "tiny"), steps=_whole(ask, "Steps of training", 300))
    if goal == "data":
        name = _name(ask, "proofs")
        file = ask("File of problems", "/qed/problems.jsonl")
        return (_HEAD + _DATA).format(
            kind="ProofDataset", name=name, file=file, problems=_whole(ask, "Problems of the training split", 1000)
        )
    if goal == "sft":
        name, model = _name(ask, "sft"), ask("Model to start from", "hf://Qwen/Qwen3-4B-Thinking-2507")
        return (_HEAD + _SFT).format(
            kind="SFTRun",
            name=name,
            model=model,
            dataset=_dataset(ask),
            steps=_whole(ask, "Optimizer steps", 1000),
            length=_whole(ask, "Longest row in tokens", 49152),
            **_gpus(ask),
        )
    if goal == "rl":
        name, model = _name(ask, "rl"), ask("Model to start from", "hf://Qwen/Qwen3-4B-Thinking-2507")
        tokens = _whole(ask, "Longest answer in tokens", 49152)
        return (_HEAD + _RL).format(
            kind="RLRun",
            name=name,
            model=model,
            dataset=_dataset(ask),
            steps=_whole(ask, "Optimizer steps", 200),
            tokens=tokens,
            length=tokens + 2048,
            servers=_whole(ask, "Rollout servers", 8),
            **_grader(ask),
            **_gpus(ask),
        )
    name, model = _name(ask, "eval"), ask("Model to evaluate", "hf://Qwen/Qwen3-4B-Thinking-2507")
    tokens = _whole(ask, "Longest answer in tokens", 49152)
    return (_HEAD + _EVAL).format(
        kind="EvalRun",
        name=name,
        model=model,
        file=ask("File of the benchmark", "/qed/benchmark.parquet"),
        samples=_whole(ask, "Samples of each problem", 4),
        tokens=tokens,
        length=tokens + 2048,
        **_grader(ask),
    )


def write_manifest(file: Path, goal: str, ask: Ask) -> str:
    """Write the manifest; its text. Raises UsageError for a file that is there already or an unknown goal."""
    if file.exists():
        raise UsageError(f"{file} is there already; name another file")
    if not goal:
        listed = "; ".join(f"{name}: {about}" for name, about in GOALS.items())
        goal = ask(f"What do you want to do? ({listed})", "tiny")
    if goal not in GOALS:
        raise UsageError(f"--goal is {goal!r}; it must be one of {', '.join(GOALS)}")
    text = compose(goal, ask)
    write_atomic(file, text)
    return text
