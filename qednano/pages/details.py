"""A grader's details as pages show them, whichever grader wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def details_of(text: str | None) -> dict[str, Any]:
    """`checkpoints` (name, description, points, earned, note, line), `flaws` (texts), `votes` and `usage`.

    What has another form is left out: details come from graders of several versions, and a page must not break.
    """
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = {}
    found = found if isinstance(found, Mapping) else {}
    return {
        "checkpoints": [_mark(item) for item in _list(found, "checkpoints") if isinstance(item, Mapping)],
        "flaws": [_told(item) for name in ("deductions", "caps") for item in _list(found, name)],
        "votes": [item for item in _list(found, "votes") if isinstance(item, Mapping)],
        "usage": found["usage"] if isinstance(found.get("usage"), Mapping) else {},
        "outcome": found.get("outcome") if isinstance(found.get("outcome"), str) else "",
    }


def _list(found: Mapping[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    return value if isinstance(value, list) else []


def _mark(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": str(item.get("id") or item.get("name") or ""),
        "description": str(item.get("description") or ""),
        "points": _number(item.get("points")),
        "earned": _number(item.get("earned")),
        "note": str(item.get("note") or ""),
        "line": item.get("line"),
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _told(item: Any) -> str:
    if not isinstance(item, Mapping):
        return str(item)
    lost = f" (−{item['points']})" if isinstance(item.get("points"), int | float) else ""
    return (
        f"{item.get('id', '')} {item.get('description') or item.get('note') or item.get('reason') or ''}{lost}".strip()
    )
