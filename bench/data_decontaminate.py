"""Decontamination: planted rewordings of a benchmark's statements among clean statements of the same kinds.

The benchmark has 200 statements. Recall is the share of their rewordings (one each) that are found and put against the
right statement. A false alarm is a clean statement that is said to be of the benchmark; the clean ones are made from
the same templates with other parameters, so they differ from a benchmark's statement in numbers. Twins, which differ
in one telling word only, are counted apart.

    python -m bench.data_decontaminate [--clean 50000]
"""

from __future__ import annotations

import argparse
import random
import sys

from bench.figures import Stopwatch, peak_gib, report
from bench.statements import statements, twin
from qednano.data.decontaminate import BenchmarkStatement, Detector

BENCHMARK = 200


def main() -> int:
    """Run the bench; 0 when every bar is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", type=int, default=50_000)
    parser.add_argument("--show", type=int, default=0, help="print so many misses and false alarms")
    arguments = parser.parse_args()
    rng = random.Random(2)
    drawn = statements(BENCHMARK + arguments.clean, 2)
    benchmark, clean = drawn[:BENCHMARK], drawn[BENCHMARK:]
    detector = Detector([BenchmarkStatement("bench", str(number), one.text()) for number, one in enumerate(benchmark)])
    planted = [one.reworded(rng, edits=3) for one in benchmark]
    twins = [other for one in benchmark if (other := twin(one, rng)) is not None]

    hits = [detector.match(text) for text in planted]
    missed = [number for number, hit in enumerate(hits) if hit is None or hit.against.id != str(number)]
    watch = Stopwatch()
    alarms = [(text, hit) for text in (one.text() for one in clean) if (hit := detector.match(text)) is not None]
    wall, cpu = watch.read()
    twins_hit = [(one.text(), hit) for one in twins if (hit := detector.match(one.text())) is not None]
    for number in missed[: arguments.show]:
        print(f"missed\n  {benchmark[number].text()}\n  {planted[number]}")
    for text, hit in alarms[: arguments.show] + twins_hit[: arguments.show]:
        print(f"false alarm, {hit.rule} {hit.score:.2f}\n  {hit.against.text}\n  {text}")
    figures = {
        "planted": len(planted),
        "clean": len(clean),
        "recall": 1 - len(missed) / len(planted),
        "false_alarms": len(alarms) / len(clean),
        "twins": len(twins),
        "twins_taken_for_hits": len(twins_hit) / len(twins),
        "wall_seconds": wall,
        "processor_ms_per_row": 1000 * cpu / len(clean),
        "peak_gib": peak_gib(),
    }
    return report("data_decontaminate", figures, {"recall": (">=", 0.95), "false_alarms": ("<=", 0.001)})


if __name__ == "__main__":
    sys.exit(main())
