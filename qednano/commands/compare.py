"""`qednano compare`: two models, of one evaluation or of two, problem by problem."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qednano.evals.reader import EvaluationReader
    from qednano.evals.statistics import Comparison
    from qednano.view.tables import PairLine

_SIDE = "RUN[:MODEL]"
_ABOUT = "An EvalRun, its folder or its artifact, and which of its models"


class Who(StrEnum):
    """Problems to list, by how the first model did on them."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "equal"


@dataclass(frozen=True)
class Side:
    """One model of one artifact."""

    model: str
    reader: EvaluationReader

    @property
    def label(self) -> str:
        """Model and the run it was evaluated by."""
        return f"{self.model} ({self.reader.manifest.name})"

    @property
    def benchmark(self) -> str:
        """Digest of the problems; empty where it wasn't kept."""
        return str((self.reader.manifest.inputs.get("benchmark") or {}).get("digest") or "")

    def as_json(self) -> dict[str, str]:
        """Where it is from."""
        return {"model": self.model, "run": self.reader.manifest.name, "artifact": str(self.reader.folder)}


def compare(
    first: Annotated[str, typer.Argument(metavar=_SIDE, help=f"{_ABOUT}; by default the evaluated one.")],
    second: Annotated[
        str, typer.Argument(metavar=f"[{_SIDE}]", help="With what; by default the first run's last baseline.")
    ] = "",
    who: Annotated[Who | None, typer.Option("--who", help="Only problems on which the first is so.")] = None,
    count: Annotated[int, typer.Option("--problems", min=0, help="Problems to list; 0 lists all.")] = 10,
    root: Root = ROOT,
    cluster: Cluster = False,
    namespace: Namespace = "",
    context: Context = "",
    output: Format = Output.TEXT,
) -> None:
    """Compare two models on the problems that both have answered.

    It gives the paired difference with interval (a bootstrap over problems) and p-value (of a sign-flip test).
    `qednano view` shows the proofs.
    """
    from qednano.errors import UsageError
    from qednano.view.tables import choose, paired, pairs

    def folder_of(name: str) -> Path:
        return artifact_folder(name, root, cluster, namespace, context).artifact

    one, other = _sides(first, second, folder_of)
    lines = pairs((one.reader, one.model), (other.reader, other.model))
    result = paired(lines)
    if result is None:
        raise UsageError(
            f"{one.label} and {other.label} share no graded problem: compare evaluations of the same benchmark"
        )
    if one.benchmark != other.benchmark:
        print(
            f"The two were measured on different files of problems; only the {len(lines)} with equal ids count.",
            file=sys.stderr,
        )
    chosen = choose(lines, who or "", "-size")
    if output is Output.JSON:
        print_json(_document(one, other, result, lines, chosen))
    else:
        print(_text(one, other, result, lines, chosen[: count or None], who))


def _sides(first: str, second: str, folder_of: Callable[[str], Path]) -> tuple[Side, Side]:
    from qednano.errors import UsageError

    one = _side(first, folder_of)
    if second:
        return one, _side(second, folder_of)
    others = [name for name in _models(one.reader) if name != one.model]
    if not others:
        raise UsageError(f"{first} has no baseline to compare with: name a second run, as in `qednano compare A B`")
    return one, Side(others[-1], one.reader)


def _side(named: str, folder_of: Callable[[str], Path]) -> Side:
    from qednano.errors import UsageError
    from qednano.evals.reader import EvaluationReader

    where, colon, model = (named, "", "") if Path(named).exists() else named.partition(":")
    folder = Path(where) if Path(where).is_dir() else folder_of(where)
    if (folder / "artifact").is_dir():
        folder = folder / "artifact"
    if not (folder / "results.parquet").is_file():
        raise UsageError(f"{where} has no scored proofs: name a finished EvalRun of models, or its artifact's folder")
    reader = EvaluationReader(folder)
    models = _models(reader)
    if colon and model not in models:
        raise UsageError(f"{where} has no model {model!r}; its models are: {', '.join(models)}")
    return Side(model or models[0], reader)


def _models(reader: EvaluationReader) -> list[str]:
    """The evaluated model first, then its baselines."""
    return [entry["name"] for entry in reader.scores.get("models", [])] or reader.samples.models


def _document(
    one: Side, other: Side, result: Comparison, lines: Sequence[PairLine], chosen: Sequence[PairLine]
) -> dict[str, Any]:
    return {
        "first": one.as_json(),
        "second": other.as_json(),
        "same_benchmark": one.benchmark == other.benchmark,
        "problems": len(lines),
        **asdict(result),
        "lines": [
            {"problem": line.id, "first": line.first, "second": line.second, "difference": line.difference}
            for line in chosen
        ],
    }


def _text(
    one: Side, other: Side, result: Comparison, lines: Sequence[PairLine], shown: Sequence[PairLine], who: Who | None
) -> str:
    from qednano.local.display import aligned

    difference = result.difference
    listed = [[line.id, f"{line.first:.3f}", f"{line.second:.3f}", f"{line.difference:+.3f}"] for line in shown]
    names = [one.model, other.model] if one.model != other.model else [one.label, other.label]
    which = f"where {one.model} is {who}" if who else "with the largest differences"
    return "\n".join(
        [
            f"{one.label} against {other.label}, on {len(lines)} problems",
            f"difference {100 * difference.mean:+.1f} points of 100, 95 % interval {100 * difference.low:+.1f} to "
            f"{100 * difference.high:+.1f}, p = {result.p_value:.2g}",
            f"better on {result.better}, worse on {result.worse}, equal on {result.equal}",
            "",
            f"{len(shown)} problems {which}" if shown else f"no problem {which}",
            *([aligned([["PROBLEM", *names, "DIFFERENCE"], *listed])] if shown else []),
        ]
    )
