"""A control plane's keys and certificates, made with openssl in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.cluster.steps import run

_DAYS = "3650"
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def make(folder: Path, *, addresses: Sequence[str], service_names: Sequence[str]) -> None:
    """Makes what is missing of the control plane's certificates.

    `ca` signs the two servers, `front-proxy-ca` signs the aggregator's client certificate,
    `service-account.key` signs the pods' tokens.
    """
    if (folder / "complete").exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _authority(folder, "ca")
    _authority(folder, "front-proxy-ca")
    _signed(
        folder,
        "apiserver",
        "ca",
        [
            *(f"IP:{address}" for address in addresses),
            "DNS:localhost",
            "DNS:kubernetes",
            "DNS:kubernetes.default",
            "DNS:kubernetes.default.svc",
            "DNS:kubernetes.default.svc.cluster.local",
        ],
    )
    _signed(
        folder, "apiextensions", "ca", ["IP:127.0.0.1", "DNS:localhost", *(f"DNS:{name}" for name in service_names)]
    )
    _signed(folder, "front-proxy", "front-proxy-ca", [])
    key = folder / "service-account.key"
    run(["openssl", "genrsa", "-out", key, "2048"], what="making the key of service accounts")
    run(
        ["openssl", "rsa", "-in", key, "-pubout", "-out", folder / "service-account.pub"],
        what="making the public key of service accounts",
    )
    (folder / "complete").touch()


def _authority(folder: Path, name: str) -> None:
    run(
        [
            "openssl",
            "req",
            "-x509",
            *_KEY,
            "-days",
            _DAYS,
            "-subj",
            f"/CN=qednano-{name}",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout",
            folder / f"{name}.key",
            "-out",
            folder / f"{name}.crt",
        ],
        what=f"making the authority {name}",
    )


def _signed(folder: Path, name: str, authority: str, alternatives: Sequence[str]) -> None:
    request = folder / f"{name}.csr"
    run(
        ["openssl", "req", "-new", *_KEY, "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", request],
        what=f"making the key of {name}",
    )
    lines = ["basicConstraints=CA:FALSE", "extendedKeyUsage=serverAuth,clientAuth"]
    if alternatives:
        lines.append(f"subjectAltName={','.join(alternatives)}")
    extensions = folder / f"{name}.ext"
    extensions.write_text("\n".join(lines) + "\n")
    run(
        [
            "openssl",
            "x509",
            "-req",
            "-in",
            request,
            "-CA",
            folder / f"{authority}.crt",
            "-CAkey",
            folder / f"{authority}.key",
            "-CAcreateserial",
            "-days",
            _DAYS,
            "-extfile",
            extensions,
            "-out",
            folder / f"{name}.crt",
        ],
        what=f"signing the certificate of {name}",
    )
