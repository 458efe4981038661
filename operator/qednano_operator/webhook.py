"""Serves the admission webhook over TLS and keeps its certificate: in one Secret, which all replicas share.

Each replica looks at the Secret now and then. Whoever finds that the certificate ends soon replaces it; the API
server, which refuses the second of two writes, settles who does. The authorities come into the webhook's
configuration before the new certificate is shown, and earlier ones stay there until they end.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import ssl
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from qednano.api.profile import Profile
from qednano_operator.admission import NotAReview, answer
from qednano_operator.certificates import Identity, is_due, make
from qednano_operator.decision import Object
from qednano_operator.kube import Conflict, Kube, KubeError

log = logging.getLogger(__name__)

PATH = "/validate"
CONFIGURATION = "ValidatingWebhookConfiguration"
_INTERVAL = 300.0
_RETRY = 5.0
_SETTLE = 5.0  # the API server takes a changed configuration up within a second or two
_BODY = 4 << 20  # bytes: an object of etcd's largest size, twice, and some


@dataclass(frozen=True)
class WebhookSettings:
    """``name``: of the Secret in ``namespace`` and of the webhook's configuration. ``hosts``: what it is called by."""

    port: int
    name: str
    namespace: str
    hosts: tuple[str, ...]


def _now() -> datetime:
    return datetime.now(UTC)


class Webhook:
    """One replica's webhook."""

    def __init__(
        self, kube: Kube, settings: WebhookSettings, profiles: Mapping[str, Profile], now: Callable[[], datetime] = _now
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._profiles = profiles
        self._now = now
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._shown: Identity | None = None

    async def prepare(self, tell: Callable[[str], None]) -> None:
        """Return once there is a certificate to show; ``tell`` is told what is in the way meanwhile."""
        while True:
            try:
                await self.renew()
                return
            except KubeError as error:
                log.warning("the webhook has no certificate yet: %s", error)
                tell(f"the webhook has no certificate yet: {error}")
                await asyncio.sleep(_RETRY)

    async def serve(self, bind: str) -> web.AppRunner:
        """Listen; clean the returned runner up to stop."""
        app = web.Application(client_max_size=_BODY)
        app.router.add_post(PATH, self._validate)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, bind, self._settings.port, ssl_context=self._context).start()
        return runner

    async def keep(self) -> None:
        """Renew the certificate in time, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                await self.renew()
            except KubeError as error:
                log.warning("the webhook's certificate was not looked after and will be later: %s", error)

    async def renew(self) -> None:
        """See that the Secret has a certificate, the configuration its authorities, and that it is shown."""
        identity = await self._identity()
        if await self._announce(identity.authorities) and self._shown is not None:
            await asyncio.sleep(_SETTLE)
        if identity != self._shown:
            _load(self._context, identity)
            self._shown = identity

    async def _identity(self) -> Identity:
        settings = self._settings
        while True:
            secret = await self._kube.get("Secret", settings.namespace, settings.name)
            found = _read(secret)
            if found is not None and not is_due(found, settings.hosts, self._now()):
                return found
            made = make(settings.hosts, self._now(), found)
            with contextlib.suppress(Conflict):  # another replica was faster: take its certificate
                await self._kube.replace(_written(secret, made))
                log.info("the webhook has a new certificate")
                return made

    async def _announce(self, authorities: bytes) -> bool:
        """Put the authorities into the configuration; whether they were not there."""
        bundle = base64.b64encode(authorities).decode()
        while True:
            config = await self._kube.get(CONFIGURATION, "", self._settings.name)
            hooks = config.get("webhooks") or []
            if all(hook["clientConfig"].get("caBundle") == bundle for hook in hooks):
                return False
            for hook in hooks:
                hook["clientConfig"]["caBundle"] = bundle
            with contextlib.suppress(Conflict):
                await self._kube.replace({"kind": CONFIGURATION, **config})
                return True

    async def _validate(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(answer(await request.json(), self._profiles))
        except NotAReview as error:
            return web.Response(status=400, text=f"{error}\n")
        except ValueError as error:
            return web.Response(status=400, text=f"not JSON: {error}\n")


_KEYS = {"key": "tls.key", "certificate": "tls.crt", "authorities": "ca.crt"}


def _read(secret: Object) -> Identity | None:
    data = secret.get("data") or {}
    try:
        parts = {part: base64.b64decode(data[key], validate=True) for part, key in _KEYS.items()}
    except (KeyError, binascii.Error):
        return None
    # What can't be read is replaced, and nothing of it is trusted.
    return Identity(**parts) if all(b"-----BEGIN" in part for part in parts.values()) else None


def _written(secret: Object, identity: Identity) -> Object:
    data = {key: base64.b64encode(getattr(identity, part)).decode() for part, key in _KEYS.items()}
    return {"kind": "Secret", **secret, "data": data}


def _load(context: ssl.SSLContext, identity: Identity) -> None:
    """Show the certificate from the next connection on. ssl reads files only, so there are some for a moment."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder, "tls.key"), Path(folder, "tls.crt")
        key.touch(mode=0o600)
        key.write_bytes(identity.key)
        certificate.write_bytes(identity.certificate)
        context.load_cert_chain(certificate, key)
