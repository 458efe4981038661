"""The webhook's certificate: made by an authority that signs it and nothing else, and is forgotten at once."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE = timedelta(days=90)
RENEW = timedelta(days=30)  # before its end
_SKEW = timedelta(minutes=5)  # other clocks may be behind this one
_KEPT = 3  # authorities in a bundle: this one and earlier ones, whose certificates other replicas may still show


@dataclass(frozen=True)
class Identity:
    """A server's key and certificate, and the authorities that its clients should trust; all PEM."""

    key: bytes
    certificate: bytes
    authorities: bytes


def make(names: Sequence[str], now: datetime, before: Identity | None = None) -> Identity:
    """A new key and certificate for DNS names and addresses, valid from now; ``before`` stays trusted till its end."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _called(f"qednano webhook authority {now:%Y-%m-%dT%H:%M:%SZ}")
    root = (
        _builder(issuer, issuer, authority.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    leaf = (
        _builder(_called("qednano webhook"), issuer, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    earlier = x509.load_pem_x509_certificates(before.authorities) if before else []
    trusted = [root, *(one for one in earlier if one.not_valid_after_utc > now)][:_KEPT]
    return Identity(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        leaf.public_bytes(serialization.Encoding.PEM),
        b"".join(one.public_bytes(serialization.Encoding.PEM) for one in trusted),
    )


def is_due(identity: Identity, names: Sequence[str], now: datetime) -> bool:
    """Whether it should be replaced: it ends soon, is for other names, or can't be read."""
    try:
        leaf = x509.load_pem_x509_certificate(identity.certificate)
        key = serialization.load_pem_private_key(identity.key, None)
        trusted = x509.load_pem_x509_certificates(identity.authorities)
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return True
    return (
        leaf.not_valid_after_utc - now < RENEW
        or list(found) != [_alternative(name) for name in names]
        or leaf.public_key() != key.public_key()
        or leaf.issuer not in [one.subject for one in trusted]
    )


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + LIFE)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
