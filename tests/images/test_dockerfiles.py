"""The images' recipes: clean, alike where they share layers, and locked down."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.cluster.images import NAMES
from tools.cluster.paths import REPOSITORY
from tools.sbom import bill

RECIPES = {name: (REPOSITORY / "images" / name / "Dockerfile").read_text() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_linter_finds_nothing(name: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, REPOSITORY / "images" / name / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_from_an_argument_runs_as_nobody_and_ends_with_the_code(name: str) -> None:
    text = RECIPES[name]
    assert "ARG BASE_IMAGE=" in text and all(
        "${BASE_IMAGE}" in line or re.fullmatch(r"FROM (packages|torch)", line)
        for line in text.splitlines()
        if line.startswith("FROM ")
    )
    assert "USER 65532:65532" in text
    after = text[text.index("COPY --from=code") :]
    assert "RUN" not in after, "a change of code would make later layers again"
    assert 'org.opencontainers.image.version="${VERSION}"' in after


def test_trainer_and_server_share_their_torch_stage() -> None:
    def stage(name: str) -> str:
        return RECIPES[name].partition("AS torch\n")[2].partition("\nFROM ")[0]

    assert stage("trainer") == stage("server") != ""


@pytest.mark.parametrize("name", NAMES)
def test_the_bill_of_materials_lists_what_is_locked(name: str) -> None:
    listed = {item["name"].lower() for item in bill(name)["components"]}
    locked = {
        line.partition("==")[0].lower()
        for line in (REPOSITORY / "requirements" / f"{name}.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    assert locked <= {item.replace("_", "-") for item in listed} | listed
