"""What of a model's text is handed in: nothing that it thought, and nothing that it says about its own work."""

from __future__ import annotations

import re

_THINK, _THINK_END = "<think>", "</think>"
_HEADING = r"^[ \t]*(?:#{1,6}[ \t]*|\*\*[ \t]*|\d+[.)][ \t]*)*"
_SELF_EVALUATION = re.compile(
    _HEADING + r"self[- ]?(?:evaluation|assessment|grading|review|critique)\b[^\n]{0,40}$", re.IGNORECASE | re.MULTILINE
)
_WORK = re.compile(_HEADING + r"(?:solution|proof|answer|final (?:solution|proof|answer))\b[^\n]{0,40}$", re.I | re.M)


def submitted(text: str) -> str:
    """The proof alone: what follows the last end of thinking, without a self-evaluation at its end.

    Thinking that was never ended is no proof: then nothing is handed in. A self-evaluation is a section under such a
    heading that no further solution or proof follows.
    """
    if _THINK_END in text:
        text = text.rpartition(_THINK_END)[2]
    elif _THINK in text:
        return ""
    last_work = max((match.end() for match in _WORK.finditer(text)), default=0)
    for match in _SELF_EVALUATION.finditer(text):
        if match.start() >= last_work:
            return text[: match.start()].strip()
    return text.strip()
