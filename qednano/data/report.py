"""What a person reads of a dataset: the card, the funnel of rows by stage, and every dropped row beside its reason."""

from __future__ import annotations

import difflib
import html
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from qednano import artifacts
from qednano.api.proofdataset import ProofDatasetSpec
from qednano.data.pipeline import Outcome
from qednano.data.stages import Tally

_SHOWN = 1000  # pairs on a page; the JSONL beside it has all


def stage_metrics(tallies: Mapping[str, Tally]) -> dict[str, int]:
    """Rows in and out of each stage, for the manifest."""
    found = {}
    for name, tally in tallies.items():
        found[f"rows/{name}/in"] = tally.rows_in
        found[f"rows/{name}/out"] = tally.rows_out
    return found


def card(
    spec: ProofDatasetSpec,
    splits: Mapping[str, int],
    tallies: Mapping[str, Tally],
    inputs: Mapping[str, Mapping[str, str]],
) -> str:
    """The dataset card: a README.md that the Hub understands, with each split and each stage's numbers.

    It tells nothing of where and under which name it was made, so that equal content has an equal digest.
    """
    files = "".join(f"  - split: {split.replace('-', '_')}\n    path: {split}.parquet\n" for split in splits)
    lines = [
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n",
        "# Problems\n",
        "| split | problems |\n|---|---|",
        *(f"| {split} | {count} |" for split, count in splits.items()),
        f"\nSeed {spec.seed}. Each row has `id`, `problem`, `solutions`, `answer`, `rubric`, `reference`, "
        "`difficulty`, `source` and `meta`.\n",
    ]
    if inputs:
        lines += [
            "## Made from\n",
            *(f"- `{PurePosixPath(uri).name}` ({_pin(pin)})" for uri, pin in sorted(inputs.items())),
            "",
        ]
    if tallies:
        lines += ["## Rows by stage\n", "| stage | in | out | what happened |\n|---|---|---|---|"]
        lines += [
            f"| {stage} | {tally.rows_in} | {tally.rows_out} | {_told(tally)} |" for stage, tally in tallies.items()
        ]
        lines += ["", "## Examples of what was dropped\n", *_examples(tallies)]
    return "\n".join(lines).rstrip() + "\n"


def _pin(pin: Mapping[str, str]) -> str:
    return ", ".join(f"{kind} `{value}`" for kind, value in sorted(pin.items()))


def _told(tally: Tally) -> str:
    return ", ".join(f"{cause}: {count}" for cause, count in sorted(tally.counts.items()) if count)


def _examples(tallies: Mapping[str, Tally]) -> Iterator[str]:
    for stage, tally in tallies.items():
        for cause, examples in sorted(tally.examples.items()):
            for example in examples[:2]:
                start = " ".join(example["problem"].split())[:160].replace("`", "'")
                yield f"- {stage}, {cause}, `{example['id']}`: {example['reason']}: `{start}`"


def write_reports(folder: Path, outcome: Outcome) -> None:
    """`stages.json`, and of each stage that dropped rows `<stage>.jsonl`; where rows were compared, `<stage>.html`."""
    artifacts.write_json(
        folder / "stages.json",
        {
            name: {
                "rows_in": tally.rows_in,
                "rows_out": tally.rows_out,
                "counts": dict(sorted(tally.counts.items())),
                "examples": tally.examples,
            }
            for name, tally in outcome.tallies.items()
        },
    )
    for name, tally in outcome.tallies.items():
        if tally.rows_in == tally.rows_out:
            continue
        log = folder / f"{name}.jsonl"
        with log.open("wb") as file:
            for part in sorted(outcome.folders[name].glob("part-*.jsonl")):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, file)
        if any("other" in example for examples in tally.examples.values() for example in examples):
            _write_page(folder / f"{name}.html", name, log)


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;width:100%;table-layout:fixed}td,th{border:1px solid #ccc;padding:.5rem;
vertical-align:top;text-align:left;overflow-wrap:anywhere;white-space:pre-wrap}th{background:#f3f3f3}mark{background:#ffe9a8}
.why{background:#fafafa;white-space:normal}"""


def _write_page(path: Path, stage: str, log: Path) -> None:
    """Every dropped row beside the text it was compared with; words that only one of them has are marked."""
    with path.open("w", encoding="utf-8") as page, log.open(encoding="utf-8") as entries:
        page.write(
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(stage)}</title>"
            f"<style>{_STYLE}</style>"
            f"<h1>{html.escape(stage)}: rows that were dropped, beside what stays</h1>"
            "<table><tr><th>dropped</th><th>compared with</th></tr>"
        )
        for number, line in enumerate(entries):
            if number == _SHOWN:
                page.write(f"<tr><td class=why colspan=2>More in {html.escape(log.name)}.</td></tr>")
                break
            entry = json.loads(line)
            one, other = side_by_side(entry["problem"], entry.get("other", ""))
            why = html.escape(f"{entry['id']}: {entry['reason']}")
            page.write(f"<tr><td class=why colspan=2>{why}</td></tr><tr><td>{one}</td><td>{other}</td></tr>\n")
        page.write("</table></html>\n")


def side_by_side(one: str, other: str) -> tuple[str, str]:
    """Both texts as HTML, with the words marked that the other lacks at that place."""
    first, second = one.split(" "), other.split(" ")
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    left: list[str] = []
    right: list[str] = []
    for kind, start, end, start_other, end_other in matcher.get_opcodes():
        for words, column in ((first[start:end], left), (second[start_other:end_other], right)):
            if words:
                text = html.escape(" ".join(words))
                column.append(text if kind == "equal" else f"<mark>{text}</mark>")
    return " ".join(left), " ".join(right)
