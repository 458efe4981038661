"""Benchmarks that are known by name: where each is on the Hugging Face Hub, and in which of its splits.

What their columns mean is found by the usual names (`qednano.data.columns`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownBenchmark:
    """A dataset on the Hub and the splits that hold problems; a problem may be in several rows."""

    hub: str
    splits: tuple[str, ...] = ("train",)


BENCHMARKS = {
    "imo-proofbench": KnownBenchmark("Hwilner/imo-proofbench"),
    "imo-answerbench": KnownBenchmark("Hwilner/imo-answerbench"),
    "proofbench": KnownBenchmark("wenjiema02/ProofBench", ("train", "best_of_n")),
}
