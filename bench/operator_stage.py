"""What the operator's benches share: one real API server, the operator as production starts it, and what it costs.

etcd, the API server, the server of custom resources, the bench and the operator share the machine's cores: seconds
depend on all of them, calls and memory don't.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import yaml

from bench.fake_nodes import NODE
from tests.kube import apiserver
from tests.kube.apiserver import ApiServer
from tests.operator import chart
from tests.operator.harness import OperatorProcess
from tools.cluster.paths import REPOSITORY

KIND_NAMESPACES = {kind: f"bench-{kind.lower()}" for kind in ("ProofDataset", "SFTRun", "RLRun", "EvalRun")}
"""A namespace for each kind: the audit log tells the namespace of every request, but the name of few."""

WRITES = ("create", "update", "patch", "delete")
MACHINE_SHARED = "etcd, API servers, fake nodes and the operator share these cores"


@dataclass(frozen=True)
class Request:
    """One line of the audit log."""

    verb: str
    resource: str
    namespace: str
    name: str  # empty for a create, whose URL has none
    user: str
    at: float  # Unix time at which it came

    @property
    def is_quiet(self) -> bool:
        """Whether an idle operator may make it: it keeps its Lease and its watches."""
        return self.verb == "watch" or self.resource == "leases"


@dataclass
class Stage:
    """A fresh API server, and the operator with the chart's flags and the chart's rights."""

    server: ApiServer
    operator: OperatorProcess
    folder: Path
    _read: int = field(default=0, init=False)

    @property
    def pid(self) -> int:
        """The operator's process."""
        assert self.operator.process is not None
        return self.operator.process.pid

    def requests(self) -> list[Request]:
        """Complete requests of service accounts since the last call of this function."""
        log = self.server.plane.audit_log
        if not log.exists():
            return []
        with log.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for line in whole.splitlines():
            event = json.loads(line)
            if event["stage"] == "ResponseStarted" and event["verb"] != "watch":
                continue  # its end is told too
            if event["stage"] == "ResponseComplete" and event["verb"] == "watch":
                continue  # its start was told
            what = event.get("objectRef") or {}
            where = (what.get(key, "") for key in ("resource", "namespace", "name"))
            at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
            found.append(Request(event["verb"], *where, event["user"]["username"], at))
        return found

    def cpu_seconds(self) -> float:
        """Processor time of the operator so far, its threads included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> tuple[float, float]:
        """(resident now, the most so far) of the operator."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        rows = dict(line.split(":", 1) for line in text.splitlines())
        return tuple(int(rows[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def table(requests: Sequence[Request]) -> str:
    """Requests by verb and resource, as one line."""
    counted = Counter(f"{request.verb} {request.resource}" for request in requests)
    return ", ".join(f"{what} {count}" for what, count in counted.most_common())


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which so large a share of them lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextlib.contextmanager
def server(namespaces: Sequence[str]) -> Iterator[tuple[ApiServer, Path]]:
    """A fresh audited API server with the four kinds, one node, and the namespaces; gone with the block."""
    folder = Path(tempfile.mkdtemp(prefix="qed-bench-"))
    found = apiserver.start(folder / "plane", controllers=False, audited=True)
    try:
        crds = sorted((REPOSITORY / "charts/qednano/files/crds").glob("*.yaml"))
        found.install_crds(*(yaml.safe_load(path.read_text()) for path in crds))
        found.client.request("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
        for name in (chart.SYSTEM, *namespaces):
            found.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        yield found, folder
    finally:
        found.plane.stop()
        shutil.rmtree(folder, ignore_errors=True)


# The image has no development tools: the Kubernetes client loads this one wherever it is, which costs 22 MiB.
_AS_IN_THE_IMAGE = (
    "import sys; sys.modules['kubernetes_validate'] = None; from qednano_operator.main import main; sys.exit(main())"
)


def operator(found: ApiServer, folder: Path, *flags: str) -> OperatorProcess:
    """The operator, not started yet, with what the chart gives it for the whole cluster."""
    objects = chart.render()
    chart.install(
        found, chart.only(objects, "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    )
    kubeconfig = chart.kubeconfig_of(found, "qed-qednano", folder / "kubeconfig")
    flags = (*chart.operator_flags(objects), *flags)
    return OperatorProcess(kubeconfig, folder / "operator.log", flags, program=("-c", _AS_IN_THE_IMAGE))


@contextlib.contextmanager
def stage(namespaces: Sequence[str] = tuple(KIND_NAMESPACES.values())) -> Iterator[Stage]:
    """A fresh server and a ready operator; both gone with the block."""
    with server(namespaces) as (found, folder):
        process = operator(found, folder)
        try:
            process.start()
            yield Stage(found, process, folder)
            print_troubles(process)
        finally:
            process.end()


def print_troubles(process: OperatorProcess, most: int = 8) -> None:
    """Warnings of the operator's log: a figure with errors beside it is none."""
    lines = [line for line in process.log.read_text().splitlines() if " WARNING " in line or " ERROR " in line]
    for line in lines[:most]:
        print(f"  operator: {line[:300]}")
    if len(lines) > most:
        print(f"  operator: and {len(lines) - most} more warnings")


def verdict(name: str, value: float, sign: str, bar: float, unit: str) -> bool:
    """Print one figure beside its bar; whether it keeps it."""
    kept = value <= bar if sign == "<=" else value >= bar
    print(f"{'kept  ' if kept else 'MISSED'}  {name}: {value:.3g} {unit} (bar {sign} {bar:g})", flush=True)
    return kept


def since(began: float) -> float:
    """Seconds since a monotonic time."""
    return time.monotonic() - began
