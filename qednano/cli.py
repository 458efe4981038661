"""The `qednano` command. Every import that costs time happens inside the command that needs it."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from qednano.local.folders import RunFolder
    from qednano.local.graph import Key
    from qednano.local.results import Score
    from qednano.local.session import RunView

app = typer.Typer(
    help="Post-train a small model to write proofs: on this machine, or as Kubernetes resources.",
    no_args_is_help=True,
    add_completion=False,
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

    started = time.monotonic()
    live = output is Output.TEXT and sys.stdout.isatty()
    display = LiveDisplay() if live else PlainDisplay(sys.stderr if output is Output.JSON else sys.stdout)
    try:
        session = Session(load_documents(paths), root, display)
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
    from qednano.local.results import report_of, score_rows

    for label, found in scores.items():
        print(f"\n{label}\n{aligned(score_rows(found))}")
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


@app.command()
def status(root: Root = _ROOT, output: Format = Output.TEXT) -> None:
    """Show the runs of a root and where each is."""
    from qednano.local.display import aligned
    from qednano.local.folders import as_seen, folders, in_use
    from qednano.local.graph import label

    running = in_use(root)
    found = [
        (label(key), folder, as_seen(state, running) if (state := folder.status()) else None)
        for key, folder in folders(root)
    ]
    if output is Output.JSON:
        _json(
            [
                {"run": name, "folder": str(folder.path)}
                | (state.model_dump(mode="json", by_alias=True, exclude_none=True) if state else {})
                for name, folder, state in found
            ]
        )
        return
    if not found:
        print(f"No runs under {root}. Start some: qednano run FILE --root {root}")
        return
    rows = [["RUN", "PHASE", "STEP", "HEADLINE", "STARTED", "FOLDER"]]
    for name, folder, state in found:
        progress = state.progress if state else None
        rows.append(
            [
                name,
                state.phase.value if state and state.phase else "",
                f"{progress.step}/{progress.total or '?'}" if progress else "",
                progress.headline if progress else "",
                state.start_time if state else "",
                str(folder.path),
            ]
        )
    print(aligned(rows))
    for name, _, state in found:
        if state and state.message:
            print(f"{name}: {state.message}")


@app.command()
def logs(
    name: Annotated[str, typer.Argument(metavar="RUN[/ROLE]", help="tiny-rl, or tiny-rl/trainer for one role.")],
    root: Root = _ROOT,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Last lines of each log.")] = 20,
) -> None:
    """Print the newest logs of a run, one role or all."""
    from qednano.local.logs import newest_logs, print_logs

    folder, role = _find(name, root)
    print_logs(newest_logs(folder.logs, role), lines, follow, sys.stdout)


def _find(name: str, root: Path) -> tuple[RunFolder, str]:
    """The newest folder of the run that is meant, and the role or ''. ``name`` is [Kind/]name[/role]."""
    from qednano.api import KINDS
    from qednano.errors import UsageError
    from qednano.local.folders import folders
    from qednano.local.graph import label

    parts = name.split("/")
    kind = parts.pop(0) if len(parts) > 1 and parts[0].lower() in {item.lower() for item in KINDS} else ""
    run_name, role = parts[0], "/".join(parts[1:])

    def meant(key: Key) -> bool:
        return key[2] == run_name and kind.lower() in ("", key[1].lower())

    found = [(key, folder) for key, folder in folders(root) if meant(key)]
    if not found:
        known = ", ".join(dict.fromkeys(label(key) for key, _ in folders(root))) or "none"
        raise UsageError(f"there is no run {name} under {root}; its runs are: {known}")
    kinds = {key[:2] for key, _ in found}
    if len(kinds) > 1:
        raise UsageError(f"{run_name} is several runs; say which: {', '.join(label(key) for key, _ in found)}")
    return found[-1][1], role


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
        folder = _find(name, root)[0]
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

    path = Path(target) if Path(target).exists() else _find(target, root)[0].artifact
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
