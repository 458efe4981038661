"""The copy of a finished dataset on the Hub: what is pushed, and that it is pushed once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from qednano import artifacts
from qednano.api.proofdataset import Layout, ProofDatasetSpec, Publish
from qednano.data import hub
from qednano.data.card import card
from qednano.data.layouts import columns_of, convert
from qednano.data.schema import read_rows
from qednano.data.shards import Build
from qednano.data.stage import Tally

_MARK = "published.json"
_FOLDER = "published"


def publish(spec: ProofDatasetSpec, manifest: artifacts.Manifest, build: Build) -> str | None:
    """Push the artifact to the Hub if the spec asks for it, and return the commit there; None if it doesn't ask.

    A push that was interrupted is done again, without sending what the Hub has; one that was done is not.
    Raises ConfigError (token, name), Unavailable, Fenced.
    """
    if spec.publish is None:
        return None
    mark = build.run_dir / _MARK
    to = {"id": spec.publish.id, "revision": spec.publish.revision, "digest": manifest.digest}
    if mark.exists():
        done = json.loads(mark.read_text(encoding="utf-8"))
        if {key: done.get(key) for key in to} == to:
            return str(done["commit"])
    build.reporter.update(stage="publishing", message=f"to {spec.publish.id}")
    folder = build.artifact
    if spec.publish.layout is not Layout.PLAIN:
        folder = build.run_dir / _FOLDER
        _converted(spec, spec.publish, manifest, build, folder)
    build.check_fence()
    commit = hub.push(folder, spec.publish, f"{manifest.name}, {manifest.digest}")
    artifacts.write_json(mark, {**to, "commit": commit})
    shutil.rmtree(build.run_dir / _FOLDER, ignore_errors=True)
    return commit


def _converted(spec: ProofDatasetSpec, to: Publish, manifest: artifacts.Manifest, build: Build, folder: Path) -> None:
    """The artifact in another layout, with the card and the reports beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    counts = {}
    for split in spec.splits:
        rows = read_rows(build.artifact / f"{split.name}.parquet")
        counts[split.name] = convert(build.watched(rows), folder / f"{split.name}.parquet", to.layout)
        build.check_stop()
    stages = build.artifact / "reports" / "stages.json"
    tallies = {}
    if stages.exists():
        tallies = {name: Tally.from_json(values) for name, values in json.loads(stages.read_text()).items()}
        shutil.copytree(stages.parent, folder / "reports")
        shutil.copy(build.artifact / "report.html", folder)
    text = card(spec, counts, tallies, manifest.inputs, columns_of(to.layout))
    (folder / "README.md").write_text(text, encoding="utf-8")
