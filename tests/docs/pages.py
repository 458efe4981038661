"""What the pages tell readers to type, and the snippets that they show. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHELLS = ("bash", "console", "sh", "shell")
GENERATED = "docs/reference/"
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.S | re.M)
_COMMENT = re.compile(r"\s+#\s.*$")
_OURS = r"(?:kubectl )?qednano [a-z]|python -m (?:bench|tools|qednano)|make [a-z]"
_INLINE = re.compile(rf"`((?:\.venv/bin/)?(?:{_OURS})[^`\n]*)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        """Page and line, for messages."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """README and every page of docs/, of the chart and of the examples."""
    found = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/**/*.md")]
    found += [*REPOSITORY.glob("examples/**/README.md"), *REPOSITORY.glob("charts/*/README.md")]
    return sorted(found)


def blocks(*languages: str) -> Iterator[Block]:
    """The fenced blocks in one of the languages."""
    for page in pages():
        text = page.read_text()
        for match in _FENCE.finditer(text):
            if match[2] in languages:
                line = text.count("\n", 0, match.start()) + 2
                yield Block(page.relative_to(REPOSITORY).as_posix(), line, match[2], match[3])


def commands() -> list[tuple[str, str]]:
    """(where, command) of every command of a shell block: comments cut, continued lines and loops joined."""
    found = []
    for block in blocks(*SHELLS):
        lines = iter(block.text.replace("\\\n", " ").splitlines())
        for line in lines:
            text = _COMMENT.sub("", line).removeprefix("$ ").strip()
            if text.startswith("for "):
                while not text.endswith("done"):
                    text += "; " + next(lines).strip()
                text = text.replace("do;", "do")
            if text and not text.startswith("#"):
                found.append((block.where, re.sub(r"\s+", " ", text)))
    return found


def mentions() -> list[tuple[str, str]]:
    """(where, command) of every command that stands in a sentence."""
    found = []
    for page in pages():
        text = page.read_text()
        name = page.relative_to(REPOSITORY).as_posix()
        prose = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
        for match in _INLINE.finditer(prose):
            found.append((f"{name}:{prose.count(chr(10), 0, match.start()) + 1}", match[1]))
    return found
