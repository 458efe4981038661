"""A dataset that was made already is taken, not made again: only where everything it is made from is equal."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from qednano import artifacts
from qednano.data import build as building
from qednano.data.build import build_dataset
from qednano.data.shards import Build
from tests.data.chat_server import chat_server
from tests.data.test_build import build_at, generated, spec_of, write_problems
from tests.data.test_dataset_job import generating, run_job, spec


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of splits that were written, shard by shard, so far."""
    written: list[str] = []
    write = building._write_shards

    def noted(plan: building.SplitPlan, before: int, build: Build) -> None:
        written.append(plan.name)
        write(plan, before, build)

    monkeypatch.setattr(building, "_write_shards", noted)
    return written


def among(folder: Path, name: str, **more) -> Build:
    """A build of that name in the folder of a namespace's datasets."""
    return replace(build_at(folder / name), others=folder, **more)


def from_file(path: Path):
    return spec_of({"files": {"uris": [str(path)]}}, [{"name": "train"}])


def test_an_equal_dataset_is_taken_and_outlives_the_one_it_was_taken_from(tmp_path, made):
    first = build_dataset(generated(), "old", among(tmp_path, "old-1"))
    made.clear()
    second = build_dataset(generated(), "new", among(tmp_path, "new-1"))
    assert not made and not (tmp_path / "new-1" / "work").exists()
    assert (second.name, second.reused, second.digest) == ("new", "old (old-1)", first.digest)
    assert (second.metrics, second.inputs, second.spec) == (first.metrics, first.inputs, first.spec)
    shutil.rmtree(tmp_path / "old-1")
    assert artifacts.verify(tmp_path / "new-1" / "artifact") == second
    third = build_dataset(generated(), "third", among(tmp_path, "third-1"))
    assert not made and third.reused == "new (new-1)"


def test_the_same_name_made_again_takes_what_its_predecessor_left(tmp_path, made):
    build_dataset(generated(), "tiny", among(tmp_path, "tiny-1111"))
    made.clear()
    build_dataset(generated(), "tiny", among(tmp_path, "tiny-2222"))
    assert not made


def test_another_seed_spec_input_or_version_is_made_anew(tmp_path, made, monkeypatch):
    path = tmp_path / "rows.jsonl"
    write_problems(path, 10)
    build_dataset(from_file(path), "a", among(tmp_path / "of", "a"))
    write_problems(path, 12)  # another content behind the same name
    made.clear()
    assert build_dataset(from_file(path), "b", among(tmp_path / "of", "b")).metrics["problems/train"] == 12
    assert made == ["train"]
    for number, other in enumerate((generated(), generated(seed=8), generated(train=121))):
        made.clear()
        build_dataset(other, "c", among(tmp_path / "of", f"c-{number}"))
        assert made == ["train", "heldout"]
    manifest = tmp_path / "of" / "c-0" / "artifact" / artifacts.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"code_version": "0.0.1"}))
    made.clear()
    build_dataset(generated(), "d", among(tmp_path / "of", "d"))
    assert made


def test_a_model_that_the_run_serves_counts_by_its_content(tmp_path, made):
    pinned = {"served/teacher": {"sha256": "a" * 64}}
    build_dataset(generated(), "a", among(tmp_path, "a", models=pinned))
    made.clear()
    assert build_dataset(generated(), "b", among(tmp_path, "b", models=pinned)).inputs == pinned
    assert not made
    build_dataset(generated(), "c", among(tmp_path, "c", models={"served/teacher": {"sha256": "b" * 64}}))
    assert made


@pytest.mark.parametrize("harm", ["changed", "missing", "no manifest", "not JSON", "not finished"])
def test_what_is_damaged_or_unfinished_is_not_taken(tmp_path, made, harm):
    first = build_dataset(generated(), "old", among(tmp_path, "old"))
    folder = tmp_path / "old" / "artifact"
    file = folder / "train.parquet"
    if harm == "changed":
        raw = bytearray(file.read_bytes())
        raw[100] ^= 1
        file.write_bytes(raw)
    elif harm == "missing":
        file.unlink()
    elif harm == "no manifest":
        (folder / artifacts.MANIFEST).unlink()
    elif harm == "not JSON":
        (folder / artifacts.MANIFEST).write_text("{")
    else:
        folder.rename(tmp_path / "old" / ".tmp-artifact-x")
    made.clear()
    second = build_dataset(generated(), "new", among(tmp_path, "new"))
    assert made == ["train", "heldout"] and second.digest == first.digest and not second.reused
    assert sorted(os.listdir(tmp_path / "new")) == ["artifact"]


def test_a_volume_without_links_gets_copies(tmp_path, made, monkeypatch):
    build_dataset(generated(), "old", among(tmp_path, "old"))
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(95, "not supported")))
    made.clear()
    assert build_dataset(generated(), "new", among(tmp_path, "new")).reused and not made
    one, two = (tmp_path / name / "artifact" / "train.parquet" for name in ("old", "new"))
    assert one.stat().st_ino != two.stat().st_ino and one.read_bytes() == two.read_bytes()


def test_no_file_outside_of_the_artifact_is_taken(tmp_path, made):
    (tmp_path / "secret").write_text("x")
    build_dataset(generated(), "old", among(tmp_path / "of", "old"))
    manifest = tmp_path / "of" / "old" / "artifact" / artifacts.MANIFEST
    value = json.loads(manifest.read_text())
    value["files"]["../../../../secret"] = {"size": 1, "sha256": artifacts.file_sha256(tmp_path / "secret")}
    manifest.write_text(json.dumps(value))
    made.clear()
    assert not build_dataset(generated(), "new", among(tmp_path / "of", "new")).reused and made


def test_a_job_asks_nobody_twice_and_says_whose_rows_it_has(tmp_path):
    """As the operator lays the folders: NAMESPACE/KIND/NAME-UID."""
    folder = tmp_path / "ml" / "proofdataset"
    with chat_server() as server:
        wanted = spec(generating(server), problems=4)
        code, first, log = run_job(folder / "one-1111", wanted)
        assert code == 0, log
        asked = server.requests
        code, second, log = run_job(folder / "two-2222", wanted)
        assert code == 0, log
        assert server.requests == asked > 0
        assert "nothing was computed: taken from test (one-1111)" in second["message"]
        assert second["artifact"]["digest"] == first["artifact"]["digest"]
        code, _, log = run_job(tmp_path / "other" / "proofdataset" / "three-3333", wanted)
        assert code == 0 and server.requests > asked, "another namespace's rows are not looked at"
