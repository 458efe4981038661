"""What a dashboard is, before it is anybody's JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

Draw = Literal["lines", "stacked", "stat", "bars"]


@dataclass(frozen=True)
class Query:
    """One expression and what its lines are called (`{{label}}` is replaced)."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One chart. ``unit`` is a Grafana unit id; ``width`` of 24 columns.

    ``needs``: what has to be there for it to have data, said where a test run has none of it. ``links``: title and
    address of where a click on a line leads.
    """

    title: str
    unit: str
    about: str
    queries: tuple[Query, ...]
    draw: Draw = "lines"
    width: int = 8
    height: int = 8
    log: bool = False
    needs: str = ""
    links: tuple[tuple[str, str], ...] = ()

    def where(self, narrowed: Callable[[str], str]) -> Panel:
        """The same panel with other expressions."""
        return replace(self, queries=tuple(Query(narrowed(query.expression), query.legend) for query in self.queries))


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One page. ``run``: it shows one run, chosen by variables; ``kind`` is that run's kind."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    kind: str = ""
    tags: tuple[str, ...] = field(default=("qednano",))

    def panels(self) -> list[Panel]:
        """Every panel, in order."""
        return [panel for row in self.rows for panel in row.panels]


@dataclass(frozen=True)
class Alert:
    """One rule. ``wait``: how long the expression must hold; the runbook's section is the name in lower case."""

    name: str
    expression: str
    wait: str
    severity: Literal["warning", "critical"]
    summary: str
    about: str
