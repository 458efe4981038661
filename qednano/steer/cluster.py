"""Runs of a cluster, through the kubeconfig that kubectl uses."""

from __future__ import annotations

from typing import Any, TextIO

from pydantic import ValidationError

from qednano.api import GROUP, KINDS, VERSION, RunStatus
from qednano.errors import ConfigError, Unavailable, UsageError
from qednano.steer.interface import Listed

_LABEL = "qednano.dev/"


def _client() -> Any:
    try:
        import kubernetes
    except ImportError:
        raise ConfigError("clusters need the package kubernetes: pip install 'qednano[operator]'") from None
    return kubernetes


class ClusterRuns:
    """The runs of one namespace, or of all when ``namespace`` is empty and ``everywhere`` is true."""

    def __init__(self, namespace: str = "", context: str = "", everywhere: bool = False) -> None:
        kubernetes = _client()
        config = kubernetes.config
        try:
            config.load_kube_config(context=context or None)
            _, active = config.list_kube_config_contexts()
            chosen = active if not context else {"context": {}}
            default = (chosen.get("context") or {}).get("namespace") or "default"
        except config.ConfigException:
            try:
                config.load_incluster_config()
            except config.ConfigException:
                raise ConfigError(
                    "no cluster is configured: set KUBECONFIG, or log in to one so that `kubectl get ns` works"
                ) from None
            default = "default"
        self._namespace = "" if everywhere else namespace or default
        self._objects = kubernetes.client.CustomObjectsApi()
        self._core = kubernetes.client.CoreV1Api()

    @property
    def about(self) -> str:
        """In which namespace."""
        return f"in namespace {self._namespace}" if self._namespace else "in any namespace"

    def _call(self, what: str, function: Any, *arguments: Any, **more: Any) -> Any:
        kubernetes = _client()
        try:
            return function(*arguments, _request_timeout=30, **more)
        except kubernetes.client.ApiException as error:
            words = f"{error.status} {error.reason}"
            if error.status == 404:
                raise UsageError(f"{what}: not found; is the operator's chart installed? ({words})") from None
            raise Unavailable(f"{what}: the API server answered {words}") from None
        except Exception as error:  # urllib3's errors, by their text
            raise Unavailable(f"{what}: the API server does not answer ({type(error).__name__})") from None

    def runs(self) -> list[Listed]:
        """Every run of the namespace, oldest first."""
        found = []
        for kind in KINDS.values():
            if self._namespace:
                answer = self._call(
                    f"listing {kind.plural}",
                    self._objects.list_namespaced_custom_object,
                    GROUP,
                    VERSION,
                    self._namespace,
                    kind.plural,
                )
            else:
                answer = self._call(
                    f"listing {kind.plural}", self._objects.list_cluster_custom_object, GROUP, VERSION, kind.plural
                )
            found += [(item["metadata"]["creationTimestamp"], _listed(kind.__name__, item)) for item in answer["items"]]
        return [run for _, run in sorted(found, key=lambda pair: pair[0])]

    def _patch(self, run: Listed, spec: dict[str, Any]) -> None:
        self._call(
            f"changing {run.label}",
            self._objects.patch_namespaced_custom_object,
            GROUP,
            VERSION,
            run.namespace,
            KINDS[run.kind].plural,
            run.name,
            {"spec": spec},
        )

    def _check(self, run: Listed) -> None:
        if run.ended:
            raise UsageError(f"{run.label} has ended ({run.phase})")

    def suspend(self, run: Listed) -> str:
        """Set spec.suspend."""
        self._check(run)
        self._patch(run, {"suspend": True})
        return f"{run.label} saves and stops; `qednano resume {run.name}` goes on"

    def resume(self, run: Listed) -> str:
        """Take spec.suspend back."""
        self._check(run)
        self._patch(run, {"suspend": False})
        return f"{run.label} goes on from its last checkpoint"

    def cancel(self, run: Listed) -> str:
        """Set spec.cancel."""
        self._check(run)
        self._patch(run, {"cancel": True})
        return f"{run.label} saves and ends for good; what it has saved stays on its volume"

    def logs(self, run: Listed, role: str, lines: int, follow: bool, out: TextIO) -> None:
        """Print the newest logs of the run's pods; with ``follow`` of one pod, the first."""
        where = [f"{_LABEL}kind={run.kind}", f"{_LABEL}run={run.name}"]
        if role:
            where.append(f"{_LABEL}role={role}")
        pods = self._call(
            "listing pods", self._core.list_namespaced_pod, run.namespace, label_selector=",".join(where)
        ).items
        if not pods:
            raise UsageError(f"{run.label} has no pod{f' of role {role}' if role else ''} now")
        newest: dict[str, Any] = {}
        for pod in sorted(pods, key=lambda item: item.metadata.creation_timestamp):
            labels = pod.metadata.labels
            newest[f"{labels.get(_LABEL + 'role')}-{labels.get(_LABEL + 'index', pod.metadata.name)}"] = pod
        for name, pod in newest.items():
            print(f"==> {name} ({pod.metadata.name})", file=out)
            answer = self._core.read_namespaced_pod_log(
                pod.metadata.name, run.namespace, tail_lines=lines, follow=follow, _preload_content=not follow
            )
            if follow:
                for chunk in answer.stream():
                    out.write(chunk.decode(errors="replace"))
                    out.flush()
            else:
                print(answer, end="" if answer.endswith("\n") else "\n", file=out)


def _listed(kind: str, item: dict[str, Any]) -> Listed:
    meta = item["metadata"]
    try:
        status = RunStatus.model_validate(item.get("status") or {})
    except ValidationError:
        status = None  # a newer operator's
    return Listed(kind, meta["namespace"], meta["name"], status, meta["namespace"])
