"""The final answer that a solution ends in: what it boxes, or what it states in so many words and mathematics can read.

Whether a text is mathematics is for math-verify to say, which also compares answers when they are graded.
"""

from __future__ import annotations

import re
import threading

from qednano.data.normalise import boxed_answer

_TAIL = 600  # characters of a solution in which it may state its answer
_LONGEST = 200  # characters of an answer that is not boxed
_PARSE_SECONDS = 2
_STATED = re.compile(
    r"\b(?:final\s+)?answer\s*(?:is|are|:|=)\s*(?:therefore|thus|hence)?\s*:?\s*(?P<answer>(?:\$[^$\n]+\$|[^\n$])+)",
    re.IGNORECASE,
)
_SENTENCE_ENDS = re.compile(r"(?<!\d)\.(?:\s|$)|\.(?=\s+[A-Z]|\s*$)|[\n;]")


def final_answer(solution: str) -> str | None:
    """The answer as the solution writes it, without delimiters; None where it gives none."""
    if (boxed := boxed_answer(solution)) is not None:
        return boxed
    stated = [found.group("answer") for found in _STATED.finditer(solution[-_TAIL:])]
    if not stated:
        return None
    text = _SENTENCE_ENDS.split(stated[-1], maxsplit=1)[0].strip(" ,:*")
    if not 0 < len(text) <= _LONGEST or not reads_as_mathematics(text):
        return None
    bare = text[1:-1] if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1] else text
    return bare.strip() or None


def reads_as_mathematics(text: str) -> bool:
    """Whether math-verify can make an expression of it, so that another answer can be compared with it."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # math-verify stops a parse that takes too long with a signal, which only a main thread can receive.
    limit = _PARSE_SECONDS if threading.current_thread() is threading.main_thread() else None
    delimited = text if "$" in text else f"${text}$"
    return bool(
        parse(
            delimited,
            extraction_config=(LatexExtractionConfig(), ExprExtractionConfig()),
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=limit,
        )
    )
