"""What a grader says, as every file can hold it: graders are anybody's code, and quote anybody's text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from qednano.jsonl import writable


def jsonable(value: Any) -> Any:
    """The value as plain JSON: lone surrogates replaced, numbers that JSON has not as text, others by their str."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {writable(str(name)): jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    return writable(str(value))
