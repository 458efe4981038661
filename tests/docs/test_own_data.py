"""The how-to about one's own data, followed: its manifest on a file of problems, then its commands in their order."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import yaml

from tests.docs.conftest import shell
from tests.docs.pages import blocks, commands

PAGE = "docs/howto/own-data.md"
WORDS = ("triangle", "circle", "prime", "polynomial", "sequence", "graph", "integer", "matrix", "tiling", "lattice")


def _manifest(folder: Path) -> None:
    """The page's own, with this folder's files for those on the volume and for the benchmarks of the Hub."""
    (text,) = [block.text for block in blocks("yaml") if block.page == PAGE and "kind: ProofDataset" in block.text]
    document = yaml.safe_load(text)
    spec = document["spec"]
    (source,) = spec["sources"]
    assert source["files"]["uris"] == ["/qed/raw/mine-*.jsonl.gz"]
    source["files"]["uris"] = [f"{folder}/mine-*.jsonl.gz"]
    (check,) = [stage["decontaminate"] for stage in spec["stages"] if "decontaminate" in stage]
    check["benchmarks"] = [{"name": "known", "uri": f"{folder}/known.jsonl"}]
    spec["splits"][0]["problems"] = 3
    (folder / "mine.yaml").write_text(yaml.safe_dump(document))


def test_a_file_of_problems_becomes_a_dataset_by_the_commands_of_the_page(tmp_path: Path) -> None:
    _manifest(tmp_path)
    rows = [
        {
            "statement": f"Prove that every {word} of order {number} has a {other} of rank {number + 3}.",
            "proof": "Clear.",
        }
        for number, word in enumerate(WORDS)
        for other in WORDS[:2]
    ]
    with gzip.open(tmp_path / "mine-1.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "known.jsonl").write_text(json.dumps({"problem": rows[0]["statement"]}) + "\n")

    typed = [text for where, text in commands() if where.startswith(PAGE)]
    assert [text.split()[1] for text in typed] == ["validate", "run", "data", "report"]
    said = [shell(text, tmp_path, timeout=120, PATH=f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin") for text in typed]
    assert [done.returncode for done in said] == [0] * 4, [done.stderr for done in said]
    assert said[0].stdout == "1 valid: ProofDataset/mine\n"
    assert "Prove that every" in said[2].stdout and "Clear." in said[2].stdout
    report = (tmp_path / said[3].stdout.strip()).read_text()
    assert "decontaminate" in report, "the row that is in the benchmark was dropped"
