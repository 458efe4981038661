"""Does the tiny pipeline learn? Runs examples/tiny for some seeds and holds the scores against fixed bars.

``python bench/tiny_learning.py --seeds 3 [--root FOLDER]``: for each seed three mean scores on held-out problems
(untrained, after SFT, after RL), then one line of JSON. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "tiny"
BARS = {
    "untrained": "<= 0.02",
    "sft": "0.25 to 0.65",
    "rl": ">= 0.85",
    "rl - sft": ">= 0.25",
}


def write_manifests(folder: Path, seed: int) -> None:
    """The example's manifests with another seed in every run, so that data, weights and samples all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(EXAMPLES.glob("*.yaml")):
        document = yaml.safe_load(file.read_text())
        document["spec"]["seed"] = seed
        (folder / file.name).write_text(yaml.safe_dump(document, sort_keys=False))


def run_seed(folder: Path, seed: int) -> dict[str, float]:
    """Scores by model and the seconds it took; CalledProcessError when the pipeline fails."""
    manifests = folder / f"seed-{seed}"
    write_manifests(manifests, seed)
    command = [sys.executable, "-m", "qednano.cli", "run", str(manifests), "--root", str(folder / f"runs-{seed}")]
    with (folder / f"seed-{seed}.log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    lines = (folder / f"seed-{seed}.log").read_text().splitlines()
    if done.returncode:
        raise SystemExit("\n".join([f"seed {seed} failed; the end of {folder}/seed-{seed}.log:", *lines[-15:]]))
    summary = json.loads(lines[-1])
    return {name: summary["scores"][name] for name in ("untrained", "sft", "rl")} | {
        "seconds": summary["seconds"]["total"]
    }


def passes(scores: dict[str, float]) -> bool:
    """Whether one seed's scores meet every bar."""
    return (
        scores["untrained"] <= 0.02
        and 0.25 <= scores["sft"] <= 0.65
        and scores["rl"] >= 0.85
        and scores["rl"] - scores["sft"] >= 0.25
    )


def main() -> int:
    """Run the seeds one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--root", type=Path, help="where to keep the runs (default: a new temporary folder)")
    arguments = parser.parse_args()
    folder = arguments.root or Path(tempfile.mkdtemp(prefix="tiny-learning-"))
    folder.mkdir(parents=True, exist_ok=True)
    figures = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        scores = run_seed(folder, seed)
        figures.append({"seed": seed} | scores)
        print(
            f"seed {seed}: untrained {scores['untrained']:.3f}, sft {scores['sft']:.3f}, rl {scores['rl']:.3f} "
            f"in {scores['seconds']:.0f} s{'' if passes(scores) else '  MISSES A BAR'}",
            flush=True,
        )
    passed = all(passes(scores) for scores in figures)
    machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"
    print(json.dumps({"name": "tiny_learning", "machine": machine, "figures": figures, "bars": BARS, "pass": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
