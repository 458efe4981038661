"""A real Prometheus over the runs of one root, `python -m tools.observability.prometheus qed-runs`, or of a cluster,
`python -m tools.observability.prometheus --cluster` (it runs on this machine, which must reach the pods).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from qednano.local.targets import FILE
from tools.cluster.__main__ import choose
from tools.cluster.debian import require
from tools.cluster.errors import ClusterError
from tools.observability.__main__ import ROOT
from tools.observability.pods import following

RULES = ROOT / "charts" / "qednano" / "files" / "rules.yaml"
_READY_SECONDS = 30


def configuration(file: Path, others: tuple[dict[str, Any], ...] = (), interval: str = "2s") -> dict[str, Any]:
    """Scrape the targets in a file, and what `others` (scrape configs) name."""
    files = {"files": [str(file.resolve())], "refresh_interval": "2s"}
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            # honor_labels: a metric's own role goes before that of the process it comes from, as in the chart
            {"job_name": "qednano", "honor_labels": True, "file_sd_configs": [files]},
            *others,
        ],
    }


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: Any) -> Any:
        """The data of one API call; RuntimeError with Prometheus's own words when it refuses."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path} {parameters}: {error.read().decode(errors='replace')[:500]}") from None

    def query(self, expression: str, moment: float | None = None) -> list[dict[str, Any]]:
        """The instant vector of an expression."""
        at = {} if moment is None else {"time": moment}
        found = self.get("query", query=expression, **at)
        if found["resultType"] == "scalar":
            return [{"metric": {}, "value": found["result"]}]
        return list(found["result"])

    def series(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The range vector of an expression."""
        return list(self.get("query_range", query=expression, start=start, end=end, step=step)["result"])


@contextlib.contextmanager
def serving(config: dict[str, Any], data: Path | None = None) -> Iterator[Prometheus]:
    """Prometheus with that configuration while the block runs; `data` keeps what it scraped."""
    if shutil.which("prometheus") is None:
        require(["prometheus"], purpose="monitoring")
    with tempfile.TemporaryDirectory(prefix="qednano-prometheus-") as scratch:
        file = Path(scratch) / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        log = (data or Path(scratch)) / "prometheus.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={file}",
                    f"--storage.tsdb.path={data or Path(scratch) / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--log.level=warn",
                ],
                stdout=output,
                stderr=output,
            )
        try:
            found = Prometheus(f"http://127.0.0.1:{port}")
            _wait(found, process, log)
            yield found
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait(found: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{found.url}/-/ready", timeout=2) as answer:
            if answer.status == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ClusterError(f"Prometheus does not start: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.1)


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tools.observability.prometheus", description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, help="folder of runs of this machine")
    parser.add_argument("--cluster", action="store_true", help="the cluster of tools.cluster, or of QEDNANO_KUBECONFIG")
    parser.add_argument("--data", type=Path, help="folder that keeps what is scraped")
    arguments = parser.parse_args()
    if arguments.cluster == (arguments.root is not None):
        parser.error("name a folder of runs, or --cluster")
    try:
        with contextlib.ExitStack() as open_until_end:
            if arguments.cluster:
                what, file = "the cluster", Path(open_until_end.enter_context(tempfile.TemporaryDirectory())) / FILE
                open_until_end.enter_context(following(choose(None, native=False).kubeconfig, file))
            else:
                what, file = str(arguments.root), arguments.root / FILE
            found = open_until_end.enter_context(serving(configuration(file), arguments.data))
            print(f"Prometheus of {what}: {found.url} (Ctrl-C ends it)", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
