"""The process behind `qednano.grading.answers`: one question a line on stdin, one answer a line on stdout.

Answers are read as LaTeX only: math-verify's reader of plain expressions ends in Python's `eval`, which is no place
for what a model wrote. The kernel bounds this process's memory, and ends it when its parent is gone and a question
keeps it busy.
"""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
import time
from typing import Any


def equality(known: str | None, given: str) -> str:
    """equal, different (for certain), unsure or unreadable; `known` None asks only whether `given` can be read."""
    from math_verify import verify

    told = _read(given)
    if not told:
        return "unreadable"
    wanted = _read(known) if known is not None else []
    if not wanted:
        return "unsure"
    if verify(wanted, told, timeout_seconds=None):
        return "equal"
    return "different" if _decided(wanted[0]) and _decided(told[0]) else "unsure"


def _read(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse
    from sympy import Basic
    from sympy.matrices import MatrixBase

    bare = text.strip().strip("$").strip()
    found = parse(
        f"\\boxed{{{bare}}}",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        parsing_timeout=None,  # the parent sees to it
    )
    return [item for item in found if isinstance(item, Basic | MatrixBase)]


def _decided(value: Any) -> bool:
    """Whether the value is a number, or a finite set or tuple of numbers: then not equal is different."""
    from sympy import FiniteSet, Tuple

    if isinstance(value, FiniteSet | Tuple):
        return all(_decided(item) for item in value.args)
    return bool(getattr(value, "is_number", False))


def _answer(question: dict[str, str]) -> str:
    try:
        return equality(question.get("known"), question["given"])
    except Exception:  # whatever a computer algebra system makes of hostile text
        return "unsure"


def main() -> None:
    """Answer until stdin ends. Arguments: seconds that a question may take, bytes of memory."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    logging.disable(logging.CRITICAL)
    equality("1", "1")  # what is imported lazily is imported now
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    out = sys.stdout
    sys.stdout = sys.stderr  # no library may speak in our place
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        most = math.ceil(time.process_time() + 2 * seconds + 5)
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        print(json.dumps({"equality": _answer(json.loads(line))}), file=out, flush=True)


if __name__ == "__main__":
    main()
