"""Two runs to look at, made once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from qednano.view.app import make_app
from tests.view.artifact import write_run

ADDRESS = "http://127.0.0.1:8765"


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """A root with two finished evaluations; human grades must not be saved in it."""
    folder = tmp_path_factory.mktemp("runs")
    size = {"problems": 12, "samples": 2, "length": 60_000}
    write_run(folder, "first", models={"qed-nano": 0.8, "base": 0.4}, **size)
    write_run(folder, "second", models={"qed-sft": 0.6}, seed=7, **size)
    return folder


@pytest.fixture(scope="session")
def runs(root) -> SimpleNamespace:
    """Names of the two runs in addresses."""
    names = {path.name.rpartition("-")[0]: path.name for path in (root / "default" / "evalrun").iterdir()}
    return SimpleNamespace(**names)


@pytest.fixture(scope="session")
def client(root) -> TestClient:
    """The viewer over the two runs."""
    return TestClient(make_app([root]), base_url=ADDRESS, follow_redirects=False)
