"""Sample rows of a run, one JSON object a line: what was asked, answered, graded, and by which weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from qednano.jsonl import RowWriter, writable

if TYPE_CHECKING:
    from qednano.rl.groups import GroupResult


class SampleLog:
    """Appends to `samples/<name>.jsonl`; use as a context manager."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self._rows = RowWriter(run_dir / "samples" / f"{name}.jsonl")

    def __enter__(self) -> SampleLog:
        self._rows.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.__exit__()

    def write(self, result: GroupResult, seconds: float) -> None:
        """All samples of one group, the first with the summary that they start from, if any; a group without samples
        leaves one row that says why."""
        common = {
            "time": round(time.time(), 3),
            "group": result.id,
            "problem": result.problem_id,
            "cycles": result.turn,
        }
        rows: list[dict[str, object]] = [
            common
            | {
                "outcome": item.outcome if item.outcome != "kept" else result.outcome,
                "index": index,
                "proof": writable(item.text),
                "score": item.grade.score,
                "reason": item.grade.reason,
                "details": item.grade.details,
                "reward": item.sample.reward,
                "promptTokens": len(item.sample.prompt_ids),
                "completionTokens": len(item.sample.completion_ids),
                "finishReason": item.sample.finish_reason,
                "versionStart": item.sample.version_start,
                "versionEnd": item.sample.version_end,
                "seconds": round(seconds, 3),
            }
            for index, item in enumerate(result.samples)
        ]
        rows = rows or [common | {"outcome": result.outcome}]
        if result.summary:
            rows[0]["summary"] = writable(result.summary)
        self._rows.append(rows)
