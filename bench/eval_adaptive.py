"""Tokens that Adaptive needs for the score of the best fixed scaffold, on solvers and verifiers of known accuracy.

    python -m bench.eval_adaptive [--quick]

Every scaffold runs in several sizes on the same problems with the same simulated models. All fixed ones that no other
fixed one beats in both score and tokens are compared with the cheapest Adaptive that scores at least as much. Bar: at
the score of the best fixed one (the highest; of equal ones the cheapest) Adaptive takes at least 30 % fewer tokens in
the mean over the mixes of problems and verifiers (geometric), and in none of them more.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from bench.simulated import Judge, Solver, Verifier, World, is_right, problem_text
from qednano.api.scaffold import Scaffold as Spec
from qednano.data.schema import ProblemRow
from qednano.evals.calls import Call, SampleKey, Spent
from qednano.evals.lanes import Lanes
from qednano.evals.scaffolds import scaffold_of
from qednano.evals.tree import JUDGE, SOLVER, SUMMARISER, VERIFIER, Asked, Bench, BranchFailed, Node, Sample
from qednano.llm.chat import ChatParams

BAR = 0.30


class Forgetful:
    """A journal without a file."""

    def __init__(self) -> None:
        self.total = Spent()

    def of(self, sample: SampleKey) -> list[Call]:
        return []

    def append(self, call: Call) -> None:
        self.total.add(call)


@dataclass(frozen=True)
class Mix:
    """Problems by their rates of success (rate: share), and how good verifier and judge are."""

    name: str
    rates: dict[float, float]
    world: World

    def problems(self, count: int) -> list[ProblemRow]:
        rng = random.Random(self.name)
        rates = rng.choices(list(self.rates), list(self.rates.values()), k=count)
        return [ProblemRow(id=f"p{n}", problem=problem_text(f"p{n}", rate)) for n, rate in enumerate(rates)]


MIXES = [
    Mix("spread, good verifier", {0.02: 0.2, 0.15: 0.2, 0.4: 0.3, 0.8: 0.3}, World(0.9, 0.1, 0.9)),
    Mix("spread, fair verifier", {0.02: 0.2, 0.15: 0.2, 0.4: 0.3, 0.8: 0.3}, World(0.8, 0.2, 0.8)),
    Mix("hard, fair verifier", {0.0: 0.3, 0.05: 0.3, 0.2: 0.3, 0.6: 0.1}, World(0.8, 0.2, 0.8)),
    Mix("half hopeless", {0.0: 0.5, 0.5: 0.5}, World(0.85, 0.15, 0.85)),
    Mix("easy, lenient verifier", {0.3: 0.3, 0.7: 0.4, 0.9: 0.3}, World(0.95, 0.4, 0.75)),
]


def _verify_refine(pool: int, votes: int, rounds: int) -> tuple[str, dict]:
    options = {"pool": pool, "verifications": votes, "rounds": rounds}
    return f"VerifyRefine {pool}x{votes} {rounds}r", {"type": "VerifyRefine", "verifyRefine": options}


def _rsa(population: int, rounds: int, block: int) -> tuple[str, dict]:
    options = {"population": population, "rounds": rounds, "block": block}
    return f"RSA {population} {rounds}r b{block}", {"type": "RSA", "rsa": options}


def _nomos(count: int) -> tuple[str, dict]:
    options = {"solutions": count, "perfect": count // 2, "top": 3 * count // 4}
    return f"Nomos {count}", {"type": "Nomos", "nomos": options}


def _self_check(checks: int, passes: int, failures: int) -> tuple[str, dict]:
    options = {"checks": checks, "passes": passes, "failures": failures}
    return f"SelfCheck {passes} of {checks}", {"type": "SelfCheck", "selfCheck": options}


def _static_agent(approaches: int, improvements: int) -> tuple[str, dict]:
    options = {"approaches": approaches, "improvements": improvements}
    return f"StaticAgent {approaches}x{improvements}", {"type": "StaticAgent", "staticAgent": options}


FIXED: list[tuple[str, dict]] = [
    ("SinglePass", {"type": "SinglePass"}),
    ("ReasoningCache 3", {"type": "ReasoningCache"}),
    *(_verify_refine(*size) for size in [(2, 2, 0), (4, 2, 0), (4, 2, 1), (4, 4, 2), (8, 4, 1), (8, 4, 4), (16, 4, 2)]),
    *(_rsa(*size) for size in [(4, 1, 2), (4, 2, 3), (8, 3, 3), (16, 3, 4)]),
    *(_nomos(size) for size in (4, 8, 16, 32)),
    *(_self_check(*size) for size in [(6, 1, 3), (10, 2, 5), (30, 3, 10), (30, 5, 10)]),
    *(_static_agent(*size) for size in [(2, 1), (3, 2), (6, 3)]),
    ("PlanningAgent", {"type": "PlanningAgent"}),
]
WORTHS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Measured:
    """Share of problems answered rightly, and tokens a problem."""

    name: str
    score: float
    tokens: float


async def measure(name: str, spec: dict, mix: Mix, problems: list[ProblemRow]) -> Measured:
    scaffold = scaffold_of(Spec.model_validate(spec))
    models = Solver(mix.world), Verifier(mix.world), Judge(mix.world)
    solver, verifier, judge = (Asked(model, model.name, ChatParams(100_000)) for model in models)
    roles = {SOLVER: solver, VERIFIER: verifier, JUDGE: judge, SUMMARISER: solver}
    journal = Forgetful()
    bench = Bench(roles, Lanes(4096), journal, run_seed=1)  # type: ignore[arg-type]
    right = 0
    for start in range(0, len(problems), scaffold.cohort):
        cohort = problems[start : start + scaffold.cohort]
        solve = scaffold.begin(len(cohort))
        outcomes = await asyncio.gather(*(_right(solve, bench, problem) for problem in cohort))
        right += sum(outcomes)
    return Measured(name, right / len(problems), journal.total.tokens / len(problems))


async def _right(solve, bench: Bench, problem: ProblemRow) -> bool:
    try:
        solution = await solve(Node(Sample(bench, name_of := "simulated", problem, 0)))
    except BranchFailed as failure:
        raise AssertionError(f"{name_of}: {failure}") from failure
    return is_right(solution.proof.text)


def frontier(measured: list[Measured]) -> Iterator[Measured]:
    """Those that no other one beats in both, the highest score first."""
    for item in sorted(measured, key=lambda item: (-item.score, item.tokens)):
        if not any(
            (other.score >= item.score and other.tokens < item.tokens)
            or (other.score > item.score and other.tokens <= item.tokens)
            for other in measured
        ):
            yield item


async def compare(mix: Mix, count: int) -> float:
    """Prints all; returns the share of tokens saved at the score of the best fixed scaffold."""
    problems = mix.problems(count)
    fixed = [await measure(name, spec, mix, problems) for name, spec in FIXED]
    ours: list[Measured] = []
    for worth in WORTHS:  # until the best fixed one is reached
        spec = {"type": "Adaptive", "adaptive": {"worth": worth}}
        ours.append(await measure(f"Adaptive worth {worth}", spec, mix, problems))
        if ours[-1].score >= max(item.score for item in fixed):
            break
    print(f"\n{mix.name}: problems {mix.rates}, verifier {mix.world.if_right:g}/{mix.world.if_wrong:g}")
    for item in sorted(fixed, key=lambda item: item.tokens) + ours:
        print(f"  {item.name:26} score {item.score:6.1%}  {item.tokens:10,.0f} tokens a problem")
    saved = []
    for item in frontier(fixed):
        as_good = [other for other in ours if other.score >= item.score]
        if as_good:
            best = min(as_good, key=lambda other: other.tokens)
            saved.append(1 - best.tokens / item.tokens)
            told = f"{abs(saved[-1]):.0%} {'fewer' if saved[-1] >= 0 else 'more'}"
            print(f"  at {item.score:.1%} of {item.name}: {best.name} ({best.score:.1%}) takes {told}")
        else:
            saved.append(-1.0)
            print(f"  at {item.score:.1%} of {item.name}: no Adaptive scores as much")
    return saved[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer problems and the first mixes only")
    quick = parser.parse_args().quick
    mixes, count = (MIXES[:2], 128) if quick else (MIXES, 512)
    saved = {mix.name: asyncio.run(compare(mix, count)) for mix in mixes}
    print()
    for name, share in saved.items():
        print(f"{name}: {share:.0%} fewer tokens than the best fixed scaffold at its score")
    left = statistics.geometric_mean(1 - share for share in saved.values())
    print(f"in the mean over {len(saved)} mixes: {1 - left:.0%} fewer")
    return 0 if 1 - left >= BAR and min(saved.values()) >= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
