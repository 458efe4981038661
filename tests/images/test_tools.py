"""Building the images with whatever builder a machine has."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import yaml

from tools.images import NAMES, TOOLS, Order, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for every builder that keeps what it was asked; returns where."""
    asked = tmp_path / "asked"
    for tool in TOOLS:
        program = tmp_path / "bin" / tool
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "$(basename $0) $*" >> {asked}\ncase "$*" in *broken*) exit 3;; esac\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return asked


@pytest.mark.parametrize("tool", TOOLS)
def test_all_builders_are_asked_for_the_same(builder: Path, tool: str) -> None:
    words = ["--tool", tool, "--registry", "registry.example.org/team/", "--tag", "1.2", "--variant", "cuda", "--push"]
    assert main(words) == 0
    lines = builder.read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [[tool, verb] for _ in NAMES for verb in ("build", "push")]
    for name, build, push in zip(NAMES, lines[::2], lines[1::2], strict=True):
        assert (
            f"--file {ROOT}/images/{name}/Dockerfile --tag registry.example.org/team/qednano-{name}:1.2 {ROOT}" in build
        )
        assert "VARIANT=cuda" in build and "TORCH_INDEX" not in build
        assert ("--format docker" in build) is (tool != "docker"), "health checks are lost in the other format"
        assert push == f"{tool} push registry.example.org/team/qednano-{name}:1.2"


def test_names_and_tag_are_those_the_chart_asks_for_by_default() -> None:
    chart = ROOT / "charts" / "qednano"
    images = yaml.safe_load((chart / "values.yaml").read_text())["images"]
    version = yaml.safe_load((chart / "Chart.yaml").read_text())["appVersion"]
    for name in NAMES:
        assert Order("docker").reference(name) == f"{images['registry']}{images[name]}:{version}"


def test_the_first_builder_found_is_taken_and_the_rest_is_handed_on(builder: Path) -> None:
    assert main(["operator", "--", "--network", "host"]) == 0
    (line,) = builder.read_text().splitlines()
    assert line.startswith("docker build ") and "--network host --file" in line and "VARIANT=cpu" in line


def test_a_build_that_fails_ends_it_with_its_code(builder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tag", "broken"]) == 3
    assert "error: docker build of qednano-operator:broken ended with 3" in capsys.readouterr().err
    assert len(builder.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nothing"], "there is no image 'nothing': choose from operator"),
        (["--registry", "r.example/team"], "--registry is r.example/team; it must end in /, as in r.example/team/"),
    ],
)
def test_what_can_not_be_built_is_said(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 64
    assert why in capsys.readouterr().err


def test_a_machine_without_a_builder_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="none of docker, podman, buildah is on PATH"):
        main([])
