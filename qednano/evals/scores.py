"""From graded samples to scores: per model, and paired against each baseline. Pure; rows in, numbers out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, stdev
from typing import Any

from qednano.evals.statistics import Comparison, Estimate, Runs, best_of_k, compare, estimate, over_runs, pass_at_k
from qednano.grading.interface import FULL_SCORE
from qednano.grading.usage import cost_of

CORRECT_SCORE = FULL_SCORE  # unless the spec says otherwise, a proof counts as correct when it has all points


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
class Spent:
    """What answers took: `tokens` are completion tokens. Money is None where a price is unknown.

    `by_correct` and `by_incorrect` are mean tokens of correct and of other graded samples. `per_problem` are means over
    problems of the sum over their samples; `per_point` is all of it over all points earned, None without a point.
    """

    tokens: int
    tokens_mean: float
    tokens_median: float
    tokens_by_correct: float | None
    tokens_by_incorrect: float | None
    tokens_per_problem: float
    tokens_per_point: float | None
    cost: float | None
    cost_per_problem: float | None
    cost_per_point: float | None
    grader_tokens: int
    grader_cost: float | None


@dataclass(frozen=True)
class ModelScores:
    """How one model did. Scores are shares (0 to 1); `distribution[s]` counts samples of score s, halves rounded down.

    `points` is the score out of 7. `splits` is by column and value, such as level/Advanced.
    """

    name: str
    score: Estimate
    points: Estimate
    correct: Estimate
    runs: Runs | None
    pass_at_k: dict[int, Estimate]
    best_of_k: dict[int, Estimate]
    distribution: list[int]
    by_difficulty: dict[int, float]
    splits: dict[str, dict[str, Split]]
    samples: int
    ungraded: int
    truncated_share: float
    spent: Spent

    @property
    def tokens_mean(self) -> float:
        """Mean completion tokens of a sample."""
        return self.spent.tokens_mean

    @property
    def tokens_median(self) -> float:
        """Median completion tokens of a sample."""
        return self.spent.tokens_median

    @property
    def tokens_total(self) -> int:
        """Completion tokens of all samples."""
        return self.spent.tokens


@dataclass(frozen=True)
class Split:
    """A part of the benchmark: its number of problems and the score on it."""

    problems: int
    score: Estimate


@dataclass(frozen=True)
class Gain:
    """What the first model spends beyond a baseline on a problem, for the points that it earns beyond it.

    Per point gained; None where no points are gained or a price is unknown.
    """

    tokens_per_point: float | None
    cost_per_point: float | None


@dataclass(frozen=True)
class ProblemScore:
    """One problem by one model; score is a share (0 to 1), None when no sample was graded."""

    score: float | None
    std: float | None
    best: float | None
    correct: int
    graded: int
    samples: int
    tokens: int
    cost: float | None


@dataclass(frozen=True)
class Scores:
    """All numbers of an evaluation; the first model is the one evaluated, the others are baselines."""

    problems: int
    samples_per_problem: int
    models: list[ModelScores]
    comparisons: dict[str, Comparison]  # by baseline: first model minus baseline
    gains: dict[str, Gain]  # by baseline
    per_problem: dict[str, dict[str, ProblemScore]]  # by model and problem
    correct_score: float = CORRECT_SCORE

    def as_json(self) -> dict[str, Any]:
        """As written to scores.json, with the rules behind the numbers."""
        return asdict(self) | {
            "rules": {
                "score": "mean over problems of the mean over samples of score / 7",
                "correct": f"score >= {self.correct_score:g}",
                "interval": "95 % percentile bootstrap over problems, 10,000 resamples",
                "passAtK": "unbiased estimator, arXiv 2107.03374",
                "bestOfK": "expected highest score of k samples drawn without replacement",
                "pValue": "two-sided sign-flip permutation test over problems",
                "runs": "run j is sample j of each problem; standard deviation over runs with n - 1",
                "ungraded": "samples without a grade count in no score",
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


def model_scores(
    name: str,
    rows: Sequence[SampleRow],
    difficulty: Mapping[str, int],
    seed: int = 0,
    *,
    splits: Mapping[str, Mapping[str, str]] | None = None,
    correct_score: float = CORRECT_SCORE,
) -> ModelScores:
    """Numbers of one model; `splits[problem]` are its values by column. ValueError when no sample was graded."""
    means = problem_means(rows)
    if not means:
        raise ValueError(f"no sample of {name} was graded")
    graded: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.score is not None:
            graded[row.problem].append(row.score)
    ks = powers_of_two(min(len(scores) for scores in graded.values()))
    counts = [(len(scores), sum(score >= correct_score for score in scores)) for scores in graded.values()]
    levels: dict[int, list[float]] = defaultdict(list)
    parts: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for problem, value in means.items():
        levels[difficulty.get(problem, 0)].append(value)
        for column, part in (splits or {}).get(problem, {}).items():
            parts[column][part].append(value)
    score = estimate(list(means.values()), seed)
    return ModelScores(
        name=name,
        score=score,
        points=Estimate(*(FULL_SCORE * value for value in (score.mean, score.low, score.high))),
        correct=estimate([correct / count for count, correct in counts], seed),
        runs=over_runs(_by_run(rows)),
        pass_at_k={k: estimate([pass_at_k(n, c, k) for n, c in counts], seed) for k in ks},
        best_of_k={k: estimate([best_of_k(s, k) / FULL_SCORE for s in graded.values()], seed) for k in ks},
        distribution=_distribution(rows),
        by_difficulty={level: mean(values) for level, values in sorted(levels.items())},
        splits={
            column: {part: Split(len(values), estimate(values, seed)) for part, values in sorted(found.items())}
            for column, found in sorted(parts.items())
        },
        samples=len(rows),
        ungraded=sum(row.score is None for row in rows),
        truncated_share=mean([row.finish_reason == "length" for row in rows]),
        spent=spent(rows, correct_score),
    )


def _by_run(rows: Sequence[SampleRow]) -> list[list[float | None]]:
    """Shares by problem and sample number; numbers that are missing are None."""
    runs = 1 + max(row.index for row in rows)
    found: dict[str, list[float | None]] = defaultdict(lambda: [None] * runs)
    for row in rows:
        found[row.problem][row.index] = None if row.score is None else row.score / FULL_SCORE
    return list(found.values())


def _distribution(rows: Sequence[SampleRow]) -> list[int]:
    counts = [0] * (FULL_SCORE + 1)
    for row in rows:
        if row.score is not None:
            counts[int(row.score)] += 1
    return counts


def spent(rows: Sequence[SampleRow], correct_score: float = CORRECT_SCORE) -> Spent:
    """What the samples took. Raises ValueError for no samples."""
    if not rows:
        raise ValueError("there are no samples to sum up")
    tokens = [row.completion_tokens for row in rows]
    right = [row.completion_tokens for row in rows if row.score is not None and row.score >= correct_score]
    wrong = [row.completion_tokens for row in rows if row.score is not None and row.score < correct_score]
    problems = len({row.problem for row in rows})
    points = sum(row.score for row in rows if row.score is not None)
    cost = _sum(row.cost for row in rows)
    grading = cost_of(row.details for row in rows)
    return Spent(
        tokens=sum(tokens),
        tokens_mean=mean(tokens),
        tokens_median=median(tokens),
        tokens_by_correct=mean(right) if right else None,
        tokens_by_incorrect=mean(wrong) if wrong else None,
        tokens_per_problem=sum(tokens) / problems,
        tokens_per_point=sum(tokens) / points if points else None,
        cost=cost,
        cost_per_problem=None if cost is None else cost / problems,
        cost_per_point=cost / points if cost is not None and points else None,
        grader_tokens=grading.tokens,
        grader_cost=grading.cost,
    )


def _sum(values: Iterable[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def problem_scores(rows: Iterable[SampleRow], correct_score: float = CORRECT_SCORE) -> dict[str, ProblemScore]:
    """One model's samples, problem by problem; the standard deviation is over samples (n - 1 below)."""
    by_problem: dict[str, list[SampleRow]] = defaultdict(list)
    for row in rows:
        by_problem[row.problem].append(row)
    found = {}
    for problem, samples in by_problem.items():
        scores = [row.score / FULL_SCORE for row in samples if row.score is not None]
        found[problem] = ProblemScore(
            score=mean(scores) if scores else None,
            std=stdev(scores) if len(scores) > 1 else None,
            best=max(scores, default=None),
            correct=sum(row.score is not None and row.score >= correct_score for row in samples),
            graded=len(scores),
            samples=len(samples),
            tokens=sum(row.completion_tokens for row in samples),
            cost=_sum(row.cost for row in samples),
        )
    return found


def gain(model: Mapping[str, ProblemScore], baseline: Mapping[str, ProblemScore]) -> Gain:
    """Tokens and money beyond the baseline for each point beyond it, on the problems that both were graded on."""
    pairs = [(item, baseline[name]) for name, item in model.items() if name in baseline]
    both = [(new, old) for new, old in pairs if new.score is not None and old.score is not None]
    points = FULL_SCORE * sum((new.score or 0) - (old.score or 0) for new, old in both)
    if points <= 1e-9:
        return Gain(None, None)
    tokens = sum(new.tokens / new.samples - old.tokens / old.samples for new, old in both)
    money = _sum(
        None if new.cost is None or old.cost is None else new.cost / new.samples - old.cost / old.samples
        for new, old in both
    )
    return Gain(tokens / points, None if money is None else money / points)


def score_all(
    names: Sequence[str],
    rows: Sequence[SampleRow],
    difficulty: Mapping[str, int],
    samples: int,
    seed: int = 0,
    *,
    splits: Mapping[str, Mapping[str, str]] | None = None,
    correct_score: float = CORRECT_SCORE,
) -> Scores:
    """Scores of all models, the first one against each other one on the problems that both were graded on."""
    by_model = {name: [row for row in rows if row.model == name] for name in names}
    per_problem = {name: problem_scores(by_model[name], correct_score) for name in names}
    comparisons, gains = {}, {}
    first = problem_means(by_model[names[0]])
    for name in names[1:]:
        other = problem_means(by_model[name])
        shared = [problem for problem in first if problem in other]
        if shared:
            comparisons[name] = compare([first[p] for p in shared], [other[p] for p in shared], seed)
            gains[name] = gain(per_problem[names[0]], per_problem[name])
    return Scores(
        problems=len({row.problem for row in rows}),
        samples_per_problem=samples,
        models=[
            model_scores(name, by_model[name], difficulty, seed, splits=splits, correct_score=correct_score)
            for name in names
        ],
        comparisons=comparisons,
        gains=gains,
        per_problem=per_problem,
        correct_score=correct_score,
    )
