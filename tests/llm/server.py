"""A serve role as a real process, for tests: started as the operator would start it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from qednano.llm.vllm import free_port


@dataclass
class RunningServer:
    process: subprocess.Popen
    url: str
    run_dir: Path
    words: Path
    log: Path

    def wait(self, condition, seconds: float = 300.0, what: str = "condition"):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (value := condition()) is not None:
                return value
            if self.process.poll() is not None:
                raise AssertionError(f"serve ended with {self.process.returncode}: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        raise AssertionError(f"no {what} within {seconds} s: {self.log.read_text()[-3000:]}")

    def health(self) -> dict | None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return json.load(urllib.request.urlopen(f"{self.url}/health", timeout=5))
        return None

    def wait_version(self, version: int) -> None:
        def serves():
            health = self.health()
            return health if health and health["version"] == version else None

        self.wait(serves, 60, f"version {version}")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def post(url: str, body: object) -> tuple[int, dict]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        return error.code, json.loads(text) if text.startswith("{") else {"text": text}


def start(
    run_dir: Path,
    module: str,
    kind: str,
    spec: dict,
    inputs: dict[str, str],
    role: str,
    port: int = 0,
    index: int = 0,
    more: Mapping[str, str] = MappingProxyType({}),
) -> tuple[subprocess.Popen, Path, Path]:
    """Start `python -m qednano_jobs.<module>` as the operator would; the process, its last words, its log.

    `more`: further environment.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    config = {
        "apiVersion": "qednano.dev/v1alpha1",
        "kind": kind,
        "name": "test",
        "spec": spec,
        "inputs": {name: {"name": name, "uri": uri} for name, uri in inputs.items()},
    }
    path, words, log = (run_dir / f"{module}-{index}.{end}" for end in ("config.json", "words.json", "log"))
    path.write_text(json.dumps(config))
    env = os.environ | {
        "CXX": "/nonexistent/c++",  # as in the server image: nothing may want a compiler
        "QED_CONFIG": str(path),
        "QED_RUN_DIR": str(run_dir),
        "QED_ROLE": role,
        "QED_INDEX": str(index),
        "QED_HOST": "127.0.0.1",
        "QED_PORT": str(port),
        "QED_TERMINATION_PATH": str(words),
        "QED_SCRATCH": str(run_dir / "scratch"),
        "OMP_NUM_THREADS": "1",
        **more,
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"qednano_jobs.{module}"], env=env, stdout=output, stderr=output
        )
    return process, words, log


STAND_IN = Path(__file__).parent / "stand_in"
"""First on PYTHONPATH: servers with GPUs start a stand-in for vLLM; see its api_server.py."""


def stand_in(log: Path, **settings: object) -> dict[str, str]:
    """The environment in which a server starts the stand-in for vLLM."""
    path = os.pathsep.join([str(STAND_IN), str(Path(__file__).parents[2])])
    return {"PYTHONPATH": path, "STAND_IN_LOG": str(log)} | {
        f"STAND_IN_{name.upper()}": str(value) for name, value in settings.items()
    }


@contextlib.contextmanager
def serve(
    run_dir: Path,
    kind: str,
    spec: dict,
    inputs: dict[str, str],
    role: str,
    index: int = 0,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[RunningServer]:
    """Start the server role and yield it; not ready yet."""
    port = free_port()
    process, words, log = start(run_dir, "serve", kind, spec, inputs, role, port, index, more)
    server = RunningServer(process, f"http://127.0.0.1:{port}", run_dir, words, log)
    try:
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
