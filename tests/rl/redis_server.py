"""A real redis-server of the system's package, on a port of its own, that can be killed and started again."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import redis

from qednano.llm.vllm import free_port
from tools.cluster.debian import require


class RedisServer:
    """Keeps what it acknowledged: appendonly with fsync at each write."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        require(["redis-server"], purpose="the sample stream in Redis")
        binary = shutil.which("redis-server")
        assert binary, "redis-server is not there: apt-get install redis-server"
        settings = {
            "--port": str(self.port), "--bind": "127.0.0.1", "--dir": str(self.folder), "--appendonly": "yes",
            "--appendfsync": "always", "--save": "", "--requirepass": "secret",
        }  # fmt: skip
        log = (self.folder / "redis.log").open("ab")
        self._process = subprocess.Popen([binary, *[word for pair in settings.items() for word in pair]], stdout=log)
        deadline = time.monotonic() + 20
        while True:
            try:
                with redis.Redis(port=self.port, password="secret") as client:
                    client.ping()
                return
            except redis.exceptions.ConnectionError:
                assert time.monotonic() < deadline, (self.folder / "redis.log").read_text()[-1000:]
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
