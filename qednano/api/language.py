"""Language models that a run asks for text: an endpoint somewhere, or vLLM servers that the run starts itself."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from qednano.api.common import (
    ApiModel,
    DecimalString,
    ModelRef,
    Sampling,
    Server,
    ShortText,
    exactly_one,
    exactly_one_rule,
)
from qednano.api.secret import SecretKey


@dataclass(frozen=True)
class ServedAs:
    """Marks a field of type LanguageModel with the role that serves it when the run starts its servers.

    At most 10 characters, so that the names of the role's objects fit.
    """

    role: str


class Price(ApiModel):
    """What an endpoint costs, in the currency that all prices of the run are in."""

    input_per_million: DecimalString = Field(default=Decimal("0"), description="For a million prompt tokens.")
    output_per_million: DecimalString = Field(default=Decimal("0"), description="For a million completion tokens.")

    @model_validator(mode="after")
    def _ranges(self) -> Price:
        for name, value in (("inputPerMillion", self.input_per_million), ("outputPerMillion", self.output_per_million)):
            if value < 0:
                raise ValueError(f"{name} is {value}; a price can't be negative")
        return self


class Protocol(StrEnum):
    """Which route of the OpenAI protocol an endpoint is asked by."""

    CHAT = "Chat"
    RESPONSES = "Responses"


class Endpoint(ApiModel):
    """A server of the OpenAI protocol that the run does not start."""

    url: Annotated[str, StringConstraints(min_length=8, max_length=1024, pattern=r"^https?://\S+$")] = Field(
        description="Base address, with or without the trailing /v1."
    )
    model: ShortText = Field(min_length=1, description="The model's name at the endpoint.")
    protocol: Protocol = Field(default=Protocol.CHAT, description="Chat (chat completions) or Responses.")
    api_key: SecretKey | None = Field(default=None, description="Secret with the key; absent sends none.")
    max_concurrent: int = Field(default=64, ge=1, le=4096, description="Requests in flight at most.")
    requests_per_minute: int = Field(default=0, ge=0, le=10000000, description="Rate limit; 0 is none.")
    tokens_per_minute: int = Field(default=0, ge=0, le=2000000000, description="Rate limit; 0 is none.")
    timeout_seconds: int = Field(default=7200, ge=1, le=86400, description="Longest wait for one answer.")
    price: Price | None = Field(default=None, description="Absent: the cost is reported as unknown.")
    cache: bool = Field(
        default=False,
        description="Keep answers on the volume by what was asked; runs of this namespace that ask the same, with the "
        "same seed or at temperature 0, are given them again at no cost.",
    )


class LanguageModel(ApiModel):
    """A model that answers chats: an endpoint, or a model with servers of the run's own."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [exactly_one_rule("endpoint", "model")]})

    endpoint: Endpoint | None = Field(default=None, description="A server that is there already.")
    model: ModelRef | None = Field(default=None, description="A model that the run serves with vLLM.")
    server: Server = Field(default_factory=Server, description="Its vLLM servers; has no effect on an endpoint.")

    @model_validator(mode="after")
    def _one(self) -> LanguageModel:
        exactly_one(self, "endpoint", "model")
        return self


class ReasoningEffort(StrEnum):
    """How long a model that knows efforts should think."""

    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


class ChatSampling(Sampling):
    """How answers of a chat are drawn."""

    top_k: int = Field(default=0, ge=0, le=100000, description="Draw from the k likeliest tokens; 0 is all.")
    reasoning_effort: ReasoningEffort | None = Field(
        default=None, description="Low, Medium or High, for models that know efforts; absent leaves it to the model."
    )


PromptText = Annotated[str, StringConstraints(max_length=32768)]
"""A prompt instead of the built-in one: a Jinja template over the names that the built-in one uses."""
