"""Cluster DNS answers as Kubernetes documents it."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from tools.cluster.dns import Records, answer, question

HEADLESS: dict[tuple[str, str], dict[str, Any]] = {("ml", "ranks"): {"spec": {"clusterIP": "None"}}}
RANKS: list[dict[str, str]] = [{"ip": "10.0.0.2", "hostname": "r0"}, {"ip": "10.0.0.3", "hostname": "r1"}]
PODS: dict[tuple[str, str], dict[str, Any]] = {("ml", "ranks"): {"subsets": [{"addresses": RANKS}]}}
PLAIN: dict[tuple[str, str], dict[str, Any]] = {
    ("ml", "server"): {"spec": {"clusterIP": "10.206.0.9", "type": "ClusterIP"}}
}


def query(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def parse(response: bytes | None) -> tuple[int, list[str]]:
    """Response code and IPv4 addresses."""
    assert response is not None
    identity, flags, questions, answers, _, _ = struct.unpack_from("!HHHHHH", response)
    assert (identity, flags & 0x8000, questions) == (7, 0x8000, 1)
    at = question(response)[2]
    addresses = []
    for _ in range(answers):
        pointer, kind, _, _, length = struct.unpack_from("!HHHIH", response, at)
        assert (pointer, kind, length) == (0xC00C, 1, 4)
        addresses.append(socket.inet_ntoa(response[at + 12 : at + 16]))
        at += 16
    return flags & 15, addresses


def test_a_service_has_its_cluster_address() -> None:
    assert parse(answer(query("server.ml.svc.cluster.local"), Records(PLAIN))) == (0, ["10.206.0.9"])


def test_a_headless_service_has_its_pods_addresses_and_each_pod_a_name() -> None:
    records = Records(HEADLESS, PODS)
    assert parse(answer(query("ranks.ml.svc.cluster.local"), records)) == (0, ["10.0.0.2", "10.0.0.3"])
    assert parse(answer(query("R1.ranks.ml.svc.cluster.local"), records)) == (0, ["10.0.0.3"])


@pytest.mark.parametrize("name", ["r2.ranks.ml.svc.cluster.local", "gone.ml.svc.cluster.local", "svc.cluster.local"])
def test_a_name_that_is_not_there_does_not_exist(name: str) -> None:
    assert parse(answer(query(name), Records(HEADLESS, PODS))) == (3, [])


def test_a_name_without_an_address_of_the_asked_family_exists_empty() -> None:
    assert parse(answer(query("server.ml.svc.cluster.local", kind=28), Records(PLAIN))) == (0, [])


def test_a_headless_service_without_ready_pods_exists_empty() -> None:
    assert parse(answer(query("ranks.ml.svc.cluster.local"), Records(HEADLESS))) == (0, [])


def test_other_names_are_left_to_the_host() -> None:
    assert answer(query("example.org"), Records(PLAIN)) is None


@pytest.mark.parametrize("broken", [b"", b"\0" * 12, query("a.b")[:-3], b"\0" * 12 + b"\xc0\x0c\0\1\0\1"])
def test_a_malformed_query_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match="question"):
        question(broken)
