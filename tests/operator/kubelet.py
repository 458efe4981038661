"""A kubelet's `exec`, and no more: commands that the API server hands on are run on this machine."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from qednano_operator import certificates

PROTOCOL = "v4.channel.k8s.io"
_OUT, _ERR, _END = b"\x01", b"\x02", b"\x03"


class ExecKubelet:
    """Answers exec with real processes whose `/qed` is a folder; ``spoil`` may change what they write, or cut it."""

    def __init__(self, volume: Path, spoil: Callable[[bytes], bytes] = lambda data: data) -> None:
        self.volume, self.spoil = volume, spoil
        self.port = 0
        self.asked: list[list[str]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> ExecKubelet:
        """Listen on a free port, with TLS as a kubelet has it."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(20)
        return self

    def stop(self) -> None:
        """Close the port."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    async def _listen(self) -> None:
        app = web.Application()
        app.router.add_get("/exec/{namespace}/{pod}/{container}", self._exec)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        identity = certificates.make(["127.0.0.1"], datetime.now(UTC))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        with tempfile.NamedTemporaryFile() as file:
            file.write(identity.certificate + identity.key)
            file.flush()
            context.load_cert_chain(file.name)
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _exec(self, request: web.Request) -> web.WebSocketResponse:
        command = request.query.getall("command")
        self.asked.append(command)
        socket = web.WebSocketResponse(protocols=(PROTOCOL,))
        await socket.prepare(request)
        moved = [str(self.volume) + word[4:] if word.startswith("/qed/") else word for word in command]
        process = await asyncio.create_subprocess_exec(
            *moved, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        spoilt = self.spoil(out)
        for start in range(0, len(spoilt), 1000):
            await socket.send_bytes(_OUT + spoilt[start : start + 1000])
        if err:
            await socket.send_bytes(_ERR + err)
        if len(spoilt) < len(out):  # a connection that breaks says nothing more
            await socket.close()
            return socket
        status = b'{"status":"Success"}' if process.returncode == 0 else b'{"status":"Failure","message":"exit code 1"}'
        await socket.send_bytes(_END + status)
        await socket.close()
        return socket
