r"""Text of models, problems and graders as HTML that can't do anything: Markdown's plain parts, and formulas.

All of the text is escaped. Of Markdown there are paragraphs, headings, emphasis, lists, quotes, code and tables; no
links, no images, no HTML. A formula becomes `<span class="math">` that holds its source, which `math.js` sets with
KaTeX when it comes into view; without a script the source is what one reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

LONGEST_FORMULA = 10_000  # characters; what is longer stays text
_NAMES = "align aligned alignat cases eqnarray equation gather gathered multline split"
ENVIRONMENTS = frozenset(f"{name}{star}" for name in _NAMES.split() for star in ("", "*"))
_OPENING = re.compile(r"\\begin\{([a-z]+\*?)\}|\\[\[(]|\\.|\$\$?|`+|^ {0,3}~{3,}", re.DOTALL | re.MULTILINE)
_MARK = re.compile("\ue000(\\d+)\ue001")
_OURS = dict.fromkeys((0xE000, 0xE001))  # private characters that stand for a formula until Markdown is done


@dataclass(frozen=True)
class Formula:
    """Where a formula is in its text, delimiters included, and its source without them."""

    start: int
    end: int
    source: str
    display: bool


def formulas(text: str) -> Iterator[Formula]:
    """Formulas in `$…$`, `$$…$$`, `\\(…\\)`, `\\[…\\]` and environments, in order; none inside of code. Linear time."""
    absent: set[str] = set()  # closing words that don't come any more
    place = 0
    while match := _OPENING.search(text, place):
        word = match.group().lstrip(" ")
        place = match.end()
        if word[0] in "`~":
            place = _after_code(text, match, absent)
            continue
        closing = _closing_of(word, match.group(1))
        if closing is None or closing in absent:
            continue
        end = text.find(closing, place)
        if end < 0:
            absent.add(closing)
            continue
        if word == "$" and not _is_inline(text, place, end):
            continue
        if end - place > LONGEST_FORMULA or not text[place:end].strip():
            place = end + len(closing) if word != "$" else place
            continue
        end += len(closing)
        source = text[match.start() : end] if match.group(1) else text[place : end - len(closing)]
        yield Formula(match.start(), end, source.strip(), word not in ("$", r"\("))
        place = end


def _closing_of(word: str, environment: str | None) -> str | None:
    if environment is not None:
        return rf"\end{{{environment}}}" if environment in ENVIRONMENTS else None
    return {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}.get(word)


def _is_inline(text: str, start: int, end: int) -> bool:
    """Whether `$` at start and end hold a formula; in "$5 and $6" they don't."""
    if end == start or text[end - 1] == "\\" or "\n\n" in text[start:end]:
        return False
    before, after = text[start].isspace(), text[end - 1].isspace()
    return before == after and not text[end + 1 : end + 2].isdigit()


def _after_code(text: str, match: re.Match[str], absent: set[str]) -> int:
    word = match.group().lstrip(" ")
    line = text.rfind("\n", 0, match.start()) + 1
    if len(word) >= 3 and not text[line : match.start()].strip():  # a fence: to the fence that ends it, or all the rest
        end = re.compile(rf"^ {{0,3}}{re.escape(word)}[{word[0]}]* *$", re.MULTILINE).search(text, match.end())
        return end.end() if end else len(text)
    if word in absent:
        return match.end()
    end = re.compile(rf"(?<!`){word}(?!`)").search(text, match.end())
    if end is None:
        absent.add(word)
        return match.end()
    return end.end() if "\n\n" not in text[match.end() : end.start()] else match.end()


@cache
def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table")
    parser.disable(["code", "html_block", "html_inline", "image", "link", "autolink", "reference", "entity"])
    # a fence's first line is the model's: nothing of it may become an attribute
    parser.add_render_rule("fence", lambda _, tokens, index, *__: f"<pre>{escape(tokens[index].content)}</pre>\n")
    return parser


def to_html(text: str) -> Markup:
    """The text as HTML. Time is linear in its length: about 1 ms for a page of proof."""
    text = text.translate(_OURS)
    found = list(formulas(text))
    pieces, place = [], 0
    for number, formula in enumerate(found):
        mark = f"\ue000{number}\ue001"
        pieces += [text[place : formula.start], mark]
        place = formula.end
    pieces.append(text[place:])
    tokens = _markdown().parse("".join(pieces))
    for token in tokens:
        _tame(token)
    page = _markdown().renderer.render(tokens, _markdown().options, {})
    return Markup(_MARK.sub(lambda match: _formula_html(found[int(match.group(1))]), page))


def _tame(token: Token) -> None:
    token.attrs.pop("style", None)  # tables' alignment; the pages' policy allows no style attribute
    if token.type in ("heading_open", "heading_close"):
        token.tag = "h4" if token.tag in ("h1", "h2") else "h5"


def _formula_html(formula: Formula) -> str:
    kind = "math display" if formula.display else "math"
    return f'<span class="{kind}">{escape(formula.source)}</span>'


def opening(text: str, characters: int) -> str:
    """The first characters of a text, cut between words and never in a formula; "…" says that there is more."""
    if len(text) <= characters:
        return text
    end = max(text.rfind(" ", 0, characters), text.rfind("\n", 0, characters))
    end = characters if end < characters // 2 else end
    for formula in formulas(text[: characters + LONGEST_FORMULA]):
        if formula.start < end < formula.end:
            end = formula.end if formula.end < 2 * characters else formula.start
    return text[:end].rstrip() + " …"


def parts(length: int, size: int) -> int:
    """In how many parts of about `size` characters a text of `length` is shown; at least one."""
    return max(1, -(-length // size))


def part(text: str, number: int, size: int) -> str:
    """Part `number` (from 0) of the text. Joined, the parts are the text; cuts fall between paragraphs or lines."""
    last = parts(len(text), size) - 1
    start = 0 if number == 0 else _cut(text, number * size)
    return text[start:] if number >= last else text[start : _cut(text, (number + 1) * size)]


def part_of(text: str, place: int, size: int) -> int:
    """The number of the part that holds the character at `place`."""
    guess = min(place // size, parts(len(text), size) - 1)
    later = guess + 1 < parts(len(text), size) and _cut(text, (guess + 1) * size) <= place
    return guess + 1 if later else guess


def _cut(text: str, nominal: int) -> int:
    earliest = nominal - min(4000, nominal // 4)  # never as far as the cut before
    for between in ("\n\n", "\n", " "):
        found = text.rfind(between, earliest, nominal)
        if found >= 0:
            return found + len(between)
    return nominal
