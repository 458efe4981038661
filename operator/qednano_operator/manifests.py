"""The objects of a run, as plain manifests that hold for Kubernetes 1.20 and later."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from qednano.api import API_VERSION
from qednano.job import ResolvedInput, RoleSize, RunConfig
from qednano.plan import Lifecycle, Role, roles, secrets
from qednano_operator.decision import Defaults, Object
from qednano_operator.observe import LABEL
from qednano_operator.subject import Subject, plain

PORT, METRICS_PORT, MASTER_PORT = 8000, 9090, 29500
USER = 65532
_CONFIG_PATH, _VOLUME = "/etc/qed", "/qed"
_GRACE = {"trainer": 180, "server": 30, "worker": 60}  # seconds to save and exit, by image


def labels(subject: Subject, role: str = "", attempt: int | None = None, index: int | None = None) -> dict[str, str]:
    """Labels of a run's object."""
    found = {
        LABEL + "kind": subject.kind,
        LABEL + "run": subject.name,
        "app.kubernetes.io/name": "qednano",
        "app.kubernetes.io/instance": subject.name,
        "app.kubernetes.io/part-of": "qednano",
        "app.kubernetes.io/managed-by": "qednano-operator",
    }
    if role:
        found |= {LABEL + "role": role, "app.kubernetes.io/component": role}
    if attempt is not None:
        found[LABEL + "attempt"] = str(attempt)
    if index is not None:
        found[LABEL + "index"] = str(index)
    return found


def selector(subject: Subject, role: str) -> str:
    """The label selector of a role's pods, as text."""
    wanted = {LABEL + "kind": subject.kind, LABEL + "run": subject.name, LABEL + "role": role}
    return ",".join(f"{key}={value}" for key, value in wanted.items())


def _metadata(subject: Subject, name: str, found: dict[str, str]) -> Object:
    owner = {
        "apiVersion": API_VERSION,
        "kind": subject.kind,
        "name": subject.name,
        "uid": subject.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"name": name, "namespace": subject.namespace, "labels": found, "ownerReferences": [owner]}


def spec_hash(obj: Object) -> str:
    """Sixteen hex digits over what may be changed in place: never a pod template, since that restarts pods."""
    body = {key: value for key, value in obj.items() if key != "metadata"}
    if isinstance(body.get("spec"), dict):
        body["spec"] = {key: value for key, value in body["spec"].items() if key != "template"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _sealed(obj: Object) -> Object:
    obj["metadata"]["annotations"] = {LABEL + "spec-hash": spec_hash(obj)}
    return obj


def config_map(subject: Subject) -> Object:
    """The run's one configuration file. It is written once and never changed while the run exists."""
    config = RunConfig(
        api_version=API_VERSION,
        kind=subject.kind,
        name=subject.name,
        namespace=subject.namespace,
        uid=subject.uid,
        generation=subject.generation,
        spec=plain(subject.spec),
        inputs={
            item.field: ResolvedInput(name=item.name, uri=item.uri, digest=item.digest)
            for item in subject.status.inputs
        },
        roles={role.name: RoleSize(replicas=role.replicas) for role in roles(subject.spec)},
    )
    text = json.dumps(config.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True)
    return _sealed(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(subject, f"{subject.name}-config", labels(subject)),
            "data": {"config.json": text},
        }
    )


def service(subject: Subject) -> Object:
    """The headless Service that gives every pod of the run a name, ready or not."""
    return _sealed(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata(subject, subject.name, labels(subject)),
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": {LABEL + "kind": subject.kind, LABEL + "run": subject.name},
                "ports": [
                    {"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"},
                    {"name": "metrics", "port": METRICS_PORT, "targetPort": METRICS_PORT, "protocol": "TCP"},
                ],
            },
        }
    )


def network_policy(subject: Subject) -> Object:
    """Who may speak to the run's pods: they themselves on every port, and everybody on the port of metrics.

    So servers, weights and the stream are out of other runs' and tenants' reach, where the cluster enforces policies.
    """
    mine = {"matchLabels": {LABEL + "kind": subject.kind, LABEL + "run": subject.name}}
    return _sealed(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": _metadata(subject, subject.name, labels(subject)),
            "spec": {
                "podSelector": mine,
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"from": [{"podSelector": mine}]},
                    {"ports": [{"port": METRICS_PORT, "protocol": "TCP"}]},
                ],
            },
        }
    )


def job_name(subject: Subject, role: Role, attempt: int, index: int) -> str:
    """Name of the Job of one pod of a task role; also its pod's host name."""
    return f"{subject.name}-{role.name}-a{attempt}-{index}"


def server_name(subject: Subject, role: Role) -> str:
    """Name of the StatefulSet of a server role."""
    return f"{subject.name}-{role.name}"


def _address(subject: Subject, host: str) -> str:
    return f"{host}.{subject.name}.{subject.namespace}.svc"


def _command(subject: Subject, role: Role, attempt: int, index: int) -> list[str]:
    if role.lifecycle is Lifecycle.SERVER:
        # The ordinal is only in the pod's name: Kubernetes hands it on as a label from 1.28.
        return ["/bin/sh", "-c", f"export QED_INDEX=${{POD_NAME##*-}}; exec python -m {role.module}"]
    if not role.distributed:
        return ["python", "-m", role.module]
    # One pod needs no name to meet itself, so it needs no DNS either.
    master = _address(subject, job_name(subject, role, attempt, 0)) if role.replicas > 1 else "127.0.0.1"
    return [
        *("python", "-m", "torch.distributed.run"),
        f"--nnodes={role.replicas}",
        f"--nproc-per-node={role.processes}",
        f"--node-rank={index}",
        f"--master-addr={master}",
        f"--master-port={MASTER_PORT}",
        *("-m", role.module),
    ]


def _env(subject: Subject, role: Role, attempt: int, index: int) -> list[Object]:
    server = role.lifecycle is Lifecycle.SERVER
    host = "$(POD_NAME)" if server else job_name(subject, role, attempt, index)
    values = {
        "QED_CONFIG": f"{_CONFIG_PATH}/config.json",
        "QED_RUN_DIR": subject.run_dir,
        "QED_ROLE": role.name,
        **({} if server else {"QED_INDEX": str(index)}),
        "QED_ATTEMPT": str(attempt),
        "QED_HOST": _address(subject, host),
        "QED_PORT": str(PORT),
        "QED_METRICS_PORT": str(METRICS_PORT),
        "QED_TERMINATION_PATH": "/dev/termination-log",
        "QED_SCRATCH": "/tmp/qed",
        "OMP_NUM_THREADS": str(role.threads),
        # On shared cores, threads that spin at barriers starve one another: ten times slower where it was measured.
        **({} if role.resources.gpus else {"GOMP_SPINCOUNT": "0"}),
        "PYTHONUNBUFFERED": "1",
        "HOME": "/tmp",
        "USER": "qed",  # getpass.getuser() of torch fails for a user id without a name
        # On the shared volume, so that models are fetched and inspected once and not by every pod.
        "HF_HOME": f"{_VOLUME}/.cache/huggingface",
        "VLLM_CACHE_ROOT": f"{_VOLUME}/.cache/vllm",
    }
    name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return [name, *({"name": key, "value": value} for key, value in values.items()), *_secrets(subject, role)]


def _secrets(subject: Subject, role: Role) -> list[Object]:
    """Keys of endpoints, for the workers that ask them, and of the stream, for the trainer too; servers see none."""
    seen = {"worker": "", "trainer": "stream/"}
    if role.image not in seen:
        return []
    return [
        {"name": item.pod_variable, "valueFrom": {"secretKeyRef": {"name": item.name, "key": item.key}}}
        for item in secrets(subject.spec, seen[role.image])
    ]


def _resources(role: Role) -> Object:
    asked = role.resources
    limits = {"memory": asked.memory}
    if asked.gpus:
        limits["nvidia.com/gpu"] = str(asked.gpus)
    return {"requests": {"cpu": asked.cpu, **limits}, "limits": limits}


def _probes(role: Role) -> Object:
    if role.lifecycle is not Lifecycle.SERVER:
        return {}
    health = {"httpGet": {"path": "/health", "port": PORT, "scheme": "HTTP"}, "timeoutSeconds": 5}
    tries = max(1, -(-role.startup_seconds // 5))
    return {
        "startupProbe": {**health, "periodSeconds": 5, "failureThreshold": tries},
        "readinessProbe": {**health, "periodSeconds": 10, "failureThreshold": 3},
    }


def _container(subject: Subject, role: Role, attempt: int, index: int, defaults: Defaults) -> Object:
    image = getattr(subject.spec.images, role.image) or defaults.images[role.image]
    ports = [{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}]
    if role.lifecycle is Lifecycle.SERVER:
        ports.append({"name": "http", "containerPort": PORT, "protocol": "TCP"})
    return {
        "name": role.name,
        "image": image,
        "imagePullPolicy": defaults.pull_policy,
        "command": _command(subject, role, attempt, index),
        "env": _env(subject, role, attempt, index),
        "ports": ports,
        "resources": _resources(role),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": _CONFIG_PATH, "readOnly": True},
            {"name": "storage", "mountPath": _VOLUME},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
        **_probes(role),
    }


def _placement(subject: Subject, defaults: Defaults) -> Object:
    wish = subject.spec.scheduling
    found: Object = {}
    if wish.node_selector:
        found["nodeSelector"] = dict(wish.node_selector)
    if wish.tolerations:
        found["tolerations"] = [
            {key: value for key, value in item.model_dump(by_alias=True).items() if value} for item in wish.tolerations
        ]
    if wish.priority_class_name:
        found["priorityClassName"] = wish.priority_class_name
    if defaults.pull_secrets:
        found["imagePullSecrets"] = [{"name": name} for name in defaults.pull_secrets]
    if defaults.service_account:
        found["serviceAccountName"] = defaults.service_account
    return found


def _pod_spec(subject: Subject, role: Role, attempt: int, index: int, defaults: Defaults) -> Object:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE[role.image],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(subject, role, attempt, index, defaults)],
        "volumes": [
            {"name": "config", "configMap": {"name": f"{subject.name}-config"}},
            {"name": "storage", "persistentVolumeClaim": {"claimName": subject.spec.storage.claim_name}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
        **_placement(subject, defaults),
    }


def job(subject: Subject, role: Role, attempt: int, index: int, defaults: Defaults) -> Object:
    """The Job of one pod of a task role. It never retries: attempts belong to the operator."""
    name = job_name(subject, role, attempt, index)
    found = labels(subject, role.name, attempt, index)
    pod: dict[str, Any] = _pod_spec(subject, role, attempt, index, defaults)
    pod |= {"restartPolicy": "Never", "hostname": name, "subdomain": subject.name}
    return _sealed(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": _metadata(subject, name, found),
            "spec": {
                "backoffLimit": 0,
                "completions": 1,
                "parallelism": 1,
                "template": {"metadata": {"labels": {**found, LABEL + "uid": subject.uid}}, "spec": pod},
            },
        }
    )


def stateful_set(subject: Subject, role: Role, attempt: int, defaults: Defaults) -> Object:
    """The StatefulSet of a server role; Kubernetes restarts a failed server in place."""
    found = labels(subject, role.name, attempt)
    match = labels(subject, role.name)
    chosen = {key: match[key] for key in (LABEL + "kind", LABEL + "run", LABEL + "role")}
    return _sealed(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": _metadata(subject, server_name(subject, role), found),
            "spec": {
                "replicas": role.replicas,
                "serviceName": subject.name,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": chosen},
                "template": {
                    "metadata": {"labels": {**found, LABEL + "uid": subject.uid}},
                    "spec": _pod_spec(subject, role, attempt, 0, defaults),
                },
            },
        }
    )


def role_objects(subject: Subject, role: Role, attempt: int, defaults: Defaults) -> list[Object]:
    """Every object of one role in one attempt."""
    if role.lifecycle is Lifecycle.SERVER:
        return [stateful_set(subject, role, attempt, defaults)]
    return [job(subject, role, attempt, index, defaults) for index in range(role.replicas)]
