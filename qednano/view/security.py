"""What keeps the viewer to the person at this machine: Host check, policy headers, and forms only from own pages."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
LARGEST_FORM = 128 * 1024  # bytes
TOKEN = secrets.token_urlsafe(24)  # of this process; only its own pages know it


def host_name(host: str) -> str:
    """The name of a Host header, without its port and in lower case."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(name: str) -> bool:
    """Whether a name or address means this machine."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class OwnPagesOnly:
    """ASGI middleware. A page of another site that had its name point here (DNS rebinding) is refused by its Host."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self.app, self.names = app, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal:
            await PlainTextResponse(f"{refusal}\n", 403)(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)

    def _refusal(self, method: str, headers: Headers) -> str:
        name = host_name(headers.get("host", ""))
        if not is_loopback(name) and name not in self.names:
            return f"the viewer doesn't answer to the name {name[:100]!r}; start it with --allow-host to let it"
        if method in ("GET", "HEAD"):
            return ""
        origin = headers.get("origin")
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "this form was sent by a page of another site"
        if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            return "this form was sent by a page of another site"
        return ""


async def form_of(request: Request) -> dict[str, str] | None:
    """The fields of a form from one of our pages; None when it's too large or lacks this process's token."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_FORM:
            return None
    fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=50))
    return fields if secrets.compare_digest(fields.pop("token", "").encode(), TOKEN.encode()) else None
