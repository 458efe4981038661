"""Rows of the tables that the viewer shows: problems of a run, and problems of two runs. Pure; readers in, rows out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qednano.evals.reader import EvaluationReader
from qednano.evals.statistics import Comparison, compare

PAGE_ROWS = 50


@dataclass(frozen=True)
class ProblemLine:
    """One problem: by model the mean share and (index, score, tokens) of each sample."""

    id: str
    title: str
    category: str
    difficulty: int
    means: Mapping[str, float]
    samples: Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Wanted:
    """What of a table is shown, as the page's address says it."""

    words: str = ""
    category: str = ""
    outcome: str = ""  # solved | partly | failed | ungraded | cut, of the run's own model
    order: str = "problem"
    page: int = 0


def problem_lines(reader: EvaluationReader, wanted: Wanted) -> tuple[list[ProblemLine], int]:
    """The page of lines that is wanted, and how many match in all."""
    samples, places = reader.samples, range(len(reader.samples.problems))
    chosen = [place for place in places if _matches(reader, place, wanted)]
    if wanted.words:
        hits = {int(samples.problem[row]) for row in reader.search(wanted.words, limit=5000)}
        words = wanted.words.lower()
        chosen = [
            place
            for place in chosen
            if place in hits
            or words in samples.problems[place].lower()
            or words in reader.problems.get(samples.problems[place], {}).get("problem", "").lower()
        ]
    chosen = _ordered(reader, chosen, wanted.order)
    shown = chosen[wanted.page * PAGE_ROWS : (wanted.page + 1) * PAGE_ROWS]
    return [_line(reader, place) for place in shown], len(chosen)


def _matches(reader: EvaluationReader, place: int, wanted: Wanted) -> bool:
    samples = reader.samples
    if wanted.category and reader.category(samples.problems[place]) != wanted.category:
        return False
    mean = samples.means[0, place]
    if wanted.outcome == "ungraded":
        return math.isnan(mean)
    if wanted.outcome == "cut":
        return any(samples.cut_off[row] for row in samples.rows.get((0, place), []))
    low, high = {"solved": (1.0, 2.0), "partly": (1e-9, 1.0), "failed": (-1.0, 1e-9)}.get(wanted.outcome, (-9.0, 9.0))
    return not wanted.outcome or low <= mean < high


def _ordered(reader: EvaluationReader, places: list[int], order: str) -> list[int]:
    samples, name = reader.samples, order.lstrip("-")
    if name in samples.models:
        values = samples.means[samples.models.index(name)]
        known = [place for place in places if not math.isnan(values[place])]
        unknown = [place for place in places if math.isnan(values[place])]
        return sorted(known, key=lambda place: values[place], reverse=order.startswith("-")) + unknown
    if name == "category":
        return sorted(places, key=lambda place: reader.category(samples.problems[place]), reverse=order[0] == "-")
    return places[::-1] if order.startswith("-") else places


def _line(reader: EvaluationReader, place: int) -> ProblemLine:
    samples = reader.samples
    identity = samples.problems[place]
    problem = reader.problems.get(identity, {})
    return ProblemLine(
        identity,
        str(problem.get("problem") or ""),
        reader.category(identity),
        int(problem.get("difficulty") or 0),
        {model: float(samples.means[number, place]) for number, model in enumerate(samples.models)},
        {
            model: [
                (int(samples.index[row]), float(samples.score[row])) for row in samples.rows.get((number, place), [])
            ]
            for number, model in enumerate(samples.models)
        },
    )


def by_category(reader: EvaluationReader) -> dict[str, list[tuple[float, int]]]:
    """Mean share and number of problems of each category, by model in the reader's order; {} without categories."""
    samples = reader.samples
    names = [reader.category(identity) for identity in samples.problems]
    found = {}
    for category in sorted({name for name in names if name}):
        means = samples.means[:, [name == category for name in names]]
        known = ~np.isnan(means)
        found[category] = [
            (float(np.nanmean(row)) if some.any() else math.nan, int(some.sum()))
            for row, some in zip(means, known, strict=True)
        ]
    return found


@dataclass(frozen=True)
class PairLine:
    """One problem that both answered: mean shares, and the first minus the second."""

    id: str
    title: str
    category: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        return self.first - self.second


def pairs(first: tuple[EvaluationReader, str], second: tuple[EvaluationReader, str]) -> list[PairLine]:
    """The problems that both models have a grade on, in the first one's order."""
    mine, theirs = _means(*first), _means(*second)
    problems = first[0].problems
    return [
        PairLine(
            identity,
            str(problems.get(identity, {}).get("problem", "")),
            first[0].category(identity),
            mean,
            theirs[identity],
        )
        for identity, mean in mine.items()
        if identity in theirs
    ]


def _means(reader: EvaluationReader, model: str) -> dict[str, float]:
    samples = reader.samples
    means = samples.means[samples.models.index(model)]
    return {name: float(mean) for name, mean in zip(samples.problems, means, strict=True) if not math.isnan(mean)}


def paired(lines: Sequence[PairLine]) -> Comparison | None:
    """The paired comparison, None without a shared problem."""
    return compare([line.first for line in lines], [line.second for line in lines]) if lines else None


def pair_page(lines: Sequence[PairLine], who: str, order: str, page: int) -> tuple[list[PairLine], int]:
    """One page of the chosen lines, and how many there are."""
    chosen = choose(lines, who, order)
    return chosen[page * PAGE_ROWS : (page + 1) * PAGE_ROWS], len(chosen)


def choose(lines: Sequence[PairLine], who: str, order: str) -> list[PairLine]:
    """The lines where `who` (better | worse | equal | "") holds of the first, sorted; "-" before a column: down."""
    sign = {"better": 1, "worse": -1, "equal": 0}.get(who)
    chosen = [line for line in lines if sign is None or _sign(line.difference) == sign]
    keys = {
        "difference": lambda line: line.difference,
        "size": lambda line: abs(line.difference),
        "first": lambda line: line.first,
        "second": lambda line: line.second,
        "problem": lambda line: line.id,
    }
    return sorted(chosen, key=keys.get(order.lstrip("-"), keys["difference"]), reverse=order.startswith("-"))


def _sign(value: float) -> int:
    return (value > 1e-12) - (value < -1e-12)
