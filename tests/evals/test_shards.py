"""Shards of one evaluation: each problem in one of them, exactly one artifact, the same as without shards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow.parquet as pq

from bench.simulated import Solver, World, problem_text
from qednano.data.schema import ProblemRow
from qednano.evals.parts import shard_of
from qednano.evals.results import order_of, write_tables
from qednano.evals.run import Contender, Evaluation, EvaluationConfig
from qednano.evals.scaffolds.single_pass import SinglePass
from qednano.evals.tree import ROLES, Asked
from qednano.llm.chat import ChatParams
from qednano.progress import Reporter
from tests.evals.killing import Marks

PROBLEMS = [ProblemRow(id=f"p{n}", problem=problem_text(f"p{n}", 0.5)) for n in range(12)]
CAST = dict.fromkeys(ROLES, Asked(Solver(World()), "solver", ChatParams(10)))


def shard(folder: Path, number: int, shards: int) -> Evaluation:
    contenders = [Contender("one"), Contender("two")]
    config = EvaluationConfig(contenders, PROBLEMS, 2, capacity=4, shards=shards, shard=number)
    return Evaluation(config, SinglePass(), Marks(), lambda *_: CAST, folder, Reporter())


def tables(folder: Path, parts) -> dict[str, list[dict]]:
    order = order_of(["one", "two"], [row.id for row in PROBLEMS], 2)
    write_tables(folder, parts, order)
    found = {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("results", "calls")}
    return {name: [{**row, "seconds": 0, "started": 0} for row in rows] for name, rows in found.items()}


async def test_three_shards_make_the_artifact_that_one_makes(tmp_path):
    (tmp_path / "whole").mkdir()
    alone = shard(tmp_path / "whole", 0, 1)
    await alone.run(lambda: False)
    (tmp_path / "parts").mkdir()
    several = [shard(tmp_path / "parts", number, 3) for number in range(3)]
    await asyncio.wait_for(asyncio.gather(*(item.run(lambda: False) for item in several)), 60)
    assert all(0 < len(item.graded) < len(alone.graded) for item in several)
    whole, merged = tables(tmp_path / "whole", alone.parts), tables(tmp_path / "parts", several[0].parts)
    assert merged == whole
    assert [(row["model"], row["problem"], row["index"]) for row in whole["results"]] == [
        (model, problem.id, index) for model in ("one", "two") for problem in PROBLEMS for index in range(2)
    ]
    assert len(whole["calls"]) == len(whole["results"]) == 48


def test_a_problems_shard_never_changes():
    assert [shard_of(f"p{n}", 4) for n in range(8)] == [shard_of(f"p{n}", 4) for n in range(8)]
    assert {shard_of(f"p{n}", 4) for n in range(100)} == {0, 1, 2, 3}
