"""Published weights are complete or absent, and LATEST always names complete ones."""

from __future__ import annotations

import pytest

from qednano.rl.weights import latest, publish


def writer(text: str):
    return lambda folder: (folder / "model.safetensors").write_text(text)


def read(run_dir) -> str:
    return (latest(run_dir).folder / "model.safetensors").read_text()


def test_the_newest_is_named_and_the_last_two_are_kept(tmp_path):
    assert latest(tmp_path) is None
    for version in range(4):
        published = publish(tmp_path, version, writer(f"w{version}"))
        assert latest(tmp_path) == published and published.version == version
    assert read(tmp_path) == "w3"
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == ["LATEST", "v000002", "v000003"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    publish(tmp_path, 1, writer("good"))

    def full(folder):
        (folder / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        publish(tmp_path, 2, full)
    assert latest(tmp_path).version == 1 and read(tmp_path) == "good"
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == ["LATEST", "v000001"]


def test_a_resumed_run_goes_back_to_its_checkpoints_version(tmp_path):
    for version in (4, 5, 6):
        publish(tmp_path, version, writer(f"old life {version}"))
    publish(tmp_path, 5, writer("new life"))
    assert latest(tmp_path).version == 5 and read(tmp_path) == "new life"
    assert not (tmp_path / "weights" / "v000006").exists()
    assert not list((tmp_path / "weights").glob(".tmp-*/model.safetensors"))
