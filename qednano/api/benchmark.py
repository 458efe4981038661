"""The problems of an evaluation: a benchmark known by name, a dataset on the Hub, a split of a ProofDataset, a file."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.benchmarks import BENCHMARKS
from qednano.api.common import DatasetRef, ShortText, exactly_one, exactly_one_rule, rule
from qednano.api.proofdataset import Columns, HubSource

_SOURCES = ("proof_dataset", "uri", "known", "hub")
_KNOWN = ", ".join(sorted(BENCHMARKS))

KnownName = Annotated[str, StringConstraints(pattern=f"^({'|'.join(sorted(BENCHMARKS))})$", max_length=40)]
ColumnPath = Annotated[str, StringConstraints(min_length=1, max_length=120)]


class Benchmark(DatasetRef):
    """The problems of an evaluation, and by which of their columns scores are split."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                exactly_one_rule(*_SOURCES),
                rule("!has(self.revision) || has(self.known)", "revision goes with known; a hub has its own"),
            ]
        }
    )

    known: KnownName | None = Field(default=None, description=f"A benchmark by its name: {_KNOWN}.")
    revision: ShortText | None = Field(
        default=None, description="Of a known benchmark: branch, tag or commit; absent is main. Pin one to reproduce."
    )
    hub: HubSource | None = Field(default=None, description="A dataset on the Hugging Face Hub.")
    columns: Columns = Field(default_factory=Columns, description="Names of columns; absent ones are looked for.")
    split_by: list[ColumnPath] = Field(
        default_factory=list,
        max_length=8,
        description="Columns (of the row, or of its meta; a dot leads into a structure) whose values split the scores, "
        "such as level or year; empty takes those that a known benchmark is read by.",
    )
    limit: int = Field(default=0, ge=0, le=1000000, description="Take the first so many problems; 0 takes all.")

    @model_validator(mode="after")
    def _one(self) -> Benchmark:
        exactly_one(self, *_SOURCES)
        if self.revision is not None and self.known is None:
            raise ValueError(f"revision is {self.revision}, which goes with known; a hub has its own revision")
        return self
