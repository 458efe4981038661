"""A folder in which the pages' commands work, and a control plane for those that need one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY
from tests.kube.apiserver import ApiServer
from tests.local.runs import DATASET, RL, SFT
from tests.view.artifact import write_run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As after `make demo` in a checkout: the same names, but small runs."""
    made = tmp_path_factory.mktemp("checkout")
    for name in ("examples", "charts", "Makefile"):
        (made / name).symlink_to(REPOSITORY / name)
    (made / ".venv").symlink_to(sys.prefix)
    scripted, real = made / "scripted.yaml", made / "real.yaml"
    scripted.write_text("---".join((DATASET, SFT, RL)))
    real.write_text(DATASET.replace("problems: 10", "problems: 12"))
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    root = str(made / "qed-runs")
    for command in (
        [sys.executable, "-m", "tests.local.runs", root, str(scripted)],
        [sys.executable, "-m", "qednano.cli", "run", str(real), "--root", root],
    ):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    write_run(made / "qed-runs", "tiny-eval", models={"rl": 0.9, "sft": 0.6}, problems=6, samples=1, calls=False)
    other = write_run(made / "other-root", "tiny-eval", problems=2, samples=1, calls=False)
    (made / "my-artifact").symlink_to(other / "artifact")
    return made


def shell(command: str, cwd: Path, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
    """The command as a reader's shell runs it."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("QEDNANO_ROOT", "QEDNANO_CLUSTER")}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**inherited, **env},
    )  # fmt: skip


@pytest.fixture
def kubectl_env(qed_server: ApiServer, tmp_path: Path) -> dict[str, str]:
    """An environment in which `kubectl` and `kubectl qednano` mean the control plane.

    HOME is its own: kubectl keeps there for ten minutes what a server on this port had to offer, be it an earlier
    server or this one before its CRDs were served.
    """
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").symlink_to(qed_server.program)
    path = f"{tmp_path / 'bin'}:{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
    return {"KUBECONFIG": str(qed_server.kubeconfig), "PATH": path, "HOME": str(tmp_path)}
