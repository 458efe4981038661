"""The report of an evaluation: one HTML file that needs nothing else, made from the artifact it lies in.

All text of models, problems and graders is escaped. `qednano view` shows the rest: all proofs, calls and thinking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qednano.artifacts import write_atomic
from qednano.evals.reader import EvaluationReader
from qednano.evals.scores import Scores
from qednano.pages.charts import pass_chart
from qednano.pages.details import details_of
from qednano.pages.standalone import standalone
from qednano.pages.templates import environment, percent, points

MOST_PROOFS = 24  # embedded in full, up to
LONGEST_PROOF = 40_000  # characters each
MOST_PROBLEMS = 1_000  # rows of the table
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class About:
    """What was evaluated on what, in words."""

    name: str
    benchmark: str
    grader: str
    sampling: str


@dataclass(frozen=True)
class Example:
    """One problem with the first sample of each model; `why` says by which rule it was chosen."""

    why: str
    problem: Mapping[str, Any]
    proofs: list[tuple[Mapping[str, Any], Mapping[str, Any]]]  # row of results.parquet, its details


def write(folder: Path, about: About) -> None:
    """Write report.html beside the results.parquet, problems.parquet and scores.json that lie in `folder`."""
    write_atomic(folder / "report.html", render(folder, about))


def render(folder: Path, about: About) -> str:
    """The page as HTML text."""
    reader = EvaluationReader(folder)
    scores, models = reader.scores, reader.scores["models"]
    names = [model["name"] for model in models]
    examples = choose_examples(reader, names)
    body = environment(_HERE).get_template("report.html.j2").render(
        about=about,
        scores=scores,
        models=models,
        names=names,
        headline=_headline(scores),
        colours={name: number % 6 for number, name in enumerate(names)},
        chart=pass_chart(models),
        examples=examples,
        shown={example.problem["id"] for example in examples},
        lines=_lines(reader, names),
        reader=reader,
        longest=LONGEST_PROOF,
        most=MOST_PROBLEMS,
    )  # fmt: skip
    return standalone(f"{about.name}: evaluation", body)


def choose_examples(reader: EvaluationReader, names: Sequence[str], of_each: int = 2) -> list[Example]:
    """Problems by rule, not by taste: largest gain over the last baseline, nearest to the median, lowest score."""
    samples = reader.samples
    means = {name: samples.means[samples.models.index(name)] for name in names if name in samples.models}
    first, last = means[names[0]], means[names[-1]]
    shared = [place for place in range(len(samples.problems)) if not math.isnan(first[place] + last[place])]
    by_score = sorted(shared, key=lambda place: (first[place], samples.problems[place]))
    middle = max(0, (len(by_score) - of_each) // 2)
    rules = []
    if len(names) > 1:
        gains = sorted(shared, key=lambda place: (last[place] - first[place], samples.problems[place]))
        rules.append((f"largest gain of {names[0]} over {names[-1]}", gains))
    rules += [(f"{names[0]} scores near its median", by_score[middle:]), (f"{names[0]} scores lowest", by_score)]
    chosen: dict[int, str] = {}
    for why, ranked in rules:
        chosen |= dict.fromkeys([place for place in ranked if place not in chosen][:of_each], why)
    examples, room = [], MOST_PROOFS
    for place, why in chosen.items():
        rows = [rows[0] for name in names if (rows := samples.rows.get((samples.models.index(name), place)))]
        found = [reader.sample(row) for row in rows[:room]]
        room -= len(found)
        if found:
            proofs = [(row, details_of(row["details"])) for row in found]
            examples.append(Example(why, reader.problem(samples.problems[place]), proofs))
    return examples


def _lines(reader: EvaluationReader, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the table of problems: mean share and scores by model."""
    samples = reader.samples
    codes = {name: samples.models.index(name) for name in names if name in samples.models}
    return [
        {
            "id": identity,
            "category": reader.category(identity),
            "means": [float(samples.means[code, place]) for code in codes.values()],
            "scores": [
                [float(samples.score[row]) for row in samples.rows.get((code, place), [])] for code in codes.values()
            ],
        }
        for place, identity in enumerate(samples.problems[:MOST_PROBLEMS])
    ]


def headline(scores: Scores) -> str:
    """The result in one sentence."""
    return _headline(scores.as_json())


def _headline(scores: Mapping[str, Any]) -> str:
    first = scores["models"][0]
    low, high = 100 * first["score"]["low"], 100 * first["score"]["high"]
    text = f"{first['name']} scores {percent(first['score']['mean'])} (95 % interval {low:.1f} to {high:.1f})"
    gains = [
        f"{points(item['difference']['mean'])} points over {name} ({points(item['difference']['low'])} to "
        f"{points(item['difference']['high'])})"
        for name, item in scores["comparisons"].items()
    ]
    return f"{text} on {scores['problems']} problems" + (f": {' and '.join(gains)}." if gains else ".")
