"""The operator's settings: flags, each with an environment variable of the same name."""

from __future__ import annotations

import argparse
import os
import re
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from qednano.errors import ConfigError
from qednano.plan import load_profiles
from qednano_operator.decision import Defaults
from qednano_operator.logs import FORMATS
from qednano_operator.webhook import WebhookSettings

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
    log_format: str
    kueue: bool
    silence_seconds: float
    resync_seconds: float
    settle_seconds: float
    webhook: WebhookSettings | None = None


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
    flag("kueue", "false", "whether runs may name a LocalQueue of Kueue", ("true", "false"))
    flag("gpu-hour-price", "", "price of one GPU for an hour, for runs whose profile names none")
    flag("job-sets", "false", "whether a gang of pods is made as one JobSet where its API is served", ("true", "false"))
    flag("profiles", "", "YAML file of profiles that runs may name")
    flag("bind", "0.0.0.0", "address for /metrics, /healthz and /readyz")
    flag("port", "8080", "port for /metrics, /healthz and /readyz")
    flag("lease-namespace", "", "namespace of the leader's Lease; the operator's own when empty")
    flag("lease-name", "qednano-operator", "name of the leader's Lease")
    flag("webhook-port", "0", "port of the admission webhook; none with 0")
    flag(
        "webhook-name", "qednano-webhook", "name of its ValidatingWebhookConfiguration, and of its certificate's Secret"
    )
    flag("webhook-hosts", "localhost", "DNS names or addresses that it is called by, with commas between")
    flag("leader-election", "true", "whether to elect a leader", ("true", "false"))
    flag("workers", "8", "runs handled at once")
    flag("silence-seconds", "90", "a watch that tells nothing for so long, bookmarks included, is opened anew")
    flag("resync-seconds", "600", "time between two comparisons of what the watches told with full lists")
    flag("settle-seconds", "10", "time that the watches then have to tell what a list showed first")
    flag("log-level", "INFO", "level of the log", ("DEBUG", "INFO", "WARNING", "ERROR"))
    flag("log-format", "text", "form of the log: text, or json with an object for each line", FORMATS)
    found = parser.parse_args(argv)
    if found.gpu_hour_price and not re.fullmatch(r"[0-9]+(\.[0-9]+)?", found.gpu_hour_price):
        parser.error(f"--gpu-hour-price is {found.gpu_hour_price!r}; it must be a decimal such as 2.50")
    for name in ("port", "workers", "webhook_port", "silence_seconds", "resync_seconds", "settle_seconds"):
        if not getattr(found, name).isdigit():
            parser.error(f"--{name.replace('_', '-')} is {getattr(found, name)!r}; it must be a whole number")
    try:
        profiles = load_profiles(Path(found.profiles)) if found.profiles else {}
    except ConfigError as error:
        parser.error(str(error))
    namespace = found.lease_namespace or own_namespace()
    hook = WebhookSettings(int(found.webhook_port), found.webhook_name, namespace, _split(found.webhook_hosts))
    return Settings(
        namespaces=_split(found.namespaces),
        defaults=Defaults(
            images={role: getattr(found, f"{role}_image") for role in built_in.images},
            pull_policy=found.pull_policy,
            pull_secrets=_split(found.pull_secrets),
            service_account=found.pod_service_account,
            network_policies=found.network_policies == "true",
            gpu_hour_price=Decimal(found.gpu_hour_price) if found.gpu_hour_price else None,
            job_sets=found.job_sets == "true",
            profiles=profiles,
        ),
        bind=found.bind,
        port=int(found.port),
        lease_namespace=namespace,
        lease_name=found.lease_name,
        elect=found.leader_election == "true",
        identity=f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        workers=int(found.workers),
        log_level=found.log_level,
        log_format=found.log_format,
        silence_seconds=float(found.silence_seconds),
        resync_seconds=float(found.resync_seconds),
        settle_seconds=float(found.settle_seconds),
        kueue=found.kueue == "true",
        webhook=hook if hook.port else None,
    )
