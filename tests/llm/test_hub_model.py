"""Models on the Hub: downloaded once, at their revision, into the run's folder."""

from __future__ import annotations

import huggingface_hub
import pytest

from qednano.errors import ConfigError
from qednano.llm.hub_model import model_folder


def test_a_hub_model_is_downloaded_once_at_its_revision(tmp_path, monkeypatch):
    asked = []

    def download(name, *, revision, local_dir):
        asked.append((name, revision))
        local_dir.mkdir(parents=True)
        (local_dir / "config.json").write_text("{}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = model_folder("hf://owner/name@v1.0", tmp_path)
    assert model_folder("hf://owner/name@v1.0", tmp_path) == folder and (folder / "config.json").is_file()
    assert asked == [("owner/name", "v1.0")]
    assert model_folder("hf://owner/name", tmp_path) != folder and asked[1] == ("owner/name", None)


def test_folders_stay_and_nonsense_is_refused(tmp_path):
    assert str(model_folder("file:///qed/model", tmp_path)) == "/qed/model"
    with pytest.raises(ConfigError, match="hf://owner/name"):
        model_folder("hf://owner", tmp_path)
