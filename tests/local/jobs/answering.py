"""A server job: answers /health on its port until it is told to end."""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from qednano.errors import Stopped
from qednano.job import JobContext, Outcome, job


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@job
def main(ctx: JobContext) -> Outcome:
    with (ctx.run_dir / f"{ctx.role}-{ctx.index}.starts").open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "attempt": ctx.attempt}) + "\n")
    server = HTTPServer((ctx.host, ctx.port), _Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ctx.stopping.wait()
    raise Stopped("the server was asked to stop")


if __name__ == "__main__":
    sys.exit(main())
