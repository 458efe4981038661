"""Jobs of a run as real processes, for benches that measure some of them by themselves."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from qednano.llm.vllm import free_port


@dataclass(frozen=True)
class Job:
    """A running one; its output is in `log`."""

    process: subprocess.Popen[bytes]
    url: str
    metrics_url: str
    log: Path

    def check(self) -> None:
        """Raise SystemExit with the log's end when it has failed."""
        if self.process.poll():
            raise SystemExit(f"{self.log.stem} ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}")

    def metrics(self) -> dict[str, float]:
        """Its Prometheus samples without labels; empty before it serves any."""
        try:
            with urllib.request.urlopen(f"{self.metrics_url}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        families = text_string_to_metric_families(text)
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


@contextlib.contextmanager
def job(
    module: str, run_dir: Path, spec: Mapping[str, Any], inputs: Mapping[str, Path], role: str, threads: int = 1
) -> Iterator[Job]:
    """`python -m qednano_jobs.<module>` of an RLRun, as a laptop's runner starts it; ended with the block."""
    run_dir.mkdir(parents=True, exist_ok=True)
    config, log = run_dir / f"{module}.config.json", run_dir / f"{module}.log"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "qednano.dev/v1alpha1", "kind": "RLRun", "name": "bench", "spec": spec,
                "inputs": {name: {"name": name, "uri": str(path)} for name, path in inputs.items()},
            }
        )
    )  # fmt: skip
    port, metrics = free_port(), free_port()
    env = os.environ | {
        "QED_CONFIG": str(config), "QED_RUN_DIR": str(run_dir), "QED_ROLE": role, "QED_HOST": "127.0.0.1",
        "QED_PORT": str(port), "QED_METRICS_PORT": str(metrics), "QED_SCRATCH": str(run_dir / "scratch"),
        "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"qednano_jobs.{module}"], env=env, stdout=output, stderr=output
        )
    try:
        yield Job(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics}", log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
