"""Which API server kubectl would ask, and as whom: read by the official client, told as one `Connection`.

Its import takes half a second, so it is imported by the commands on a cluster only, when they ask.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qednano.errors import ConfigError

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NONE = "no cluster is configured: set KUBECONFIG, or log in to one so that `kubectl get ns` works"


@dataclass(frozen=True)
class Connection:
    """How to reach an API server. ``namespace`` is the context's."""

    server: str
    namespace: str = "default"
    tls: ssl.SSLContext | None = None
    server_name: str = ""
    proxy: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def load(context: str = "") -> Connection:
    """The connection of a context, by default the current one; in a pod without kubeconfig, its service account's.

    Raises ConfigError in one sentence. A log-in program of the kubeconfig is run.
    """
    try:
        from kubernetes import client, config
    except ImportError:
        raise ConfigError("clusters need the package kubernetes: pip install 'qednano[operator]'") from None
    found = client.Configuration()
    files = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    if any(Path(name).is_file() for name in files.split(os.pathsep) if name):
        with _one_sentence(f"the kubeconfig {files}"):
            contexts, active = config.list_kube_config_contexts(files)
            if context:
                active = next((one for one in contexts if one["name"] == context), None)
            if active is None:
                known = ", ".join(one["name"] for one in contexts)
                raise ConfigError(f"the kubeconfig has no context {context!r}; it has: {known}")
            config.load_kube_config(files, active["name"], found, persist_config=False)
            return _connection(found, active["context"].get("namespace") or "default")
    try:
        config.load_incluster_config(found)
        return _connection(found, _NAMESPACE.read_text().strip() or "default")
    except (config.ConfigException, OSError):
        raise ConfigError(_NONE) from None


def _connection(found: Any, namespace: str) -> Connection:
    """What the official client has read, for another client."""
    token = str((found.auth_settings().get("BearerToken") or {}).get("value") or "").strip()  # a file ends its line
    return Connection(
        server=found.host.rstrip("/"),
        namespace=namespace,
        tls=_tls(found) if found.host.startswith("https") else None,
        server_name=found.tls_server_name or "",
        proxy=found.proxy or "",
        headers={"Authorization": token} if token else {},
    )


def _tls(found: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=found.ssl_ca_cert)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # authorities of many clusters lack an extension; kubectl agrees
    if not found.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if found.cert_file:
        context.load_cert_chain(found.cert_file, found.key_file)
    return context


@contextlib.contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """Any error of the official client as one sentence, and so what it only logs: a log-in that failed."""
    told: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # of the client, of YAML, of base64, of files, of TLS: whatever is wrong in there
        told = [str(error) or type(error).__name__]
    finally:
        root.removeHandler(handler)
    if told:
        raise ConfigError(f"{what} can't be used ({' '.join(told[0].split())[:300]}); does `kubectl get ns` work?")
