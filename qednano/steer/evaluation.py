"""The EvalRun that `qednano eval` means: from words of a command line to a manifest. Pure but for looking at paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qednano.api.benchmarks import BENCHMARKS, GRADED
from qednano.api.common import API_VERSION, NAME_LIMIT
from qednano.api.scaffold import ScaffoldType
from qednano.errors import UsageError
from qednano.steer.interface import kind_of

_FILES = (".parquet", ".jsonl", ".csv", ".gz", ".zst", ".xz", ".bz2")
_CHECKPOINTS = {"initial": "Initial", "best": "Best", "final": "Final"}
MODEL = "URL#NAME (an endpoint), hf://OWNER/NAME, a folder, or an RLRun or SFTRun, also as RUN@best or RUN@STEP"


@dataclass(frozen=True)
class Asked:
    """What was asked for. `kind_of_run` tells the kind of a run that is named without one."""

    model: str
    benchmark: str
    grader: str
    kind_of_run: Callable[[str], str]
    name: str = ""
    baselines: Sequence[str] = ()
    scaffold: str = "SinglePass"
    samples: int = 1
    limit: int = 0
    max_tokens: int = 16384
    context: int = 0
    temperature: str = "1.0"
    grader_model: str = ""
    votes: int = 1
    model_key: str = ""
    grader_key: str = ""
    gpus: int = 0
    servers: int = 1
    seed: int = 0


def manifest(asked: Asked) -> dict[str, Any]:
    """An EvalRun of a model, or of a grader when no model is named. Raises UsageError."""
    spec = _of_model(asked) if asked.model else _of_grader(asked)
    name = asked.name or _slug(asked.model or asked.grader, asked.benchmark)
    return {"apiVersion": API_VERSION, "kind": "EvalRun", "metadata": {"name": name}, "spec": spec}


def _of_model(asked: Asked) -> dict[str, Any]:
    baselines = [_named(text) for text in asked.baselines]
    spec: dict[str, Any] = {"model": _model(asked.model, asked, asked.model_key)}
    if baselines:
        spec["baselines"] = [
            {"name": name, "model": _model(model, asked, asked.model_key)} for name, model in baselines
        ]
    spec["benchmark"] = _benchmark(asked.benchmark) | ({"limit": asked.limit} if asked.limit else {})
    if asked.scaffold != ScaffoldType.SINGLE_PASS:
        spec["scaffold"] = {"type": _scaffold(asked.scaffold)}
    spec["samplesPerProblem"] = asked.samples
    spec["sampling"] = {"temperature": asked.temperature, "maxTokens": asked.max_tokens}
    spec["grader"] = _grader(asked)
    context = asked.context or asked.max_tokens + 4096
    server: dict[str, Any] = {"replicas": asked.servers, "maxModelLength": context}
    if asked.gpus:
        server |= {
            "tensorParallel": asked.gpus,
            "resources": {"cpu": "8", "memory": "64Gi", "gpus": asked.gpus},
        }
    return spec | {"server": server, "seed": asked.seed}


def _of_grader(asked: Asked) -> dict[str, Any]:
    if asked.baselines:
        raise UsageError("--baseline is a model to compare with; leave it out where a grader is measured")
    return {
        "graderEvaluation": {
            "data": _scored(asked.benchmark) | ({"limit": asked.limit} if asked.limit else {}),
            "graders": [{"name": "grader", "grader": _grader(asked)}],
        },
        "seed": asked.seed,
    }


def _model(text: str, asked: Asked, key: str) -> dict[str, Any]:
    if re.match(r"https?://", text):
        return {"endpoint": _endpoint(text, key)}
    if "://" in text or text.startswith((".", "/", "~")):
        return {"uri": _local(text)}
    name, _, which = text.partition("@")
    if "/" not in name and Path(text).is_dir():
        return {"uri": _local(text)}
    word, slash, rest = name.partition("/")
    kind = kind_of(word) if slash else asked.kind_of_run(name)
    if kind not in ("RLRun", "SFTRun"):
        raise UsageError(f"{text!r} names no model: give {MODEL}")
    reference: dict[str, Any] = {"name": rest if slash else name}
    if which.isdigit():
        reference["step"] = int(which)
    elif which:
        if which.lower() not in _CHECKPOINTS:
            raise UsageError(f"{text!r} ends in @{which}; it must be @initial, @best or @STEP")
        reference["checkpoint"] = _CHECKPOINTS[which.lower()]
    return {"rlRun" if kind == "RLRun" else "sftRun": reference}


def _endpoint(text: str, key: str) -> dict[str, Any]:
    url, _, model = text.partition("#")
    if not model:
        raise UsageError(f"{text!r} has no model: write the model's name there behind a #, as in {url}#gpt-oss-20b")
    endpoint: dict[str, Any] = {"url": url, "model": model}
    if key:
        name, slash, entry = key.partition("/")
        if not (name and slash and entry):
            raise UsageError(f"{key!r} is no key: write SECRET/KEY; on this machine openai/api-key is $OPENAI_API_KEY")
        endpoint["apiKey"] = {"name": name, "key": entry}
    return endpoint


def _benchmark(text: str) -> dict[str, Any]:
    if text in BENCHMARKS:
        return {"known": text}
    if found := _hub_or_file(text):
        return found
    parts = text.split("/")
    if kind_of(parts[0]) == "ProofDataset":
        parts = parts[1:]
    if len(parts) in (1, 2) and all(parts):
        return {"proofDataset": {"name": parts[0], "split": parts[1] if len(parts) == 2 else "test"}}
    raise UsageError(
        f"--on is {text!r}; it must be one of {', '.join(sorted(BENCHMARKS))}, a file, hub:OWNER/NAME or DATASET/SPLIT"
    )


def _scored(text: str) -> dict[str, Any]:
    if text in GRADED:
        return {"known": text}
    if found := _hub_or_file(text):
        return found
    raise UsageError(
        f"--on is {text!r}; without a model it must name proofs that people scored: "
        f"{', '.join(sorted(GRADED))}, a file or hub:OWNER/NAME"
    )


def _hub_or_file(text: str) -> dict[str, Any]:
    if text.startswith("hub:"):
        return {"hub": {"id": text.removeprefix("hub:")}}
    return {"uri": _local(text)} if Path(text).is_file() or text.endswith(_FILES) else {}


def _scaffold(text: str) -> str:
    for kind in ScaffoldType:
        if kind.value.lower() == text.lower():
            return kind.value
    raise UsageError(f"--scaffold is {text!r}; it must be one of {', '.join(ScaffoldType)}")


def _grader(asked: Asked) -> dict[str, Any]:
    kind = asked.grader or ("final-answer" if asked.benchmark == "imo-answerbench" else "rubric")
    judge = {"model": _judge(asked)} if asked.grader_model else {}
    if kind == "tiny-divisibility":
        return {"checker": {"name": kind}}
    if kind == "final-answer":
        return {"finalAnswer": judge}
    if kind == "rubric":
        if not judge:
            raise UsageError(
                "a rubric grader needs a model: --grader-model URL#NAME or hf://OWNER/NAME; without one there is "
                "--grader final-answer, and --grader tiny-divisibility for the tiny task"
            )
        return {"rubric": judge | {"votes": asked.votes}}
    if ":" in kind:
        return {"entryPoint": {"name": kind}}
    raise UsageError(
        f"--grader is {kind!r}; it must be rubric, final-answer, tiny-divisibility or MODULE:OBJECT of your own"
    )


def _judge(asked: Asked) -> dict[str, Any]:
    found = _model(asked.grader_model, asked, asked.grader_key)
    return found if "endpoint" in found else {"model": found}


def _named(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise UsageError(f"--baseline is {text!r}; write NAME=MODEL, as in --baseline base=hf://Qwen/Qwen3-4B")
    return name, model


def _local(text: str) -> str:
    """Paths from where the command was given; uris and what lies elsewhere (a cluster's volume) as they are."""
    path = Path(text).expanduser()
    return str(path.resolve()) if "://" not in text and path.exists() else text


def _slug(model: str, benchmark: str) -> str:
    """A name such as qwen3-4b-on-proofbench."""

    def short(text: str) -> str:
        text = re.sub(r"@|\.(parquet|jsonl|csv).*$", "-", text.rpartition("#")[2] or text)
        parts = [part for part in text.split("/") if part] or [text]
        return re.sub(r"[^a-z0-9]+", "-", parts[-1].lower()).strip("-")

    at = short(benchmark.removeprefix("pds/"))[:18].strip("-")
    slug = f"{short(model)[: NAME_LIMIT - len(at) - 5].strip('-')}-on-{at}"
    return slug if slug[0].isalpha() else f"e-{slug}"[:NAME_LIMIT].strip("-")
