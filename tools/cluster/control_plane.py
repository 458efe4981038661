"""Starts and stops etcd, the API server, the aggregated server of custom resources and the controllers.

Needs no root: tests run one of these on free ports in a temporary folder, the native cluster runs one for good.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import aggregation, certificates
from tools.cluster.api_client import ApiClient
from tools.cluster.binaries import Binaries
from tools.cluster.daemons import Daemon
from tools.cluster.errors import ClusterError
from tools.cluster.paths import REPOSITORY
from tools.cluster.steps import wait_until

SERVICE_RANGE = "10.206.0.0/16"
_SERVICE_ADDRESS = "10.206.0.1"
# The first name is what a person uses; the others are what the node's programs use.
_USERS = {
    "admin": ("admin", "system:masters"),
    "kubelet": ("system:node:node1", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
}
_AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
"""


def free_port() -> int:
    """A TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class ControlPlane:
    """One control plane, all of whose state lies under `folder`.

    `address` is where the API server listens; `pods_run` says whether a kubelet will join (service accounts are
    then enforced, as they are on a real cluster); `ephemeral` ties the processes' lives to this one's; `audited`
    writes what service accounts ask for to `audit_log`, one JSON event a line.
    """

    folder: Path
    binaries: Binaries
    address: str = "127.0.0.1"
    pods_run: bool = False
    ephemeral: bool = False
    audited: bool = False

    @property
    def audit_log(self) -> Path:
        """What service accounts asked for, where `audited`."""
        return self.folder / "audit.jsonl"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.kubeconfig_of("admin")

    def kubeconfig_of(self, user: str) -> Path:
        return self.folder / f"{user}.kubeconfig"

    @property
    def certificates(self) -> Path:
        return self.folder / "pki"

    def client(self) -> ApiClient:
        """The administrator's connection to the API server."""
        return ApiClient(self._url("apiserver"), self.certificates / "ca.crt", self._tokens()["admin"])

    def running(self) -> bool:
        """Whether every part that was started is alive and the API server says it is ready."""
        return self._daemon("kube-apiserver").pid() is not None and self.client().ready()

    def pids(self) -> dict[str, int | None]:
        """Process ids by name; None where it isn't running."""
        return {daemon.name: daemon.pid() for daemon in self._daemons()}

    def start(self, *, controllers: bool) -> None:
        """Starts what isn't running and returns when the API server and the custom resources answer.

        Raises ClusterError when the port is taken, a process ends early, or nothing is ready within a minute.
        """
        self._prepare()
        etcd, apiserver = self._daemon("etcd"), self._daemon("kube-apiserver")
        etcd.start(self._etcd(), dies_with_parent=self.ephemeral)
        apiserver.start(self._apiserver(), dies_with_parent=self.ephemeral)

        def both_alive() -> None:
            etcd.check_alive()
            apiserver.check_alive()

        wait_until(self.client().ready, what="kube-apiserver", seconds=90, alive=both_alive)
        if self.binaries.crd_server is not None:
            self._start_crd_server()
        if controllers:
            self._start_controllers()

    def stop(self) -> None:
        """Ends every process at once: what they store is never read again, and the API servers would wait long
        for watchers to leave."""
        for daemon in reversed(self._daemons()):
            daemon.stop(seconds=0)

    def kill(self, name: str) -> None:
        """Ends one process at once, as a crash would; `start` brings it back."""
        self._daemon(name).stop(seconds=0)

    def _daemons(self) -> list[Daemon]:
        return [
            self._daemon(name)
            for name in ("etcd", "kube-apiserver", aggregation.SERVICE, "crd-groups", "kube-controller-manager")
        ]

    def _daemon(self, name: str) -> Daemon:
        return Daemon(name, self.folder / "run")

    def _url(self, name: str) -> str:
        return f"https://{self.address if name == 'apiserver' else '127.0.0.1'}:{self._ports()[name]}"

    def _ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads((self.folder / "ports.json").read_text())
        return ports

    def _tokens(self) -> dict[str, str]:
        rows = (line.split(",") for line in (self.folder / "tokens.csv").read_text().splitlines())
        return {row[2]: row[0] for row in rows}

    def _prepare(self) -> None:
        """Writes ports, certificates, tokens and kubeconfigs; keeps those that exist."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.folder / "ports.json").exists():
            names = ("apiserver", "etcd", "etcd-peer", "apiextensions")
            (self.folder / "ports.json").write_text(json.dumps({name: free_port() for name in names}))
        certificates.make(
            self.certificates,
            addresses=sorted({"127.0.0.1", _SERVICE_ADDRESS, self.address}),
            service_names=[f"{aggregation.SERVICE}.{aggregation.NAMESPACE}.svc"],
        )
        if not (self.folder / "tokens.csv").exists():
            lines = [f'{secrets.token_hex(16)},{name},{user},"{group}"' for user, (name, group) in _USERS.items()]
            (self.folder / "tokens.csv").write_text("\n".join(lines) + "\n")
        for user, token in self._tokens().items():
            self._write_kubeconfig(user, token)

    def _write_kubeconfig(self, user: str, token: str) -> None:
        """JSON, which every reader of YAML takes."""
        authority = base64.b64encode((self.certificates / "ca.crt").read_bytes()).decode()
        target = self.kubeconfig_of(user)
        target.touch(mode=0o600)
        target.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "qednano",
                    "clusters": [
                        {
                            "name": "qednano",
                            "cluster": {"server": self._url("apiserver"), "certificate-authority-data": authority},
                        }
                    ],
                    "users": [{"name": user, "user": {"token": token}}],
                    "contexts": [{"name": "qednano", "context": {"cluster": "qednano", "user": user}}],
                },
                indent=1,
            )
        )

    def _etcd(self) -> list[str | Path]:
        ports = self._ports()
        client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "etcd-peer"))
        # No fsync: losing a test cluster's last writes with the machine's power is no loss.
        return [
            self.binaries.etcd,
            "--name=qednano",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=qednano={peer}",
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=warn",
        ]

    def _front_proxy(self) -> list[str]:
        return [
            f"--requestheader-client-ca-file={self.certificates / 'front-proxy-ca.crt'}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
        ]

    def _apiserver(self) -> list[str | Path]:
        pki, ports = self.certificates, self._ports()
        argv: list[str | Path] = [
            self.binaries.kube_apiserver,
            f"--etcd-servers=http://127.0.0.1:{ports['etcd']}",
            f"--bind-address={self.address}",
            f"--secure-port={ports['apiserver']}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--cert-dir={pki}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--service-account-key-file={pki / 'service-account.pub'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--profiling=false",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-client-certificate={pki / 'apiserver.crt'}",
            f"--kubelet-client-key={pki / 'apiserver.key'}",
            *self._front_proxy(),
            f"--proxy-client-cert-file={pki / 'front-proxy.crt'}",
            f"--proxy-client-key-file={pki / 'front-proxy.key'}",
        ]
        if self.binaries.version < (1, 23):
            argv.append("--feature-gates=TTLAfterFinished=true")
        if not self.pods_run:
            # Pods never run here, and nobody makes their service accounts; a loopback address can't be an endpoint.
            argv += ["--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"]
        if self.audited:
            policy = self.folder / "audit-policy.yaml"
            policy.write_text(_AUDIT_POLICY)
            argv += [f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}"]
        return argv

    def _start_crd_server(self) -> None:
        server, registrar = self._daemon(aggregation.SERVICE), self._daemon("crd-groups")
        pki, ports = self.certificates, self._ports()
        server.start(
            [
                str(self.binaries.crd_server),
                f"--etcd-servers=http://127.0.0.1:{ports['etcd']}",
                "--etcd-prefix=/apiextensions-1.36",
                "--bind-address=127.0.0.1",
                f"--secure-port={ports['apiextensions']}",
                f"--cert-dir={pki}",
                f"--tls-cert-file={pki / 'apiextensions.crt'}",
                f"--tls-private-key-file={pki / 'apiextensions.key'}",
                f"--client-ca-file={pki / 'ca.crt'}",
                "--authentication-skip-lookup",
                *self._front_proxy(),
                *(f"--{flag}kubeconfig={self.kubeconfig}" for flag in ("", "authentication-", "authorization-")),
                "--enable-priority-and-fairness=false",
                "--disable-admission-plugins=MutatingAdmissionPolicy,ValidatingAdmissionPolicy",
            ],
            dies_with_parent=self.ephemeral,
        )
        client = self.client()
        aggregation.aggregate(client, ports["apiextensions"], pki / "ca.crt")
        wait_until(
            lambda: aggregation.available(client, aggregation.CRD_VERSION, aggregation.CRD_GROUP),
            what="the 1.36 server of custom resources",
            seconds=90,
            alive=server.check_alive,
        )
        registrar.start(
            [sys.executable, "-m", "tools.cluster.aggregation", self.kubeconfig],
            cwd=REPOSITORY,
            dies_with_parent=self.ephemeral,
        )

    def _start_controllers(self) -> None:
        if self.binaries.controller_manager is None:
            raise ClusterError("this control plane has no kube-controller-manager: run python -m tools.cluster build")
        pki = self.certificates
        argv: list[str | Path] = [
            self.binaries.controller_manager,
            f"--kubeconfig={self.kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            "--leader-elect=false",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'service-account.key'}",
            f"--cert-dir={self.folder / 'run'}",
        ]
        if self.binaries.version < (1, 23):
            argv += ["--feature-gates=TTLAfterFinished=true", "--port=0"]
        if self.ephemeral:
            # No kubelet renews the nodes of a test, so this controller would take each node for lost and, whenever it
            # sees a binding late, mark a pod as not ready that the test has just marked as ready.
            argv.append("--controllers=*,-nodelifecycle")
            argv.append("--horizontal-pod-autoscaler-sync-period=2s")
        self._daemon("kube-controller-manager").start(argv, dies_with_parent=self.ephemeral)
