"""From graded samples to scores: per model, and paired against each baseline. Pure; rows in, numbers out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from qednano.evals.statistics import Comparison, Estimate, compare, estimate, pass_at_k
from qednano.grading.interface import FULL_SCORE

CORRECT_SCORE = FULL_SCORE  # a proof counts as correct when it has all points: a stated rule, the same everywhere


@dataclass(frozen=True)
class SampleRow:
    """One sample of one problem by one model; score 0..7, None when no grade could be had.

    Tokens, calls and cost are of all calls of the scaffold, without the grader's; `cost` is None where a price is
    unknown. `text`, `reasoning`, `finish_reason` and `path` are of the call that wrote the proof, `stop` says why the
    scaffold stopped, `notes` what went wrong on the way, a sentence a line.
    """

    model: str
    problem: str
    index: int
    text: str
    proof: str
    score: float | None
    reason: str
    details: str  # JSON of the grader's details
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    reasoning: str = ""
    calls: int = 1
    failed_calls: int = 0
    cost: float | None = None
    stop: str = "Answered"
    notes: str = ""
    path: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the sample in a run."""
        return self.model, self.problem, self.index


@dataclass(frozen=True)
class ModelScores:
    """How one model did. `score` and `pass_at_k` are shares (0 to 1); `distribution[s]` counts samples of score s."""

    name: str
    score: Estimate
    pass_at_k: dict[int, Estimate]
    distribution: list[int]
    by_difficulty: dict[int, float]
    samples: int
    ungraded: int
    truncated_share: float
    tokens_mean: float
    tokens_median: float
    tokens_total: int


@dataclass(frozen=True)
class Scores:
    """All numbers of an evaluation; the first model is the one evaluated, the others are baselines."""

    problems: int
    samples_per_problem: int
    models: list[ModelScores]
    comparisons: dict[str, Comparison]  # by baseline: first model minus baseline

    def as_json(self) -> dict[str, Any]:
        """As written to scores.json, with the rules behind the numbers."""
        return asdict(self) | {
            "rules": {
                "score": "mean over problems of the mean over samples of score / 7",
                "correct": f"score == {CORRECT_SCORE}",
                "interval": "95 % percentile bootstrap over problems, 10,000 resamples",
                "passAtK": "unbiased estimator, arXiv 2107.03374",
            }
        }


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; statistics.mean is exact and fifty times slower."""
    return sum(values) / len(values)


def problem_means(rows: Iterable[SampleRow]) -> dict[str, float]:
    """Mean share (0 to 1) by problem, over graded samples; problems without any are left out."""
    shares: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.score is not None:
            shares[row.problem].append(row.score / FULL_SCORE)
    return {problem: mean(values) for problem, values in shares.items()}


def powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, … up to `limit`, and `limit` itself."""
    ks = [1]
    while ks[-1] * 2 <= limit:
        ks.append(ks[-1] * 2)
    return ks if ks[-1] == limit else [*ks, limit]


def model_scores(name: str, rows: Sequence[SampleRow], difficulty: Mapping[str, int], seed: int = 0) -> ModelScores:
    """Numbers of one model. Raises ValueError when none of its samples was graded."""
    means = problem_means(rows)
    if not means:
        raise ValueError(f"no sample of {name} was graded")
    graded: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row.score is not None:
            graded[row.problem].append(row.score)
    fewest = min(len(scores) for scores in graded.values())
    counts = [(len(scores), sum(score >= CORRECT_SCORE for score in scores)) for scores in graded.values()]
    levels: dict[int, list[float]] = defaultdict(list)
    for problem, value in means.items():
        levels[difficulty.get(problem, 0)].append(value)
    tokens = [row.completion_tokens for row in rows]
    return ModelScores(
        name=name,
        score=estimate(list(means.values()), seed),
        pass_at_k={k: estimate([pass_at_k(n, c, k) for n, c in counts], seed) for k in powers_of_two(fewest)},
        distribution=[sum(row.score == score for row in rows) for score in range(FULL_SCORE + 1)],
        by_difficulty={level: mean(values) for level, values in sorted(levels.items())},
        samples=len(rows),
        ungraded=sum(row.score is None for row in rows),
        truncated_share=mean([row.finish_reason == "length" for row in rows]),
        tokens_mean=mean(tokens),
        tokens_median=median(tokens),
        tokens_total=sum(tokens),
    )


def score_all(
    names: Sequence[str], rows: Sequence[SampleRow], difficulty: Mapping[str, int], samples: int, seed: int = 0
) -> Scores:
    """Scores of all models, the first one against each other one on the problems that both were graded on."""
    by_model = {name: [row for row in rows if row.model == name] for name in names}
    comparisons = {}
    first = problem_means(by_model[names[0]])
    for name in names[1:]:
        other = problem_means(by_model[name])
        shared = [problem for problem in first if problem in other]
        if shared:
            comparisons[name] = compare([first[p] for p in shared], [other[p] for p in shared], seed)
    return Scores(
        problems=len({row.problem for row in rows}),
        samples_per_problem=samples,
        models=[model_scores(name, by_model[name], difficulty, seed) for name in names],
        comparisons=comparisons,
    )
