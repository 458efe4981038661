"""Grader evaluation: every grader on every human-scored proof, resumed where it was stopped; then what each is worth.

Grades are appended to `samples/grades.jsonl` under (grader, proof). A proof without a grade is asked for anew by the
next attempt.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qednano.artifacts import write_json
from qednano.errors import DataError, Stopped
from qednano.evals.graded import GradedProof
from qednano.evals.statistics import Comparison, compare
from qednano.grading.health import GraderHealth
from qednano.grading.interface import Grade, Grader
from qednano.grading.patience import obtain_grade
from qednano.grading.usage import cost_of
from qednano.grading.worth import Worth, worth
from qednano.jsonl import RowWriter, read_rows
from qednano.progress import Reporter

_TICK = 0.1
_REPORT_SECONDS = 2.0

GRADES = pa.schema(
    [
        pa.field("grader", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("author", pa.string(), nullable=False),
        pa.field("human", pa.float64(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("failure", pa.string()),
        pa.field("details", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class GradeRow:
    """What one grader said of one proof; `details` is JSON, `failure` why there is no score."""

    grader: str
    id: str
    score: float | None
    reason: str
    failure: str | None
    details: str
    seconds: float


@dataclass(frozen=True)
class GraderResult:
    """One grader: its worth on what it graded, and what that cost; money is None where a price is unknown."""

    name: str
    asks: str
    graded: int
    ungraded: int
    failures: dict[str, int]
    worth: Worth
    tokens: int
    tokens_per_proof: float
    cost: float | None
    cost_per_proof: float | None
    seconds_mean: float


@dataclass(frozen=True)
class Candidate:
    """A grader that is evaluated, and the failures after which it is waited for."""

    grader: Grader
    health: GraderHealth


class GraderEvaluation:
    """One evaluation of graders in one run's folder; `rows` are the grades so far, by grader and proof."""

    def __init__(
        self,
        proofs: Sequence[GradedProof],
        graders: Mapping[str, Candidate],
        run_dir: Path,
        reporter: Reporter,
        *,
        concurrency: int = 64,
        check_fence: Callable[[], None] = lambda: None,
    ) -> None:
        self.proofs, self.graders, self.concurrency = list(proofs), dict(graders), concurrency
        self.path = run_dir / "samples" / "grades.jsonl"
        self._reporter, self._check_fence = reporter, check_fence
        self._next_report = 0.0
        wanted = {proof.id for proof in self.proofs}
        found = [GradeRow(**row) for row in read_rows(self.path)]
        self.paid = [row for row in found if row.score is None]  # no grade, but its calls were paid
        self.rows = {(row.grader, row.id): row for row in found if row.score is not None and row.id in wanted}

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Have every grader grade what is missing. Raises Stopped when asked to stop; what is graded is kept."""
        with RowWriter(self.path) as writer:
            self._report(always=True)
            work = [
                asyncio.create_task(self._work(name, proofs, writer, stopping))
                for name in self.graders
                for proofs in [self._missing(name)]
                for _ in range(min(self.concurrency, len(self.proofs)))
            ]
            watch = asyncio.create_task(_raise_when(stopping))
            everything = asyncio.gather(*work)
            parts: list[asyncio.Future[Any]] = [everything, watch]
            try:
                await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                if stopping():
                    await watch
                (everything if everything.done() else watch).result()
            finally:
                for task in (*work, watch):
                    task.cancel()
                await asyncio.gather(*parts, *work, return_exceptions=True)
                self._report(always=True)

    def _missing(self, name: str) -> Iterator[GradedProof]:
        yield from [proof for proof in self.proofs if (name, proof.id) not in self.rows]

    async def _work(
        self, name: str, proofs: Iterator[GradedProof], writer: RowWriter, stopping: Callable[[], bool]
    ) -> None:
        candidate = self.graders[name]
        for proof in proofs:
            if stopping():
                return  # the watch says so
            started = time.monotonic()
            grade = await obtain_grade(candidate.grader, proof.problem, proof.proof, health=candidate.health)
            row = _row(name, proof, grade, time.monotonic() - started)
            self._check_fence()
            writer.append([asdict(row)])
            if row.score is None:
                self.paid.append(row)
            else:
                self.rows[name, proof.id] = row
            self._report()

    def results(self, seed: int = 0) -> list[GraderResult]:
        """What each grader is worth. DataError for one that gave no grade at all."""
        return [self._result(name, seed) for name in self.graders]

    def _result(self, name: str, seed: int) -> GraderResult:
        rows = {proof.id: row for proof in self.proofs if (row := self.rows.get((name, proof.id)))}
        failed = [row for row in self.paid if row.grader == name]
        if not rows:
            why = failed[-1].reason if failed else "it was not asked"
            raise DataError(f"grader {name} gave no grade for any of {len(self.proofs)} proofs: {why}")
        judged = [proof for proof in self.proofs if proof.id in rows]
        found = worth(
            [proof.human for proof in judged],
            [rows[proof.id].score or 0.0 for proof in judged],
            [proof.problem.id for proof in judged],
            seed,
        )
        last = {row.id: row.failure or "error" for row in failed if row.id not in rows}
        failures: dict[str, int] = defaultdict(int)
        for failure in last.values():
            failures[failure] += 1
        spent = cost_of(row.details for row in (*rows.values(), *failed))
        return GraderResult(
            name=name,
            asks=self.graders[name].grader.name,
            graded=len(judged),
            ungraded=len(self.proofs) - len(judged),
            failures=dict(failures),
            worth=found,
            tokens=spent.tokens,
            tokens_per_proof=spent.tokens / len(self.proofs),
            cost=spent.cost,
            cost_per_proof=None if spent.cost is None else spent.cost / len(self.proofs),
            seconds_mean=sum(row.seconds for row in rows.values()) / len(rows),
        )

    def comparisons(self, seed: int = 0) -> dict[str, Comparison]:
        """The first grader against each other: difference of mean absolute errors by problem, on shared proofs.

        Below 0 the first is better; `better` counts problems where it is the worse one's error that is larger.
        """
        first, *others = self.graders
        found = {}
        for other in others:
            errors: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for proof in self.proofs:
                one, two = self.rows.get((first, proof.id)), self.rows.get((other, proof.id))
                if one is not None and two is not None:
                    pair = (abs((one.score or 0) - proof.human), abs((two.score or 0) - proof.human))
                    errors[proof.problem.id].append(pair)
            if errors:
                means = [[sum(side) / len(side) for side in zip(*pairs, strict=True)] for pairs in errors.values()]
                result = compare([mean[0] for mean in means], [mean[1] for mean in means], seed)
                found[other] = Comparison(
                    result.difference, result.worse, result.better, result.equal, result.p_value
                )  # less error is better
        return found

    def write(self, folder: Path, seed: int = 0) -> list[GraderResult]:
        """Leave grades.parquet, proofs.parquet and grading.json in the folder."""
        results = self.results(seed)
        by_id = {proof.id: proof for proof in self.proofs}
        last = {(row.grader, row.id): row for row in self.paid} | self.rows
        order = [(name, proof.id) for name in self.graders for proof in self.proofs]
        rows = [last[key] for key in order if key in last]
        graded = [
            asdict(row)
            | {"problem": by_id[row.id].problem.id, "author": by_id[row.id].author, "human": by_id[row.id].human}
            for row in rows
        ]
        pq.write_table(pa.Table.from_pylist(graded, schema=GRADES), folder / "grades.parquet")
        pq.write_table(pa.Table.from_pylist([_proof_row(proof) for proof in self.proofs]), folder / "proofs.parquet")
        write_json(folder / "grading.json", self.as_json(results, seed))
        return results

    def as_json(self, results: Sequence[GraderResult], seed: int = 0) -> dict[str, Any]:
        """As written to grading.json, with the rules behind the numbers."""
        return {
            "proofs": len(self.proofs),
            "problems": len({proof.problem.id for proof in self.proofs}),
            "graders": [_flat(result) for result in results],
            "comparisons": {name: asdict(item) for name, item in self.comparisons(seed).items()},
            "rules": {
                "scale": "points, 0 to 7; means of votes are rounded, halves up, for buckets, kappa and confusion",
                "buckets": "0, 1-3, 4-6, 7",
                "pairwiseConsistency": "pairs of proofs of one problem that people scored differently; a tie is a half",
                "advantageDifference": "mean |advantage by grader - advantage by people| within problems, in points",
                "kappa": "Cohen's kappa with quadratic weights",
                "interval": "95 % percentile bootstrap over problems, 1,000 resamples",
                "comparison": "mean absolute error by problem, first grader minus the other; sign-flip p-value",
                "ungraded": "proofs without a grade count in no measure, and are counted here",
            },
        }

    def _report(self, always: bool = False) -> None:
        now = time.monotonic()
        if now < self._next_report and not always:
            return
        self._next_report = now + _REPORT_SECONDS
        human = {proof.id: proof.human for proof in self.proofs}
        errors: dict[str, list[float]] = defaultdict(list)
        for row in self.rows.values():
            errors[row.grader].append(abs((row.score or 0.0) - human[row.id]))
        spent = cost_of(row.details for row in (*self.rows.values(), *self.paid))
        shown = {"tokens/in": float(spent.tokens_in), "tokens/out": float(spent.tokens_out)}
        if spent.cost is not None and spent.tokens:
            shown["cost"] = spent.cost
        for number, name in enumerate(self.graders):
            if errors[name]:
                shown["mae" if number == 0 else f"mae:{name}"] = sum(errors[name]) / len(errors[name])
        self._reporter.update(
            stage="Grading",
            unit="grade",
            step=len(self.rows),
            total=len(self.proofs) * len(self.graders),
            metrics=shown,
            message=", ".join(f"{name}: {len(errors[name])} of {len(self.proofs)}" for name in self.graders),
        )


def headline(results: Sequence[GraderResult]) -> str:
    """The result in one sentence."""
    parts = []
    for result in results:
        error = result.worth.mae
        parts.append(f"{result.name} is off by {error.mean:.2f} points ({error.low:.2f} to {error.high:.2f})")
    return f"on {results[0].worth.proofs} proofs scored by people, " + ", ".join(parts)


def headline_metrics(results: Sequence[GraderResult]) -> dict[str, float]:
    """What status and tables show: the first grader's error and agreement, and the others' error."""
    first = results[0].worth
    shown = {"mae": first.mae.mean, "mae/low": first.mae.low, "mae/high": first.mae.high, "bias": first.bias.mean}
    shown |= {"kappa": first.kappa.mean, "pairwise": first.pairwise_consistency.mean}
    shown |= {f"mae:{result.name}": result.worth.mae.mean for result in results[1:]}
    return {name: value for name, value in shown.items() if value is not None}


def _row(name: str, proof: GradedProof, grade: Grade, seconds: float) -> GradeRow:
    return GradeRow(
        grader=name,
        id=proof.id,
        score=grade.score,
        reason=grade.reason,
        failure=grade.failure.value if grade.failure else None,
        details=json.dumps(grade.details, ensure_ascii=False, sort_keys=True),
        seconds=round(seconds, 3),
    )


def _flat(result: GraderResult) -> dict[str, Any]:
    found = asdict(result)
    return {**found, **found.pop("worth")}


def _proof_row(proof: GradedProof) -> dict[str, Any]:
    row = proof.problem
    return {
        "id": proof.id,
        "problem_id": row.id,
        "problem": row.problem,
        "proof": proof.proof,
        "human": proof.human,
        "author": proof.author,
        "rubric": row.rubric or "",
        "reference": row.reference or "",
        "answer": row.answer or "",
    }


async def _raise_when(stopping: Callable[[], bool]) -> None:
    while not stopping():
        await asyncio.sleep(_TICK)
    raise Stopped("the evaluation was asked to stop; grades are kept and the next attempt goes on from them")
