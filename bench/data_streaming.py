"""Memory and speed of a build over many rows: two sizes, each in a process of its own, from a packed JSONL file.

Rows go through normalise and filter, and one split is drawn. What grows with the rows are the hashes of the draw; a row
itself has about 1,000 bytes as text and several times that as an object.

    python -m bench.data_streaming [--rows 1000000]
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figures import Stopwatch, peak_gib, report

_TEXT = "Let $a,b,c$ be positive reals with $a+b+c={}$. Prove that $a^4+b^4+c^4 \\ge {}$ for the {}th time."
_PROOF = "By the power mean inequality the claim follows, and equality holds for equal numbers. " * 10


def write_rows(path: Path, rows: int) -> None:
    """About 1 kB a row."""
    with gzip.open(path, "wt", compresslevel=1) as file:
        for number in range(rows):
            problem = _TEXT.format(number, number % 97, number)
            file.write(json.dumps({"id": f"r{number}", "problem": problem, "solution": _PROOF}) + "\n")


def build(folder: Path) -> None:
    """Make the dataset in this process and print its figures."""
    from qednano.api.proofdataset import ProofDatasetSpec
    from qednano.data.build import build_dataset
    from qednano.data.shards import Build
    from qednano.progress import Reporter

    spec = ProofDatasetSpec.model_validate(
        {
            "sources": [{"name": "raw", "files": {"uris": [str(folder / "rows.jsonl.gz")]}}],
            "stages": [{"normalise": {}}, {"filter": {"minCharacters": 30, "drop": ["Incomplete"]}}],
            "splits": [{"name": "train"}],
        }
    )
    before, watch = peak_gib(), Stopwatch()
    manifest = build_dataset(spec, "bench", Build(folder / "run", Reporter(), lambda: None, lambda: None))
    wall, _ = watch.read()
    print(json.dumps({"rows": manifest.metrics["problems/train"], "before": before, "peak": peak_gib(), "wall": wall}))


def measured(rows: int) -> dict[str, float]:
    """The figures of a build of so many rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows.jsonl.gz", rows)
        done = subprocess.run(
            [sys.executable, "-m", "bench.data_streaming", "--folder", folder], check=True, stdout=subprocess.PIPE
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == rows
    return found


def main() -> int:
    """Run the bench; 0 when every bar is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="100,000 rows")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        build(arguments.folder)
        return 0
    rows = 100_000 if arguments.quick else arguments.rows
    small, large = measured(rows // 10), measured(rows)
    figures = {
        "rows": rows,
        "peak_gib": large["peak"],
        "peak_gib_of_a_tenth": small["peak"],
        "peak_ratio": large["peak"] / small["peak"],
        "bytes_per_row": (large["peak"] - small["peak"]) * 2**30 / (rows - rows // 10),
        "rows_per_second": rows / large["wall"],
        "wall_seconds": large["wall"],
    }
    return report("data_streaming", figures, {"peak_gib": ("<=", 1), "bytes_per_row": ("<=", 200)})


if __name__ == "__main__":
    sys.exit(main())
