"""Tokens that Adaptive needs for the scores of fixed scaffolds, on solvers and verifiers of known accuracy.

    python -m bench.eval_adaptive [--quick] [--sizes]
    python -m bench.eval_adaptive --drawn 12 [--seed 7]
    python -m bench.eval_adaptive --worlds 2 --told

The simulation is set to what QED-Nano published of its model: problems' rates are from a Beta distribution with mean
0.40 (one proof alone), as spread out as makes VerifyRefine in its shipped size score 0.57; with proofs of 40,000 and
verdicts of 18,000 tokens that scaffold takes about a million tokens a problem, as it does there. Verifiers differ from
world to world: in two of them votes are independent, in two others some wrong proofs fool the verifier again and
again. Adaptive is told the means (0.40 and the verifier's), as one who has graded some proofs knows them, and nothing
of single problems.

Bar: with independent votes Adaptive takes at least 30 % fewer tokens than the best fixed scaffold (the highest score,
each in its shipped size) at that one's score, read off the line between Adaptive's own measured points. The same at
the score of every other fixed scaffold, and in the worlds whose votes are correlated, is printed with intervals
(bootstrap over problems). `--sizes` adds all other sizes of the fixed scaffolds, that is to say the best one chosen
with hindsight for a world, which no user can do.

`--drawn` takes worlds drawn by lot instead, which nothing was tuned to: difficulty, verifier, judge, what a verdict
costs and, in every second one, how alike votes are. Bar: the median world saves 30 % at the best fixed one's score.

`--told` tells Adaptive the truth of all that it learns from its cohort (verifier, distribution of rates, what refining
does; still nothing of single problems): the difference is what learning costs.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import random
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from bench.figures import report
from bench.simulated import Judge, Solver, Verifier, World, is_right, problem_text
from qednano.api.scaffold import Scaffold as Spec
from qednano.api.scaffold import ScaffoldType
from qednano.data.schema import ProblemRow
from qednano.evals.calls import Call, SampleKey, Spent
from qednano.evals.lanes import Lanes
from qednano.evals.scaffolds import adaptive, scaffold_of
from qednano.evals.scaffolds.belief import Knowledge, beta_shares
from qednano.evals.scaffolds.belief import Verifier as Believed
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
    """Problems with rates of success from Beta(alpha, beta), and how good verifier and judge are."""

    name: str
    alpha: float
    beta: float
    world: World

    def problems(self, count: int) -> list[ProblemRow]:
        rng = random.Random(self.name)
        rates = [rng.betavariate(self.alpha, self.beta) for _ in range(count)]
        return [ProblemRow(id=f"p{n}", problem=problem_text(f"p{n}", rate)) for n, rate in enumerate(rates)]


def truth(mix: Mix) -> Knowledge:
    """What a cohort would learn of a world at best; the odds of mending are those of its middling problems."""
    world = mix.world
    verifier = Believed(world.if_right, world.if_wrong, world.alike)
    return Knowledge(verifier, beta_shares(mix.alpha, mix.beta), keep=0.95, mend=1.55)


def _world(if_right: float, if_wrong: float, alike: float) -> World:
    return World(if_right, if_wrong, if_right, alike, solve_tokens=40_000, verify_tokens=18_000, proof_tokens=4_000)


MIXES = [
    Mix("good verifier, independent votes", 0.11, 0.165, _world(0.9, 0.1, 0.0)),
    Mix("fair verifier, independent votes", 0.11, 0.165, _world(0.85, 0.15, 0.0)),
    Mix("fair verifier, votes alike", 0.12, 0.18, _world(0.85, 0.15, 0.2)),
    Mix("lenient verifier, votes alike", 0.16, 0.24, _world(0.95, 0.4, 0.2)),
]


def drawn(seed: int, number: int) -> Mix:
    """A world by lot; votes are independent where `number` is even."""
    rng = random.Random(f"{seed}/{number}")
    mean, spread = rng.uniform(0.2, 0.6), math.exp(rng.uniform(math.log(0.2), math.log(1.0)))
    alike = rng.uniform(0.05, 0.3) if number % 2 else 0.0
    verify = round(40_000 * rng.uniform(0.15, 0.6))
    world = World(rng.uniform(0.8, 0.97), rng.uniform(0.05, 0.3), rng.uniform(0.7, 0.95), alike, 40_000, verify, 4_000)
    name = f"world {seed}/{number}, rates {mean:.2f} spread {spread:.2f}, votes {alike:.2f} alike, verdict {verify:,}"
    return Mix(name, mean * spread, (1 - mean) * spread, world)


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


SELF_CHECKS = [
    (6, 1, 3), (10, 1, 5), (10, 2, 3), (10, 2, 5), (20, 2, 10), (40, 2, 20), (20, 3, 5), (30, 3, 10), (60, 3, 20),
    (60, 3, 40), (100, 4, 40), (100, 5, 60),
]  # fmt: skip
SHIPPED: list[tuple[str, dict]] = [
    (kind.value, {"type": kind.value}) for kind in ScaffoldType if kind is not ScaffoldType.ADAPTIVE
]
SIZES: list[tuple[str, dict]] = [
    *(_verify_refine(*size) for size in [(2, 2, 0), (4, 2, 0), (4, 2, 1), (8, 4, 1), (8, 4, 4), (16, 4, 2)]),
    *(_rsa(*size) for size in [(4, 1, 2), (4, 2, 3), (16, 3, 4)]),
    *(_nomos(size) for size in (4, 8, 32)),
    *(_self_check(*size) for size in SELF_CHECKS),
    *(_static_agent(*size) for size in [(2, 1), (6, 3)]),
]
WORTHS = (8, 48, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Measured:
    """Whether each problem was answered rightly, and its tokens."""

    name: str
    right: np.ndarray
    spent: np.ndarray

    @property
    def score(self) -> float:
        return float(self.right.mean())

    @property
    def tokens(self) -> float:
        return float(self.spent.mean())


async def measure(name: str, spec: dict, mix: Mix, problems: list[ProblemRow]) -> Measured:
    scaffold = scaffold_of(Spec.model_validate(spec))
    models = Solver(mix.world), Verifier(mix.world), Judge(mix.world)
    solver, verifier, judge = (Asked(model, model.name, ChatParams(100_000)) for model in models)
    roles = {SOLVER: solver, VERIFIER: verifier, JUDGE: judge, SUMMARISER: solver}
    bench = Bench(roles, Lanes(4096), Forgetful(), run_seed=1)  # type: ignore[arg-type]
    found: list[tuple[bool, int]] = []
    for start in range(0, len(problems), scaffold.cohort):
        cohort = problems[start : start + scaffold.cohort]
        solve = scaffold.begin(len(cohort))
        found += await asyncio.gather(*(_right(solve, bench, problem) for problem in cohort))
    right, spent = np.array(found).T
    return Measured(name, right, spent)


async def _right(solve, bench: Bench, problem: ProblemRow) -> tuple[bool, int]:
    sample = Sample(bench, "simulated", problem, 0)
    try:
        solution = await solve(Node(sample))
    except BranchFailed as failure:
        raise AssertionError(f"{problem.id}: {failure}") from failure
    return is_right(solution.proof.text), sample.spent.tokens


def saved(fixed: Measured, ours: list[Measured], picked: np.ndarray) -> float:
    """Share of tokens that Adaptive saves at the score of a fixed scaffold, over the problems that were picked.

    Adaptive's tokens at a score are read off the line between its two points about it; beyond its last point, below
    none: it is then as if it had saved nothing.
    """
    score, tokens = fixed.right[picked].mean(), fixed.spent[picked].mean()
    points = [(item.right[picked].mean(), item.spent[picked].mean()) for item in ours]
    best: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: point[1]):  # more tokens that bring no score are not a point
        if not best or point[0] > best[-1][0]:
            best.append(point)
    scores, needed = zip(*best, strict=True)
    return 0.0 if score > scores[-1] else 1 - float(np.interp(score, scores, needed)) / tokens


def show(mix: Mix, fixed: list[Measured], ours: list[Measured]) -> dict[str, tuple[float, float, float]]:
    """Print one world; returns what is saved at the score of each fixed scaffold, with its 95 % interval."""
    world, rng = mix.world, np.random.default_rng(1)
    count = len(ours[0].right)
    print(f"\n{mix.name}: {world.if_right:.2g} of right and {world.if_wrong:.2g} of wrong proofs pass")
    found = {}
    for item in sorted(fixed, key=lambda item: -item.score):
        drawn = [saved(item, ours, rng.integers(0, count, count)) for _ in range(400)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        found[item.name] = saved(item, ours, np.arange(count)), float(low), float(high)
        print(f"  {item.name:26} score {item.score:6.1%}  {item.tokens:10,.0f} tokens a problem; "
              f"Adaptive there: {found[item.name][0]:+.0%} saved ({low:+.0%} to {high:+.0%})", flush=True)  # fmt: skip
    for item in ours:
        print(f"  {item.name:26} score {item.score:6.1%}  {item.tokens:10,.0f} tokens a problem")
    return found


def measure_mix(mix: Mix, count: int, sizes: bool, told: bool) -> tuple[list[Measured], list[Measured]]:
    """Fixed ones and ours, in one world."""
    problems, world = mix.problems(count), mix.world
    known = {
        "passIfRight": f"{world.if_right:.2f}",
        "passIfWrong": f"{world.if_wrong:.2f}",
        "solveRate": f"{mix.alpha / (mix.alpha + mix.beta):.2f}",
    }
    ours = [(f"Adaptive worth {worth}", {"type": "Adaptive", "adaptive": {"worth": worth} | known}) for worth in WORTHS]
    wanted = SHIPPED + (SIZES if sizes else [])
    fixed = [asyncio.run(measure(*item, mix, problems)) for item in wanted]
    learn = (lambda *_: truth(mix)) if told else adaptive.learn
    with patch.object(adaptive, "learn", learn):
        return fixed, [asyncio.run(measure(*item, mix, problems)) for item in ours]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the problems, independent votes only")
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2, 3], help="which of the four, from 0")
    parser.add_argument("--sizes", action="store_true", help="all sizes of the fixed scaffolds, too")
    parser.add_argument("--drawn", type=int, default=0, help="so many worlds by lot instead")
    parser.add_argument("--seed", type=int, default=7, help="of the worlds by lot")
    parser.add_argument("--told", action="store_true", help="Adaptive knows what it would learn")
    asked = parser.parse_args()
    mixes, count = (MIXES[:2], 256) if asked.quick else ([MIXES[number] for number in asked.worlds], 512)
    if asked.drawn:
        mixes = [drawn(asked.seed, number) for number in range(asked.drawn)]
    figures, bars = {}, {}
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        results = pool.map(measure_mix, mixes, *([item] * len(mixes) for item in (count, asked.sizes, asked.told)))
        for mix, (fixed, ours) in zip(mixes, results, strict=True):
            told = show(mix, fixed, ours)
            best = max((item for item in fixed if item.name in dict(SHIPPED)), key=lambda item: item.score)
            name = mix.name.replace(", ", "_").replace(" ", "_")
            figures[name] = told[best.name][0]
            if not mix.world.alike and not asked.drawn:
                bars[name] = (">=", BAR)
            print(f"  the best fixed one is {best.name}: Adaptive takes {told[best.name][0]:.0%} fewer tokens")
    if asked.drawn:
        figures = {"median": statistics.median(figures.values()), "least": min(figures.values()),
                   "worlds_above_bar": sum(bool(value >= BAR) for value in figures.values())}  # fmt: skip
        bars = {"median": (">=", BAR)}
    return report("eval_adaptive", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
