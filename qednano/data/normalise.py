"""Clean-up of what people and scrapers write: Unicode, HTML, forum tags, LaTeX delimiters; solutions and answers apart.

What a row says never changes here, only how it is written. How two statements are recognised as the same problem is
`qednano.data.form`.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙᵢⱼₖₘ", "0123456789+-=()nijkm")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙᵢⱼₖₘ]+")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\ufeff\u00ad", ""),
        **dict.fromkeys(
            "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000", " "
        ),
        **dict.fromkeys("‘’‛", "'"),
        **dict.fromkeys("“”„‟", '"'),
        **dict.fromkeys("‐‑", "-"),
        **{"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "\u2028": "\n", "\u2029": "\n\n", "\f": "\n"},
        **{"\r": "\n", "−": "-"},
        **dict.fromkeys([chr(code) for code in range(32) if chr(code) not in "\t\n\r\f"], ""),
    }
)
_ENTITY = re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{1,6}|#x[0-9a-fA-F]{1,6});")
_BREAK = re.compile(r"<(?:br|/p|/div|/li)\s*/?>", re.IGNORECASE)
_MARKUP = re.compile(r"</?(?:p|div|span|b|i|u|em|strong|li|ul|ol|font|center)(?:\s[^<>]{0,300})?>", re.IGNORECASE)
_FORUM_TAG = re.compile(r"\[/?(b|i|u|s|color|size|center|list|quote|url|spoiler)(?:=[^\]\n]{0,200})?\]", re.IGNORECASE)
_FORUM_CLOSING = re.compile(r"\[/(\w{1,8})\]")
_FORUM_MATH = re.compile(r"\[/?(?:tex|latex|math)\]", re.IGNORECASE)
_DISPLAY = re.compile(r"\\(?:begin|end)\{(?:equation|displaymath|math)\*?\}|(?<!\\)\\[\[\]]")
_INLINE = re.compile(r"(?<!\\)\\[()]")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_STYLE = re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits)(?![a-zA-Z])\s?")
_SPACES = re.compile(r"[ \t]+")
_LINE_ENDS = re.compile(r" ?\n ?")
_BLANK_LINES = re.compile(r"\n{3,}")


def clean(text: str) -> str:
    """The same text in NFC, without invisible characters, markup and forum tags, with `$` and `$$` as delimiters.

    Idempotent. Unicode superscripts and subscripts become `^{}` and `_{}`, for NFKC would make 32 of 3².
    """
    text = text.replace("\r\n", "\n")
    if "&" in text and _ENTITY.search(text):
        text = html.unescape(text)
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda found: "^{" + found.group().translate(_SUPERSCRIPTS) + "}", text)
        text = _SUBSCRIPT.sub(lambda found: "_{" + found.group().translate(_SUBSCRIPTS) + "}", text)
    text = unicodedata.normalize("NFC", text.translate(_CHARACTERS))
    if "<" in text:
        text = _BREAK.sub("\n", text)
        text = _MARKUP.sub("", text) if "</" in text else text  # $a<b>c$ has no tag
    if "[/" in text:
        text = _without_forum_tags(_FORUM_MATH.sub("$", text))
    if "\\" in text:
        text = _INLINE.sub("$", _DISPLAY.sub("$$", text))
        text = _STYLE.sub("", _FRACTION.sub(r"\\frac", text))
    text = _LINE_ENDS.sub("\n", _SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", text).strip()


def _without_forum_tags(text: str) -> str:
    """Only tags that are closed somewhere go: `a[i]` is an index and `[b]` may be a citation."""
    closed = {name.lower() for name in _FORUM_CLOSING.findall(text)}
    return _FORUM_TAG.sub(lambda found: "" if found.group(1).lower() in closed else found.group(), text)


@dataclass(frozen=True)
class Parts:
    """A post taken apart: the statement, and what follows a heading that announces a solution (None without one)."""

    statement: str
    solution: str | None = None


_SOLUTION = re.compile(
    r"""^[ \t]*(?:
        \[hide(?:=[^\]\n]{0,80})?\]
      | (?:\#{1,6}[ \t]*)?(?:\*\*|\\textbf\{|\\textit\{|_)?
        (?:(?:my|official|first|sketch[ ]of)[ ])?(?:solution|proof)
        (?:[ ]*(?:\#?\d+|[IVX]{1,4}|outline))?
        (?:(?:[ ]*[.:)\-]+)?(?:\*\*|\}|_)[ ]*[.:]?|[ ]*[.:]|[ \t]*$)
    )[ \t]*""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_HIDE = re.compile(r"\[/?hide(?:=[^\]\n]{0,80})?\]", re.IGNORECASE)


def split_solution(text: str) -> Parts:
    """Cut a cleaned post at its first heading such as "Solution:", "Proof." or a hidden block.

    A post that begins with the heading, or has nothing after it, is left whole: then there is no statement to save.
    """
    found = _SOLUTION.search(text)
    if found is None:
        return Parts(text)
    statement, solution = text[: found.start()].strip(), _HIDE.sub("", text[found.end() :]).strip()
    if not statement or not solution:
        return Parts(_HIDE.sub("", text).strip())
    return Parts(statement, solution)


def boxed_answer(solution: str) -> str | None:
    """The content of the last `\\boxed{…}` with balanced braces; None without one, or when it is empty."""
    start = max(solution.rfind("\\boxed{"), solution.rfind("\\fbox{"))
    if start < 0:
        return None
    first = solution.index("{", start) + 1
    depth = 1
    for position in range(first, len(solution)):
        character = solution[position]
        if solution[position - 1] == "\\":
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return solution[first:position].strip() or None
    return None
