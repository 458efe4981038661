"""The `qednano` command. Every import that costs time happens inside the command that needs it."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qednano.view import command as viewer

if TYPE_CHECKING:
    from qednano.local.folders import RunFolder
    from qednano.local.results import Score
    from qednano.local.session import RunView
    from qednano.steer.interface import Listed, Place

app = typer.Typer(
    help="Post-train a small model to write proofs: on this machine, or as Kubernetes resources.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    """How a command answers."""

    TEXT = "text"
    JSON = "json"


Root = Annotated[Path, typer.Option("--root", help="Folder of the local runs.", envvar="QEDNANO_ROOT")]
Format = Annotated[Output, typer.Option("--output", "-o", help="text, or json for programs.")]
Manifests = Annotated[
    list[Path], typer.Argument(metavar="PATH", help="Manifest files, or folders of them.", show_default=False)
]
_ROOT = Path("qed-runs")


def _json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False))


@app.command()
def run(
    paths: Manifests,
    root: Root = _ROOT,
    output: Format = Output.TEXT,
) -> None:
    """Run manifests on this machine; finished runs are reused.

    Each run starts when those it refers to have succeeded. Stopped runs go on from their last checkpoint.
    """
    import time

    from qednano.api.load import load_documents
    from qednano.local.display import LiveDisplay, PlainDisplay
    from qednano.local.results import last_line, scores_of
    from qednano.local.session import Session
    from qednano.steer.local import remember

    started = time.monotonic()
    live = output is Output.TEXT and sys.stdout.isatty()
    display = LiveDisplay() if live else PlainDisplay(sys.stderr if output is Output.JSON else sys.stdout)
    try:
        session = Session(load_documents(paths), root, display)
        remember(root, paths)
        views = session.run()
    finally:
        display.close()
    scores = scores_of(views)
    if output is Output.TEXT:
        _closing_words(views, scores)
    if session.interrupt.count:
        print(f"Stopped. To resume: qednano run {' '.join(map(str, paths))} --root {root}", flush=True)
    print(last_line(views, scores, time.monotonic() - started), flush=True)
    if session.interrupt.count:
        raise typer.Exit(128 + session.interrupt.signal)
    if not all(view.in_order for view in views):
        raise typer.Exit(1)


def _closing_words(views: list[RunView], scores: dict[str, list[Score]]) -> None:
    from qednano.local.display import aligned, duration
    from qednano.local.results import grader_rows_of, report_of, score_rows

    tables = {label: score_rows(found) for label, found in scores.items()} | grader_rows_of(views)
    for label, rows in tables.items():
        print(f"\n{label}\n{aligned(rows)}")
    print()
    for view in views:
        if view.folder is None:
            continue
        if view.phase.value != "Succeeded":
            print(f"{view.label}  {view.phase.value}  logs: {view.folder.logs}")
            continue
        print(f"{view.label}  {'reused' if view.reused else duration(view.seconds)}  {view.folder.artifact}")
        if report := report_of(view):
            print(f"  report: {report}")


@app.command()
def validate(paths: Manifests, root: Root = _ROOT, output: Format = Output.TEXT) -> None:
    """Check manifests and print every mistake with its line.

    Each run that a manifest refers to must be among them or have finished under the root.
    """
    from qednano.api.load import InvalidManifest, load_documents
    from qednano.errors import ConfigError
    from qednano.local.folders import finished
    from qednano.local.graph import in_order, key_of, label

    mistakes: list[str] = []
    names: list[str] = []
    try:
        documents = in_order(load_documents(paths), finished(root))
        names = [label(key_of(document.run)) for document in documents]
    except InvalidManifest as error:
        mistakes = [str(mistake) for mistake in error.mistakes]
    except ConfigError as error:
        mistakes = [str(error)]
    if output is Output.JSON:
        _json({"valid": not mistakes, "runs": names, "mistakes": mistakes})
    else:
        for mistake in mistakes:
            print(mistake, file=sys.stderr)
        if not mistakes:
            print(f"{len(names)} valid: {', '.join(names)}")
    if mistakes:
        raise typer.Exit(ConfigError.exit_code)


Cluster = Annotated[
    bool, typer.Option("--cluster", "-c", help="Runs of the cluster that kubectl uses.", envvar="QEDNANO_CLUSTER")
]
Namespace = Annotated[str, typer.Option("--namespace", help="Namespace on the cluster; default: the context's.")]
Context = Annotated[str, typer.Option("--context", help="Context of the kubeconfig.")]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces of the cluster.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="tiny-rl, or RLRun/tiny-rl (rlr/tiny-rl) where it is not clear.")
]


def _place(root: Path, cluster: bool, namespace: str, context: str, everywhere: bool = False) -> Place:
    if cluster:
        from qednano.steer.cluster import ClusterRuns

        return ClusterRuns(namespace, context, everywhere)
    from qednano.steer.local import LocalRuns

    return LocalRuns(root)


@app.command()
def status(
    name: Annotated[str, typer.Argument(metavar="[RUN]", help="One run; all by default.")] = "",
    root: Root = _ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    everywhere: Everywhere = False,
    output: Format = Output.TEXT,
) -> None:
    """Show runs and where each is."""
    from qednano.local.display import aligned
    from qednano.steer.interface import find

    place = _place(root, cluster, namespace, context, everywhere)
    found = [find(place, name)[0]] if name else place.runs()
    if output is Output.JSON:
        _json(
            [
                {"run": run.label, "folder" if not cluster else "namespace": run.where}
                | (run.status.model_dump(mode="json", by_alias=True, exclude_none=True) if run.status else {})
                for run in found
            ]
        )
        return
    if not found:
        where = "the cluster" if cluster else root
        how = "kubectl apply -f FILE" if cluster else f"qednano run FILE --root {root}"
        print(f"No runs under {where}. Start some: {how}")
        return
    rows = [["RUN", "PHASE", "STEP", "HEADLINE", "COST", "STARTED", "NAMESPACE" if cluster else "FOLDER"]]
    for run in found:
        state, progress = run.status, run.status.progress if run.status else None
        rows.append(
            [
                run.label,
                run.phase if state else "",
                f"{progress.step}/{progress.total or '?'}" if progress else "",
                progress.headline if progress else "",
                state.usage.cost if state and state.usage else "",
                state.start_time if state else "",
                run.where,
            ]
        )
    print(aligned(rows))
    for run in found:
        if run.status and run.status.message:
            print(f"{run.label}: {run.status.message}")


@app.command()
def logs(
    name: Annotated[str, typer.Argument(metavar="RUN[/ROLE]", help="tiny-rl, or tiny-rl/trainer for one role.")],
    root: Root = _ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Last lines of each log.")] = 20,
) -> None:
    """Print the newest logs of a run, one role or all."""
    from qednano.steer.interface import find

    place = _place(root, cluster, namespace, context)
    run, role = find(place, name)
    place.logs(run, role, lines, follow, sys.stdout)


@app.command()
def wait(
    name: RunName,
    phase: Annotated[str, typer.Option("--for", help="The phase to wait for.")] = "Succeeded",
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds; 0 waits for ever.")] = 0,
    root: Root = _ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
) -> None:
    """Wait until a run has succeeded, or is in another phase."""
    from qednano.steer.waiting import wait

    wait(_place(root, cluster, namespace, context), name, phase, timeout, lambda line: print(line, flush=True))


def _meant(name: str, place: Place) -> tuple[Place, Listed]:
    from qednano.steer.interface import find

    return place, find(place, name)[0]


@app.command()
def suspend(
    name: RunName, root: Root = _ROOT, cluster: Cluster = False, namespace: Namespace = "", context: Context = ""
) -> None:
    """Have a run save, stop and give back its GPUs."""
    place, run = _meant(name, _place(root, cluster, namespace, context))
    print(place.suspend(run))


@app.command()
def resume(
    name: RunName, root: Root = _ROOT, cluster: Cluster = False, namespace: Namespace = "", context: Context = ""
) -> None:
    """Have a suspended run go on from its last checkpoint."""
    place, run = _meant(name, _place(root, cluster, namespace, context))
    print(place.resume(run))


@app.command()
def cancel(
    name: RunName, root: Root = _ROOT, cluster: Cluster = False, namespace: Namespace = "", context: Context = ""
) -> None:
    """End a run for good; what it has saved stays."""
    place, run = _meant(name, _place(root, cluster, namespace, context))
    print(place.cancel(run))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("runs.yaml"),
    goal: Annotated[str, typer.Option("--goal", help="tiny, data, sft, rl or eval; asked for when absent.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take every default, ask nothing.")] = False,
) -> None:
    """Write a manifest to start from, by asking a few questions."""
    from qednano.steer.init import write_manifest

    text = write_manifest(file, goal, (lambda question, default: default) if yes else _ask)
    print(f"wrote {file} ({text.count('kind: ')} runs); next: qednano validate {file} && qednano run {file}")


def _ask(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default))


def _find(name: str, root: Path) -> RunFolder:
    """The newest folder of the local run that is meant."""
    from qednano.local.folders import RunFolder
    from qednano.steer.interface import find
    from qednano.steer.local import LocalRuns

    return RunFolder(Path(find(LocalRuns(root), name)[0].where))


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An EvalRun; by default the newest finished one.")] = "",
    root: Root = _ROOT,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Print where the HTML report of an evaluation is."""
    from qednano.errors import UsageError
    from qednano.local.folders import finished

    if name:
        folder = _find(name, root)
    else:
        evaluations = [folder for key, folder in finished(root).items() if key[1] == "EvalRun"]
        if not evaluations:
            raise UsageError(f"no EvalRun has finished under {root}; run one first")
        folder = evaluations[-1]
    path = folder.artifact / "report.html"
    if not path.is_file():
        raise UsageError(f"{folder.path} has no report: only a finished EvalRun has one")
    print(path)
    if show:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


data_app = typer.Typer(help="Look at the rows of datasets, and write them in other layouts.", no_args_is_help=True)
app.add_typer(data_app, name="data", rich_help_panel=None)
_Rows = Annotated[str, typer.Argument(metavar="PATH|RUN", help="A file of rows, a dataset's folder, or a run's name.")]
_Split = Annotated[str, typer.Option("--split", "-s", help="Which split; by default train, or else the first.")]


def _split_file(target: str, split: str, root: Path) -> Path:
    from qednano.data.show import split_file

    path = Path(target) if Path(target).exists() else _find(target, root).artifact
    return split_file(path, split)


@data_app.command("show")
def show_rows(
    target: _Rows,
    split: _Split = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many rows.")] = 3,
    start: Annotated[int, typer.Option("--start", min=0, help="Position of the first, from 0.")] = 0,
    identifier: Annotated[str, typer.Option("--id", help="The row with this id.")] = "",
    full: Annotated[bool, typer.Option("--full", help="Cut no text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False,
    root: Root = _ROOT,
) -> None:
    """Print a few rows of a dataset readably."""
    from qednano.data import show
    from qednano.errors import UsageError

    path = _split_file(target, split, root)
    console, found = show.console(), False
    for row in show.rows_of(path, start, count, identifier):
        found = True
        if as_json:
            print(json.dumps(show.as_json(row), ensure_ascii=False))
        else:
            show.print_row(console, row, 0 if full else show.CUT)
    if not found:
        wanted = f"row with the id {identifier}" if identifier else f"row at position {start}"
        raise UsageError(f"{path} has no {wanted}")


@data_app.command("export")
def export_rows(
    target: _Rows,
    layout: Annotated[str, typer.Option("--layout", help="FineProofsSFT or FineProofsRL.")],
    to: Annotated[Path, typer.Option("--to", help="The Parquet file to write.")],
    split: _Split = "",
    root: Root = _ROOT,
) -> None:
    """Write a split with the columns of a published set."""
    from qednano.api.proofdataset import Layout
    from qednano.data import show
    from qednano.data.layouts import LAYOUTS, convert
    from qednano.errors import UsageError

    known = [str(name) for name, form in LAYOUTS.items() if form is not None]
    if layout not in known:
        raise UsageError(f"--layout is {layout!r}; it must be one of {', '.join(known)}")
    rows = show.rows_of(_split_file(target, split, root))
    print(f"{convert(rows, to, Layout(layout))} records in {to}")


app.command()(viewer.view)


@app.command()
def crds() -> None:
    """Print the CustomResourceDefinitions, for `kubectl apply -f -`."""
    from qednano.api import KINDS
    from qednano.api.generate import crd_yaml

    print("---\n".join(crd_yaml(name) for name in KINDS), end="")


@app.command()
def version() -> None:
    """Print the version."""
    from qednano import __version__

    print(__version__)


@app.command()
def doctor(output: Format = Output.TEXT) -> None:
    """Say what this machine has and lacks for runs."""
    from qednano.local.doctor import examine

    findings = examine()
    if output is Output.JSON:
        _json([{"what": item.what, "ok": item.ok, "found": item.found, "remedy": item.remedy} for item in findings])
    else:
        for item in findings:
            remedy = f"  → {item.remedy}" if item.remedy else ""
            print(f"{'ok  ' if item.ok else 'MISS'}  {item.what}: {item.found}{remedy}")
    if any(item.needed and not item.ok for item in findings):
        raise typer.Exit(1)


def plugin() -> None:
    """Entry point of `kubectl qednano`: the same commands, on the cluster that kubectl uses."""
    import os

    os.environ.setdefault("QEDNANO_CLUSTER", "1")
    main()


def main() -> None:
    """Run the command line; an error is one sentence on stderr and the exit code of its type."""
    try:
        app()
    except Exception as error:
        from qednano.errors import QedError

        if not isinstance(error, QedError):
            raise
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
