"""A small S3 store on this machine: buckets that are read with signed requests, ranges and listings, page by page."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ACCESS_KEY = "AKIATEST"
_PAGE = 2  # keys in one answer to a listing


@dataclass
class Store:
    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)  # "bucket/key"
    ranges: list[int] = field(default_factory=list)  # bytes asked for at once
    failures: int = 0  # so many of the next reads are answered 503 (slow down)


class Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._send(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def do_GET(self) -> None:
        signed = self.headers.get("Authorization", "")
        if f"Credential={ACCESS_KEY}/" not in signed or "AWS4-HMAC-SHA256" not in signed:
            self._error(403, "AccessDenied")
            return
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        name = unquote(parts.path).strip("/")
        if "list-type" in query:
            self._list(name, query)
        elif "/" not in name:
            known = any(key.startswith(f"{name}/") for key in self.store.objects)
            self._send(200) if known else self._error(404, "NoSuchBucket")
        elif name not in self.store.objects:
            self._error(404, "NoSuchKey")
        else:
            self._object(self.store.objects[name])

    do_HEAD = do_GET

    def _object(self, data: bytes) -> None:
        about = {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Last_Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
        if self.command == "HEAD":
            self._send(200, data, **about)
            return
        if self.store.failures:
            self.store.failures -= 1
            self._error(503, "SlowDown")
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, end = (int(wanted[1]), int(wanted[2] or len(data) - 1)) if wanted else (0, len(data) - 1)
        piece = data[start : end + 1]
        self.store.ranges.append(len(piece))
        about |= {"Content_Range": f"bytes {start}-{start + len(piece) - 1}/{len(data)}"}
        self._send(206 if wanted else 200, piece, **about)

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        found: dict[str, bytes | None] = {}
        for name, data in sorted(self.store.objects.items()):
            key = name.removeprefix(f"{bucket}/")
            if key == name or not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                found[prefix + rest.split(delimiter)[0] + delimiter] = None
            else:
                found[key] = data
        after = query.get("continuation-token", [""])[0]
        keys = [key for key in sorted(found) if key > after]
        page, more = keys[:_PAGE], len(keys) > _PAGE
        items = "".join(
            f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
            if found[key] is None
            else f"<Contents><Key>{escape(key)}</Key><Size>{len(found[key] or b'')}</Size>"
            "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self._send(
            200,
            f'<?xml version="1.0"?><ListBucketResult><Name>{bucket}</Name><KeyCount>{len(page)}</KeyCount>'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>".encode(),
            Content_Type="application/xml",
        )


def serve() -> tuple[Store, ThreadingHTTPServer]:
    """An empty store, and its server, which runs until it is shut down."""
    store = Store()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("S3Handler", (Handler,), {"store": store}))
    server.daemon_threads = True
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return store, server
