"""A small Hugging Face Hub on this machine: datasets with one branch, read and written by the Hub's own protocol.

It knows what `huggingface_hub` and `datasets` ask for: revisions, trees, files by range, and a push of LFS objects
closed by one commit. It can break off in the middle of a push.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_test"


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=lambda: ["0" * 40])

    @property
    def sha(self) -> str:
        return self.commits[-1]


@dataclass
class Hub:
    """What the server has, and what it was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    broken: threading.Event = field(default_factory=threading.Event)  # an upload was refused
    uploads_left: int | None = None  # so many objects are taken, then it answers nothing but 503
    commits_left: int | None = None

    def dataset(self, name: str, files: dict[str, bytes]) -> Repository:
        found = self.repositories[name] = Repository()
        found.files = dict(files)
        found.commits.append(hashlib.sha1(json.dumps(sorted(files)).encode()).hexdigest())
        return found


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), Content_Type="application/json")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", X_Error_Code=code, X_Error_Message=code)

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._send(401, b'{"error": "Invalid username or password."}', X_Error_Message="Invalid username or password.")
        return False

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if (repository := self._repository(found[1], found[2])) is not None:
                siblings = [{"rfilename": name} for name in sorted(repository.files)]
                self._json({"id": found[1], "sha": repository.sha, "private": False, "tags": [], "siblings": siblings})
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", path):
            if (repository := self._repository(found[1], found[2])) is not None:
                self._tree(repository, found[3])
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if (repository := self._repository(found[1], found[2])) is not None:
                self._file(repository, found[3])
        else:
            self._missing("EntryNotFound")

    do_HEAD = do_GET

    def _repository(self, name: str, revision: str | None) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._missing("RepoNotFound")
        elif revision not in (None, "main", *repository.commits):
            self._missing("RevisionNotFound")
        else:
            return repository
        return None

    def _tree(self, repository: Repository, folder: str) -> None:
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        start = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for name in sorted(repository.files):
            if not name.startswith(start):
                continue
            parts = name[len(start) :].split("/")
            for depth in range(1, len(parts)):
                inner = start + "/".join(parts[:depth])
                if recursive or depth == 1:
                    entries[inner] = {"type": "directory", "path": inner, "oid": "0" * 40, "size": 0}
            if recursive or len(parts) == 1:
                entries[name] = self._entry(repository, name)
        if folder and not entries:
            self._missing("EntryNotFound")
            return
        self._json(list(entries.values()))

    def _entry(self, repository: Repository, name: str) -> dict[str, object]:
        data = repository.files[name]
        return {"type": "file", "path": name, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}

    def _file(self, repository: Repository, name: str) -> None:
        if name not in repository.files:
            self._missing("EntryNotFound")
            return
        data = repository.files[name]
        about = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X_Repo_Commit": repository.sha,
            "Accept_Ranges": "bytes",
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self._send(200, data, **about)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        self._send(206, data[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(data)}", **about)

    def do_POST(self) -> None:
        self.hub.asked.append(f"POST {self.path}")
        path, body = unquote(urlsplit(self.path).path), self._body()
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", path):
            if (repository := self._repository(found[1], found[2])) is not None:
                names = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
                self._json([self._entry(repository, name) for name in names if name in repository.files])
            return
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
            return
        if not self._may_write():
            return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/preupload/([^/]+)", path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".parquet") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files, "commitOid": self.hub.repositories[found[1]].sha})
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/([^/]+)", path):
            self._commit(found[1], body)
        else:
            self._missing("EntryNotFound")

    def _create(self, wanted: dict) -> None:
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        if name in self.hub.repositories:
            self._json(
                {"error": "You already created this dataset repo", "url": f"{self.hub.url}/datasets/{name}"}, 409
            )
            return
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories[name] = Repository(private=private)
        self._json({"url": f"{self.hub.url}/datasets/{name}", "name": name})

    def _batch(self, wanted: dict) -> None:
        objects = []
        for item in wanted["objects"]:
            known = item["oid"] in self.hub.objects
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}", "header": {}}}
            objects.append({**item, "authenticated": True, **({} if known else {"actions": upload})})
        self._json({"transfer": "basic", "objects": objects})

    def do_PUT(self) -> None:
        self.hub.asked.append(f"PUT {self.path}")
        data, oid = self._body(), self.path.rsplit("/", 1)[1]
        if self.hub.uploads_left == 0:
            self.hub.broken.set()
            self._send(503, b"{}")
            return
        if self.hub.uploads_left is not None:
            self.hub.uploads_left -= 1
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.objects[oid] = data
        self.hub.uploads.append(oid)
        self._send(200)

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        if self.hub.commits_left == 0:
            self.hub.broken.set()
            self._send(503, b"{}")
            return
        files = dict(repository.files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
                repository.lfs.add(value["path"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        repository.files = files
        repository.commits.append(hashlib.sha1(repository.sha.encode() + body).hexdigest())
        self._json(
            {"commitUrl": f"{self.hub.url}/datasets/{name}/commit/{repository.sha}", "commitOid": repository.sha}
        )


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that was killed is nothing to tell of."""


def serve() -> tuple[Hub, ThreadingHTTPServer]:
    """A hub with no datasets, and its server, which runs until it is shut down."""
    hub = Hub()
    server = Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return hub, server
