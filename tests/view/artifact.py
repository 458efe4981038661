"""Makes artifacts of EvalRuns that look like real ones: Olympiad problems, proofs good and bad, rubrics, calls, costs.

    python -m tests.view.artifact FOLDER [--problems 24] [--samples 4]

writes two run folders under FOLDER, to be looked at with `qednano view FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq

from qednano.api.evalrun import Continuous
from qednano.artifacts import publish, staging, write_atomic, write_json, write_manifest
from qednano.data.schema import ProblemRow, to_table
from qednano.evals.continuous import record
from qednano.evals.graded import GradedProof
from qednano.evals.grader_report import write as write_grader_report
from qednano.evals.grader_run import Candidate, GraderEvaluation, GradeRow, headline
from qednano.evals.report import About
from qednano.evals.report import write as write_report
from qednano.evals.results import CALLS, RESULTS, write_groups
from qednano.evals.scores import SampleRow, score_all
from qednano.grading.health import GraderHealth
from qednano.plan import export_path
from qednano.progress import Reporter

EVIL = "</pre></script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"

STATEMENTS = [
    (
        "Number theory",
        r"Find all pairs $(a, b)$ of positive integers such that $a^2 + b \mid a^2 b + a$ and $b^2 - a \mid ab^2 + b$.",
        [
            (r"Shows that $a^2 + b \mid b^2 - a$, by $b(a^2+b) - (a^2b + a) = b^2 - a$.", 2),
            (r"Deduces $b^2 - a = k(a^2 + b)$ and bounds $k$.", 2),
            (r"Factors $(a + b)(b - a - 1) = 0$ or reaches an equivalent equation.", 2),
            (r"Checks that $(a, a+1)$ works and concludes.", 1),
        ],
    ),
    (
        "Inequalities",
        r"Let $a, b, c > 0$ with $abc = 1$. Prove that \[ \frac{1}{a^3(b+c)} + \frac{1}{b^3(c+a)} + "
        r"\frac{1}{c^3(a+b)} \ge \frac32. \]",
        [
            (r"Substitutes $x = 1/a$, $y = 1/b$, $z = 1/c$ with $xyz = 1$.", 1),
            (r"Rewrites the sum as $\sum \frac{x^2}{y+z}$.", 2),
            (r"Applies Cauchy–Schwarz to get $\frac{x+y+z}{2}$.", 3),
            (r"Ends with AM–GM: $x + y + z \ge 3$.", 1),
        ],
    ),
    (
        "Combinatorics",
        r"There are $2n + 1$ people at a party, and for every $n$ of them there is a person outside the group who "
        r"knows all of the $n$. Prove that somebody knows everybody.",
        [
            (r"Proves that there is a clique of $n + 1$ people by induction.", 4),
            (r"Applies the condition to the remaining $n$ people.", 2),
            (r"Concludes that the person found knows all $2n$ others.", 1),
        ],
    ),
    (
        "Geometry",
        r"Let $ABC$ be an acute triangle with orthocentre $H$ and circumcircle $\omega$. The line $AH$ meets $\omega$ "
        r"again at $D$. Prove that $BC$ is the perpendicular bisector of $HD$.",
        [
            (r"Shows $\angle DBC = \angle DAC$ by inscribed angles.", 2),
            (r"Shows $\angle HBC = \angle DAC = 90^\circ - \gamma$.", 3),
            (r"Concludes by congruence of $\triangle HBF$ and $\triangle DBF$.", 2),
        ],
    ),
]  # fmt: skip

GOOD = r"""## Solution

Put $x = 1/a$, $y = 1/b$, $z = 1/c$, so that $x, y, z > 0$ and $xyz = 1$.

**Step 1.** Since $\frac{1}{a^3(b+c)} = \frac{x^3}{\frac1y + \frac1z} = \frac{x^3 yz}{y+z} = \frac{x^2}{y+z}$,
we must show

\[ S := \frac{x^2}{y+z} + \frac{y^2}{z+x} + \frac{z^2}{x+y} \ge \frac32. \]

**Step 2.** By the Cauchy–Schwarz inequality in Engel form,

\begin{align*}
S &\ge \frac{(x+y+z)^2}{(y+z)+(z+x)+(x+y)} \\
  &= \frac{x+y+z}{2}.
\end{align*}

**Step 3.** By AM–GM, $x + y + z \ge 3\sqrt[3]{xyz} = 3$. Therefore $S \ge \tfrac32$, with equality iff

1. $x = y = z$, and
2. $xyz = 1$, which is to say $a = b = c = 1$.

Hence the claim. $\blacksquare$
"""

FLAWED = r"""We look at small cases first. For $n = 1$ the claim is clear, since

$$ \sum_{k=1}^{n} k = \binom{n+1}{2} = 1. $$

Assume WLOG that $a \ge b$; then $a^2 + b \le b^2 - a$ would give $a^2 - b^2 + a + b \le 0$, that is
$(a+b)(a-b+1) \le 0$, a contradiction. *The other case is similar.*

It is well known that $\gcd(a, b) = 1$ here, so the result follows from $\left\lfloor \frac{a}{b} \right\rfloor = 0$.
"""

BROKEN = rf"""Consider $\frac{{1}}{{2$ and \[ \unknowncommand{{x}} + \left( y \] which is {EVIL} as claimed.

$\href{{javascript:alert(1)}}{{x}}$ and $\includegraphics{{https://evil.example/x.png}}$ and $<b>bold</b>$.
"""


def problems_of(count: int) -> list[ProblemRow]:
    """Problems with marking schemes, in four categories and two levels."""
    rows = []
    for number in range(count):
        category, statement, steps = STATEMENTS[number % len(STATEMENTS)]
        if number >= len(STATEMENTS):
            statement += f" (Variant {number // len(STATEMENTS)}.)"
        checkpoints = [
            {"id": f"C{place}", "description": text, "points": points, "critical": False}
            for place, (text, points) in enumerate(steps, start=1)
        ]
        rubric = {
            "checkpoints": checkpoints,
            "deductions": [{"id": "D1", "points": 1, "description": "A gap in a case."}],
        }
        rows.append(
            ProblemRow(
                id=f"imo-{number:04d}",
                problem=statement,
                rubric=json.dumps(rubric),
                reference=GOOD,
                difficulty=number % 3,
                source="IMO-ProofBench",
                meta=json.dumps({"category": category, "level": "Advanced" if number % 2 else "Basic"}),
            )
        )
    return rows


def graded(problem: ProblemRow, score: int, reason: str) -> dict[str, Any]:
    """The details of a rubric grader: points by checkpoint, votes, usage."""
    left, marks = score, []
    for part in json.loads(problem.rubric or "{}")["checkpoints"]:
        earned = min(left, part["points"])
        left -= earned
        marks.append({"id": part["id"], "description": part["description"], "points": part["points"], "earned": earned})
    votes = [{"score": score, "reason": reason, "errors": [], "model": "judge-120b"} for _ in range(3)]
    return {
        "checkpoints": marks,
        "deductions": [],
        "votes": votes,
        "agreement": {"spread": 0, "same": 1.0},
        "usage": {"calls": 3, "prompt_tokens": 5400, "completion_tokens": 900, "cost": 0.0031},
    }


def splits_by(problems: list[ProblemRow]) -> dict[str, dict[str, str]]:
    """Level and category of each problem."""
    return {row.id: json.loads(row.meta) for row in problems}


def samples_of(
    models: dict[str, float], problems: list[ProblemRow], samples: int, seed: int, length: int
) -> Iterator[SampleRow]:
    """Samples in the order of the artifact; `length` is about how many characters of thinking each has."""
    rng = random.Random(seed)
    for model, skill in models.items():
        for number, problem in enumerate(problems):
            for index in range(samples):
                score = max(0, min(7, round(rng.gauss(7 * skill - number % 3, 2.2))))
                proof = BROKEN if (number, index) == (1, 1) else GOOD if score >= 4 else FLAWED
                cut_off = score == 0 and index == 0
                thinking = "Let me try $n = 2$ first.\n\nWait, I should check $a \\mid b$ again.\n\n"
                reasoning = thinking * max(1, length // len(thinking))
                reason = "Complete and rigorous." if score == 7 else r"The bound on $k$ is asserted, not **proved**."
                none = model != next(iter(models)) and (number, index) == (2, 0)
                yield SampleRow(
                    model, problem.id, index, f"{reasoning}</think>{proof}", "" if cut_off else proof,
                    None if none else score, "the grader gave no verdict" if none else reason,
                    json.dumps({} if none else graded(problem, score, reason)), "length" if cut_off else "stop",
                    2400 + 10 * number, 9000 + 137 * (number + index), round(31.5 + index, 3),
                    reasoning, 6, 1 if number == 0 else 0,
                    0.0123 + 0.001 * index, "GaveUp" if cut_off else "Accepted",
                    "round-1/proof-2: the server closed the connection" if number == 0 else "", "round-2/refine",
                )  # fmt: skip


def calls_of(row: SampleRow) -> list[dict[str, Any]]:
    """A verify-and-refine tree: two proofs, a verifier of each, a refinement, its verifier."""
    tree = [
        ("round-1/proof-1", [], "solver", "solve", "answered"),
        ("round-1/proof-2", [], "solver", "solve", "failed" if row.failed_calls else "answered"),
        ("round-1/proof-1/verify-0", ["round-1/proof-1"], "verifier", "verify", "answered"),
        ("round-1/proof-2/verify-0", ["round-1/proof-2"], "verifier", "verify", "answered"),
        ("round-2/refine", ["round-1/proof-1", "round-1/proof-1/verify-0"], "solver", "refine", "answered"),
        ("round-2/refine/verify-0", ["round-2/refine"], "verifier", "verify", "answered"),
    ]
    return [
        {
            "model": row.model, "problem": row.problem, "index": row.index, "number": number, "path": path,
            "parent": path.rpartition("/")[0], "inputs": inputs, "role": role, "purpose": purpose, "key": "0" * 64,
            "asked": "judge-120b" if role == "verifier" else row.model,
            "messages": json.dumps([{"role": "user", "content": f"Write a proof. {EVIL} $x^2$"}]),
            "text": "The proof is correct: $x = 1$." if role == "verifier" else row.proof,
            "reasoning": row.reasoning, "finish_reason": "stop", "prompt_tokens": 400,
            "completion_tokens": 1500 + number,
            "cost": 0.002, "seconds": 5.0, "started": 5.0 * number, "seed": number, "status": status,
            "error": "the server closed the connection" if status == "failed" else "",
        }
        for number, (path, inputs, role, purpose, status) in enumerate(tree)
    ]  # fmt: skip


def write_artifact(
    final: Path,
    name: str = "proofbench",
    models: dict[str, float] | None = None,
    problems: int = 24,
    samples: int = 4,
    seed: int = 0,
    length: int = 2000,
    calls: bool = True,
) -> Path:
    """An EvalRun's artifact in `final`; a model's skill is the mean share of points it gets."""
    models = models or {"qed-nano": 0.8, "base": 0.45}
    asked = problems_of(problems)
    with staging(final) as folder:
        rows = list(samples_of(models, asked, samples, seed, length))
        write_groups(folder / "results.parquet", RESULTS, ([asdict(row)] for row in rows))
        pq.write_table(to_table(asked), folder / "problems.parquet")
        if calls:
            write_groups(folder / "calls.parquet", CALLS, (calls_of(row) for row in rows))
        scores = score_all(
            list(models), rows, {row.id: row.difficulty for row in asked}, samples, splits=splits_by(asked)
        )
        write_json(folder / "scores.json", scores.as_json())
        write_report(folder, About(name, "IMO-ProofBench", "rubric of judge-120b, 3 votes", "temperature 1.0"))
        write_manifest(
            folder,
            kind="EvalRun",
            name=name,
            spec={
                "scaffold": {"type": "VerifyAndRefine"},
                "sampling": {"temperature": "1.0", "topP": "0.95", "maxTokens": 65536},
                "samplesPerProblem": samples,
                "grader": {"rubric": {"votes": 3}},
            },
            inputs={"benchmark": {"name": "ProofDataset/imo-proofbench", "uri": "", "digest": "sha256:0"}},
            metrics={"score": scores.models[0].score.mean},
        )
        publish(folder, final)
    return final


def write_run(root: Path, name: str, **options: Any) -> Path:
    """A finished local run that holds such an artifact, as `qednano run` leaves it."""
    folder = root / "default" / "evalrun" / f"{name}-{abs(hash_of(name)):08x}"
    write_artifact(folder / "artifact", name, **options)
    return _told(folder, "EvalRun", name)


def _told(folder: Path, kind: str, name: str, phase: str = "Succeeded") -> Path:
    write_json(folder / "config.json", {"kind": kind, "name": name})
    times = {"startTime": "2026-11-20T09:30:00Z", "completionTime": "2026-11-20T11:00:00Z"}
    write_atomic(folder / "status.json", json.dumps({"phase": phase} | times))
    return folder


def write_grader_run(root: Path, name: str, problems: int = 12) -> Path:
    """A finished grader evaluation: a fair grader, a generous one that fails now and then, and people's scores."""
    rng, folder = random.Random(3), root / "default" / "evalrun" / f"{name}-{hash_of(name):08x}"
    proofs = [
        GradedProof(f"{row.id}-{number}", row, f"Since $n \\ge {number}$, it holds. {EVIL}", rng.randint(0, 7), "ada")
        for row in problems_of(problems)
        for number in range(4)
    ]
    evaluation = GraderEvaluation(proofs, {}, folder, Reporter())
    for grader, shift, spread in (("judge", 0, 1), ("generous <b>judge</b>", 2, 2)):
        evaluation.graders[grader] = Candidate(SimpleNamespace(name="judge-120b"), GraderHealth(100))  # type: ignore[arg-type]
        for proof in proofs:
            score = min(7.0, max(0.0, proof.human + shift + rng.randint(-spread, spread)))
            lost = shift and rng.random() < 0.1
            row = GradeRow(
                grader, proof.id, None if lost else score, f"A step is missing. {EVIL}", "unreadable" if lost else None,
                json.dumps({"usage": {"prompt_tokens": 900, "completion_tokens": 2100, "cost": 0.01}}), 4.2,
            )  # fmt: skip
            if lost:
                evaluation.paid.append(row)
            else:
                evaluation.rows[grader, proof.id] = row
    final = folder / "artifact"
    with staging(final) as made:
        results = evaluation.write(made)
        write_grader_report(made, name, headline(results))
        write_manifest(made, kind="EvalRun", name=name, spec={}, inputs={}, seeds={}, metrics={})
        publish(made, final)
    return _told(folder, "EvalRun", name)


def write_training_run(root: Path, name: str) -> Path:
    """An SFTRun that has not ended, with the scores of some of its checkpoints by two evaluations."""
    folder = root / "default" / "sftrun" / f"{name}-{hash_of(name):08x}"
    for evaluation, base in (("answers", 0.3), ("proofs", 0.2)):
        for step in (20, 40, 60, 80):
            score = base + 0.004 * step - (0.05 if step == 80 else 0)
            which = Continuous(evaluation=evaluation, step=step, best=evaluation == "proofs")
            scores = SimpleNamespace(
                models=[SimpleNamespace(score=SimpleNamespace(mean=score, low=score - 0.06, high=score + 0.05))]
            )
            record(which, folder / export_path(step), scores)  # type: ignore[arg-type]
    return _told(folder, "SFTRun", name, "Running")


def hash_of(name: str) -> int:
    """A number below 2**32 that is the same in every process."""
    import zlib

    return zlib.crc32(name.encode())


def main() -> None:
    """Write two runs to look at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--samples", type=int, default=4)
    arguments = parser.parse_args()
    size = {"problems": arguments.problems, "samples": arguments.samples}
    write_run(arguments.folder, "proofbench-rl", models={"qed-nano": 0.8, "sft": 0.55, "base": 0.4}, **size)
    write_grader_run(arguments.folder, "judges")
    write_training_run(arguments.folder, "qed-sft")
    write_run(arguments.folder, "qed-sft-proofs-40", models={"step-40": 0.5}, **size)
    write_run(arguments.folder, "proofbench-sft", models={"qed-sft": 0.6, "base": 0.45}, seed=7, **size)


if __name__ == "__main__":
    main()
