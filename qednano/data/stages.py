"""The stages between source and splits: normalise, filter, deduplicate, decontaminate; each on its own, each resumable.

A stage reads the shards of the one before it and writes as many of its own, so a shard is all that is held. A shard of
a stage and what happened in it (counts, examples, hits) are published together: a build killed at any moment goes on
after the last complete shard, and its counters are those of a build that never stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Protocol

from qednano.api.proofdataset import BenchmarkFile, Columns, FilterStage, NormaliseStage, Stages
from qednano.data import filters
from qednano.data.normalise import boxed_answer, clean, split_solution
from qednano.data.schema import ProblemRow
from qednano.data.sources import file_records, row_of
from qednano.errors import ConfigError, DataError

EXAMPLES = 5  # kept of each cause
_EXCERPT = 300  # characters of an example
_WATCH_ROWS = 500  # between two looks at whether to stop


@dataclass
class Tally:
    """What a stage did with the rows of one or more shards. Addable, JSON-able, and the same however it was cut."""

    rows_in: int = 0
    rows_out: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    log: list[dict[str, str]] = field(default_factory=list)

    def drop(self, cause: str, row: ProblemRow, reason: str, **more: str) -> None:
        """Enter a dropped row: its cause is counted, and the row with what it was compared with goes to the report."""
        self.counts[f"dropped {cause}"] += 1
        entry = {"cause": cause, "id": row.id, "reason": reason, "problem": row.problem, **more}
        self.log.append(entry)
        kept = self.examples.setdefault(cause, [])
        if len(kept) < EXAMPLES:
            kept.append({name: text[:_EXCERPT] for name, text in entry.items() if name != "cause"})

    def add(self, other: Tally) -> None:
        """Take in the tally of the next shard; its log stays with the shard."""
        self.rows_in += other.rows_in
        self.rows_out += other.rows_out
        self.counts.update(other.counts)
        for cause, examples in other.examples.items():
            kept = self.examples.setdefault(cause, [])
            kept += examples[: EXAMPLES - len(kept)]


class Stage(Protocol):
    """One stage: what it is called, what it must know of all rows beforehand, and what it does with each."""

    name: str

    def prepare(self, rows: Callable[[], Iterator[ProblemRow]], check_stop: Callable[[], None]) -> None:
        """Look at all rows of the stage before, as often as needed; does nothing for a stage that takes each alone."""

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row as it goes on, or None to drop it, which it enters in the tally."""


class Normalise:
    """Texts in one notation; a solution that stands in the statement, and the boxed answer, where they belong."""

    name = "normalise"

    def __init__(self, spec: NormaliseStage) -> None:
        self._spec = spec

    def prepare(self, rows: Callable[[], Iterator[ProblemRow]], check_stop: Callable[[], None]) -> None:
        """Nothing: each row stands alone."""

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row in one notation; dropped if no statement is left of it."""
        problem, solutions = clean(row.problem), [text for text in map(clean, row.solutions) if text]
        if self._spec.split_solution and (parts := split_solution(problem)).solution is not None:
            problem, solutions = parts.statement, [*solutions, parts.solution]
            tally.counts["solutions split off"] += 1
        reference = clean(row.reference) if row.reference else None
        answer = clean(row.answer) if row.answer else None
        if self._spec.extract_answer and not answer:
            answer = next(filter(None, map(boxed_answer, [*([reference] if reference else []), *solutions])), None)
            tally.counts["answers extracted"] += answer is not None
        if not problem:
            tally.drop("Empty", row, "nothing is left of its statement")
            return None
        tally.counts["statements changed"] += problem != row.problem
        return replace(row, problem=problem, solutions=solutions, reference=reference, answer=answer)


class Filter:
    """Rules in a fixed order; a row is dropped by the first that applies."""

    name = "filter"

    def __init__(self, spec: FilterStage) -> None:
        self._rules = filters.length_rules(spec.min_characters, spec.max_characters)
        if spec.languages:
            self._rules["Language"] = filters.language_rule(spec.languages)
        self._rules |= {str(name): filters.RULES[name] for name in spec.drop}

    def prepare(self, rows: Callable[[], Iterator[ProblemRow]], check_stop: Callable[[], None]) -> None:
        """Nothing: each row stands alone."""

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row, unless a rule drops it."""
        found = filters.first_reason(row, self._rules)
        if found is not None:
            tally.drop(found[0], row, found[1])
        return None if found else row


class Deduplicate:
    """One row of every problem: the best of those that tell it."""

    name = "deduplicate"

    def __init__(self, similarity_percent: int) -> None:
        self._similarity = similarity_percent / 100
        self._kept_by: dict[int, tuple[str, str, str]] = {}
        self._others: dict[int, list[str]] = {}

    def prepare(self, rows: Callable[[], Iterator[ProblemRow]], check_stop: Callable[[], None]) -> None:
        """Index the normal form of every row; then look again at those that have a duplicate."""
        from qednano.data.deduplicate import Index, Merit, Thresholds, clusters
        from qednano.data.form import statement_form

        index = Index(Thresholds(plain=self._similarity, with_numbers=min(self._similarity, Thresholds.with_numbers)))
        for row in rows():
            index.add(statement_form(row.problem))
            if len(index) % _WATCH_ROWS == 0:
                check_stop()
        groups = index.groups(check_stop)
        wanted = {position for group in groups for position in group}
        merits: dict[int, Merit] = {}
        names: dict[int, tuple[str, str]] = {}
        for position, row in enumerate(rows()):
            if position in wanted:
                merits[position] = Merit.of(row)
                names[position] = (row.id, row.problem)
        for cluster in clusters(groups, merits):
            self._others[cluster.kept] = [names[position][0] for position in cluster.dropped]
            for position in cluster.dropped:
                self._kept_by[position] = (*names[cluster.kept], cluster.why)

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row if it is the best of its cluster, with the ids of the others in its `meta`."""
        if position in self._kept_by:
            kept, problem, why = self._kept_by[position]
            tally.drop("Duplicate", row, f"{kept} is the same problem and stays: {why}", other=problem)
            return None
        others = self._others.get(position)
        if not others:
            return row
        tally.counts["clusters"] += 1
        return _with_meta(row, duplicates=others)


class Decontaminate:
    """No row that tells a problem of the named benchmarks."""

    name = "decontaminate"

    def __init__(self, benchmarks: Iterable[BenchmarkFile]) -> None:
        self._benchmarks = list(benchmarks)

    def prepare(self, rows: Callable[[], Iterator[ProblemRow]], check_stop: Callable[[], None]) -> None:
        """Read the benchmarks; they are held in memory whole."""
        from qednano.data.decontaminate import BenchmarkStatement, Detector

        statements = []
        for benchmark in self._benchmarks:
            columns = Columns(problem=benchmark.column, id=benchmark.id_column)
            for record in file_records([benchmark.uri]):
                row = row_of(record, columns)
                statements.append(BenchmarkStatement(benchmark.name, row.id, row.problem))
        if not statements:
            raise DataError("the benchmarks of spec.stages.decontaminate have no statements: check their uris")
        self._detector = Detector(statements)

    def apply(self, position: int, row: ProblemRow, tally: Tally) -> ProblemRow | None:
        """The row, unless it tells a problem of a benchmark."""
        hit = self._detector.match(row.problem)
        if hit is None:
            return row
        against = hit.against
        reason = f"{hit.rule} match ({hit.score:.2f}) with {against.id} of {against.benchmark}"
        tally.drop(against.benchmark, row, reason, other=against.text)
        return None


def stages_of(spec: Stages) -> list[Stage]:
    """The stages that a spec asks for, in order. ConfigError if a package that one needs is not installed."""
    found: list[Stage] = []
    if spec.normalise is not None:
        found.append(Normalise(spec.normalise))
    if spec.filter is not None:
        found.append(Filter(spec.filter))
    if spec.deduplicate is not None:
        _need("rensa", "deduplicate")
        found.append(Deduplicate(spec.deduplicate.similarity_percent))
    if spec.decontaminate is not None:
        _need("rapidfuzz", "decontaminate")
        found.append(Decontaminate(spec.decontaminate.benchmarks))
    return found


def _need(package: str, stage: str) -> None:
    if find_spec(package) is None:
        raise ConfigError(f"spec.stages.{stage} needs the package {package}: pip install '.[data]' in a checkout")


def _with_meta(row: ProblemRow, **more: Any) -> ProblemRow:
    meta = json.loads(row.meta or "{}")
    return replace(row, meta=json.dumps({**meta, **more}, sort_keys=True, ensure_ascii=False))
