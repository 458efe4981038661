"""ProofDataset: where problems come from, what happens to them, and which splits are made of them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.benchmarks import BENCHMARKS
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
from qednano.api.data_stages import (
    CurriculumStage,
    DifficultyStage,
    GenerateStage,
    GradeStage,
    LlmFilterStage,
    RubricStage,
    SelectStage,
)
from qednano.api.secret import SecretKey

Column = Annotated[str, StringConstraints(max_length=120)]
HubId = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^\S+$")]


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
    problems: int | None = Field(
        default=None,
        ge=1,
        le=10000000,
        description="Problems to make of each fold that a split draws from; absent: as many as the splits ask for.",
    )
    solutions_per_problem: int = Field(default=4, ge=0, le=64, description="Teacher proofs for each problem.")
    flawed_percent: int = Field(default=60, ge=0, le=100, description="Share of teacher proofs with a flaw.")
    families: list[Name] = Field(
        default_factory=list, max_length=16, description="Families of problems; empty means all."
    )
    difficulty: DifficultyRange = Field(default_factory=DifficultyRange, description="Levels to draw from.")


class ObjectStore(ApiModel):
    """How an S3 store is reached; all absent leaves it to the environment (AWS_*, the pod's identity)."""

    endpoint: Annotated[str, StringConstraints(max_length=1024, pattern=r"^(https?://\S+)?$")] = Field(
        default="", description="Base address of a store other than AWS, such as http://minio:9000."
    )
    region: ShortText = Field(default="", description="Region of the bucket.")
    access_key: SecretKey | None = Field(default=None, description="Secret with the access key's id.")
    secret_key: SecretKey | None = Field(default=None, description="Secret with the secret access key.")
    anonymous: bool = Field(default=False, description="True sends no credentials, for public buckets.")


class FileSource(ApiModel):
    """Rows from files."""

    uris: list[Uri] = Field(
        min_length=1,
        max_length=64,
        description="JSONL, Parquet or CSV files (.gz, .bz2, .xz, .zst) by path or fsspec uri (s3://, …), in order; "
        "what * and ? match is read in the order of names.",
    )
    store: ObjectStore = Field(default_factory=ObjectStore, description="How s3:// uris are reached.")


class HubSource(ApiModel):
    """Rows from a dataset on the Hugging Face Hub."""

    id: HubId = Field(description="owner/name.")
    revision: ShortText = Field(default="main", description="Branch, tag or commit; pin a commit to reproduce.")
    config: ShortText = Field(default="", description="Configuration of the dataset; empty is its default one.")
    split: ShortText = Field(default="train", description="Split of the Hub dataset.")
    token: SecretKey | None = Field(default=None, description="Secret with a token, for private datasets.")


class Columns(ApiModel):
    """Names of a source's columns. An absent one is looked for by usual names (see docs/data.md) and may be missing;
    an empty name means that the column is not taken."""

    problem: Annotated[str, StringConstraints(min_length=1, max_length=120)] | None = Field(
        default=None, description="Problem statement."
    )
    id: Column | None = Field(default=None, description="Identifier; rows without one are named by their content.")
    solution: Column | None = Field(default=None, description="Proof (text) or proofs (list of texts).")
    reasoning: Column | None = Field(default=None, description="Thinking before each proof: text or list of texts.")
    score: Column | None = Field(default=None, description="Grade of each proof, 0 to 7: number or list of numbers.")
    answer: Column | None = Field(default=None, description="Final answer.")
    rubric: Column | None = Field(default=None, description="Marking scheme.")
    reference: Column | None = Field(default=None, description="Official solution.")
    difficulty: Column | None = Field(default=None, description="Level, a whole number.")
    mean_reward: Column | None = Field(default=None, description="Mean reward of a model's attempts, 0 to 1.")
    attempts: Column | None = Field(default=None, description="On how many attempts the mean reward rests.")
    source: Column | None = Field(default=None, description="Where a problem came from; absent: the source's name.")
    meta: list[Annotated[str, StringConstraints(min_length=1, max_length=120)]] = Field(
        default_factory=list, max_length=32, description="Further columns, kept in the row's meta under their names."
    )


class Source(ApiModel):
    """One place that rows come from."""

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [exactly_one_rule("generator", "files", "hub")]}
    )

    name: Name = Field(description="Name in reports, and the source of rows that tell none.")
    weight: int | None = Field(
        default=None,
        ge=1,
        le=1000000,
        description="Share in each split, relative to the other sources' weights; with none, all rows are drawn alike.",
    )
    generator: Generator | None = Field(default=None, description="Rows made by a program.")
    files: FileSource | None = Field(default=None, description="Rows from files.")
    hub: HubSource | None = Field(default=None, description="Rows from the Hub.")
    columns: Columns = Field(default_factory=Columns, description="Names of its columns; a generator has none.")

    @model_validator(mode="after")
    def _one(self) -> Source:
        exactly_one(self, "generator", "files", "hub")
        return self


STAGE_FIELDS = (
    "normalise",
    "filter",
    "deduplicate",
    "decontaminate",
    "llm_filter",
    "rubrics",
    "generate",
    "grade",
    "select",
    "difficulty",
    "curriculum",
)


class NormaliseStage(ApiModel):
    """Texts in one notation: Unicode, HTML and forum tags, LaTeX delimiters. What they say stays."""

    split_solution: bool = Field(
        default=False, description="Cut a statement at a heading such as Solution or Proof; what follows is a solution."
    )
    extract_answer: bool = Field(
        default=False,
        description="Where a row has no answer, take the one that its solutions end in, if it reads as mathematics.",
    )
    detect_language: bool = Field(
        default=False, description="Keep the statement's language (ISO 639-1) in the row's meta."
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
    merge_solutions: bool = Field(
        default=False, description="True gives the solutions of the rows that are dropped to the one that stays."
    )


class ContaminationBenchmark(ApiModel):
    """A set of problems that must not be trained on: one that is known by name, a file, or a dataset on the Hub."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("!(has(self.uri) && has(self.hub))", "at most one of uri, hub can be set"),
                rule(
                    f"has(self.uri) || has(self.hub) || self.name in {sorted(BENCHMARKS)}",
                    f"name must be one of {', '.join(sorted(BENCHMARKS))}, or uri or hub must be set",
                ),
            ]
        }
    )

    name: Name = Field(
        description=f"Name in the report; {', '.join(sorted(BENCHMARKS))} are known and need neither uri nor hub."
    )
    uri: Uri | None = Field(default=None, description="JSONL, Parquet or CSV file, by path or fsspec uri.")
    hub: HubSource | None = Field(default=None, description="Dataset on the Hub.")
    column: Column | None = Field(default=None, description="Column of the statement; absent looks for usual names.")
    id_column: Column | None = Field(
        default=None, description="Column of the identifier; empty, or absent and not found, names by content."
    )

    @model_validator(mode="after")
    def _where(self) -> ContaminationBenchmark:
        if self.uri is not None and self.hub is not None:
            raise ValueError("at most one of uri, hub can be set, but both are")
        if self.uri is None and self.hub is None and self.name not in BENCHMARKS:
            raise ValueError(
                f"name is {self.name}, which is not one of {', '.join(sorted(BENCHMARKS))}; for another benchmark set "
                "uri or hub"
            )
        return self


class DecontaminateStage(ApiModel):
    """No row that tells a problem of these benchmarks, in whatever wording; a report shows each beside the other."""

    benchmarks: list[ContaminationBenchmark] = Field(
        min_length=1,
        max_length=16,
        description="Benchmarks to keep out.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    @model_validator(mode="after")
    def _names(self) -> DecontaminateStage:
        if (name := _repeated(benchmark.name for benchmark in self.benchmarks)) is not None:
            raise ValueError(f"benchmarks has the name {name} twice; give each its own")
        return self


class Stage(ApiModel):
    """One step between sources and splits: exactly one of its fields is set."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [exactly_one_rule(*STAGE_FIELDS)]})

    normalise: NormaliseStage | None = Field(default=None, description="Texts in one notation.")
    filter: FilterStage | None = Field(default=None, description="Rows that rules drop.")
    deduplicate: DeduplicateStage | None = Field(default=None, description="One row of every problem.")
    decontaminate: DecontaminateStage | None = Field(default=None, description="Nothing of these benchmarks.")
    llm_filter: LlmFilterStage | None = Field(default=None, description="Rows that a language model's verdict drops.")
    rubrics: RubricStage | None = Field(default=None, description="Marking schemes by a language model.")
    generate: GenerateStage | None = Field(default=None, description="Proofs by a teacher, as candidates.")
    grade: GradeStage | None = Field(default=None, description="Scores of the candidates.")
    select: SelectStage | None = Field(default=None, description="The best candidates as solutions.")
    difficulty: DifficultyStage | None = Field(default=None, description="How often a given model solves each problem.")
    curriculum: CurriculumStage | None = Field(default=None, description="Bands, mix and order by difficulty.")

    @model_validator(mode="after")
    def _one(self) -> Stage:
        exactly_one(self, *STAGE_FIELDS)
        return self

    @property
    def kind(self) -> str:
        """Which stage it is, by the name of its field."""
        return next(name for name in STAGE_FIELDS if getattr(self, name) is not None)


class KeepTogether(StrEnum):
    """Which rows of one problem can't be in two splits."""

    NEAR_DUPLICATES = "NearDuplicates"
    EQUAL_TEXTS = "EqualTexts"


class Layout(StrEnum):
    """Column names of what is published."""

    PLAIN = "Plain"
    FINE_PROOFS_SFT = "FineProofsSFT"
    FINE_PROOFS_RL = "FineProofsRL"


class Publish(ApiModel):
    """A copy of the dataset on the Hugging Face Hub, pushed when it is complete."""

    id: HubId = Field(description="owner/name of the dataset; made if it is not there.")
    revision: ShortText = Field(default="main", description="Branch to push to.")
    private: bool = Field(default=True, description="Whether a dataset that is made is private.")
    layout: Layout = Field(
        default=Layout.PLAIN,
        description="Plain has the artifact's columns; FineProofsSFT and FineProofsRL those of the published sets.",
    )
    token: SecretKey | None = Field(
        default=None, description="Secret with a token that may write; absent uses HF_TOKEN."
    )


class Split(ApiModel):
    """One split. Splits share no problem."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("!(has(self.problems) && has(self.percent))", "at most one of problems, percent can be set")
            ]
        }
    )

    name: Name = Field(description="Name of the split.")
    problems: int | None = Field(
        default=None,
        ge=1,
        le=10000000,
        description="How many problems; without it and percent, all that the other splits leave.",
    )
    percent: int | None = Field(
        default=None, ge=1, le=100, description="Share of the rows that the stages leave, rounded down."
    )
    held_out: bool = Field(
        default=False,
        description="True draws from the generators' held-out fold, which no other split can reach.",
    )

    @model_validator(mode="after")
    def _size(self) -> Split:
        if self.problems is not None and self.percent is not None:
            raise ValueError("at most one of problems, percent can be set, but both are")
        return self

    @property
    def takes_rest(self) -> bool:
        """Whether it gets all that the other splits leave."""
        return self.problems is None and self.percent is None


def _repeated(names: Iterable[str]) -> str | None:
    """The first name that is there twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


class ProofDatasetSpec(RunSpec):
    """Problems for training and evaluation, as Parquet files with a digest."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.splits.all(s, !s.heldOut) || self.sources.exists(s, has(s.generator))",
                    "heldOut needs a generator among the sources: others have no held-out fold",
                ),
                rule(
                    "self.splits.filter(s, !has(s.problems) && !has(s.percent)).size() <= 1",
                    "only one split can go without problems and percent: it gets all that the others leave",
                ),
                rule(
                    "self.sources.all(s, has(s.weight)) || self.sources.all(s, !has(s.weight))",
                    "weight must be set on all sources or on none",
                ),
            ]
        }
    )

    sources: list[Source] = Field(
        min_length=1,
        max_length=16,
        description="Where the rows come from, read in this order.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    stages: list[Stage] = Field(
        default_factory=list,
        max_length=24,
        description="What happens to the rows between sources and splits, in this order; a stage may come again.",
    )
    splits: list[Split] = Field(
        min_length=1,
        max_length=16,
        description="Splits to make, filled in this order.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    keep_together: KeepTogether = Field(
        default=KeepTogether.NEAR_DUPLICATES,
        description="NearDuplicates: two wordings of a problem never are in two splits; EqualTexts: equal ones only.",
    )
    publish: Publish | None = Field(default=None, description="A copy on the Hub.")
    resources: Resources = Field(default_factory=Resources, description="What the job asks for.")

    mutable: ClassVar[tuple[str, ...]] = RunSpec.mutable

    @model_validator(mode="after")
    def _lists(self) -> ProofDatasetSpec:
        for field, items in (("sources", self.sources), ("splits", self.splits)):
            if (name := _repeated(item.name for item in items)) is not None:
                raise ValueError(f"{field} has the name {name} twice; give each its own")
        if any(split.held_out for split in self.splits) and all(source.generator is None for source in self.sources):
            raise ValueError("heldOut needs a generator among the sources: others have no held-out fold")
        rest = [split.name for split in self.splits if split.takes_rest]
        if len(rest) > 1:
            raise ValueError(
                f"{rest[0]} and {rest[1]} have neither problems nor percent; only one split can get all that is left"
            )
        for source in self.sources:
            if source.generator is not None and source.generator.problems is None:
                sizeless = [split.name for split in self.splits if split.problems is None]
                if sizeless:
                    raise ValueError(
                        f"split {sizeless[0]} gives no number of problems, so source {source.name} must say in "
                        "generator.problems how many to make"
                    )
        if rest and self.sources[0].weight is not None:
            raise ValueError(
                f"split {rest[0]} gets all that is left, so weights mean nothing; give it problems or percent"
            )
        without = [source.name for source in self.sources if source.weight is None]
        if 0 < len(without) < len(self.sources):
            raise ValueError(f"weight must be set on all sources or on none, and {without[0]} has none")
        return self
