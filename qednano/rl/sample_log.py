"""Sample rows of a run, one JSON object a line: what was asked, answered, graded, and by which weights."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from qednano.rl.actor import GroupResult


class SampleLog:
    """Appends to `samples/<name>.jsonl`; use as a context manager. A line is whole or, after a crash, the last."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self.path = run_dir / "samples" / f"{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO

    def __enter__(self) -> SampleLog:
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, result: GroupResult, seconds: float) -> None:
        """All samples of one group; a group without samples leaves one row that says why."""
        common = {"time": round(time.time(), 3), "group": result.id, "problem": result.problem_id}
        rows: list[dict[str, object]] = [
            common
            | {
                "outcome": item.outcome if item.outcome != "kept" else result.outcome,
                "index": index,
                "proof": item.text,
                "score": item.grade.score,
                "reason": item.grade.reason,
                "reward": item.sample.reward,
                "promptTokens": len(item.sample.prompt_ids),
                "completionTokens": len(item.sample.completion_ids),
                "finishReason": item.sample.finish_reason,
                "versionStart": item.sample.version_start,
                "versionEnd": item.sample.version_end,
                "seconds": round(seconds, 3),
            }
            for index, item in enumerate(result.samples)
        ] or [common | {"outcome": result.outcome}]
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()
