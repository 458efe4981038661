"""What a person reads of a dataset: a page with the rows by stage, and every dropped row beside its reason."""

from __future__ import annotations

import difflib
import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from qednano import artifacts
from qednano.data.pipeline import Outcome
from qednano.data.stage import Tally

_SHOWN = 1000  # pairs on a page; the JSONL beside it has all
_MARKED_WORDS = 2000  # finding what differs takes time that grows with the square


def stage_metrics(tallies: Mapping[str, Tally]) -> dict[str, int]:
    """Rows in and out of each stage, for the manifest."""
    found = {}
    for name, tally in tallies.items():
        found[f"rows/{name}/in"] = tally.rows_in
        found[f"rows/{name}/out"] = tally.rows_out
    return found


def write_reports(folder: Path, splits: Mapping[str, int], outcome: Outcome) -> None:
    """`report.html`, and in `reports/` `stages.json` and of each stage that dropped rows `<stage>.jsonl`.

    Where rows were compared, `<stage>.html` has both texts side by side.
    """
    reports = folder / "reports"
    reports.mkdir()
    stages = [{"name": name, "log": "", "page": "", **tally.to_json()} for name, tally in outcome.tallies.items()]
    told = {name: tally.to_json() for name, tally in outcome.tallies.items()}
    artifacts.write_json(reports / "stages.json", told)
    for stage in stages:
        if stage["rows_in"] == stage["rows_out"]:
            continue
        stage["log"] = f"{stage['name']}.jsonl"
        log = reports / stage["log"]
        with log.open("wb") as file:
            for part in sorted(outcome.folders[stage["name"]].glob("part-*.jsonl")):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file)
        if any("other" in example for examples in stage["examples"].values() for example in examples):
            stage["page"] = f"{stage['name']}.html"
            with log.open(encoding="utf-8") as lines:
                entries = islice(map(json.loads, lines), _SHOWN)
                _render(
                    reports / stage["page"],
                    "pairs",
                    stage=stage["name"],
                    entries=entries,
                    more=stage["rows_in"] - stage["rows_out"] > _SHOWN,
                    log=stage["log"],
                )
    _render(folder / "report.html", "report", splits=splits, stages=stages, drawn=sum(splits.values()))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("qednano.data", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"side_by_side": side_by_side, "number": _number, "share": _share}
    return environment


def _number(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "0"


def _render(path: Path, template: str, **values: Any) -> None:
    """Write the page piece by piece, so that a thousand pairs are not in memory together."""
    stream: Iterator[str] = _environment().get_template(f"{template}.html.j2").generate(**values)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(stream)


def side_by_side(one: str, other: str) -> tuple[Markup, Markup]:
    """Both texts as HTML, with the words marked that the other lacks at that place."""
    first, second = one.split(" "), other.split(" ")
    if max(len(first), len(second)) > _MARKED_WORDS:
        return escape(one), escape(other)
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    left: list[Markup] = []
    right: list[Markup] = []
    for kind, start, end, start_other, end_other in matcher.get_opcodes():
        for words, column in ((first[start:end], left), (second[start_other:end_other], right)):
            if words:
                text = escape(" ".join(words))
                column.append(text if kind == "equal" else Markup("<mark>{}</mark>").format(text))
    return Markup(" ").join(left), Markup(" ").join(right)
