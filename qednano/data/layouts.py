"""Column names and types of the sets that others have published, so that what we publish loads where theirs does.

FineProofs-SFT has a row for each proof, FineProofs-RL a row for each problem with a marking scheme; both are by
lm-provers on the Hugging Face Hub. Their files are read without any of this, by the usual names of `columns`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qednano.api.proofdataset import Layout
from qednano.data.schema import SCHEMA, ProblemRow

_BATCH = 256
_FULL_SCORE = 7

FINE_PROOFS_SFT = pa.schema(
    [
        pa.field("problem", pa.string()),
        pa.field("reasoning_content", pa.string()),
        pa.field("proof", pa.string()),
        pa.field("category", pa.string()),
        pa.field("competition", pa.string()),
        pa.field("gemini-3-pro-grade", pa.int64()),
        pa.field("qwen3-4b-thinking-reward@128", pa.float64()),
        pa.field("source", pa.string()),
        pa.field("messages", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
    ]
)

FINE_PROOFS_RL = pa.schema(
    [
        pa.field("problem", pa.string()),
        pa.field("source", pa.string()),
        pa.field("rubrics", pa.string()),
        pa.field("scores", pa.list_(pa.int64())),
        pa.field("rewards", pa.list_(pa.float64())),
        pa.field("num_rewards", pa.int64()),
        pa.field("reward_mean", pa.float64()),
        pa.field("reward_std", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Form:
    """A schema and how a row of ours is told in it: in no record, one, or several."""

    schema: pa.Schema
    records: Callable[[ProblemRow], Iterator[dict[str, Any]]]


def _sft(row: ProblemRow) -> Iterator[dict[str, Any]]:
    """One record a proof. Columns are named as in the published set, whoever graded and whose rewards they are."""
    meta: Mapping[str, Any] = json.loads(row.meta or "{}")
    for number, proof in enumerate(row.solutions):
        thinking = row.reasoning[number] if number < len(row.reasoning) else ""
        score = row.scores[number] if number < len(row.scores) else None
        answer = f"<think>\n{thinking}\n</think>\n\n{proof}" if thinking else proof
        yield {
            "problem": row.problem,
            "reasoning_content": thinking,
            "proof": proof,
            "category": meta.get("category"),
            "competition": meta.get("competition"),
            "gemini-3-pro-grade": None if score is None else round(score),
            "qwen3-4b-thinking-reward@128": row.mean_reward,
            "source": row.source,
            "messages": [{"content": row.problem, "role": "user"}, {"content": answer, "role": "assistant"}],
        }


def _rl(row: ProblemRow) -> Iterator[dict[str, Any]]:
    """The scores are those of a model's attempts where the row still has them; mean and number are kept in any case."""
    scores = [item.score for item in row.candidates if item.score is not None]
    rewards = [score / _FULL_SCORE for score in scores]
    mean = row.mean_reward if row.mean_reward is not None else (sum(rewards) / len(rewards) if rewards else None)
    spread = None
    if rewards and mean is not None:
        spread = (sum((reward - mean) ** 2 for reward in rewards) / len(rewards)) ** 0.5
    yield {
        "problem": row.problem,
        "source": row.source,
        "rubrics": row.rubric,
        "scores": [round(score) for score in scores],
        "rewards": rewards,
        "num_rewards": row.attempts or len(rewards),
        "reward_mean": mean,
        "reward_std": spread,
    }


LAYOUTS: dict[Layout, Form | None] = {
    Layout.PLAIN: None,
    Layout.FINE_PROOFS_SFT: Form(FINE_PROOFS_SFT, _sft),
    Layout.FINE_PROOFS_RL: Form(FINE_PROOFS_RL, _rl),
}


def columns_of(layout: Layout) -> list[str]:
    """The names of a layout's columns."""
    form = LAYOUTS[layout]
    return list((form.schema if form else SCHEMA).names)


def convert(rows: Iterable[ProblemRow], target: Path, layout: Layout) -> int:
    """Write rows in another layout, a batch at a time; returns how many records it wrote."""
    form = LAYOUTS[layout]
    assert form is not None, "a plain split needs no conversion"
    written = 0
    with pq.ParquetWriter(target, form.schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for record in (record for row in rows for record in form.records(row)):
            batch.append(record)
            if len(batch) == _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema=form.schema))
                written += len(batch)
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema=form.schema))
    return written + len(batch)
