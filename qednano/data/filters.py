"""Rules by which rows are dropped: each has a name and says why.

A rule looks at one row and nothing else, so rows can be filtered in any order and in parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from qednano.data.schema import ProblemRow

Reason = str | None
Rule = Callable[[ProblemRow], Reason]

_FIGURE = re.compile(
    r"\[asy\]|\[img|\\includegraphics|\\begin\{(?:tikzpicture|asy|figure|picture)\}|<img\b|!\[[^\]]*\]\("
    r"|\b(?:shown|drawn|given|pictured|illustrated|depicted) in the (?:\w+ )?(?:figure|diagram|picture|image|drawing)"
    r"|\b(?:see|in) (?:the )?(?:figure|diagram|picture|image)\b"
    r"|\b(?:figure|diagram|picture) (?:below|above|at (?:the )?right|on the right|shows)"
    r"|\bas (?:pictured|shown below)\b",
    re.IGNORECASE,
)
_OPTION = re.compile(r"(?:\\text(?:bf|rm|sf)?\s*\{\s*|\\mathrm\s*\{\s*|\*\*|^|[\s$~])\(?([A-E])\s*[).]", re.MULTILINE)
_WHICH = re.compile(r"\bwhich (?:one )?of the following\b", re.IGNORECASE)
_LINK = re.compile(r"https?://|\bwww\.|\bviewtopic\.php|\battachment\b", re.IGNORECASE)
_ENDS_OPEN = re.compile(
    r"(?:[,:;(\[]|\b(?:and|or|the|of|that|such|with|where|is|are|to|for|by|if|let))\s*\Z", re.IGNORECASE
)
_TASK = re.compile(
    r"\?|\b(?:prove|proof|show|find|determine|compute|evaluate|calculate|construct|decide|solve|describe|characteri[sz]e"
    r"|classify|express|simplify|factori[sz]e|verify|demonstrate|deduce|establish|disprove|give an example|is it true"
    r"|does there exist|how many|what|which|can)\b",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"^[ \t]*(?:\*\*)?(?:problem|question|exercise|p|q)?[ \t#]*(\d{1,2})[.)]", re.IGNORECASE | re.MULTILINE
)
_GARBLED = re.compile("\ufffd|Ã[\x80-\xbf©¨¡³±]|â€|Â[\xa0-\xbf]|\\?{4,}|[\ue000-\uf8ff]")
_MATHS = re.compile(r"\$\$.*?\$\$|\$.*?\$|\\[a-zA-Z]+|\{[^{}]*\}", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]{2,}")


def has_figure(row: ProblemRow) -> Reason:
    """A drawing is part of the statement, or the statement speaks of one."""
    found = _FIGURE.search(row.problem)
    return f"it has or needs a figure ({found.group().strip()})" if found else None


def is_multiple_choice(row: ProblemRow) -> Reason:
    """Options A, B, C are offered, or one "of the following" is asked for."""
    options = [found.group(1) for found in _OPTION.finditer(row.problem)]
    in_order = [letter for letter, wanted in zip(_first_of_each(options), "ABCDE", strict=False) if letter == wanted]
    if len(in_order) >= 3 and ("(" in row.problem or _WHICH.search(row.problem)):
        return f"it offers options {', '.join(in_order)}"
    return "it asks which of the following" if _WHICH.search(row.problem) else None


def _first_of_each(letters: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(letters))


def has_link(row: ProblemRow) -> Reason:
    """A part of the statement is elsewhere."""
    found = _LINK.search(row.problem)
    return f"it has a link or an attachment ({found.group()})" if found else None


def is_incomplete(row: ProblemRow) -> Reason:
    """Delimiters or braces are open, or the last sentence is."""
    text = row.problem
    bare = text.replace("\\$", "").replace("\\{", "").replace("\\}", "")
    if bare.count("$") % 2:
        return "a $ is open"
    if bare.count("{") != bare.count("}"):
        return f"{bare.count('{')} braces open and {bare.count('}')} close"
    found = _ENDS_OPEN.search(text)
    return f"it ends in {found.group().strip()!r}" if found else None


def asks_nothing(row: ProblemRow) -> Reason:
    """There is neither a question nor a task."""
    return None if _TASK.search(row.problem) else "it has neither a question nor a task"


def has_several_problems(row: ProblemRow) -> Reason:
    """Three or more numbered items at the start of lines, from 1 on."""
    numbers = [int(found.group(1)) for found in _NUMBERED.finditer(row.problem)]
    return "it lists items 1, 2, 3" if numbers[:3] == [1, 2, 3] else None


def is_garbled(row: ProblemRow) -> Reason:
    """An encoding went wrong on the way."""
    found = _GARBLED.search(row.problem)
    return f"its encoding is broken ({found.group()!r})" if found else None


def has_no_solution(row: ProblemRow) -> Reason:
    """There is no proof to learn from, official or not."""
    return None if row.solutions or row.reference else "it has no solution"


def has_no_reference(row: ProblemRow) -> Reason:
    """There is no official solution."""
    return None if row.reference else "it has no official solution"


def has_no_answer(row: ProblemRow) -> Reason:
    """There is no final answer."""
    return None if row.answer else "it has no final answer"


def has_no_rubric(row: ProblemRow) -> Reason:
    """There is no marking scheme."""
    return None if row.rubric else "it has no marking scheme"


RULES: dict[str, Rule] = {
    "HasFigure": has_figure,
    "MultipleChoice": is_multiple_choice,
    "HasLink": has_link,
    "Incomplete": is_incomplete,
    "AsksNothing": asks_nothing,
    "SeveralProblems": has_several_problems,
    "Garbled": is_garbled,
    "NoSolution": has_no_solution,
    "NoReference": has_no_reference,
    "NoAnswer": has_no_answer,
    "NoRubric": has_no_rubric,
}
"""What `spec.stages.filter.drop` may name."""


def length_rules(at_least: int, at_most: int) -> dict[str, Rule]:
    """Bounds on the statement's length, in characters."""

    def short(row: ProblemRow) -> Reason:
        return f"{len(row.problem)} characters, fewer than {at_least}" if len(row.problem) < at_least else None

    def long(row: ProblemRow) -> Reason:
        return f"{len(row.problem)} characters, more than {at_most}" if len(row.problem) > at_most else None

    return {"TooShort": short, "TooLong": long}


_FUNCTION_WORDS = {
    "en": "the of and that is for all be such let are with an find prove show in to by on if we has it which there",
    "fr": "le la les des est une que et pour dans soit un tout montrer trouver tel avec sur sont du au par on qui nous",
    "de": "der die das und ist ein eine für mit dass sei den von zu im man sind es alle wenn zeige auf dem nicht durch",
    "es": "el la los las de que y es un una para con sea se en del por todos si tal demuestre hallar son como al entre",
    "it": "il lo la gli le di che è un una per con sia si nel del tutti tale dimostrare trovare sono dei della come ed",
    "pt": "o a os as de que e é um uma para com seja se em do da todos tal mostre prove encontre são dos por no na ao",
    "ro": "și să este în pentru că sunt un o cu din fie arătați care lui se are la pe astfel încât orice numere dacă",
    "pl": "i w na z że jest dla się liczba niech do są oraz wykazać nie które tak taki od o jeśli każdy",
}
_SCRIPTS = [
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("ja", re.compile("[\u3040-\u30ff]")),  # before Chinese, whose characters it has too
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("el", re.compile("[\u0370-\u03ff]{3,}")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("he", re.compile("[\u0590-\u05ff]")),
    ("fa", re.compile("[\u067e\u0686\u06a9\u06af]")),
]


@lru_cache(maxsize=1)
def _vocabularies() -> dict[str, frozenset[str]]:
    return {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}


def language_of(statement: str) -> str | None:
    """ISO 639-1 code of the language around the formulas; None where there are too few words to tell.

    By script, and among Latin scripts by the share of function words; enough to keep one language of a scrape.
    """
    prose = _MATHS.sub(" ", statement)
    letters = sum(character.isalpha() for character in prose)
    for language, script in _SCRIPTS:
        if len(script.findall(prose)) * 5 > max(letters, 1):
            return language
    words = [word.casefold() for word in _WORD.findall(prose)]
    if len(words) < 4:
        return None
    shares = {
        language: sum(word in vocabulary for word in words) / len(words)
        for language, vocabulary in _vocabularies().items()
    }
    best = max(shares, key=lambda language: shares[language])
    return best if shares[best] >= 0.12 else None


def language_rule(languages: Sequence[str]) -> Rule:
    """Drops statements in other languages; those too short to tell stay."""

    def foreign(row: ProblemRow) -> Reason:
        language = language_of(row.problem)
        return f"its language is {language}" if language is not None and language not in languages else None

    return foreign


def first_reason(row: ProblemRow, rules: dict[str, Rule]) -> tuple[str, str] | None:
    """The first rule in order that drops a row, with its reason; None if all let it through."""
    for name, rule in rules.items():
        if (reason := rule(row)) is not None:
            return name, reason
    return None
