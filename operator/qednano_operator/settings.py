"""The operator's settings: flags, each with an environment variable of the same name."""

from __future__ import annotations

import argparse
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qednano_operator.decision import Defaults

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Settings:
    """What the operator process is told. ``namespaces`` empty means all of them."""

    namespaces: tuple[str, ...]
    defaults: Defaults
    bind: str
    port: int
    lease_namespace: str
    lease_name: str
    elect: bool
    identity: str
    workers: int
    log_level: str


def own_namespace() -> str:
    """The namespace of this pod, or default outside a cluster."""
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.is_file() else "default"


def _split(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def parse(argv: Sequence[str] | None = None) -> Settings:
    """Read settings from flags, and from QED_OPERATOR_<FLAG> where a flag is not given."""
    parser = argparse.ArgumentParser(
        prog="qednano-operator",
        description="Runs ProofDatasets, SFTRuns, RLRuns and EvalRuns on Kubernetes. "
        "Every flag can be given as QED_OPERATOR_<FLAG> too.",
    )

    def flag(name: str, default: str, about: str, choices: Sequence[str] | None = None) -> None:
        variable = "QED_OPERATOR_" + name.upper().replace("-", "_")
        value = os.environ.get(variable, default)
        parser.add_argument(f"--{name}", default=value, help=f"{about} (default: {default or 'none'})", choices=choices)

    built_in = Defaults()
    flag("namespaces", "", "namespaces to watch, with commas between; all when empty")
    for role in ("trainer", "server", "worker"):
        flag(f"{role}-image", built_in.images[role], f"image of {role} pods unless a run names another")
    policies = ("Always", "IfNotPresent", "Never")
    flag("pull-policy", built_in.pull_policy, "imagePullPolicy of run pods", policies)
    flag("pull-secrets", "", "names of image pull secrets in the runs' namespaces, with commas between")
    flag("pod-service-account", "", "service account of run pods; the namespace's default when empty")
    flag("network-policies", "true", "whether each run gets a NetworkPolicy of its own", ("true", "false"))
    flag("bind", "0.0.0.0", "address for /metrics, /healthz and /readyz")
    flag("port", "8080", "port for /metrics, /healthz and /readyz")
    flag("lease-namespace", "", "namespace of the leader's Lease; the operator's own when empty")
    flag("lease-name", "qednano-operator", "name of the leader's Lease")
    flag("leader-election", "true", "whether to elect a leader", ("true", "false"))
    flag("workers", "8", "runs handled at once")
    flag("log-level", "INFO", "level of the log", ("DEBUG", "INFO", "WARNING", "ERROR"))
    found = parser.parse_args(argv)
    for name in ("port", "workers"):
        if not getattr(found, name).isdigit():
            parser.error(f"--{name} is {getattr(found, name)!r}; it must be a whole number")
    return Settings(
        namespaces=_split(found.namespaces),
        defaults=Defaults(
            images={role: getattr(found, f"{role}_image") for role in built_in.images},
            pull_policy=found.pull_policy,
            pull_secrets=_split(found.pull_secrets),
            service_account=found.pod_service_account,
            network_policies=found.network_policies == "true",
        ),
        bind=found.bind,
        port=int(found.port),
        lease_namespace=found.lease_namespace or own_namespace(),
        lease_name=found.lease_name,
        elect=found.leader_election == "true",
        identity=f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        workers=int(found.workers),
        log_level=found.log_level,
    )
