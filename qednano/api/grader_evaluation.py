"""Grader evaluation: graders side by side on proofs that people have scored."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.benchmarks import GRADED
from qednano.api.common import ApiModel, Name, ShortText, Uri, exactly_one, exactly_one_rule, rule
from qednano.api.grader import Grader
from qednano.api.proofdataset import HubSource

_SOURCES = ("uri", "known", "hub")
_KNOWN = ", ".join(sorted(GRADED))
Column = Annotated[str, StringConstraints(min_length=1, max_length=120)]


class GradedColumns(ApiModel):
    """Names of the columns of human-scored proofs. Absent ones are looked for by usual names (docs/grading.md)."""

    problem: Column | None = Field(default=None, description="Problem statement.")
    problem_id: Column | None = Field(default=None, description="Which problem; absent and not found: by statement.")
    proof: Column | None = Field(default=None, description="The proof that was scored.")
    score: list[Column] = Field(
        default_factory=list, max_length=8, description="Human scores; of several the mean is taken."
    )
    max_score: Column | None = Field(default=None, description="Full score of the row, where rows differ.")
    rubric: Column | None = Field(default=None, description="Marking scheme or grading guidelines.")
    reference: Column | None = Field(default=None, description="Official solution.")
    answer: Column | None = Field(default=None, description="Known final answer.")
    author: Column | None = Field(default=None, description="Who wrote the proof, such as a model's name.")


class GradedProofs(ApiModel):
    """Proofs with human scores: a set known by name, a dataset on the Hub, or a file."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                exactly_one_rule(*_SOURCES),
                rule("!has(self.revision) || has(self.known)", "revision goes with known; a hub has its own"),
            ]
        }
    )

    uri: Uri | None = Field(default=None, description="A JSONL, Parquet or CSV file on the run's volume.")
    known: Annotated[str, StringConstraints(pattern=f"^({'|'.join(sorted(GRADED))})$", max_length=40)] | None = Field(
        default=None, description=f"A set by its name: {_KNOWN}."
    )
    revision: ShortText | None = Field(
        default=None, description="Of a known set: branch, tag or commit; absent is main. Pin one to reproduce."
    )
    hub: HubSource | None = Field(default=None, description="A dataset on the Hugging Face Hub.")
    columns: GradedColumns = Field(default_factory=GradedColumns, description="Names of columns.")
    max_score: int = Field(default=7, ge=1, le=1000, description="Full human score; others are scaled to 7 points.")
    limit: int = Field(default=0, ge=0, le=1000000, description="Take the first so many proofs; 0 takes all.")

    @model_validator(mode="after")
    def _one(self) -> GradedProofs:
        exactly_one(self, *_SOURCES)
        if self.revision is not None and self.known is None:
            raise ValueError(f"revision is {self.revision}, which goes with known; a hub has its own revision")
        return self


class NamedGrader(ApiModel):
    """One grader of a comparison: a prompt, a model, a number of votes."""

    name: Name = Field(description="What tables and charts call it.")
    grader: Grader = Field(description="The grader.")


class GraderEvaluation(ApiModel):
    """Graders side by side on the same human-scored proofs; the first one is compared with each other one."""

    data: GradedProofs = Field(description="Proofs with human scores.")
    graders: list[NamedGrader] = Field(
        min_length=1,
        max_length=8,
        description="The graders.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    concurrency: int = Field(default=64, ge=1, le=4096, description="Proofs of a grader that are graded at once.")

    @model_validator(mode="after")
    def _names(self) -> GraderEvaluation:
        names = [item.name for item in self.graders]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"graders has the name {name} twice; give each its own")
        return self
