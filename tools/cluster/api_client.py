"""A few lines of HTTPS to an API server: enough for the cluster tool, with nothing to install."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools.cluster.errors import ClusterError

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Refused(ClusterError):
    """The server answered, with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class ApiClient:
    """One server, one token; a connection per request."""

    url: str
    authority: Path
    token: str

    def request(
        self, method: str, path: str, body: object = None, content_type: str = "application/json", timeout: float = 10.0
    ) -> Any:
        """Sends one request and returns the decoded JSON answer. Raises Refused, or OSError when unreachable."""
        connection = self._connect(timeout)
        try:
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{self.url} broke off: {error}") from error
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(answer.status, f"{method} {path} answered {answer.status}: {_message(text)}")
        return json.loads(text) if text[:1] in "{[" else text

    def apply(self, path: str, body: dict[str, Any]) -> Any:
        """Server-side apply under the cluster tool's own field manager."""
        return self.request("PATCH", f"{path}?fieldManager=qednano-cluster&force=true", body, APPLY)

    def ready(self, path: str = "/readyz") -> bool:
        """Whether the server answers `path` with success."""
        try:
            self.request("GET", path, timeout=3.0)
        except (Refused, OSError):
            return False
        return True

    def watch(self, path: str, version: str) -> Iterator[dict[str, Any]]:
        """Yields watch events from `version` on, until the server ends the stream."""
        connection = self._connect(330.0)
        try:
            connection.request(
                "GET",
                f"{path}?watch=1&timeoutSeconds=300&resourceVersion={version}",
                headers={"Authorization": f"Bearer {self.token}"},
            )
            answer = connection.getresponse()
            if answer.status >= 300:
                raise Refused(answer.status, f"watching {path} answered {answer.status}")
            for line in answer:
                yield json.loads(line)
        except http.client.HTTPException as error:
            raise ConnectionError(f"watching {path} broke off: {error}") from error
        finally:
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        parts = urlsplit(self.url)
        context = ssl.create_default_context(cafile=str(self.authority))
        return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=context)


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:300]
