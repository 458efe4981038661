"""What a person sees while runs go on: a table in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TextIO

from qednano.api.status import HEADLINES, Phase, Progress

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from qednano.local.session import RunView

_PLAIN_SECONDS = 10.0
_LIVE_SECONDS = 0.25
_BAR = 20
_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("RUN", "left"),
    ("PHASE", "left"),
    ("STAGE", "left"),
    ("STEP", "right"),
    ("", "left"),
    ("RATE", "right"),
    ("ETA", "right"),
    ("TIME", "right"),
    ("HEADLINE", "left"),
    ("STALENESS", "right"),
)
_LEFT_OUT = ("STALENESS", "", "RATE", "STAGE")  # on a narrow terminal, in this order, rather than cut a name
_STYLES = {
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "bold red",
    Phase.RUNNING: "cyan",
    Phase.RESTARTING: "yellow",
    Phase.SUSPENDED: "yellow",
    Phase.PENDING: "dim",
}


def duration(seconds: float | None) -> str:
    """Seconds as 7s, 1m05s or 2h03m; empty when unknown."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns as wide as they need; never cut, so that it can be piped."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _headline(view: RunView, progress: Progress | None) -> str:
    if progress is None or not progress.headline:
        return ""
    return f"{HEADLINES[view.run.kind]} {progress.headline}"


def _steps(progress: Progress | None) -> str:
    if progress is None:
        return ""
    return f"{progress.step}/{progress.total}" if progress.total else str(progress.step or "")


def plain_line(view: RunView) -> str:
    """One run as one line, without colour."""
    progress = view.status.progress
    parts = [view.label, str(view.phase.value)]
    if view.reused:
        parts.append("(as before)")
    elif view.phase in (Phase.SUCCEEDED, Phase.FAILED):
        parts.append(duration(view.seconds) if view.seconds else "")
    elif progress is not None:
        parts += [progress.stage, f"{_steps(progress)} {progress.unit}"]
        if progress.rate:
            parts.append(f"{progress.rate}/s")
        if progress.eta_seconds is not None:
            parts.append(f"ETA {duration(progress.eta_seconds)}")
    parts.append(_headline(view, progress))
    if progress is not None and progress.staleness:
        parts.append(f"staleness {progress.staleness}")
    line = "  ".join(part for part in parts if part)
    return f"{line}  {view.status.message}" if view.status.message else line


class PlainDisplay:
    """A line for each change of phase, and every ten seconds for what is under way."""

    def __init__(self, file: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._clock = file, clock
        self._shown: dict[str, tuple[Phase, str, float]] = {}

    def show(self, views: Sequence[RunView]) -> None:
        """Print what has changed."""
        now = self._clock()
        for view in views:
            if view.phase is Phase.PENDING:
                continue
            phase, message, at = self._shown.get(view.label, (Phase.PENDING, "", 0.0))
            over = view.phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED)
            if (phase, message) != (view.phase, view.status.message) or (not over and now - at >= _PLAIN_SECONDS):
                self._shown[view.label] = (view.phase, view.status.message, now)
                self.say(plain_line(view))

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._file, flush=True)

    def close(self) -> None:
        """Nothing to tidy up."""


class LiveDisplay:
    """A table of all runs that is redrawn in place."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()
        self._at = 0.0

    def show(self, views: Sequence[RunView]) -> None:
        """Redraw, at most four times a second."""
        now = time.monotonic()
        if now - self._at >= _LIVE_SECONDS or all(_over(view) for view in views):
            self._at = now
            self._live.update(table(views), refresh=True)

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text)

    def close(self) -> None:
        """Leave the last table on the screen."""
        self._live.stop()


def display_on(file: TextIO) -> LiveDisplay | PlainDisplay:
    """A table in place where ``file`` is a terminal, plain lines where it is not."""
    return LiveDisplay() if file is sys.stdout and file.isatty() else PlainDisplay(file)


def _over(view: RunView) -> bool:
    return view.phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED)


class _Grid:
    """Rows of cells as a table that leaves out columns where the terminal is too narrow for all."""

    def __init__(self, rows: Sequence[Sequence[RenderableType]]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.measure import measure_renderables
        from rich.table import Table

        wide = {
            column: measure_renderables(
                console, options, [_COLUMNS[column][0], *(row[column] for row in self._rows)]
            ).maximum
            + 2
            for column in range(len(_COLUMNS))
            if any(row[column] for row in self._rows)
        }
        for name in _LEFT_OUT:
            if sum(wide.values()) - 2 > options.max_width:
                wide = {column: width for column, width in wide.items() if _COLUMNS[column][0] != name}
        grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        for column in wide:
            name, justify = _COLUMNS[column]
            grid.add_column(name, justify=justify, no_wrap=True)
        for row in self._rows:
            grid.add_row(*(row[column] for column in wide))
        yield grid


def table(views: Sequence[RunView]) -> RenderableType:
    """All runs as a rich table, with messages below it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    rows: list[list[RenderableType]] = []
    messages = []
    for view in views:
        progress = view.status.progress
        moving = progress is not None and not _over(view)
        bar: RenderableType = ""
        if progress is not None and progress.total:
            done = progress.total if view.phase is Phase.SUCCEEDED else progress.step
            bar = ProgressBar(progress.total, done, width=_BAR)
        rows.append(
            [
                view.label,
                Text(view.phase.value, style=_STYLES.get(view.phase, "")),
                progress.stage if moving and progress else "",
                _steps(progress),
                bar,
                f"{progress.rate}/s" if moving and progress and progress.rate else "",
                duration(progress.eta_seconds) if moving and progress else "",
                "reused" if view.reused else duration(view.seconds) if view.seconds else "",
                _headline(view, progress),
                progress.staleness if progress else "",
            ]
        )
        if view.status.message:
            style = "red" if view.phase is Phase.FAILED else "yellow"
            messages.append(Text(f"{view.label}: {view.status.message}", style=style))
    return Group(*([_Grid(rows)] if rows else []), *messages)
