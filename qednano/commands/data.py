"""`qednano data`: rows of datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qednano.commands.options import (
    ROOT,
    Cluster,
    Context,
    Format,
    Namespace,
    Output,
    Root,
    artifact_folder,
    print_json,
)

data_app = typer.Typer(help="Look at the rows of datasets, and write them in other layouts.", no_args_is_help=True)
_Rows = Annotated[str, typer.Argument(metavar="PATH|RUN", help="A file of rows, a dataset's folder, or a run's name.")]
_Split = Annotated[str, typer.Option("--split", "-s", help="Which split; by default train, or else the first.")]


def _split_file(target: str, split: str, root: Path, cluster: bool, namespace: str, context: str) -> Path:
    from qednano.data.show import split_file

    if Path(target).exists():
        return split_file(Path(target), split)
    return split_file(artifact_folder(target, root, cluster, namespace, context).artifact, split)


@data_app.command("show")
def show_rows(
    target: _Rows,
    split: _Split = "",
    count: Annotated[int, typer.Option("--count", min=1, help="How many rows.")] = 3,
    start: Annotated[int, typer.Option("--start", min=0, help="Position of the first, from 0.")] = 0,
    identifier: Annotated[str, typer.Option("--id", help="The row with this id.")] = "",
    full: Annotated[bool, typer.Option("--full", help="Cut no text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --output json.")] = False,
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    output: Format = Output.TEXT,
) -> None:
    """Print a few rows of a dataset readably.

    With --output json each is a JSON object on a line of its own.
    """
    from qednano.data import show
    from qednano.errors import UsageError

    path = _split_file(target, split, root, cluster, namespace, context)
    console, found = show.console(), False
    for row in show.rows_of(path, start, count, identifier):
        found = True
        if as_json or output is Output.JSON:
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
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    output: Format = Output.TEXT,
) -> None:
    """Write a split with the columns of a published set."""
    from qednano.api.proofdataset import Layout
    from qednano.data import show
    from qednano.data.layouts import LAYOUTS, convert
    from qednano.errors import UsageError

    known = [str(name) for name, form in LAYOUTS.items() if form is not None]
    if layout not in known:
        raise UsageError(f"--layout is {layout!r}; it must be one of {', '.join(known)}")
    rows = show.rows_of(_split_file(target, split, root, cluster, namespace, context))
    records = convert(rows, to, Layout(layout))
    if output is Output.JSON:
        print_json({"records": records, "file": str(to)})
    else:
        print(f"{records} records in {to}")
