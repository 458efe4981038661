"""Which panels and rules a Prometheus has data for: `python -m tools.observability.coverage http://127.0.0.1:9090`.

A panel without data must say what it needs; a rule counts as fed when each metric of its expression has series, since a
rule that is content gives none itself. Ends with 1 where something is empty and nothing says why.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from dataclasses import dataclass

from qednano_operator import metrics as operator

from tools.observability.__main__ import metrics_of
from tools.observability.alerts import ALERTS
from tools.observability.dashboards import DASHBOARDS
from tools.observability.model import Alert, Panel
from tools.observability.prometheus import Prometheus
from tools.observability.promql import concrete, exported

_OPERATOR = "an operator that is scraped"
_OPERATORS = {
    f"{exported(metric)}{part}" for metric in metrics_of(operator) for part in ("", "_bucket", "_sum", "_count")
}
_NAME = re.compile(r"\bqednano_\w+")


@dataclass(frozen=True)
class Finding:
    """One panel or rule: where it is, its name, whether there is data, and what it needs otherwise."""

    page: str
    name: str
    fed: bool
    needs: str

    @property
    def unexplained(self) -> bool:
        """Whether it is empty and nothing says why."""
        return not self.fed and not self.needs


def _panel(panel: Panel, source: Prometheus, start: float, end: float) -> bool:
    step = max(1.0, (end - start) / 200)
    return any(
        value not in ("NaN", "+Inf", "-Inf")
        for query in panel.queries
        for item in source.series(concrete(query.expression), start, end, step)
        for _, value in item["values"]
    )


def _rule(alert: Alert, source: Prometheus, start: float, end: float) -> list[str]:
    """Metrics of the rule that have no series."""
    step = max(1.0, (end - start) / 200)
    names = dict.fromkeys(_NAME.findall(alert.expression))
    return [name for name in names if not source.series(f"count({name})", start, end, step)]


def coverage(source: Prometheus, start: float, end: float) -> list[Finding]:
    """Every panel, then every rule, over a span of Unix time."""

    def why(expressions: list[str], own: str) -> str:
        names = {name for text in expressions for name in _NAME.findall(text)}
        return own or (_OPERATOR if names <= _OPERATORS and not led else "")

    led = bool(source.series("count(qednano_operator_leader)", start, end, max(1.0, (end - start) / 200)))
    found = [
        Finding(
            page.title,
            panel.title,
            _panel(panel, source, start, end),
            why([query.expression for query in panel.queries], panel.needs),
        )
        for page in DASHBOARDS
        for panel in page.panels()
    ]
    needs = {metric: panel.needs for page in DASHBOARDS for panel in page.panels() for query in panel.queries
             for metric in _NAME.findall(query.expression) if panel.needs}  # fmt: skip
    for alert in ALERTS:
        missing = _rule(alert, source, start, end)
        told = "; ".join(dict.fromkeys(needs[name] for name in missing if name in needs))
        found.append(Finding("rules", alert.name, not missing, why([alert.expression], told)))
    return found


def main() -> int:
    """Print a line for each page, and one for whatever is empty."""
    parser = argparse.ArgumentParser(prog="python -m tools.observability.coverage", description=__doc__)
    parser.add_argument("url", help="address of Prometheus")
    parser.add_argument("--minutes", type=float, default=30.0, help="how far back")
    arguments = parser.parse_args()
    end = time.time()
    found = coverage(Prometheus(arguments.url), end - 60 * arguments.minutes, end)
    for page in dict.fromkeys(item.page for item in found):
        here = [item for item in found if item.page == page]
        print(f"{page}: {sum(item.fed for item in here)} of {len(here)} have data")
        for item in here:
            if not item.fed:
                print(f"  no data: {item.name} (needs {item.needs or 'nothing: look into it'})")
    return 1 if any(item.unexplained for item in found) else 0


if __name__ == "__main__":
    sys.exit(main())
