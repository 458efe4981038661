"""The stages that ask no model: normalise, filter, deduplicate, decontaminate; and how a spec's stages are made.

A stage reads the shards of the one before it and writes its own, so a shard is all that is held. A shard of a stage and
what happened in it (counts, examples, hits) are published together: a build killed at any moment goes on after the last
complete shard, and its counters are those of a build that never stopped.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel

from qednano.api.proofdataset import (
    ContaminationBenchmark,
    DecontaminateStage,
    DeduplicateStage,
    FilterStage,
    NormaliseStage,
)
from qednano.api.proofdataset import Stage as StageSpec
from qednano.data import filters
from qednano.data.curriculum import Curriculum
from qednano.data.difficulty import difficulty
from qednano.data.final_answer import final_answer, reads_as_mathematics
from qednano.data.generate import generate
from qednano.data.grade import grade
from qednano.data.llm_filter import llm_filter
from qednano.data.normalise import clean, split_solution
from qednano.data.rubrics import rubrics
from qednano.data.schema import ProblemRow
from qednano.data.select import Select
from qednano.data.sources import benchmark_rows
from qednano.data.stage import Place, Stage, StageWork, Tally, with_meta
from qednano.errors import ConfigError

_WATCH_ROWS = 500  # between two looks at whether to stop


class Normalise:
    """Texts in one notation; a solution that stands in the statement, the answer and the language where they belong."""

    def __init__(self, spec: NormaliseStage, place: Place) -> None:
        self.name = place.name
        self._spec = spec

    def prepare(self, work: StageWork) -> None:
        """Nothing: each row stands alone."""

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row in one notation; dropped if no statement is left of it."""
        before, row = row, _cleaned(row)
        if self._spec.split_solution and (parts := split_solution(row.problem)).solution is not None:
            row = replace(
                row,
                problem=parts.statement,
                solutions=[*row.solutions, parts.solution],
                reasoning=[*row.reasoning, ""] if row.reasoning else [],
                scores=[*row.scores, None] if row.scores else [],
            )
            tally.counts["solutions split off"] += 1
        if not row.problem:
            tally.drop("Empty", before, "nothing is left of its statement")
            return None
        tally.counts["statements changed"] += row.problem != before.problem
        if self._spec.extract_answer and not row.answer:
            row = self._with_answer(row, tally)
        if self._spec.detect_language:
            language = filters.language_of(row.problem)
            tally.counts[f"language {language or 'unknown'}"] += 1
            row = with_meta(row, language=language) if language else row
        return row

    def _with_answer(self, row: ProblemRow, tally: Tally) -> ProblemRow:
        texts = [*([row.reference] if row.reference else []), *row.solutions]
        answer = next(filter(None, map(final_answer, texts)), None)
        if answer is None:
            return row
        tally.counts["answers extracted"] += 1
        if not reads_as_mathematics(answer):
            tally.counts["answers that math-verify can't read"] += 1
        return replace(row, answer=answer)


def _cleaned(row: ProblemRow) -> ProblemRow:
    kept = [number for number, text in enumerate(row.solutions) if clean(text)]
    return replace(
        row,
        problem=clean(row.problem),
        solutions=[clean(row.solutions[number]) for number in kept],
        reasoning=[row.reasoning[number] for number in kept if number < len(row.reasoning)],
        scores=[row.scores[number] for number in kept if number < len(row.scores)],
        reference=clean(row.reference) if row.reference else None,
        answer=clean(row.answer) if row.answer else None,
    )


class Filter:
    """Rules in a fixed order; a row is dropped by the first that applies."""

    def __init__(self, spec: FilterStage, place: Place) -> None:
        self.name = place.name
        self._rules = filters.length_rules(spec.min_characters, spec.max_characters)
        if spec.languages:
            self._rules["Language"] = filters.language_rule(spec.languages)
        self._rules |= {str(name): filters.RULES[name] for name in spec.drop}

    def prepare(self, work: StageWork) -> None:
        """Nothing: each row stands alone."""

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row, unless a rule drops it."""
        found = filters.first_reason(row, self._rules)
        if found is not None:
            tally.drop(found[0], row, found[1])
        return None if found else row


@dataclass(frozen=True)
class _Stays:
    """The row that stays of a cluster: its id, why it stays, and where the rest of it is in the stage's file."""

    id: str
    why: str
    place: int


class Deduplicate:
    """One row of every problem: the best of those that tell it."""

    def __init__(self, spec: DeduplicateStage, place: Place) -> None:
        _need("rensa", place)
        self.name = place.name
        self._similarity = spec.similarity_percent / 100
        self._merge = spec.merge_solutions
        self._kept_by: dict[int, int] = {}
        self._stays: dict[int, _Stays] = {}
        self._texts = Path()

    def prepare(self, work: StageWork) -> None:
        """Index the normal form of every row, then look again at those that have a duplicate.

        In memory are hashes of all rows; texts of the clusters go to a file.
        """
        from qednano.data.deduplicate import Merit, clusters

        groups = near_duplicates((row.problem for row in work.rows()), work.build.check_stop, self._similarity)
        wanted = {position for group in groups for position in group}
        merits: dict[int, Merit] = {}
        for position, row in enumerate(work.rows()):
            if position in wanted:
                merits[position] = Merit.of(row)
        why = {}
        for cluster in clusters(groups, merits):
            self._kept_by |= dict.fromkeys(cluster.dropped, cluster.kept)
            why[cluster.kept] = cluster.why
        self._write_texts(work, why)

    def _write_texts(self, work: StageWork, why: dict[int, str]) -> None:
        """For each row that stays a line with its text and what its cluster gives to it."""
        self._texts = work.folder / "clusters.jsonl"
        dropped: dict[int, list[int]] = {}
        for position, kept in self._kept_by.items():
            dropped.setdefault(kept, []).append(position)
        last = {max(kept, *others): kept for kept, others in dropped.items()}
        open_clusters: dict[int, dict[str, Any]] = {}
        with self._texts.open("wb") as file:
            for position, row in enumerate(work.build.watched(work.rows())):
                kept = self._kept_by.get(position, position)
                if kept not in why:
                    continue
                cluster = open_clusters.setdefault(kept, {"problem": "", "ids": [], "given": []})
                if position == kept:
                    cluster |= {"problem": row.problem, "id": row.id}
                else:
                    cluster["ids"].append(row.id)
                    cluster["given"] += _proofs(row) if self._merge else []
                if position in last:  # the cluster is whole: only those that are not are held
                    del open_clusters[kept]
                    self._stays[kept] = _Stays(cluster["id"], why[kept], file.tell())
                    file.write(json.dumps(cluster, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")

    def _cluster(self, kept: int) -> dict[str, Any]:
        with self._texts.open("rb") as file:
            file.seek(self._stays[kept].place, os.SEEK_SET)
            found: dict[str, Any] = json.loads(file.readline())
        return found

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row if it is the best of its cluster, with the ids of the others in its `meta`."""
        if position in self._kept_by:
            kept = self._kept_by[position]
            stays = self._stays[kept]
            reason = f"{stays.id} is the same problem and stays: {stays.why}"
            tally.drop("Duplicate", row, reason, other=self._cluster(kept)["problem"])
            return None
        if position not in self._stays:
            return row
        cluster = self._cluster(position)
        tally.counts["clusters"] += 1
        tally.counts[f"clusters of {1 + len(cluster['ids'])}"] += 1
        row = with_meta(row, duplicates=cluster["ids"], kept=self._stays[position].why)
        return _with_proofs(row, cluster["given"], tally) if cluster["given"] else row


def near_duplicates(
    problems: Iterable[str], check_stop: Callable[[], None], similarity: float = 0.7
) -> list[list[int]]:
    """Positions of the statements that are one problem, for each problem that comes twice or more."""
    from qednano.data.deduplicate import Index, Thresholds
    from qednano.data.form import statement_form

    index = Index(Thresholds(plain=similarity, with_numbers=min(similarity, Thresholds.with_numbers)))
    for problem in problems:
        index.add(statement_form(problem))
        if len(index) % _WATCH_ROWS == 0:
            check_stop()
    return index.groups(check_stop)


def _proofs(row: ProblemRow) -> list[list[Any]]:
    """Each solution with its thinking and its grade."""
    reasoning = row.reasoning or [""] * len(row.solutions)
    scores = row.scores or [None] * len(row.solutions)
    return [list(proof) for proof in zip(row.solutions, reasoning, scores, strict=True)]


def _with_proofs(row: ProblemRow, given: list[list[Any]], tally: Tally) -> ProblemRow:
    """The row with solutions that it doesn't have yet."""
    proofs = _proofs(row)
    known = {proof[0] for proof in proofs}
    for proof in given:
        if proof[0] not in known:
            known.add(proof[0])
            proofs.append(proof)
            tally.counts["solutions merged"] += 1
    solutions, reasoning, scores = ([proof[place] for proof in proofs] for place in range(3))
    return replace(
        row,
        solutions=solutions,
        reasoning=reasoning if any(reasoning) else [],
        scores=scores if any(score is not None for score in scores) else [],
    )


class Decontaminate:
    """No row that tells a problem of the named benchmarks."""

    def __init__(self, spec: DecontaminateStage, place: Place) -> None:
        _need("rapidfuzz", place)
        self.name = place.name
        self._benchmarks: Sequence[ContaminationBenchmark] = spec.benchmarks

    def prepare(self, work: StageWork) -> None:
        """Read the benchmarks; they are held in memory whole."""
        from qednano.data.decontaminate import BenchmarkStatement, Detector

        statements = {
            BenchmarkStatement(benchmark.name, row.id, row.problem): None
            for benchmark in self._benchmarks
            for row in benchmark_rows(benchmark)
        }
        self._detector = Detector(list(statements))

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row, unless it tells a problem of a benchmark."""
        hit = self._detector.match(row.problem)
        if hit is None:
            return row
        against = hit.against
        reason = f"{hit.rule} match ({hit.score:.2f}) with {against.id} of {against.benchmark}"
        tally.drop(against.benchmark, row, reason, other=against.text)
        return None


FACTORIES: dict[str, Callable[[Any, Place], Stage]] = {
    "normalise": Normalise,
    "filter": Filter,
    "deduplicate": Deduplicate,
    "decontaminate": Decontaminate,
    "llm_filter": llm_filter,
    "rubrics": rubrics,
    "generate": generate,
    "grade": grade,
    "select": Select,
    "difficulty": difficulty,
    "curriculum": Curriculum,
}
"""How each stage of `qednano.api.proofdataset.Stage` is made from its spec, by the name of its field."""


def stages_of(specs: Sequence[StageSpec], seed: int) -> list[Stage]:
    """The stages that a spec asks for, in its order. ConfigError if a package that one needs is not installed."""
    found: list[Stage] = []
    times: Counter[str] = Counter()
    for index, spec in enumerate(specs):
        field = to_camel(spec.kind)
        times[field] += 1
        name = field if times[field] == 1 else f"{field}-{times[field]}"
        place = Place(f"stages/{index}/{field}", name, seed)
        found.append(FACTORIES[spec.kind](getattr(spec, spec.kind), place))
    return found


def _need(package: str, place: Place) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"stage {place.name} needs the package {package}: pip install '.[data]' in a checkout")
