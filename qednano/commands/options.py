"""Options that several commands share, and how they answer."""

from __future__ import annotations

import json
import os
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qednano.local.folders import RunFolder
    from qednano.steer.interface import Place
    from qednano.steer.mirror import Mirror


class Output(StrEnum):
    """How a command answers."""

    TEXT = "text"
    JSON = "json"


ROOT = Path("qed-runs")
Root = Annotated[Path, typer.Option("--root", help="Folder of the local runs.", envvar="QEDNANO_ROOT")]
Format = Annotated[Output, typer.Option("--output", "-o", help="text, or json for programs.")]
Manifests = Annotated[
    list[Path], typer.Argument(metavar="PATH", help="Manifest files, or folders of them.", show_default=False)
]
Cluster = Annotated[
    bool, typer.Option("--cluster", "-c", help="On the cluster that kubectl uses.", envvar="QEDNANO_CLUSTER")
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace on the cluster; default: the context's.")]
Context = Annotated[str, typer.Option("--context", help="Context of the kubeconfig.")]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces of the cluster.")]


def complete_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of runs that begin so; none where they can't be had, since nobody reads an error then."""
    from qednano.errors import QedError

    given = ctx.params
    try:
        place = place_of(
            given.get("root") or ROOT,
            bool(given.get("cluster")),
            given.get("namespace") or "",
            given.get("context") or "",
        )
        runs = place.runs()
    except (QedError, OSError):
        return []
    names = dict.fromkeys(name for run in runs for name in (run.name, f"{run.kind}/{run.name}"))
    return [name for name in names if name.startswith(incomplete)]


RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="tiny-rl, or RLRun/tiny-rl (rlr/tiny-rl) where it is not clear.",
        autocompletion=complete_runs,
    ),
]


def artifact_folder(name: str, root: Path, cluster: bool, namespace: str, context: str) -> RunFolder:
    """The folder of a run whose artifact is to be read; with ``cluster`` it is fetched first. Raises QedError."""
    return mirror_of(namespace, context).folder(name) if cluster else local_folder(name, root)


def mirror_of(namespace: str, context: str, everywhere: bool = False) -> Mirror:
    """This machine's copies of what the runs of a namespace have made."""
    from qednano.steer.cluster import ClusterRuns
    from qednano.steer.mirror import Mirror

    return Mirror(ClusterRuns(namespace, context, everywhere), lambda line: print(line, file=sys.stderr, flush=True))


_COLOURS = {
    "Succeeded": "32", "ok": "32", "Failed": "1;31", "MISS": "1;31", "Running": "36", "Starting": "36",
    "Completing": "36", "Restarting": "33", "Suspending": "33", "Suspended": "33", "Pending": "2", "Waiting": "2",
    "Queued": "2",
}  # fmt: skip
_WORDS = re.compile(rf"(?<!\S)(?:{'|'.join(_COLOURS)})(?!\S)")


def place_of(root: Path, cluster: bool, namespace: str, context: str, everywhere: bool = False) -> Place:
    """The runs that are meant: those of the cluster, or those under the root."""
    if cluster:
        from qednano.steer.cluster import ClusterRuns

        return ClusterRuns(namespace, context, everywhere)
    from qednano.steer.local import LocalRuns

    return LocalRuns(root)


def local_folder(name: str, root: Path) -> RunFolder:
    """The newest folder of the local run that is meant. Raises UsageError."""
    from qednano.local.folders import RunFolder
    from qednano.steer.interface import find
    from qednano.steer.local import LocalRuns

    return RunFolder(Path(find(LocalRuns(root), name)[0].where))


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_line(text: str) -> None:
    """A line in which words that say how something is have a colour, on a terminal that wants colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        print(text)
        return
    print(_WORDS.sub(lambda word: f"\x1b[{_COLOURS[word[0]]}m{word[0]}\x1b[0m", text))
