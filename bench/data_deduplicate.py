"""Deduplication of synthetic statements with planted near-duplicates: time, memory, recall and precision.

One statement in twenty has one to three rewordings (other frame, names, notation, order, surroundings and up to two
edited words); one in a hundred has a twin that differs in one telling word and is another problem. Recall is the share
of planted rows that land in the cluster of their original, precision the share of pairs in clusters that are one
problem; how many twins are kept apart is told beside them. One thread works, so the time is that of the processor:
other load on the machine is not measured.

    python -m bench.data_deduplicate [--rows 200000]
"""

from __future__ import annotations

import argparse
import random
import sys

from bench.figures import Stopwatch, peak_gib, report
from bench.statements import Statement, statements, twin
from qednano.data.deduplicate import Index
from qednano.data.form import statement_form


def planted(rows: int, seed: int) -> list[tuple[str, Statement]]:
    """(text, the problem it is) of `rows` rows in random order."""
    rng = random.Random(seed)
    found: list[tuple[str, Statement]] = []
    for number, statement in enumerate(statements(rows, seed)):
        found.append((statement.text(), statement))
        if number % 20 == 0:
            found += [(statement.reworded(rng), statement) for _ in range(rng.randint(1, 3))]
        elif number % 100 == 1 and (other := twin(statement, rng)) is not None:
            found.append((other.text(), other))
        if len(found) >= rows:
            break
    rng.shuffle(found)
    return found[:rows]


def twin_pairs(rows: list[tuple[str, Statement]]) -> list[tuple[int, int]]:
    """Positions of rows that agree in all numbers and differ in a word: one pair for every two such problems."""
    seen: dict[tuple[object, ...], dict[Statement, int]] = {}
    for position, (_, statement) in enumerate(rows):
        numbers = tuple(value for _, value in statement.values if value.isdigit())
        seen.setdefault((statement.template, numbers), {}).setdefault(statement, position)
    return [(first, other) for first, *others in (found.values() for found in seen.values()) for other in others]


def main() -> int:
    """Run the bench; 0 when every bar is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--show", type=int, default=0, help="print so many misses and false pairs")
    arguments = parser.parse_args()
    rows = planted(arguments.rows, 1)
    before = peak_gib()
    watch = Stopwatch()
    index = Index()
    for text, _ in rows:
        index.add(statement_form(text))
    formed = watch.read()
    groups = index.groups()
    wall, cpu = watch.read()
    print(f"normal forms: {formed[0]:.1f} s ({formed[1]:.1f} s of processor); clusters: {wall - formed[0]:.1f} s")

    cluster = {position: number for number, group in enumerate(groups) for position in group}
    by_problem: dict[Statement, list[int]] = {}
    for position, (_, statement) in enumerate(rows):
        by_problem.setdefault(statement, []).append(position)
    repeated = [positions for positions in by_problem.values() if len(positions) > 1]
    pairs = [(positions[0], other) for positions in repeated for other in positions[1:]]
    missed = [(a, b) for a, b in pairs if a not in cluster or cluster[a] != cluster.get(b)]
    together = [(group[0], other) for group in groups for other in group[1:]]
    wrong = [(a, b) for a, b in together if rows[a][1] != rows[b][1]]
    for label, examples in (("missed", missed), ("wrong", wrong)):
        for a, b in examples[: arguments.show]:
            print(f"{label}\n  {rows[a][0]}\n  {rows[b][0]}")
    twins = twin_pairs(rows)
    apart = [(a, b) for a, b in twins if a not in cluster or cluster[a] != cluster.get(b)]
    figures = {
        "rows": len(rows),
        "planted": len(pairs),
        "recall": 1 - len(missed) / len(pairs),
        "precision": 1 - len(wrong) / max(1, len(together)),
        "twins": len(twins),
        "twins_apart": len(apart) / max(1, len(twins)),
        "wall_seconds": wall,
        "processor_seconds": cpu,
        "peak_gib": peak_gib(),
        "peak_gib_before": before,
    }
    bars = {"recall": (">=", 0.98), "precision": (">=", 0.98), "processor_seconds": ("<=", 180), "peak_gib": ("<=", 2)}
    return report("data_deduplicate", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
