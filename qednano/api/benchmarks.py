"""Benchmarks and human-scored sets that are known by name: where each is on the Hugging Face Hub, and in which splits.

What their columns mean is found by the usual names (`qednano.data.columns`, `qednano.evals.graded`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownBenchmark:
    """A dataset on the Hub and the splits that hold problems; a problem may be in several rows.

    ``meta`` are further columns to keep, ``split_by`` those (a dot leads into a structure) by which scores are split.
    """

    hub: str
    splits: tuple[str, ...] = ("train",)
    meta: tuple[str, ...] = ()
    split_by: tuple[str, ...] = ()


BENCHMARKS = {
    "imo-proofbench": KnownBenchmark("Hwilner/imo-proofbench", split_by=("set", "category")),
    "imo-answerbench": KnownBenchmark("Hwilner/imo-answerbench", split_by=("category",)),
    "proofbench": KnownBenchmark(
        "wenjiema02/ProofBench",
        ("train", "best_of_n"),
        meta=("metadata",),
        split_by=("metadata.contest_year", "metadata.contest"),
    ),
}
"""`set` of IMO-ProofBench is Basic or Advanced, from the problem's id."""

GRADED = {
    "imo-gradingbench": KnownBenchmark("Hwilner/imo-gradingbench"),
    "proofbench": KnownBenchmark("wenjiema02/ProofBench"),
}
"""Proofs that people have scored."""
