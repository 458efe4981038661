"""Cluster DNS: answers for Services and for pods behind headless ones, read from the API server as they change.

`python -m tools.cluster.dns KUBECONFIG ADDRESS` serves UDP and TCP on port 53; other names go to the host's resolver.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import socketserver
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.cluster.aggregation import client_of
from tools.cluster.api_client import ApiClient, Refused

DOMAIN = "cluster.local"
_TTL = 5
_A, _CNAME, _ANY = 1, 5, 255
_NO_ERROR, _SERVER_FAILURE, _NO_SUCH_NAME = 0, 2, 3


@dataclass
class Records:
    """Services and Endpoints by (namespace, name)."""

    services: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    endpoints: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def lookup(self, name: str) -> tuple[list[str], str | None] | None:
        """Addresses and alias of a name under `svc.cluster.local`; None when there is no such name."""
        labels = name.lower().rstrip(".").split(".")
        if labels[-3:] != ["svc", *DOMAIN.split(".")] or not 5 <= len(labels) <= 6:
            return None
        *host, service, namespace = labels[:-3]
        spec = self.services.get((namespace, service), {}).get("spec")
        if spec is None:
            return None
        if spec.get("type") == "ExternalName":
            return None if host else ([], spec["externalName"])
        if spec.get("clusterIP") != "None":
            return None if host else ([spec["clusterIP"]], None)
        subsets = self.endpoints.get((namespace, service), {}).get("subsets") or []
        ready = [address for subset in subsets for address in subset.get("addresses") or []]
        if host:
            ready = [address for address in ready if address.get("hostname") == host[0]]
        return (sorted({address["ip"] for address in ready}), None) if ready or not host else None


def question(query: bytes) -> tuple[str, int, int]:
    """Name, type and the offset after the first question. Raises ValueError on anything malformed."""
    labels, at = [], 12
    try:
        while query[at]:
            length = query[at]
            if length > 63:
                raise ValueError("a question with a compressed name")
            labels.append(query[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
        kind, _ = struct.unpack_from("!HH", query, at + 1)
    except (IndexError, struct.error) as error:
        raise ValueError("a truncated question") from error
    return ".".join(labels), kind, at + 5


def answer(query: bytes, records: Records) -> bytes | None:
    """The response to a query about the cluster's names; None when the name isn't the cluster's."""
    name, kind, end = question(query)
    lowered = name.lower()
    if lowered.endswith(".in-addr.arpa") and _ours(lowered):
        return _response(query, end, _NO_SUCH_NAME, [])
    if lowered != DOMAIN and not lowered.endswith("." + DOMAIN):
        return None
    found = records.lookup(lowered)
    if found is None:
        return _response(query, end, _NO_SUCH_NAME, [])
    addresses, alias = found
    if alias is not None:
        return _response(query, end, _NO_ERROR, [(_CNAME, _encoded(alias))])
    wanted = addresses if kind in (_A, _ANY) else []
    return _response(query, end, _NO_ERROR, [(_A, socket.inet_aton(address)) for address in wanted])


def _ours(reverse: str) -> bool:
    """Whether a reverse name is of a private address that only the cluster could know."""
    try:
        return ipaddress.ip_address(".".join(reversed(reverse.split(".")[:4]))) in ipaddress.ip_network("10.204.0.0/14")
    except ValueError:
        return False


def _encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.rstrip(".").split(".")) + b"\0"


def _response(query: bytes, end: int, code: int, answers: list[tuple[int, bytes]]) -> bytes:
    # QR, AA and RA set; opcode and RD as asked; the answers' names point at the question's (0xC00C).
    flags = 0x8480 | (struct.unpack_from("!H", query, 2)[0] & 0x7900) | code
    body = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, _TTL, len(data)) + data for kind, data in answers)
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(answers), 0, 0) + query[12:end] + body


def follow(client: ApiClient, path: str, store: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Keeps `store` like the list at `path`, for ever."""

    def key(item: dict[str, Any]) -> tuple[str, str]:
        return item["metadata"]["namespace"], item["metadata"]["name"]

    while True:
        with contextlib.suppress(Refused, OSError, ValueError):
            listed = client.request("GET", path)
            fresh = {key(item): item for item in listed["items"]}
            for gone in store.keys() - fresh.keys():
                store.pop(gone, None)
            store.update(fresh)
            for event in client.watch(path, listed["metadata"]["resourceVersion"]):
                if event["type"] in ("ADDED", "MODIFIED"):
                    store[key(event["object"])] = event["object"]
                elif event["type"] == "DELETED":
                    store.pop(key(event["object"]), None)
                elif event["type"] == "ERROR":
                    break
        time.sleep(0.5)


def _upstream() -> str:
    for line in Path("/etc/resolv.conf").read_text().splitlines():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            return words[1]
    return "127.0.0.53"


def _forward(query: bytes) -> bytes:
    """Asks the host's resolver; the answer says «server failure» when that one is silent."""
    try:
        server = _upstream()
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as upstream:
            upstream.settimeout(4)
            upstream.connect((server, 53))
            upstream.send(query)
            return upstream.recv(65535)
    except OSError:
        return _response(query, question(query)[2], _SERVER_FAILURE, [])


def serve(records: Records, address: str, port: int = 53) -> None:
    """Serves UDP and TCP until the process ends."""

    def reply(query: bytes) -> bytes:
        mine = answer(query, records)
        return _forward(query) if mine is None else mine

    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ValueError, OSError):
                query, channel = self.request
                channel.sendto(reply(query), self.client_address)

    class Stream(socketserver.StreamRequestHandler):
        timeout = 10

        def handle(self) -> None:
            with contextlib.suppress(ValueError, OSError, struct.error):
                while True:
                    (length,) = struct.unpack("!H", self.rfile.read(2))
                    response = reply(self.rfile.read(length))
                    self.wfile.write(struct.pack("!H", len(response)) + response)

    class Tcp(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True

    udp, tcp = socketserver.ThreadingUDPServer((address, port), Datagram), Tcp((address, port), Stream)
    udp.daemon_threads = True
    threading.Thread(target=tcp.serve_forever, daemon=True).start()
    udp.serve_forever()


def main(kubeconfig: str, address: str) -> None:
    """Follows Services and Endpoints and serves them on port 53 of `address`."""
    client, records = client_of(Path(kubeconfig)), Records()
    for path, store in (("/api/v1/services", records.services), ("/api/v1/endpoints", records.endpoints)):
        threading.Thread(target=follow, args=(client, path, store), daemon=True).start()
    serve(records, address)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
