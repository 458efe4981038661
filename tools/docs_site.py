"""What MkDocs is told beyond its configuration: tables of long names stay readable."""

from __future__ import annotations

import re
from typing import Any

_CODE = re.compile(r"(<td[^>]*>)((?:(?!</td>).)*)(</td>)", re.S)
_NAME = re.compile(r"<code>([^<]+)</code>")
_JOINTS = re.compile(r"(?<=[\w\]])([._/]|(?<=\w)-(?=\w))(?=[\w\[])")


def breakable(name: str) -> str:
    """The name with a place to break before each dot and after each underscore, dash or slash within it."""
    return _JOINTS.sub(lambda found: "<wbr>." if found[0] == "." else f"{found[0]}<wbr>", name)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The fields of a kind are one wide table without sections: nothing to list beside it. Decisions lead back."""
    if re.match(r"decisions/[0-9]", page.file.src_uri):
        return f"{markdown}\n\n[All decisions](index.md)\n"
    if page.file.src_uri.startswith("reference/") and "\n## " not in markdown:
        page.meta.setdefault("hide", ["toc"])
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Code in the cells of tables may break between the parts of a name."""

    def cell(found: re.Match[str]) -> str:
        return found[1] + _NAME.sub(lambda code: f"<code>{breakable(code[1])}</code>", found[2]) + found[3]

    return _CODE.sub(cell, html)
