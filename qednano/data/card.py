"""The dataset card: a README.md that the Hub understands, with each split and each stage's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from qednano.api.proofdataset import ProofDatasetSpec
from qednano.data.schema import SCHEMA
from qednano.data.stage import Tally

_ONE_SIDE = "Wordings of one problem are all in one split.\n"


def card(
    spec: ProofDatasetSpec,
    splits: Mapping[str, int],
    tallies: Mapping[str, Tally],
    inputs: Mapping[str, Mapping[str, str]],
    columns: Sequence[str] = SCHEMA.names,
) -> str:
    """The card of a dataset with these columns.

    It tells nothing of where and under which name it was made, so that equal content has an equal digest.
    """
    files = "".join(f"  - split: {split.replace('-', '_')}\n    path: {split}.parquet\n" for split in splits)
    lines = [
        "---\ntags:\n- math\n- olympiad\n- proof-generation\n- qednano\n"
        f"configs:\n- config_name: default\n  data_files:\n{files}---\n",
        "# Problems\n",
        "| split | problems |\n|---|---|",
        *(f"| {split} | {count} |" for split, count in splits.items()),
        f"\nSeed {spec.seed}. Each row has {', '.join(f'`{name}`' for name in columns)}.\n",
        *([_ONE_SIDE] if len(splits) > 1 else []),
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
