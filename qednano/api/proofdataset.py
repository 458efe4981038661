"""ProofDataset: where problems come from and which splits are made of them."""

from __future__ import annotations

from enum import StrEnum
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


class NormaliseStage(ApiModel):
    """Texts in one notation: Unicode, HTML and forum tags, LaTeX delimiters. What they say stays."""

    split_solution: bool = Field(
        default=False, description="Cut a statement at a heading such as Solution or Proof; what follows is a solution."
    )
    extract_answer: bool = Field(
        default=False, description="Take the last boxed expression of the solutions as the answer where there is none."
    )


class DropRule(StrEnum):
    """What a filter can drop by; see docs/data.md for how each is recognised."""

    HAS_FIGURE = "HasFigure"
    MULTIPLE_CHOICE = "MultipleChoice"
    HAS_LINK = "HasLink"
    INCOMPLETE = "Incomplete"
    ASKS_NOTHING = "AsksNothing"
    SEVERAL_PROBLEMS = "SeveralProblems"
    GARBLED = "Garbled"
    NO_SOLUTION = "NoSolution"
    NO_REFERENCE = "NoReference"
    NO_ANSWER = "NoAnswer"
    NO_RUBRIC = "NoRubric"


class FilterStage(ApiModel):
    """Rules by which rows are dropped, each counted by itself; the first that applies to a row drops it."""

    min_characters: int = Field(default=1, ge=0, le=1000000, description="Shortest statement, in characters.")
    max_characters: int = Field(default=20000, ge=1, le=1000000, description="Longest statement, in characters.")
    languages: list[Annotated[str, StringConstraints(pattern="^[a-z]{2}$", max_length=2)]] = Field(
        default_factory=list,
        max_length=16,
        description="Languages to keep (ISO 639-1); empty keeps all. Statements too short to tell are kept.",
    )
    drop: list[DropRule] = Field(
        default_factory=list, max_length=16, description="What else to drop by, in this order after the above."
    )


class DeduplicateStage(ApiModel):
    """One row of every problem: of exact and near duplicates the best stays, with the others' ids in its meta."""

    similarity_percent: int = Field(
        default=70,
        ge=40,
        le=100,
        description="Least similarity (Jaccard) of statements in normal form; 40 is enough where three numbers agree.",
    )


class BenchmarkFile(ApiModel):
    """A file of problems that must not be trained on."""

    name: Name = Field(description="Name in the report.")
    uri: Uri = Field(description="JSONL, Parquet or CSV file, by path or fsspec uri.")
    column: Column = Field(default="problem", min_length=1, description="Column of the statement.")
    id_column: Column = Field(default="id", description="Column of the identifier; empty or absent names by content.")


class DecontaminateStage(ApiModel):
    """No row that tells a problem of these benchmarks, in whatever wording; a report shows each beside the other."""

    benchmarks: list[BenchmarkFile] = Field(
        min_length=1,
        max_length=16,
        description="Benchmarks to keep out.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    @model_validator(mode="after")
    def _names(self) -> DecontaminateStage:
        names = [benchmark.name for benchmark in self.benchmarks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"benchmarks has the name {name} twice; give each its own")
        return self


class Stages(ApiModel):
    """What happens to the rows between source and splits, in this order; a stage that is absent is left out."""

    normalise: NormaliseStage | None = Field(default=None, description="Texts in one notation.")
    filter: FilterStage | None = Field(default=None, description="Rows that rules drop.")
    deduplicate: DeduplicateStage | None = Field(default=None, description="One row of every problem.")
    decontaminate: DecontaminateStage | None = Field(default=None, description="Nothing of these benchmarks.")


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
                ),
                rule(
                    "!has(self.stages) || !has(self.source.generator)",
                    "stages need files or hub as source: what a generator makes is clean",
                ),
            ]
        }
    )

    source: Source = Field(description="Where the rows come from.")
    columns: Columns = Field(default_factory=Columns, description="Names of the source's columns.")
    stages: Stages | None = Field(
        default=None, description="What happens to the rows between source and splits; absent leaves them as they are."
    )
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
        if self.source.generator is not None and self.stages is not None:
            raise ValueError("stages need files or hub as source: what a generator makes is clean")
        return self
