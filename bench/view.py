"""How fast the viewer is on a run of 5,000 proofs, beside reading the whole file that it shows.

A viewer of its own process, as `qednano view` starts it, is asked over HTTP. "at_once" is the run's page, when
nothing of the run has been read yet, in the moment when the viewer said its address; "first" the same after another
page was asked for and some time went by. "proof" is a page of one proof, "trace" the last part of a trace of
200,000 tokens. Times are medians of several processes (first) or requests (others); no cache of the operating system is
dropped.

    python -m bench.view [--problems 1250] [--samples 4] [--quick]
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq

from bench.figures import peak_gib, report
from qednano.artifacts import publish, staging, write_json, write_manifest
from qednano.data.schema import to_table
from qednano.evals.results import RESULTS, write_groups
from qednano.evals.scores import SampleRow, score_all
from tests.view.artifact import problems_of, samples_of

TRACE_CHARACTERS = 800_000  # of 200,000 tokens


def words(characters: int, rng: random.Random) -> str:
    """Text that packs about as badly as a model's thinking."""
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(6000)]
    pieces: list[str] = []
    length = 0
    while length < characters:
        word = rng.choice(vocabulary) if rng.random() < 0.9 else rf"$x_{{{rng.randint(1, 99)}}} \le y^2$"
        pieces.append(word + ("\n\n" if rng.random() < 0.02 else " "))
        length += len(pieces[-1])
    return "".join(pieces)


def write(folder: Path, problems: int, samples: int, length: int) -> list[str]:
    """The artifact; returns the sample with the long trace as fields of an address."""
    rng = random.Random(0)
    source = words(4_000_000, rng)
    asked = problems_of(problems)

    def rows() -> Iterator[SampleRow]:
        for number, row in enumerate(samples_of({"model": 0.7}, asked, samples, 0, 10)):
            size = TRACE_CHARACTERS if number == problems * samples // 2 else length
            start = rng.randrange(len(source) - TRACE_CHARACTERS)
            thinking = source[start : start + size]
            yield replace(row, reasoning=thinking, text=f"{thinking}</think>{row.proof}")

    with staging(folder) as made:
        light = []

        def units() -> Iterator[list[dict[str, object]]]:
            for row in rows():
                light.append(replace(row, reasoning="", text="", proof=""))
                yield [asdict(row)]

        write_groups(made / "results.parquet", RESULTS, units())
        pq.write_table(to_table(asked), made / "problems.parquet")
        difficulty = {row.id: row.difficulty for row in asked}
        write_json(made / "scores.json", score_all(["model"], light, difficulty, samples).as_json())
        write_manifest(made, kind="EvalRun", name="bench")
        publish(made, folder)
    middle = light[problems * samples // 2]
    return [f"model={middle.model}", f"problem={middle.problem}", f"index={middle.index}"]


def get(url: str) -> tuple[float, int]:
    """Seconds and bytes of one answer."""
    started = time.perf_counter()
    with urllib.request.urlopen(url) as answer:
        size = len(answer.read())
    return time.perf_counter() - started, size


def main() -> int:
    """Run the bench; 0 when every bar is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=1250)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=24_000, help="characters of thinking of each sample")
    parser.add_argument("--quick", action="store_true", help="two processes and short traces")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run" / "artifact"
        length = 2_000 if arguments.quick else arguments.length
        fields = "&".join(write(folder, arguments.problems, arguments.samples, length))
        times: dict[str, list[float]] = {
            name: [] for name in ("start", "at_once", "first", "again", "proof", "trace", "search")
        }
        for turn in range(2 if arguments.quick else 10):
            started = time.perf_counter()
            command = [sys.executable, "-m", "qednano.cli", "view", str(folder), "--port", "0"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer:
                try:
                    assert viewer.stdout is not None
                    address = viewer.stdout.readline().split()[0].rstrip("/")
                    times["start"].append(time.perf_counter() - started)
                    if turn % 2:
                        times["at_once"].append(get(f"{address}/runs/run")[0])
                        continue
                    get(address)
                    time.sleep(1.5)
                    seconds, first_bytes = get(f"{address}/runs/run")
                    times["first"].append(seconds)
                    for _ in range(5):
                        times["again"].append(get(f"{address}/runs/run")[0])
                        sample = f"{address}/runs/run/sample?{fields}"
                        times["proof"].append(get(sample)[0])
                        seconds, trace_bytes = get(f"{sample}&thinking=49")
                        times["trace"].append(seconds)
                    times["search"].append(get(f"{address}/runs/run?q=Cauchy")[0])
                finally:
                    viewer.terminate()
        started = time.perf_counter()
        rows = pq.read_table(folder / "results.parquet").to_pylist()
        whole = time.perf_counter() - started
        size = (folder / "results.parquet").stat().st_size / 2**20
    middle = {name: 1000 * statistics.median(values) for name, values in times.items()}
    ratio = 1000 * whole / middle["first"]
    print(
        f"{len(rows):,} proofs, {size:.0f} MiB; reading all of it takes {whole:.1f} s, {ratio:.1f} times the first page"
    )
    figures = {f"{name}_ms": value for name, value in middle.items()}
    figures |= {
        "proofs": len(rows),
        "file_mib": size,
        "whole_file_ms": 1000 * whole,
        "whole_file_over_first_page": ratio,
        "first_page_kib": first_bytes / 1024,
        "trace_page_kib": trace_bytes / 1024,
        "peak_gib": peak_gib(),
    }
    bars = {
        "at_once_ms": ("<=", 300.0),
        "first_ms": ("<=", 300.0),
        "proof_ms": ("<=", 300.0),
        "trace_ms": ("<=", 300.0),
        "trace_page_kib": ("<=", 200),
    }
    return report("view", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
