"""docs/images/demo.svg: what a terminal shows during a real demo, as a moving picture that loads nothing.

`python -m tools.demo_picture [--root FOLDER] [MANIFEST…]` runs the manifests (default: examples/tiny) as `make demo`
does, keeps the terminal's table every few seconds, and ends with the closing words. Nothing in it is drawn by hand.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, RenderableType
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from qednano.api.load import load_documents
from qednano.cli import _closing_words, _next_words
from qednano.local.display import LiveDisplay, table
from qednano.local.results import scores_of
from qednano.local.session import RunView, Session

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "demo.svg"
_COLUMNS = 118
_MOST_FRAMES, _FRAME_SECONDS, _LAST_SECONDS = 12, 1.2, 8.0
_CELL, _LINE, _MARGIN = 8.4, 19.0, 16.0  # pixels


def _colours(*hexes: str) -> list[tuple[int, int, int]]:
    return [(int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)) for text in hexes]


_THEME = TerminalTheme(
    *_colours("161b22", "c9d1d9"),
    _colours("484f58", "ff7b72", "3fb950", "d29922", "58a6ff", "bc8cff", "39c5cf", "b1bac4"),
    _colours("6e7681", "ffa198", "56d364", "e3b341", "79c0ff", "d2a8ff", "56d4dd", "ffffff"),
)

Cells = list[list[tuple[str, str]]]
"""Lines of (text, SVG attributes)."""


def cells(*parts: RenderableType) -> Cells:
    """What a terminal of 118 columns shows of the parts."""
    console = Console(
        width=_COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    lines = []
    for part in parts:
        for line in console.render_lines(part, pad=False):
            lines.append([(segment.text, _attributes(segment.style)) for segment in line])
    return lines


def _attributes(style: object) -> str:
    from rich.style import Style

    if not isinstance(style, Style):
        return ""
    found = []
    if style.color is not None and not style.color.is_default:
        found.append(f'fill="{style.color.get_truecolor(_THEME).hex}"')
    if style.dim:
        found.append('opacity=".6"')
    if style.bold:
        found.append('font-weight="bold"')
    return " ".join(found)


class Recorder(LiveDisplay):
    """The display of `make demo`, which keeps what it has shown."""

    def __init__(self, every: float) -> None:
        super().__init__()
        self.frames: list[Cells] = []
        self._every, self._kept, self._told = every, 0.0, ""

    def show(self, views: Sequence[RunView]) -> None:
        """Show, and keep a frame when something changed or enough time went by."""
        super().show(views)
        phases = " ".join(view.phase.value for view in views)
        if phases != self._told or time.monotonic() - self._kept >= self._every:
            self._told, self._kept = phases, time.monotonic()
            self.frames.append(cells(prompt(), table(views)))


def prompt() -> Text:
    """What was typed."""
    return Text.assemble(("$ ", "green"), "make demo")


def svg(frames: Sequence[Cells]) -> str:
    """The frames, one after the other, for ever; the last one alone for readers who want no motion."""
    height = max(len(frame) for frame in frames) * _LINE + 2 * _MARGIN
    width = _COLUMNS * _CELL + 2 * _MARGIN
    total = _FRAME_SECONDS * (len(frames) - 1) + _LAST_SECONDS
    styles, groups = [], []
    for number, frame in enumerate(frames):
        begin = 100 * number * _FRAME_SECONDS / total
        end = 100 * (number + 1) * _FRAME_SECONDS / total if number < len(frames) - 1 else 100
        shown = f"{begin:.2f}%,{end - 0.01:.2f}%{{opacity:1}}"
        before = f"0%,{begin - 0.01:.2f}%{{opacity:0}}" if number else ""
        after = f"{end:.2f}%,100%{{opacity:0}}" if end < 100 else ""
        styles.append(
            f"@keyframes f{number}{{{before}{shown}{after}}}.f{number}{{animation:f{number} {total:.1f}s infinite}}"
        )
        last = number == len(frames) - 1
        hidden = "" if last else ' opacity="0"'
        groups.append(f'<g class="f{number}"{hidden}>{_lines(frame)}</g>')
    still = "@media (prefers-reduced-motion:reduce){g{animation:none!important}}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'fill="{_THEME.foreground_color.hex}" '
        'aria-label="A terminal that runs make demo: a table of four runs, then the scores of three models">'
        f"<style>text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        f"white-space:pre}}{''.join(styles)}{still}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="{_THEME.background_color.hex}"/>{"".join(groups)}</svg>\n'
    )


def _lines(frame: Cells) -> str:
    found = []
    for number, line in enumerate(frame):
        column, y = 0, _MARGIN + (number + 0.75) * _LINE
        for text, attributes in line:
            if text.strip():
                start = column + len(text) - len(text.lstrip())
                shown = text.strip()
                found.append(
                    f'<text x="{_MARGIN + start * _CELL:.1f}" y="{y:.1f}" textLength="{len(shown) * _CELL:.1f}" '
                    f'lengthAdjust="spacingAndGlyphs" {attributes}>{_escaped(shown)}</text>'
                )
            column += len(text)
    return "".join(found)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _thinned(frames: Sequence[Cells]) -> list[Cells]:
    """At most so many frames, evenly spread, the last one among them."""
    step = max(1.0, (len(frames) - 1) / (_MOST_FRAMES - 1))
    return [frames[round(number * step)] for number in range(min(len(frames), _MOST_FRAMES))]


def main() -> int:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifests", nargs="*", type=Path, default=[Path("examples/tiny")])
    parser.add_argument("--root", type=Path, default=Path("qed-runs"))
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two frames")
    arguments = parser.parse_args()
    display = Recorder(arguments.every)
    try:
        session = Session(load_documents(arguments.manifests), arguments.root, display)
        views = session.run()
    finally:
        display.close()
    scores = scores_of(views)
    closing = io.StringIO()
    with contextlib.redirect_stdout(closing):
        _closing_words(views, scores)
        print(_next_words(".venv/bin/qednano", Path("qed-runs")))
    words = re.sub(re.escape(str(arguments.root.resolve())), "qed-runs", closing.getvalue())
    end = cells(prompt(), table(views), Text(words.rstrip()))
    PICTURE.write_text(svg([*_thinned(display.frames), end]))
    print(f"wrote {PICTURE}, {PICTURE.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
