"""The ground of the API: the base model, CEL rules, and the bounded types that fields are made of.

Bounds are not only manners: the API server estimates the cost of each CEL rule from the largest value a
field may have, and refuses a CRD whose lists, maps or strings are unbounded.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

GROUP = "qednano.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_LIMIT = 40  # so that "<name>-<role>-a<attempt>-<rank>" fits the 63 characters of a label
DECIMAL_PATTERN = r"^[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


def rule(expression: str, message: str) -> JsonDict:
    """One CEL rule of a CRD (x-kubernetes-validations)."""
    return {"rule": expression, "message": message}


class ApiModel(BaseModel):
    """Base of all API types: camelCase outside, unknown fields refused, immutable."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=False,
        validate_by_name=True,
        extra="forbid",
        frozen=True,
        defer_build=True,  # a command pays for the kinds that it reads, not for all there are
    )


def _decimal(value: Any) -> Any:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, str):
        raise ValueError(f'must be a decimal in quotes, such as "{value}" (the API has no floating-point numbers)')
    if len(value) > 32 or not re.fullmatch(DECIMAL_PATTERN, value):
        raise ValueError(f'is {value[:40]!r}; it must be a decimal in quotes, such as "0.8" or "1e-4"')
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError("is not a decimal number") from None


DecimalString = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    PlainSerializer(lambda value: f"{value:f}", return_type=str),
    WithJsonSchema({"type": "string", "pattern": DECIMAL_PATTERN, "maxLength": 32}),
]
"""A decimal number written as a string, since Kubernetes APIs have no floats."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=NAME_LIMIT)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^\S+$")]
ShortText = Annotated[str, StringConstraints(max_length=253)]
Quantity = Annotated[str, StringConstraints(max_length=20, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
Seed = Annotated[int, Field(ge=0, le=2147483647)]
