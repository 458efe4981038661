"""Stages of a ProofDataset around language models: what each asks, what it may cost, and what it lets through."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from qednano.api.common import ApiModel, DecimalString, Name, rule
from qednano.api.grader import Aggregate, Grader
from qednano.api.language import ChatSampling, LanguageModel, PromptText, ServedAs

FULL_SCORE = 7


class WhenSpent(StrEnum):
    """What a run does when a stage's budget is spent."""

    FINISH = "Finish"
    FAIL = "Fail"


class Budget(ApiModel):
    """What a stage may spend over all attempts of the run; nothing is asked that is expected to go beyond it."""

    tokens: int = Field(
        default=0, ge=0, le=1000000000000, description="Prompt and completion tokens together; 0 is no limit."
    )
    cost: DecimalString = Field(
        default=Decimal("0"), description="Money, in the currency of the prices; 0 is no limit. Needs endpoint.price."
    )
    when_spent: WhenSpent = Field(
        default=WhenSpent.FINISH,
        description="Finish goes on with the answers there are and parks rows without one; Fail ends the run.",
    )

    @model_validator(mode="after")
    def _ranges(self) -> Budget:
        if self.cost < 0:
            raise ValueError(f"cost is {self.cost}; it must be 0 (no limit) or more")
        return self


class AskingStage(ApiModel):
    """What the stages that ask have in common."""

    budget: Budget = Field(default_factory=Budget, description="What the stage may spend.")
    max_parked_percent: int = Field(
        default=20,
        ge=0,
        le=100,
        description="The run fails if more of the stage's rows than this were parked (budget aside); 100 never fails.",
    )

    def _check_price(self, model: LanguageModel) -> None:
        if not self.budget.cost:
            return
        if model.endpoint is None:
            raise ValueError("budget.cost has no meaning for a model that the run serves: use budget.tokens")
        if model.endpoint.price is None:
            raise ValueError("budget.cost can't be kept without a price: set endpoint.price")


class VerdictRule(StrEnum):
    """What the language model may find in a row, and the filter drop it for."""

    INCOMPLETE = "Incomplete"
    GAPS = "Gaps"
    WRONG = "Wrong"
    DISAGREEMENT = "Disagreement"
    COMPUTATIONAL = "Computational"


class VerdictDifficulty(ApiModel):
    """Difficulties to keep, both ends included: 1 as AMC, 4 national, 7 hard national or easy IMO, 10 hardest IMO."""

    model_config = ConfigDict(
        json_schema_extra={"x-kubernetes-validations": [rule("self.min <= self.max", "min must not exceed max")]}
    )

    min: int = Field(default=1, ge=1, le=10, description="Easiest kept.")
    max: int = Field(default=10, ge=1, le=10, description="Hardest kept.")

    @model_validator(mode="after")
    def _order(self) -> VerdictDifficulty:
        if self.min > self.max:
            raise ValueError(f"min is {self.min} and max is {self.max}; min must not exceed max")
        return self


class LlmFilterStage(AskingStage):
    """A language model reads problem and solutions and gives a typed verdict; rules say which verdict drops the row."""

    model: Annotated[LanguageModel, ServedAs("filter")] = Field(description="The model that judges.")
    sampling: ChatSampling = Field(
        default_factory=lambda: ChatSampling(max_tokens=16384), description="How its verdicts are drawn."
    )
    drop: list[VerdictRule] = Field(
        default_factory=lambda: list(VerdictRule),
        max_length=5,
        description="Verdicts that drop a row, the first that applies: Incomplete (the statement lacks a part), Gaps "
        "(no solution is complete), Wrong (what is asked is false), Disagreement (solutions contradict each other), "
        "Computational (nothing is to be proved). Empty drops none.",
    )
    difficulty: VerdictDifficulty = Field(
        default_factory=VerdictDifficulty, description="Rows of other difficulties are dropped; the row keeps its own."
    )
    prompt: PromptText = Field(
        default="", description="A Jinja template instead of the built-in prompt; names: problem, solutions, schema."
    )

    @model_validator(mode="after")
    def _price(self) -> LlmFilterStage:
        self._check_price(self.model)
        return self


class RubricStage(AskingStage):
    """A language model turns problem and official solution into a marking scheme out of seven points."""

    model: Annotated[LanguageModel, ServedAs("rubric")] = Field(description="The model that writes the schemes.")
    sampling: ChatSampling = Field(
        default_factory=lambda: ChatSampling(max_tokens=32768), description="How its schemes are drawn."
    )
    tries: int = Field(
        default=3, ge=1, le=16, description="Schemes asked for, each with the mistake of the last one named."
    )
    overwrite: bool = Field(default=False, description="Ask for rows, too, that have a scheme already.")
    prompt: PromptText = Field(
        default="", description="A Jinja template instead of the built-in prompt; names: problem, reference, schema."
    )

    @model_validator(mode="after")
    def _price(self) -> RubricStage:
        self._check_price(self.model)
        return self


class GenerateStage(AskingStage):
    """A teacher writes proofs of each problem. They wait as candidates for the stages grade and select."""

    teacher: Annotated[LanguageModel, ServedAs("teacher")] = Field(description="The model that writes.")
    sampling: ChatSampling = Field(
        default_factory=lambda: ChatSampling(max_tokens=124928),
        description="How its proofs are drawn; maxTokens is for thinking and proof together.",
    )
    samples: int = Field(default=1, ge=1, le=256, description="Proofs of each problem.")
    prompt: PromptText = Field(
        default="", description="A Jinja template instead of the built-in prompt; names: problem."
    )

    @model_validator(mode="after")
    def _price(self) -> GenerateStage:
        self._check_price(self.teacher)
        return self


class GradeStage(AskingStage):
    """Each candidate (without any: each solution of the row) gets a score of 0 to 7 by one or more gradings."""

    grader: Grader = Field(description="How proofs are graded.")
    gradings: int = Field(default=1, ge=1, le=16, description="Gradings of each proof.")
    aggregate: Aggregate = Field(
        default=Aggregate.MEAN, description="How gradings become one score: Mean, Median or Min."
    )


class SelectStage(ApiModel):
    """The best candidates of each row become its solutions; the others are left out and counted."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("self.minCharacters <= self.maxCharacters", "minCharacters must not exceed maxCharacters")
            ]
        }
    )

    min_score: DecimalString = Field(default=Decimal("6"), description="Lowest score of a solution, 0 to 7.")
    per_problem: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Solutions of a row at most: best scores first, of equal ones the shortest.",
    )
    max_disagreement: int = Field(
        default=7, ge=0, le=7, description="Largest difference between the gradings of one proof, in points."
    )
    min_characters: int = Field(default=1, ge=0, le=10000000, description="Shortest proof, thinking aside.")
    max_characters: int = Field(default=10000000, ge=1, le=10000000, description="Longest proof, thinking aside.")
    max_tokens: int = Field(
        default=262144, ge=1, le=1048576, description="Longest answer with its thinking, in the teacher's tokens."
    )
    keep_unsolved: bool = Field(default=False, description="Keep rows of which no candidate is good enough.")

    @model_validator(mode="after")
    def _ranges(self) -> SelectStage:
        if not 0 <= self.min_score <= FULL_SCORE:
            raise ValueError(f"minScore is {self.min_score}; it must be from 0 to {FULL_SCORE}")
        if self.min_characters > self.max_characters:
            raise ValueError(
                f"minCharacters is {self.min_characters} and maxCharacters {self.max_characters}; "
                "minCharacters must not exceed maxCharacters"
            )
        return self


class DifficultyStage(AskingStage):
    """How often a given model solves each problem: columns pass_rate, mean_reward and attempts."""

    model: Annotated[LanguageModel, ServedAs("difficulty")] = Field(description="The model that tries.")
    sampling: ChatSampling = Field(
        default_factory=lambda: ChatSampling(max_tokens=49152), description="How its proofs are drawn."
    )
    samples: int = Field(default=8, ge=1, le=1024, description="Attempts at each problem.")
    grader: Grader = Field(description="How the attempts are graded; one cut off by the token limit scores 0.")
    passing_score: DecimalString = Field(default=Decimal("7"), description="Lowest score of a pass, above 0 to 7.")
    prompt: PromptText = Field(
        default="", description="A Jinja template instead of the built-in prompt; names: problem."
    )

    @model_validator(mode="after")
    def _ranges(self) -> DifficultyStage:
        self._check_price(self.model)
        if not 0 < self.passing_score <= FULL_SCORE:
            raise ValueError(f"passingScore is {self.passing_score}; it must be above 0 and at most {FULL_SCORE}")
        return self


class Measure(StrEnum):
    """By which column problems are ordered and cut into bands."""

    PASS_RATE = "PassRate"
    MEAN_REWARD = "MeanReward"


class Order(StrEnum):
    """In which order the rows leave a curriculum."""

    SOURCE = "Source"
    EASY_FIRST = "EasyFirst"
    HARD_FIRST = "HardFirst"
    SHUFFLED = "Shuffled"


class Band(ApiModel):
    """Problems whose measure lies from minPercent to maxPercent, both included."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule("self.minPercent <= self.maxPercent", "minPercent must not exceed maxPercent")
            ]
        }
    )

    name: Name = Field(description="What reports call it.")
    min_percent: int = Field(default=0, ge=0, le=100, description="Hardest kept.")
    max_percent: int = Field(default=100, ge=0, le=100, description="Easiest kept.")
    share: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="Its part of the mix, relative to the other bands': 2 beside 1 is two thirds; 0 takes all of it.",
    )

    @model_validator(mode="after")
    def _order(self) -> Band:
        if self.min_percent > self.max_percent:
            raise ValueError(
                f"minPercent is {self.min_percent} and maxPercent {self.max_percent}; "
                "minPercent must not exceed maxPercent"
            )
        return self


class CurriculumStage(ApiModel):
    """Which measured problems stay, in which proportions and in which order."""

    by: Measure = Field(default=Measure.PASS_RATE, description="PassRate or MeanReward.")
    bands: list[Band] = Field(
        default_factory=list,
        max_length=16,
        description="A row belongs to the first that holds it, and is dropped if none does; empty keeps all.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    keep_unmeasured: bool = Field(default=False, description="Keep rows without a measure; they come last in an order.")
    order: Order = Field(default=Order.SOURCE, description="Source, EasyFirst, HardFirst or Shuffled.")

    @model_validator(mode="after")
    def _bands(self) -> CurriculumStage:
        names = [band.name for band in self.bands]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"bands has the name {name} twice; give each its own")
        shares = [band.share for band in self.bands]
        if any(shares) and not all(shares):
            raise ValueError("some bands have a share and others none: give each one, or none")
        return self
