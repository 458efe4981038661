"""ProofDataset: where problems come from and which splits are made of them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.common import (
    ApiModel,
    Name,
    Resources,
    RunSpec,
    ShortText,
    Uri,
    exactly_one,
    exactly_one_rule,
    rule,
)

Column = Annotated[str, StringConstraints(max_length=120)]


class DifficultyRange(ApiModel):
    """Levels of difficulty, both ends included."""

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [rule("self.min <= self.max", "min must not exceed max")]}
    )

    min: int = Field(default=1, ge=1, le=10, description="Easiest level.")
    max: int = Field(default=3, ge=1, le=10, description="Hardest level.")

    @model_validator(mode="after")
    def _order(self) -> DifficultyRange:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; min must not exceed max")
        return self


class Generator(ApiModel):
    """Problems made by a program, with proofs by an imperfect teacher."""

    name: Annotated[str, StringConstraints(pattern="^tiny-divisibility$", max_length=63)] = Field(
        description="Which generator: tiny-divisibility."
    )
    solutions_per_problem: int = Field(default=4, ge=0, le=64, description="Teacher proofs for each problem.")
    flawed_percent: int = Field(default=60, ge=0, le=100, description="Share of teacher proofs with a flaw.")
    families: list[Name] = Field(
        default_factory=list, max_length=16, description="Families of problems; empty means all."
    )
    difficulty: DifficultyRange = Field(default_factory=DifficultyRange, description="Levels to draw from.")


class FileSource(ApiModel):
    """Rows from files."""

    uris: list[Uri] = Field(
        min_length=1, max_length=64, description="JSONL, Parquet or CSV files, by path or fsspec uri, in order."
    )


class HubSource(ApiModel):
    """Rows from a dataset on the Hugging Face Hub."""

    id: ShortText = Field(min_length=1, description="owner/name.")
    revision: ShortText = Field(default="main", description="Branch, tag or commit; pin a commit to reproduce.")
    split: ShortText = Field(default="train", description="Split of the Hub dataset.")


class Source(ApiModel):
    """Where the rows come from."""

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [exactly_one_rule("generator", "files", "hub")]}
    )

    generator: Generator | None = Field(default=None, description="Rows made by a program.")
    files: FileSource | None = Field(default=None, description="Rows from files.")
    hub: HubSource | None = Field(default=None, description="Rows from the Hub.")

    @model_validator(mode="after")
    def _one(self) -> Source:
        exactly_one(self, "generator", "files", "hub")
        return self


class Columns(ApiModel):
    """Names of the source's columns. An empty name means that the source has no such column."""

    problem: Column = Field(default="problem", min_length=1, description="Problem statement.")
    id: Column = Field(default="id", description="Identifier; rows without one are named by their content.")
    solution: Column = Field(default="solution", description="Proof (text) or proofs (list of texts).")
    answer: Column = Field(default="answer", description="Final answer.")
    rubric: Column = Field(default="rubric", description="Marking scheme.")
    reference: Column = Field(default="reference", description="Official solution.")


class Split(ApiModel):
    """One split. Splits share no problem."""

    name: Name = Field(description="Name of the split.")
    problems: int = Field(ge=1, le=10000000, description="How many problems.")
    held_out: bool = Field(
        default=False,
        description="True draws from the generator's held-out fold, which no other split can reach.",
    )


class ProofDatasetSpec(RunSpec):
    """Problems for training and evaluation, as Parquet files with a digest."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "has(self.source.generator) || self.splits.all(s, !s.heldOut)",
                    "heldOut needs a generator as source: other sources have no held-out fold",
                )
            ]
        }
    )

    source: Source = Field(description="Where the rows come from.")
    columns: Columns = Field(default_factory=Columns, description="Names of the source's columns.")
    splits: list[Split] = Field(
        min_length=1,
        max_length=16,
        description="Splits to make, filled in this order.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    resources: Resources = Field(default_factory=Resources, description="What the job asks for.")

    mutable: ClassVar[tuple[str, ...]] = RunSpec.mutable

    @model_validator(mode="after")
    def _splits(self) -> ProofDatasetSpec:
        names = [split.name for split in self.splits]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"splits has the name {name} twice; give each split its own")
        if self.source.generator is None and any(split.held_out for split in self.splits):
            raise ValueError("heldOut needs a generator as source: other sources have no held-out fold")
        return self
