"""Test-time scaffolds: how a model is asked for one answer, each with its own options, budget and helpers."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field, model_validator
from pydantic.alias_generators import to_camel

from qednano.api.common import ApiModel, DecimalString
from qednano.api.language import ChatSampling, LanguageModel, ServedAs


class ScaffoldType(StrEnum):
    """How a model is asked."""

    SINGLE_PASS = "SinglePass"
    REASONING_CACHE = "ReasoningCache"
    VERIFY_REFINE = "VerifyRefine"
    RSA = "RSA"
    NOMOS = "Nomos"
    SELF_CHECK = "SelfCheck"
    STATIC_AGENT = "StaticAgent"
    PLANNING_AGENT = "PlanningAgent"
    ADAPTIVE = "Adaptive"


class ReasoningCache(ApiModel):
    """Turns of solving with a summary between them: each turn sees the problem and the last summary only."""

    turns: int = Field(default=3, ge=1, le=64, description="Turns of solving; the last one's proof is the answer.")


class VerifyRefine(ApiModel):
    """DeepSeek-Math: a pool of proofs, verified several times, the best refined with their harshest reviews."""

    pool: int = Field(default=4, ge=1, le=256, description="Proofs at the start.")
    verifications: int = Field(default=4, ge=1, le=256, description="Verifications of each proof.")
    rounds: int = Field(default=2, ge=0, le=64, description="Rounds of refinement; 0 takes the best of the pool.")
    refined: int = Field(default=4, ge=1, le=256, description="Best proofs that are refined in a round.")
    reviews: int = Field(default=2, ge=1, le=16, description="Harshest reviews that a refinement is shown.")


class Rsa(ApiModel):
    """Recursive self-aggregation: rounds in which blocks of solutions are merged into new ones."""

    population: int = Field(default=8, ge=2, le=256, description="Solutions in each round.")
    rounds: int = Field(default=3, ge=0, le=64, description="Rounds of merging.")
    block: int = Field(default=3, ge=2, le=16, description="Solutions merged at once; each one is in as many blocks.")

    @model_validator(mode="after")
    def _block(self) -> Rsa:
        if self.block > self.population:
            raise ValueError(f"block is {self.block}; it can be at most population ({self.population})")
        return self


class Nomos(ApiModel):
    """Many solutions scored once, consolidated to those that agree, and a knock-out tournament."""

    solutions: int = Field(default=16, ge=2, le=256, description="Solutions at the start.")
    perfect: int = Field(default=8, ge=1, le=256, description="With at least so many full scores only those are kept.")
    top: int = Field(default=12, ge=1, le=256, description="Best ones kept otherwise.")


class SelfCheck(ApiModel):
    """Solve, improve, then verify again and again, repairing what a verification finds."""

    checks: int = Field(default=30, ge=1, le=256, description="Verifications at most.")
    passes: int = Field(default=5, ge=1, le=64, description="Passed in a row: the proof is accepted.")
    failures: int = Field(default=10, ge=1, le=64, description="Failed in a row: the attempt is given up.")


class Combine(StrEnum):
    """How the branches of a static agent become one answer."""

    SELECT = "Select"
    MERGE = "Merge"


class StaticAgent(ApiModel):
    """A fixed graph: approaches, then for each a solution, verified and improved; then one answer of all."""

    approaches: int = Field(default=3, ge=1, le=32, description="Branches, each by another approach.")
    improvements: int = Field(default=2, ge=0, le=16, description="Times that a branch is verified and improved.")
    combine: Combine = Field(default=Combine.SELECT, description="Select the best branch, or Merge all into one.")


class PlanningAgent(ApiModel):
    """The model plans: it is told what there is and calls the static agent's parts as tools, turn by turn."""

    turns: int = Field(default=16, ge=1, le=128, description="Turns of planning at most.")
    calls: int = Field(default=48, ge=1, le=1024, description="Tool calls at most.")


class Adaptive(ApiModel):
    """Spends tokens where they raise the expected score most: sequential tests of proofs, one token price for all."""

    worth: int = Field(
        default=128,
        ge=1,
        le=100000,
        description="A solved problem is worth the tokens of so many attempts: where a further one is not expected to "
        "pay, the scaffold stops. budget.tokens raises the price of a token further when it would not suffice.",
    )
    cohort: int = Field(default=256, ge=1, le=1024, description="Samples among which the budget may move.")
    steps: int = Field(default=4, ge=1, le=64, description="Steps of a sample between two looks at its cohort.")
    pass_score: int = Field(default=7, ge=1, le=7, description="A verifier's score that counts as a vote for a proof.")
    pass_if_right: DecimalString = Field(
        default=Decimal("0.8"), description="First guess of how often a right proof gets a vote; learned as votes come."
    )
    pass_if_wrong: DecimalString = Field(default=Decimal("0.2"), description="The same for a wrong proof.")
    solve_rate: DecimalString = Field(default=Decimal("0.3"), description="First guess of how often a proof is right.")
    max_proofs: int = Field(default=64, ge=1, le=1024, description="Proofs of one sample at most.")
    max_votes: int = Field(default=16, ge=1, le=256, description="Votes on one proof at most.")

    @model_validator(mode="after")
    def _ranges(self) -> Adaptive:
        for name in ("pass_if_right", "pass_if_wrong", "solve_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{to_camel(name)} is {getattr(self, name)}; it must be above 0 and below 1")
        if self.pass_if_right <= self.pass_if_wrong:
            raise ValueError(
                f"passIfRight is {self.pass_if_right}; it must be above passIfWrong ({self.pass_if_wrong}), or votes "
                "say nothing"
            )
        return self


class ScaffoldModel(ApiModel):
    """Who takes a role of the scaffold, and how."""

    model: LanguageModel | None = Field(default=None, description="Absent: the evaluated model itself.")
    sampling: ChatSampling | None = Field(default=None, description="Absent: spec.sampling.")


class ScaffoldBudget(ApiModel):
    """What may be spent; 0 is no limit. A scaffold that reaches it answers with the best that it has."""

    tokens: int = Field(
        default=0, ge=0, le=1000000000000, description="Prompt and completion tokens for one sample of a problem."
    )
    money: DecimalString = Field(default=Decimal("0"), description="For one sample, in the currency of the prices.")
    seconds: int = Field(default=0, ge=0, le=31536000, description="For one sample, from its first question on.")
    total_tokens: int = Field(default=0, ge=0, le=1000000000000000, description="For the whole run.")
    total_money: DecimalString = Field(default=Decimal("0"), description="For the whole run.")

    @model_validator(mode="after")
    def _ranges(self) -> ScaffoldBudget:
        for name in ("money", "total_money"):
            if getattr(self, name) < 0:
                raise ValueError(f"{to_camel(name)} is {getattr(self, name)}; it can't be negative")
        return self


class Concurrency(ApiModel):
    """Questions in flight at most, of each shard; 0 leaves a role to the limit of all."""

    calls: int = Field(default=0, ge=0, le=65536, description="Of all roles; 0 takes what the servers hold at once.")
    solver: int = Field(default=0, ge=0, le=65536, description="Of the evaluated model.")
    verifier: int = Field(default=0, ge=0, le=65536, description="Of the verifier.")
    summariser: int = Field(default=0, ge=0, le=65536, description="Of the summariser.")
    judge: int = Field(default=0, ge=0, le=65536, description="Of the judge.")


_OPTIONS: dict[ScaffoldType, str] = {
    ScaffoldType.REASONING_CACHE: "reasoning_cache",
    ScaffoldType.VERIFY_REFINE: "verify_refine",
    ScaffoldType.RSA: "rsa",
    ScaffoldType.NOMOS: "nomos",
    ScaffoldType.SELF_CHECK: "self_check",
    ScaffoldType.STATIC_AGENT: "static_agent",
    ScaffoldType.PLANNING_AGENT: "planning_agent",
    ScaffoldType.ADAPTIVE: "adaptive",
}


class Scaffold(ApiModel):
    """The test-time scaffold: its type, the options of that type (absent: their defaults), helpers and limits."""

    type: ScaffoldType = Field(
        default=ScaffoldType.SINGLE_PASS,
        description="SinglePass: one question a sample. The others ask many: ReasoningCache, VerifyRefine "
        "(DeepSeek-Math), RSA, Nomos, SelfCheck, StaticAgent, PlanningAgent, Adaptive.",
    )
    reasoning_cache: ReasoningCache | None = Field(default=None, description="Options of ReasoningCache.")
    verify_refine: VerifyRefine | None = Field(default=None, description="Options of VerifyRefine.")
    rsa: Rsa | None = Field(default=None, description="Options of RSA.")
    nomos: Nomos | None = Field(default=None, description="Options of Nomos.")
    self_check: SelfCheck | None = Field(default=None, description="Options of SelfCheck.")
    static_agent: StaticAgent | None = Field(default=None, description="Options of StaticAgent.")
    planning_agent: PlanningAgent | None = Field(default=None, description="Options of PlanningAgent.")
    adaptive: Adaptive | None = Field(default=None, description="Options of Adaptive.")
    verifier: Annotated[ScaffoldModel | None, ServedAs("verifier")] = Field(
        default=None, description="Who verifies proofs; absent: the evaluated model."
    )
    summariser: Annotated[ScaffoldModel | None, ServedAs("summariser")] = Field(
        default=None, description="Who summarises; absent: the evaluated model."
    )
    judge: Annotated[ScaffoldModel | None, ServedAs("chooser")] = Field(
        default=None, description="Who chooses among proofs; absent: the evaluated model."
    )
    budget: ScaffoldBudget = Field(default_factory=ScaffoldBudget, description="What may be spent.")
    concurrency: Concurrency = Field(default_factory=Concurrency, description="Questions in flight at most.")

    @property
    def options(self) -> BaseModel | None:
        """The options of the chosen type, its defaults where none are given; None for SinglePass, which has none."""
        if self.type not in _OPTIONS:
            return None
        given: BaseModel | None = getattr(self, _OPTIONS[self.type])
        return given if given is not None else OPTION_TYPES[self.type]()

    @model_validator(mode="after")
    def _own_options(self) -> Scaffold:
        for kind, name in _OPTIONS.items():
            if kind is not self.type and getattr(self, name) is not None:
                raise ValueError(f"{to_camel(name)} is given but type is {self.type}; set type: {kind} or remove it")
        return self


OPTION_TYPES: dict[ScaffoldType, type[BaseModel]] = {
    ScaffoldType.REASONING_CACHE: ReasoningCache,
    ScaffoldType.VERIFY_REFINE: VerifyRefine,
    ScaffoldType.RSA: Rsa,
    ScaffoldType.NOMOS: Nomos,
    ScaffoldType.SELF_CHECK: SelfCheck,
    ScaffoldType.STATIC_AGENT: StaticAgent,
    ScaffoldType.PLANNING_AGENT: PlanningAgent,
    ScaffoldType.ADAPTIVE: Adaptive,
}
