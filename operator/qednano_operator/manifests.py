"""The objects of a run, as plain manifests that hold for Kubernetes 1.20 and later."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from qednano.api import API_VERSION
from qednano.api.scheduling import Placement, TopologyMode
from qednano.job import ResolvedInput, RoleSize, RunConfig
from qednano.plan import Lifecycle, Role, placement_of, roles, secrets
from qednano_operator import profiles
from qednano_operator.decision import Defaults, Object
from qednano_operator.observe import LABEL
from qednano_operator.subject import Assignment, Subject, plain

JOB_SET = "jobset.x-k8s.io/v1alpha2"
PORT, METRICS_PORT, MASTER_PORT = 8000, 9090, 29500
USER = 65532
_CONFIG_PATH, _VOLUME = "/etc/qed", "/qed"
_GRACE = {"trainer": 180, "server": 30, "worker": 60}  # seconds to save and exit, by image
_LAUNCHER_SECONDS = 10  # of them for torchrun, to end after its ranks


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


def metadata(subject: Subject, name: str, found: dict[str, str]) -> Object:
    """Metadata of a run's object, which goes when the run does."""
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


def sealed(obj: Object) -> Object:
    """The object with the hash of what may be changed in place, so that a change shows."""
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
        spec=plain(subject.written),
        inputs={
            item.field: ResolvedInput(name=item.name, uri=item.uri, digest=item.digest)
            for item in subject.status.inputs
        },
        roles={role.name: RoleSize(replicas=role.replicas) for role in roles(subject.spec)},
    )
    text = json.dumps(config.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True)
    return sealed(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(subject, f"{subject.name}-config", labels(subject)),
            "data": {"config.json": text, **_profile(subject)},
        }
    )


def _profile(subject: Subject) -> dict[str, str]:
    return {profiles.FILE: profiles.to_keep(subject.spec, subject.chosen)} if subject.chosen else {}


def service(subject: Subject) -> Object:
    """The headless Service that gives every pod of the run a name, ready or not."""
    return sealed(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(subject, subject.name, labels(subject)),
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
    return sealed(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(subject, subject.name, labels(subject)),
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
        # By itself torchrun kills its ranks after 30 s, in the middle of a large checkpoint.
        **({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_GRACE[role.image] - _LAUNCHER_SECONDS)} if role.distributed else {}),
        "PYTHONUNBUFFERED": "1",
        "HOME": "/tmp",
        "USER": "qed",  # getpass.getuser() of torch fails for a user id without a name
        # On the shared volume, so that models are fetched and inspected once and not by every pod.
        "HF_HOME": f"{_VOLUME}/.cache/huggingface",
        "VLLM_CACHE_ROOT": f"{_VOLUME}/.cache/vllm",
    }
    name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    own = [{"name": item.name, "value": item.value} for item in subject.spec.scheduling.env]
    return [name, *({"name": key, "value": value} for key, value in values.items()), *_secrets(subject, role), *own]


def _secrets(subject: Subject, role: Role) -> list[Object]:
    """Keys of endpoints, for the workers that ask them, and of the stream, for the trainer too; the Hub's for all."""
    seen = {"worker": "", "trainer": "stream/"} if role.lifecycle is Lifecycle.TASK else {}
    keys = secrets(subject.spec, seen[role.image]) if role.image in seen else ()
    named = [(item.pod_variable, item) for item in keys]
    if subject.spec.hub_token is not None:
        named.append(("HF_TOKEN", subject.spec.hub_token))
    return [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": item.name, "key": item.key}}}
        for variable, item in named
    ]


def _resources(subject: Subject, role: Role) -> Object:
    asked = role.resources
    limits = {"memory": asked.memory}
    if asked.gpus:
        limits[subject.spec.scheduling.gpu_resource] = str(asked.gpus)
    devices = placement_of(subject.spec, role).extra_resources
    limits |= {name: str(count) for name, count in devices.items()}
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
        "resources": _resources(subject, role),
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


def _placement(subject: Subject, role: Role, attempt: int, defaults: Defaults) -> Object:
    wish = placement_of(subject.spec, role)
    assigned = subject.assigned.get(role.name, Assignment())
    found: Object = {**_affinity(subject, role, attempt), **_chosen(wish, assigned)}
    if defaults.pull_secrets:
        found["imagePullSecrets"] = [{"name": name} for name in defaults.pull_secrets]
    if defaults.service_account:
        found["serviceAccountName"] = defaults.service_account
    return found


def _chosen(wish: Placement, assigned: Assignment) -> Object:
    tolerations = [
        {key: value for key, value in item.model_dump(by_alias=True).items() if value} for item in wish.tolerations
    ]
    tolerations += [dict(item) for item in assigned.tolerations if item not in tolerations]
    fields = {
        "nodeSelector": {**wish.node_selector, **assigned.node_selector},
        "tolerations": tolerations,
        "priorityClassName": wish.priority_class_name,
        "runtimeClassName": wish.runtime_class_name,
    }
    return {key: value for key, value in fields.items() if value}


def _affinity(subject: Subject, role: Role, attempt: int) -> Object:
    """A gang is packed into one topology domain, servers are spread.

    The first pod of a gang may go anywhere: Kubernetes lets a pod pass whose affinity only its like could meet.
    """
    wish = subject.spec.scheduling
    mine = {LABEL + "uid": subject.uid, LABEL + "role": role.name}
    if wish.spread_key and role.lifecycle is Lifecycle.SERVER:
        spread = {
            "maxSkew": 1,
            "topologyKey": wish.spread_key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": mine},
        }
        return {"topologySpreadConstraints": [spread]}
    if not wish.topology_key or not role.gang or role.replicas < 2:
        return {}
    near = {
        "topologyKey": wish.topology_key,
        "labelSelector": {"matchLabels": {**mine, LABEL + "attempt": str(attempt)}},
    }
    if wish.topology_mode is TopologyMode.REQUIRED:
        return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]}}}
    preferred = [{"weight": 100, "podAffinityTerm": near}]
    return {"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}


def _shared_memory(subject: Subject) -> Object:
    size = subject.spec.scheduling.shared_memory
    return {"medium": "Memory", **({"sizeLimit": size} if size else {})}


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
            {"name": "shm", "emptyDir": _shared_memory(subject)},
        ],
        **_placement(subject, role, attempt, defaults),
    }


def _pod_metadata(subject: Subject, role: Role, found: dict[str, str]) -> Object:
    assigned = subject.assigned.get(role.name, Assignment())
    marks = {"annotations": dict(assigned.annotations)} if assigned.annotations else {}
    return {"labels": {**assigned.labels, **found, LABEL + "uid": subject.uid}, **marks}


def job(subject: Subject, role: Role, attempt: int, index: int, defaults: Defaults) -> Object:
    """The Job of one pod of a task role. It never retries: attempts belong to the operator."""
    name = job_name(subject, role, attempt, index)
    found = labels(subject, role.name, attempt, index)
    pod: dict[str, Any] = _pod_spec(subject, role, attempt, index, defaults)
    pod |= {"restartPolicy": "Never", "hostname": name, "subdomain": subject.name}
    return sealed(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata(subject, name, found),
            "spec": {
                "backoffLimit": 0,
                "completions": 1,
                "parallelism": 1,
                "template": {"metadata": _pod_metadata(subject, role, found), "spec": pod},
            },
        }
    )


def stateful_set(subject: Subject, role: Role, attempt: int, defaults: Defaults) -> Object:
    """The StatefulSet of a server role; Kubernetes restarts a failed server in place."""
    found = labels(subject, role.name, attempt)
    match = labels(subject, role.name)
    chosen = {key: match[key] for key in (LABEL + "kind", LABEL + "run", LABEL + "role")}
    return sealed(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": metadata(subject, server_name(subject, role), found),
            "spec": {
                "replicas": role.replicas,
                "serviceName": subject.name,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": chosen},
                "template": {
                    "metadata": _pod_metadata(subject, role, found),
                    "spec": _pod_spec(subject, role, attempt, 0, defaults),
                },
            },
        }
    )


def job_set(subject: Subject, role: Role, attempt: int, jobs: list[Object]) -> Object:
    """A gang as one JobSet of its Jobs, one for each rank. It never restarts them: attempts belong to the operator.

    Each rank keeps its host name, so that addresses are the same with and without JobSet; hence its own Service is
    enough, and the Jobs are not indexed ones, whose pods are renamed.
    """
    replicated = [
        {
            "name": f"r{index}",
            "replicas": 1,
            "template": {
                "metadata": {"labels": {**one["metadata"]["labels"], LABEL + "uid": subject.uid}},
                "spec": {**one["spec"], "completionMode": "NonIndexed"},
            },
        }
        for index, one in enumerate(jobs)
    ]
    return sealed(
        {
            "apiVersion": JOB_SET,
            "kind": "JobSet",
            "metadata": metadata(
                subject, f"{subject.name}-{role.name}-a{attempt}", labels(subject, role.name, attempt)
            ),
            "spec": {
                "failurePolicy": {"maxRestarts": 0},
                "network": {"enableDNSHostnames": False},
                "replicatedJobs": replicated,
            },
        }
    )


def role_objects(subject: Subject, role: Role, attempt: int, defaults: Defaults) -> list[Object]:
    """Every object of one role in one attempt."""
    if role.lifecycle is Lifecycle.SERVER:
        return [stateful_set(subject, role, attempt, defaults)]
    jobs = [job(subject, role, attempt, index, defaults) for index in range(role.replicas)]
    if role.gang and role.replicas > 1 and defaults.job_sets:
        return [job_set(subject, role, attempt, jobs)]
    return jobs
