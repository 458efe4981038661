"""How proofs and answers are graded: one type for RLRun, EvalRun and the stages of a ProofDataset."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.common import ApiModel, DecimalString, Name, ShortText, exactly_one, exactly_one_rule
from qednano.api.language import ChatSampling, LanguageModel, PromptText, ServedAs

_PARTS = ("checker", "rubric", "final_answer", "entry_point")


class Checker(ApiModel):
    """A deterministic checker that reads a proof and scores it 0 to 7."""

    name: Annotated[str, StringConstraints(pattern="^tiny-divisibility$", max_length=63)] = Field(
        description="Which checker: tiny-divisibility."
    )


class Aggregate(StrEnum):
    """How several gradings of one proof become one."""

    MEAN = "Mean"
    MEDIAN = "Median"
    MIN = "Min"


class RubricGrader(ApiModel):
    """A language model reads problem, marking scheme and proof and scores it 0 to 7."""

    model: Annotated[LanguageModel, ServedAs("grader")] = Field(description="The model that grades.")
    sampling: ChatSampling = Field(
        default_factory=lambda: ChatSampling(max_tokens=16384), description="How its answers are drawn."
    )
    votes: int = Field(default=1, ge=1, le=16, description="Gradings of each proof.")
    aggregate: Aggregate = Field(default=Aggregate.MEAN, description="How votes become one score: Mean, Median or Min.")
    reference_solution: bool = Field(default=False, description="Show the official solution where the row has one.")
    repair: bool = Field(default=True, description="Ask once more, with the mistake named, for an unreadable answer.")
    prompt: PromptText = Field(default="", description="A Jinja template instead of the built-in prompt.")


class AnswerReward(ApiModel):
    """Scores (0 to 7) of a final answer, by what became of it."""

    correct: int = Field(default=7, ge=0, le=7, description="Equal to the known answer.")
    wrong: int = Field(default=0, ge=0, le=7, description="Another answer.")
    none: int = Field(default=0, ge=0, le=7, description="No answer was given.")
    unreadable: int = Field(default=0, ge=0, le=7, description="An answer that can't be read as mathematics.")
    cut_off: int = Field(default=0, ge=0, le=7, description="Cut off by the token limit, whatever stands there.")


class FinalAnswerGrader(ApiModel):
    """The last boxed answer is compared with the known one, by algebra (math-verify) and then by a model if given."""

    model: Annotated[LanguageModel | None, ServedAs("judge")] = Field(
        default=None, description="Asked where algebra can't tell; absent takes the answer for wrong."
    )
    sampling: ChatSampling = Field(
        default_factory=lambda: ChatSampling(max_tokens=2048), description="How its answers are drawn."
    )
    votes: int = Field(default=1, ge=1, le=16, description="Times that the model is asked; most votes decide.")
    reward: AnswerReward = Field(default_factory=AnswerReward, description="Scores by outcome.")
    timeout_seconds: int = Field(default=10, ge=1, le=600, description="Longest that algebra may take for one answer.")


class EntryPointGrader(ApiModel):
    """A grader of your own: a Python object of the worker image with the interface qednano.grading.Grader."""

    name: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$", max_length=253)
    ] = Field(description="package.module:factory; called with the options, it returns the grader.")
    options: dict[ShortText, ShortText] = Field(
        default_factory=dict, max_length=32, description="Keyword arguments of the factory."
    )


class GraderPart(ApiModel):
    """One grader of a mixture."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [exactly_one_rule(*_PARTS)]})

    name: Name = Field(description="What reports call it.")
    weight: DecimalString = Field(default=Decimal("1"), description="Its share of the score, before normalising.")
    checker: Checker | None = Field(default=None, description="A deterministic checker.")
    rubric: RubricGrader | None = Field(default=None, description="A language model with a marking scheme.")
    final_answer: FinalAnswerGrader | None = Field(default=None, description="Comparison with the known answer.")
    entry_point: EntryPointGrader | None = Field(default=None, description="A grader of your own.")

    @model_validator(mode="after")
    def _one(self) -> GraderPart:
        exactly_one(self, *_PARTS)
        if self.weight <= 0:
            raise ValueError(f"weight is {self.weight}; it must be above 0")
        return self


class Mixture(ApiModel):
    """Several graders, of which each proof gets the weighted mean; a part that gives no grade voids the sample."""

    parts: list[GraderPart] = Field(
        min_length=2,
        max_length=4,
        description="The graders.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    @model_validator(mode="after")
    def _names(self) -> Mixture:
        names = [part.name for part in self.parts]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"parts has the name {name} twice; give each its own")
        return self


class Grader(ApiModel):
    """How proofs are graded. A grade that can't be had is no zero: the sample is asked again, then dropped."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [exactly_one_rule(*_PARTS, "mixture")]})

    checker: Checker | None = Field(default=None, description="A deterministic checker.")
    rubric: RubricGrader | None = Field(default=None, description="A language model with a marking scheme.")
    final_answer: FinalAnswerGrader | None = Field(default=None, description="Comparison with the known answer.")
    entry_point: EntryPointGrader | None = Field(default=None, description="A grader of your own.")
    mixture: Mixture | None = Field(default=None, description="Several graders with weights.")
    timeout_seconds: int = Field(default=900, ge=1, le=86400, description="Longest wait for one grade.")
    max_failure_percent: int = Field(
        default=20,
        ge=0,
        le=100,
        description="A run whose last grades failed more often than this pauses and says so; 100 never pauses.",
    )
    canary_percent: int = Field(
        default=0,
        ge=0,
        le=100,
        description="Of each hundred gradings so many also hand in an attack on the grader; what it earns is a metric.",
    )

    @model_validator(mode="after")
    def _one(self) -> Grader:
        exactly_one(self, *_PARTS, "mixture")
        return self
