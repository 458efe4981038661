"""RLRun: asynchronous reinforcement learning on graded proofs."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.common import (
    ApiModel,
    DatasetRef,
    DecimalString,
    ModelRef,
    Resources,
    RunSpec,
    Sampling,
    Server,
    rule,
)
from qednano.api.engine import CheckpointPolicy, Engine, Optimisation
from qednano.api.evaluations import Evaluation, check_evaluations
from qednano.api.grader import Grader
from qednano.api.language import ChatSampling, LanguageModel, PromptText, ServedAs
from qednano.api.secret import SecretKey


class Loss(StrEnum):
    """Policy-gradient objective."""

    REINFORCE = "REINFORCE"
    PPO = "PPO"
    CISPO = "CISPO"
    GSPO = "GSPO"


class Advantage(StrEnum):
    """How rewards of a group become advantages."""

    MEAN_CENTRED = "MeanCentred"
    LEAVE_ONE_OUT = "LeaveOneOut"
    STD_SCALED = "StdScaled"
    BATCH_SCALED = "BatchScaled"


class Aggregation(StrEnum):
    """How token losses become one number."""

    CONSTANT = "Constant"
    TOKEN_MEAN = "TokenMean"
    SEQUENCE_MEAN = "SequenceMean"


class Overlong(StrEnum):
    """What happens to completions cut off by the token limit."""

    NONE = "None"
    PENALTY = "Penalty"
    SOFT_PENALTY = "SoftPenalty"
    FILTER = "Filter"


class KlEstimator(StrEnum):
    """How the divergence from the reference policy is estimated from samples."""

    K1 = "k1"
    K3 = "k3"


class Algorithm(ApiModel):
    """Objective and batch of the RL run."""

    loss: Loss = Field(
        default=Loss.REINFORCE,
        description="REINFORCE with truncated importance weights, PPO clip, CISPO or GSPO.",
    )
    advantage: Advantage = Field(
        default=Advantage.MEAN_CENTRED,
        description="MeanCentred, LeaveOneOut, StdScaled (by the group), or BatchScaled (centred by the group, "
        "scaled by the batch's standard deviation).",
    )
    aggregation: Aggregation = Field(
        default=Aggregation.CONSTANT, description="Constant (sum over samples per batch), TokenMean or SequenceMean."
    )
    group_size: int = Field(default=16, ge=2, le=256, description="Samples of one problem that form a group.")
    problems_per_step: int = Field(default=64, ge=1, le=4096, description="Groups of one optimizer step.")
    max_steps: int = Field(ge=1, le=1000000, description="Optimizer steps.")
    max_staleness: int = Field(
        default=4, ge=0, le=1000, description="Oldest weights a sample may come from, in optimizer steps."
    )
    importance_cap: DecimalString = Field(
        default=Decimal("5"), description="REINFORCE: importance weights are truncated here."
    )
    clip_low: DecimalString = Field(default=Decimal("0.2"), description="PPO, CISPO, GSPO: ratio floor is 1 - this.")
    clip_high: DecimalString = Field(default=Decimal("0.2"), description="PPO, CISPO, GSPO: ratio cap is 1 + this.")
    entropy_bonus: DecimalString = Field(default=Decimal("0"), description="Weight of the entropy bonus.")
    entropy_decay_steps: int = Field(
        default=0, ge=0, le=1000000, description="Steps over which the bonus falls linearly to 0; 0 keeps it."
    )
    kl_coefficient: DecimalString = Field(
        default=Decimal("0"), description="Weight of the divergence from the reference policy; 0 needs none."
    )
    kl_estimator: KlEstimator = Field(
        default=KlEstimator.K3,
        description="k1: its gradient is on average that of KL(policy || reference). k3: of less variance; its "
        "gradient is on average that of KL(reference || policy).",
    )
    drop_zero_variance: bool = Field(
        default=True, description="Drop groups whose rewards are all equal and draw others in their place."
    )
    overlong: Overlong = Field(
        default=Overlong.NONE,
        description="For long completions: None, Penalty (cut off: reward 0), SoftPenalty (the reward falls linearly "
        "by up to overlongPenalty within the last overlongBuffer tokens of the limit) or Filter (cut off: dropped).",
    )
    overlong_buffer: int = Field(
        default=0, ge=0, le=262144, description="SoftPenalty: tokens before sampling.maxTokens where it begins."
    )
    overlong_penalty: DecimalString = Field(
        default=Decimal("1"), description="SoftPenalty: what a completion at the limit loses of its reward."
    )
    flatten_partial: bool = Field(
        default=False, description="Scores from 1 to 5 count as 1, so that half a proof is worth little."
    )
    length_discount: DecimalString = Field(
        default=Decimal("1"), description="Rewards are multiplied by this to the power of the completion's tokens."
    )

    @model_validator(mode="after")
    def _ranges(self) -> Algorithm:
        if self.importance_cap < 1:
            raise ValueError(f"importanceCap is {self.importance_cap}; below 1 it would cut on-policy samples too")
        if not 0 <= self.clip_low < 1:
            raise ValueError(f"clipLow is {self.clip_low}; it must be at least 0 and below 1")
        for name, value in (
            ("clipHigh", self.clip_high),
            ("entropyBonus", self.entropy_bonus),
            ("klCoefficient", self.kl_coefficient),
            ("overlongPenalty", self.overlong_penalty),
        ):
            if value < 0:
                raise ValueError(f"{name} is {value}; it can't be negative")
        if not 0 < self.length_discount <= 1:
            raise ValueError(f"lengthDiscount is {self.length_discount}; it must be above 0 and at most 1")
        if self.overlong == Overlong.SOFT_PENALTY and not self.overlong_buffer:
            raise ValueError("overlong is SoftPenalty, which needs overlongBuffer: the tokens over which it grows")
        return self


class RLTrainer(Engine, Optimisation):
    """The trainer of an RLRun."""


class Actor(ApiModel):
    """The process that draws problems, samples groups and grades them."""

    concurrent_groups: int = Field(
        default=0, ge=0, le=65536, description="Groups in flight; 0 takes twice problemsPerStep."
    )
    resources: Resources = Field(default_factory=Resources, description="What the actor asks for.")


class Order(StrEnum):
    """In which order problems are drawn."""

    SHUFFLED = "Shuffled"
    PASS_RATE = "PassRate"


class Curriculum(ApiModel):
    """Which problems are drawn. Every epoch is a fresh shuffle of all."""

    order: Order = Field(
        default=Order.SHUFFLED,
        description="Shuffled, or PassRate: problems that are passed always or never are mostly left out, by a running "
        "pass rate that starts from the dataset's column pass_rate.",
    )
    least_percent: int = Field(
        default=10, ge=1, le=100, description="PassRate: how often a problem is drawn even so, in percent of epochs."
    )
    memory_percent: int = Field(
        default=50, ge=0, le=99, description="PassRate: weight of what was known when a new group comes in."
    )
    pass_score: int = Field(default=6, ge=1, le=7, description="PassRate: the least score that passes.")


class Graded(StrEnum):
    """What of a turn from a state is graded against the problem."""

    TURN = "Turn"
    JOINED = "Joined"


class Turns(StrEnum):
    """From which states the trained turns start."""

    ALL = "All"
    LAST = "Last"


class ReasoningCachePrompts(ApiModel):
    """Prompts instead of the built-in ones."""

    problem: PromptText = Field(default="", description="The first turn; knows problem.")
    proceed: PromptText = Field(default="", description="A turn from a state; knows problem and summary.")
    summarise: PromptText = Field(default="", description="For the summariser; knows problem, summary and reasoning.")


class ReasoningCache(ApiModel):
    """Cycles of reasoning and summarising make states; a group is one turn from a state, graded as the whole."""

    cycles: int = Field(default=3, ge=1, le=16, description="Cycles; they make one state more, the empty one.")
    states_per_problem: int = Field(default=2, ge=1, le=17, description="States drawn of these; each gets a group.")
    turns: Turns = Field(
        default=Turns.ALL, description="All: any state may be drawn; Last: only the last one, to see what that costs."
    )
    graded: Graded = Field(
        default=Graded.TURN,
        description="Turn: the turn's own text; Joined: the summary, which is then a proof begun, and the turn.",
    )
    summariser: Annotated[LanguageModel | None, ServedAs("summariser")] = Field(
        default=None, description="Who summarises; absent: the policy itself."
    )
    summary: ChatSampling = Field(
        default_factory=lambda: ChatSampling(max_tokens=2048, temperature=Decimal("0.7")),
        description="How summaries are drawn.",
    )
    max_state_age: int = Field(
        default=4,
        ge=0,
        le=1000,
        description="A state whose oldest turn is more optimizer steps old than this is made anew.",
    )
    prompts: ReasoningCachePrompts = Field(
        default_factory=ReasoningCachePrompts, description="Prompts instead of the built-in ones."
    )

    @model_validator(mode="after")
    def _drawn(self) -> ReasoningCache:
        there = 1 if self.turns == Turns.LAST else self.cycles + 1
        if self.states_per_problem > there:
            raise ValueError(
                f"statesPerProblem is {self.states_per_problem}, but cycles {self.cycles} with turns {self.turns} "
                f"give {there} to draw from"
            )
        return self


class Redis(ApiModel):
    """Redis Streams: a server of the run's own or, where `url` names one, another of version 6.2 or newer, which must
    keep what it has acknowledged (appendonly yes, appendfsync always)."""

    url: Annotated[str, StringConstraints(pattern=r"^(rediss?://[^@\s]+)?$", max_length=253)] = Field(
        default="",
        description="redis://host:port/database, without user and password; rediss:// for TLS. Empty: the run starts a "
        "server, which keeps its data in the run's folder.",
    )
    username: Annotated[str, StringConstraints(max_length=63)] = Field(default="", description="ACL user.")
    password: SecretKey | None = Field(default=None, description="The Secret with its password.")
    resources: Resources = Field(
        default_factory=lambda: Resources(cpu="500m", memory="2Gi"),
        description="What the run's own server asks for; groups that wait are in its memory.",
    )

    @model_validator(mode="after")
    def _own(self) -> Redis:
        if not self.url and (self.username or self.password):
            raise ValueError("username and password belong to a server named by url; the run's own makes its password")
        return self


class SampleStream(ApiModel):
    """What carries groups from the actor to the trainer."""

    redis: Redis | None = Field(default=None, description="Redis Streams; absent: files in the run's folder.")


class WeightTransfer(StrEnum):
    """How new weights reach the rollout servers."""

    FILES = "Files"
    NCCL = "NCCL"


class RLRunSpec(RunSpec):
    """Actor, vLLM rollout servers and trainer, with weights updated in flight."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "self.sampling.maxTokens < self.rollout.maxModelLength",
                    "sampling.maxTokens must be below rollout.maxModelLength, which holds the prompt too",
                ),
                rule(
                    "self.trainer.sequenceLength >= self.rollout.maxModelLength",
                    "trainer.sequenceLength must be at least rollout.maxModelLength, so that every sample fits a row",
                ),
            ]
        }
    )

    model: ModelRef = Field(description="The model to start from.")
    dataset: DatasetRef = Field(description="Problems to learn from.")
    algorithm: Algorithm = Field(description="Objective and batch.")
    sampling: Sampling = Field(default_factory=Sampling, description="How rollouts are drawn.")
    rollout: Server = Field(default_factory=Server, description="The pool of vLLM servers.")
    grader: Grader = Field(description="How proofs are graded.")
    actor: Actor = Field(default_factory=Actor, description="The process between pool, grader and trainer.")
    curriculum: Curriculum = Field(default_factory=Curriculum, description="Which problems are drawn.")
    reasoning_cache: ReasoningCache | None = Field(
        default=None, description="Proofs over several turns with summaries between; absent: one turn."
    )
    reference: Annotated[LanguageModel | None, ServedAs("reference")] = Field(
        default=None,
        description="The reference policy of klCoefficient, served by the run; absent: the model that the run starts "
        "from, computed by the trainer.",
    )
    stream: SampleStream = Field(default_factory=SampleStream, description="Between actor and trainer.")
    weight_transfer: WeightTransfer = Field(
        default=WeightTransfer.FILES,
        description="Files: servers load them from the run's folder. NCCL: the trainer's first GPU sends them to the "
        "servers' GPUs as well, through vLLM's weight transfer; late servers, and those it fails for, load the files.",
    )
    trainer: RLTrainer = Field(default_factory=RLTrainer, description="Engine and optimizer.")
    checkpoint: CheckpointPolicy = Field(default_factory=CheckpointPolicy, description="When to save.")
    evaluations: list[Evaluation] = Field(
        default_factory=list,
        max_length=4,
        description="Evaluations of chosen checkpoints while the run goes on.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    mutable: ClassVar[tuple[str, ...]] = (*RunSpec.mutable, "rollout.replicas")

    @model_validator(mode="after")
    def _evaluations(self) -> RLRunSpec:
        check_evaluations(self.evaluations)
        return self

    @model_validator(mode="after")
    def _reference(self) -> RLRunSpec:
        if self.reference is None:
            return self
        if self.reference.model is None:
            raise ValueError("reference has an endpoint; log-probs of given tokens need reference.model")
        if self.sampling.temperature != 1:
            raise ValueError(
                f"sampling.temperature is {self.sampling.temperature}; a served reference gives log-probs at 1 only, "
                "so leave reference out: the trainer then computes it"
            )
        if self.reference.server.max_model_length < self.rollout.max_model_length:
            raise ValueError(
                f"reference.server.maxModelLength is {self.reference.server.max_model_length}; it must be at least "
                f"rollout.maxModelLength ({self.rollout.max_model_length}), so that it can score every sample"
            )
        return self

    @model_validator(mode="after")
    def _weight_transfer(self) -> RLRunSpec:
        if self.weight_transfer is WeightTransfer.NCCL and not (
            self.trainer.resources.gpus and self.rollout.resources.gpus
        ):
            raise ValueError(
                "weightTransfer is NCCL, which is between GPUs: trainer.resources.gpus is "
                f"{self.trainer.resources.gpus}, rollout.resources.gpus is {self.rollout.resources.gpus}; use Files"
            )
        return self

    @model_validator(mode="after")
    def _lengths(self) -> RLRunSpec:
        if self.sampling.max_tokens >= self.rollout.max_model_length:
            raise ValueError(
                f"sampling.maxTokens is {self.sampling.max_tokens}; it must be below rollout.maxModelLength "
                f"({self.rollout.max_model_length}), which holds the prompt too"
            )
        if self.sampling.top_p != 1:
            raise ValueError(
                f"sampling.topP is {self.sampling.top_p}; RL needs 1, since the trainer scores every token of the "
                "vocabulary and a truncated behaviour policy would bias the importance weights"
            )
        if self.trainer.sequence_length < self.rollout.max_model_length:
            raise ValueError(
                f"trainer.sequenceLength is {self.trainer.sequence_length}; it must be at least "
                f"rollout.maxModelLength ({self.rollout.max_model_length}), so that every sample fits a row"
            )
        return self
