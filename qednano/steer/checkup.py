"""What a cluster can do for runs: looked up through the API server, with the remedy for what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal

from qednano.api import GROUP, KINDS
from qednano.errors import QedError
from qednano.local.doctor import Finding
from qednano.steer.cluster import ClusterRuns

_CHART = "helm install qednano charts/qednano --namespace qednano-system --create-namespace"
_OPTIONAL = {
    "jobset.x-k8s.io": ("gangs as JobSets", "JobSet is not installed; a run's pods are plain Jobs"),
    "kueue.x-k8s.io": ("queues", "Kueue is not installed; runs start as soon as pods fit"),
    "monitoring.coreos.com": (
        "monitors", "the Prometheus operator is not installed; docs/monitoring.md has a scrape configuration"
    ),
}  # fmt: skip


def examine_cluster(namespace: str = "", context: str = "") -> list[Finding]:
    """Everything that runs of one namespace rest on. Raises QedError when no cluster is configured or answers."""
    place = ClusterRuns(namespace, context)
    return list(_findings(place))


def _findings(place: ClusterRuns) -> Iterator[Finding]:
    version = place.get("/version")
    yield Finding("API server", True, f"Kubernetes {version['gitVersion'].removeprefix('v')}")
    groups = {group["name"] for group in place.get("/apis")["groups"]}
    yield Finding("kinds", GROUP in groups, GROUP if GROUP in groups else "not installed", *_lacking(GROUP in groups))
    yield _tried("operator", lambda: _operator(place), needed=True)
    yield Finding("namespace", True, place.namespace)
    for kind in KINDS.values():
        if not _may(place, kind.plural):
            yield Finding("rights", False, f"you may not create {kind.plural}", "an admin can give you the role edit")
            break
    else:
        yield Finding("rights", True, f"you may create runs in {place.namespace}")
    yield _tried("volume", lambda: _volume(place), needed=True)
    yield _tried("nodes", lambda: _nodes(place), needed=False)
    for group, (what, without) in _OPTIONAL.items():
        found = group in groups
        yield Finding(what, found, group if found else without, needed=False)


def _lacking(found: bool) -> tuple[str, ...]:
    return () if found else (_CHART,)


def _tried(what: str, look: Callable[[], Finding], needed: bool) -> Finding:
    try:
        return look()
    except QedError as error:
        return Finding(what, True, f"can't be seen with your rights ({error})", needed=needed)


def _operator(place: ClusterRuns) -> Finding:
    found = place.get("/apis/apps/v1/deployments?labelSelector=app.kubernetes.io/component=operator")["items"]
    mine = [item for item in found if item["metadata"]["labels"].get("app.kubernetes.io/name") == "qednano"]
    if not mine:
        return Finding("operator", False, "no Deployment of it", _CHART)
    (meta, status) = mine[0]["metadata"], mine[0].get("status") or {}
    ready = status.get("readyReplicas", 0)
    where = f"{meta['namespace']}/{meta['name']}"
    return Finding(
        "operator",
        ready > 0,
        f"{where}, {ready} of {mine[0]['spec'].get('replicas', 1)} ready",
        "" if ready else f"kubectl -n {meta['namespace']} describe deploy/{meta['name']} says why",
    )


def _may(place: ClusterRuns, plural: str) -> bool:
    asked = {"namespace": place.namespace, "verb": "create", "group": GROUP, "resource": plural}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return bool(place.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)["status"]["allowed"])


def _volume(place: ClusterRuns) -> Finding:
    claims = place.get(f"/api/v1/namespaces/{place.namespace}/persistentvolumeclaims")["items"]
    claim = next((item for item in claims if item["metadata"]["name"] == "qednano"), None)
    if claim is None:
        return Finding(
            "volume",
            False,
            f"no claim qednano in {place.namespace}",
            "make one with ReadWriteMany (docs/cluster.md), or name another by spec.storage.claimName",
        )
    modes, phase = claim["spec"].get("accessModes", []), (claim.get("status") or {}).get("phase", "")
    if phase != "Bound" and phase != "Pending":
        return Finding("volume", False, f"claim qednano is {phase or 'new'}", "kubectl describe pvc qednano says why")
    shared = "ReadWriteMany" in modes
    return Finding(
        "volume",
        True,
        f"claim qednano is {phase}, {', '.join(modes)}",
        "" if shared else "pods on several nodes need ReadWriteMany",
    )


def _nodes(place: ClusterRuns) -> Finding:
    nodes = place.get("/api/v1/nodes")["items"]
    capacity = [(node.get("status") or {}).get("allocatable") or {} for node in nodes]
    gpus = sum(int(item.get("nvidia.com/gpu", 0)) for item in capacity)
    cores = sum((_cores(item.get("cpu", "0")) for item in capacity), Decimal(0))
    found = f"{len(nodes)} with {cores:f} cores and {gpus} GPUs"
    remedy = "" if gpus else "for GPUs install NVIDIA's GPU operator or device plugin; runs without gpus use CPUs"
    return Finding("nodes", True, found, remedy, needed=False)


def _cores(text: str) -> Decimal:
    return Decimal(text[:-1]) / 1000 if text.endswith("m") else Decimal(text)
