"""A page as one HTML file that needs nothing else: styles, fonts and scripts are inside.

Its own policy runs no script but the two that set formulas, which it names by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from markupsafe import Markup

from qednano.pages.templates import environment

_HERE = Path(__file__).parent


def standalone(title: str, body: str) -> str:
    """The page around a body that is HTML; KaTeX comes along only where there are formulas."""
    style = (_HERE / "look.css").read_text()
    scripts = []
    if '<span class="math' in body:
        style = _katex_style() + style
        scripts = [(_HERE / name).read_text() for name in ("katex/katex.min.js", "math.js")]
    allowed = " ".join(map(_source, scripts)) or "'none'"
    return environment().get_template("standalone.html.j2").render(
        title=title,
        policy=f"default-src 'none'; script-src {allowed}; style-src {_source(style)}; font-src data:; base-uri 'none'",
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        body=Markup(body),
    )  # fmt: skip


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _katex_style() -> str:
    """KaTeX's style sheet with its fonts inside; of each font the one format that every browser reads."""
    style = (_HERE / "katex/katex.min.css").read_text()

    def inside(match: re.Match[str]) -> str:
        font = base64.b64encode((_HERE / "katex" / match.group(1)).read_bytes()).decode()
        return f'src:url(data:font/woff2;base64,{font}) format("woff2")}}'

    return re.sub(r"src:url\((fonts/[A-Za-z0-9_-]+\.woff2)\)[^}]*\}", inside, style)
