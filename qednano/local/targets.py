"""Tells Prometheus where this root's processes are: a file for its file-based service discovery.

The labels are those that a cluster's scrape adds from pod labels, so dashboards and alerts work on both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from qednano.api import Run
from qednano.artifacts import write_atomic
from qednano.local.process import HOST, Child

FILE = "prometheus-targets.json"


class Targets:
    """Keeps the file true; one write for each change of what runs."""

    def __init__(self, root: Path) -> None:
        self._path = root / FILE
        self._written = ""

    def show(self, run: Run, children: Iterable[Child]) -> None:
        """The run's living processes are all there is to scrape."""
        self._write(
            [
                {
                    "targets": [f"{HOST}:{child.metrics_port}"],
                    "labels": {
                        "namespace": run.metadata.namespace,
                        "run_kind": run.kind,
                        "run": run.metadata.name,
                        "role": child.role.name,
                        "pod": f"{run.metadata.name}-{child.role.name}-{child.index}",
                    },
                }
                for child in children
                if child.poll() is None
            ]
        )

    def clear(self) -> None:
        """Nothing runs any more."""
        self._write([])

    def _write(self, groups: list[dict[str, object]]) -> None:
        text = json.dumps(groups, indent=1) + "\n"
        if text != self._written:
            write_atomic(self._path, text)
            self._written = text
