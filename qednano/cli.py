"""The `qednano` command. Every import that costs time happens inside the command that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qednano.commands import compare, data, evaluate
from qednano.commands.options import (
    ROOT,
    Cluster,
    Context,
    Everywhere,
    Format,
    Manifests,
    Namespace,
    Output,
    Root,
    RunName,
    artifact_folder,
    complete_runs,
    mirror_of,
    place_of,
    print_json,
    print_line,
)
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


@app.command()
def run(
    paths: Manifests,
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    output: Format = Output.TEXT,
) -> None:
    """Run manifests on this machine; finished runs are reused. With --cluster: apply them there.

    Each run starts when those it refers to have succeeded. Stopped runs go on from their last checkpoint.
    Where the output is no terminal, its last line is JSON.
    """
    import time

    from qednano.api.load import load_documents
    from qednano.local.display import display_on
    from qednano.local.results import last_line, scores_of
    from qednano.local.session import Session
    from qednano.steer.local import remember

    if cluster:
        _apply(paths, namespace, context, output)
        return
    started = time.monotonic()
    display = display_on(sys.stderr if output is Output.JSON else sys.stdout)
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
        where = sys.stderr if output is Output.JSON else sys.stdout
        print(f"Stopped. To resume: {_called()} run {' '.join(map(str, paths))} --root {root}", file=where, flush=True)
    elif output is Output.TEXT and scores:
        print(_next_words(_called(), root))
    if output is Output.JSON or not sys.stdout.isatty():
        print(last_line(views, scores, time.monotonic() - started), flush=True)
    if session.interrupt.count:
        raise typer.Exit(128 + session.interrupt.signal)
    if not all(view.in_order for view in views):
        raise typer.Exit(1)


def _next_words(called: str, root: Path) -> str:
    return f"next: {called} view {root}   (proofs beside their marks, in a browser)"


def _called() -> str:
    """How this program was called, where its name alone would not find it: .venv/bin/qednano, say."""
    import shutil

    path = sys.argv[0]
    if Path(path).name == "kubectl-qednano":
        return "kubectl qednano"
    alone = Path(path).name != "qednano" or shutil.which("qednano") == os.path.abspath(path)
    return "qednano" if alone else path


def _apply(paths: list[Path], namespace: str, context: str, output: Output) -> None:
    from qednano.api.load import load_documents
    from qednano.steer.cluster import ClusterRuns

    applied = ClusterRuns(namespace, context).apply(load_documents(paths))
    if output is Output.JSON:
        print_json([{"run": run.label, "namespace": run.namespace} for run in applied])
        return
    for run in applied:
        print(f"applied {run.kind}/{run.name} in namespace {run.namespace}")
    last = applied[-1]
    print(f"next: {_called()} wait {last.kind}/{last.name} --cluster --namespace {last.namespace}")


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
def validate(
    paths: Manifests,
    root: Root = ROOT,
    output: Format = Output.TEXT,
    profiles: Annotated[
        Path | None, typer.Option(help="The administrator's profiles; runs may name no other then.", dir_okay=False)
    ] = None,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
) -> None:
    """Check manifests and print every mistake with its line. With --cluster its API server checks them too.

    Each run that a manifest refers to must be among them or be there: finished under the root, or on the cluster.
    """
    from qednano.api.load import InvalidManifest, load_documents
    from qednano.errors import ConfigError
    from qednano.local.folders import finished
    from qednano.local.graph import in_order, key_of, label
    from qednano.plan import load_profiles, misplaced, unknown_profile
    from qednano.steer.cluster import ClusterRuns

    mistakes: list[str] = []
    names: list[str] = []
    try:
        documents = load_documents(paths)
        if cluster:
            place = ClusterRuns(namespace, context)
            there = {("default", item.kind, item.name) for item in place.runs()}
            place.apply(documents, dry=True)
        documents = in_order(documents, there if cluster else finished(root))
        names = [label(key_of(document.run)) for document in documents]
        known = None if profiles is None else load_profiles(profiles)
        for document in documents:
            spec = document.run.spec
            why = misplaced(spec) or ("" if known is None else unknown_profile(spec.profile, known))
            mistakes += [f"{document.file}:{document.line}: {why}"] if why else []
    except InvalidManifest as error:
        mistakes = [str(mistake) for mistake in error.mistakes]
    except ConfigError as error:
        mistakes = [str(error)]
    if output is Output.JSON:
        print_json({"valid": not mistakes, "runs": names, "mistakes": mistakes})
    else:
        for mistake in mistakes:
            print(mistake, file=sys.stderr)
        if not mistakes:
            print(f"{len(names)} valid: {', '.join(names)}")
    if mistakes:
        raise typer.Exit(ConfigError.exit_code)


@app.command()
def status(
    name: Annotated[
        str, typer.Argument(metavar="[RUN]", help="One run; all by default.", autocompletion=complete_runs)
    ] = "",
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    everywhere: Everywhere = False,
    output: Format = Output.TEXT,
) -> None:
    """Show runs and where each is."""
    from qednano.steer.interface import find

    place = place_of(root, cluster, namespace, context, everywhere)
    found = [find(place, name)[0]] if name else place.runs()
    if output is Output.JSON:
        print_json([run.as_json() for run in found])
        return
    if not found:
        where = "the cluster" if cluster else root
        how = f"run FILE {'--cluster' if cluster else f'--root {root}'}"
        print(f"No runs under {where}. Start some: {_called()} {how}")
        return
    from qednano.steer.listing import lines

    for line in lines(found, "NAMESPACE" if cluster else "FOLDER"):
        print_line(line)


@app.command()
def logs(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RUN[/ROLE]", help="tiny-rl, or tiny-rl/trainer for one role.", autocompletion=complete_runs
        ),
    ],
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    lines: Annotated[int, typer.Option("--lines", help="Last lines of each log.")] = 20,
) -> None:
    """Print the newest logs of a run, one role or all."""
    from qednano.steer.interface import find

    place = place_of(root, cluster, namespace, context)
    run, role = find(place, name)
    place.logs(run, role, lines, follow, sys.stdout)


@app.command()
def wait(
    name: RunName,
    phase: Annotated[str, typer.Option("--for", help="The phase to wait for.")] = "Succeeded",
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds; 0 waits for ever.")] = 0,
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    output: Format = Output.TEXT,
) -> None:
    """Wait until a run has succeeded, or is in another phase.

    With --output json the run is printed then.
    """
    from qednano.steer.waiting import wait

    told = sys.stderr if output is Output.JSON else sys.stdout
    place = place_of(root, cluster, namespace, context)
    found = wait(place, name, phase, timeout, lambda line: print(line, file=told, flush=True))
    if output is Output.JSON:
        print_json(found.as_json())


def _meant(name: str, place: Place) -> tuple[Place, Listed]:
    from qednano.steer.interface import find

    return place, find(place, name)[0]


def _said(output: Output, run: Listed, sentence: str) -> None:
    if output is Output.JSON:
        print_json({"run": run.label, "said": sentence})
    else:
        print(sentence)


@app.command()
def suspend(
    name: RunName,
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    output: Format = Output.TEXT,
) -> None:
    """Have a run save, stop and give back its GPUs."""
    place, run = _meant(name, place_of(root, cluster, namespace, context))
    _said(output, run, place.suspend(run))


@app.command()
def resume(
    name: RunName,
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    output: Format = Output.TEXT,
) -> None:
    """Have a suspended run go on from its last checkpoint."""
    place, run = _meant(name, place_of(root, cluster, namespace, context))
    _said(output, run, place.resume(run))


@app.command()
def cancel(
    name: RunName,
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    output: Format = Output.TEXT,
) -> None:
    """End a run for good; what it has saved stays."""
    place, run = _meant(name, place_of(root, cluster, namespace, context))
    _said(output, run, place.cancel(run))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("runs.yaml"),
    goal: Annotated[str, typer.Option("--goal", help="tiny, data, sft, rl or eval; asked for when absent.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take every default, ask nothing.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Write a manifest to start from, by asking a few questions."""
    from qednano.steer.init import write_manifest

    text = write_manifest(file, goal, (lambda question, default: default) if yes else _ask)
    runs = text.count("kind: ")
    if output is Output.JSON:
        print_json({"file": str(file), "runs": runs})
        return
    counted = f"{runs} run" if runs == 1 else f"{runs} runs"
    print(f"wrote {file} ({counted}); next: {_called()} validate {file} && {_called()} run {file}")


def _ask(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default, err=True))


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="[RUN]", help="By default the newest finished EvalRun.")] = "",
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Print where an evaluation's or a dataset's HTML report is.

    With --cluster it is fetched first.
    """
    from qednano.errors import UsageError

    folder = artifact_folder(name, root, cluster, namespace, context) if name else None
    if folder is None:
        folder = mirror_of(namespace, context).newest("EvalRun") if cluster else _newest_evaluation(root)
    path = folder.artifact / "report.html"
    if not path.is_file():
        raise UsageError(f"{folder.path} has no report: a finished EvalRun, or ProofDataset with stages, has one")
    if output is Output.JSON:
        print_json({"report": str(path), "artifact": str(folder.artifact)})
    else:
        print(path)
    if show:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())


def _newest_evaluation(root: Path) -> RunFolder:
    from qednano.errors import UsageError
    from qednano.local.folders import finished

    done = [folder for key, folder in finished(root).items() if key[1] == "EvalRun"]
    evaluations = [folder for folder in done if (folder.artifact / "report.html").is_file()]
    if not evaluations:
        raise UsageError(f"no EvalRun of models has finished under {root}; run one first")
    return evaluations[-1]


app.add_typer(data.data_app, name="data", rich_help_panel=None)
app.command()(viewer.view)
app.command()(compare.compare)
app.command("eval")(evaluate.evaluate)


@app.command()
def crds() -> None:
    """Print the CustomResourceDefinitions, for `kubectl apply -f -`."""
    from qednano.api import KINDS
    from qednano.api.generate import crd_yaml

    print("---\n".join(crd_yaml(name) for name in KINDS), end="")


@app.command()
def version(output: Format = Output.TEXT) -> None:
    """Print the version."""
    from qednano import __version__

    if output is Output.JSON:
        print_json({"qednano": __version__})
    else:
        print(__version__)


@app.command()
def doctor(
    cluster: Cluster = False, namespace: Namespace = "", context: Context = "", output: Format = Output.TEXT
) -> None:
    """Say what this machine can do, what it lacks and how to get it.

    With --cluster it is the cluster that is looked at.
    """
    from qednano.local.doctor import examine
    from qednano.steer.checkup import examine_cluster

    findings = examine_cluster(namespace, context) if cluster else examine()
    if output is Output.JSON:
        print_json([item.as_json() for item in findings])
    else:
        width = max(len(item.what) for item in findings)
        for item in findings:
            print_line(f"{item.mark}  {item.what:{width}}  {item.found}{f'  → {item.remedy}' if item.remedy else ''}")
    if any(item.needed and not item.ok for item in findings):
        raise typer.Exit(1)


def plugin() -> None:
    """Entry point of `kubectl qednano`: the same commands, on the cluster that kubectl uses."""
    os.environ.setdefault("QEDNANO_CLUSTER", "1")
    main()


def complete_plugin() -> None:
    """Entry point of `kubectl_complete-qednano`: kubectl asks it what may come next, a line each and a directive."""
    import contextlib
    import io

    words = ["qednano", *sys.argv[1:]]
    os.environ |= {
        "QEDNANO_CLUSTER": "1",
        "_QEDNANO_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    found = io.StringIO()
    with contextlib.redirect_stdout(found), contextlib.suppress(SystemExit):
        app(prog_name="qednano")
    lines = found.getvalue().split()
    print("\n".join([*lines, ":4" if lines else ":0"]))  # 4: no files; 0: files, as for a manifest


def main() -> None:
    """Run the command line; an error is one sentence on stderr and the exit code of its type."""
    try:
        app()
    except BrokenPipeError:  # whoever read our output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("QEDNANO_TRACEBACK"):
            raise
        told, code = _explained(error)
        print(told, file=sys.stderr)
        sys.exit(code)


def _explained(error: Exception) -> tuple[str, int]:
    """A sentence and an exit code."""
    from qednano.errors import QedError, UsageError

    if isinstance(error, QedError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}", UsageError.exit_code
    told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return f"qednano failed by a mistake of its own ({told}); QEDNANO_TRACEBACK=1 shows where", QedError.exit_code


if __name__ == "__main__":
    main()
