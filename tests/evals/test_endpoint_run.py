"""`qednano run` of an evaluation whose model is an outside endpoint that misbehaves, in one job and in two shards."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest
import yaml

from qednano.artifacts import read_manifest
from qednano.tiny import teacher
from qednano.tiny.problems import generate

PROBLEMS = list(generate(0, 8))
PROOFS = {problem.text: teacher.write(problem, random.Random(0)) for problem in PROBLEMS}
CUT_OFF, BROKEN = PROBLEMS[0].text, ("status", "busy", "nonsense", "hang-up")


class Troubled(BaseHTTPRequestHandler):
    """Fails four times, each in its own way, then answers; one problem's proof is ended by the token limit."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = self.server.asked.total()
            self.server.asked[BROKEN[number] if number < len(BROKEN) else "sound"] += 1
            self.server.keys.add(self.headers["Authorization"])
        trouble = BROKEN[number] if number < len(BROKEN) else ""
        if trouble == "hang-up":
            self.close_connection = True
            return
        if trouble in ("status", "busy"):
            self._say({"error": {"message": "later"}}, 500 if trouble == "status" else 429)
            return
        question = body["messages"][-1]["content"]
        (proof,) = (proof for text, proof in PROOFS.items() if text in question)
        short = CUT_OFF in question
        message = {"role": "assistant", "content": proof[:40] if short else proof}
        choice = {"index": 0, "message": message, "finish_reason": "length" if short else "stop"}
        usage = {"prompt_tokens": 50, "completion_tokens": 20}
        self._say({"surprise": 1} if trouble else {"choices": [choice], "usage": usage, "model": body["model"]})

    def _say(self, value, code=200):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args): ...


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Troubled)
    server.lock, server.asked, server.keys = threading.Lock(), Counter(), set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def run_file(folder, port: int, shards: int):
    """The manifest of the run and the problems that it is about."""
    benchmark = folder / "problems.jsonl"
    rows = [{"id": problem.id, "problem": problem.text} for problem in PROBLEMS]
    benchmark.write_text("".join(json.dumps(row) + "\n" for row in rows))
    endpoint = {
        "url": f"http://127.0.0.1:{port}", "model": "outside", "apiKey": {"name": "outside", "key": "token"},
        "price": {"inputPerMillion": "2", "outputPerMillion": "10"},
    }  # fmt: skip
    spec = {
        "model": {"endpoint": endpoint}, "benchmark": {"uri": str(benchmark)}, "samplesPerProblem": 2,
        "sampling": {"maxTokens": 96}, "grader": {"checker": {"name": "tiny-divisibility"}}, "shards": shards,
        "restart": {"maxRestarts": 1, "backoffSeconds": 0},
    }  # fmt: skip
    path = folder / "run.yaml"
    run = {"apiVersion": "qednano.dev/v1alpha1", "kind": "EvalRun", "metadata": {"name": "outside"}, "spec": spec}
    path.write_text(yaml.safe_dump(run))
    return path


def artifact_of(folder, port: int, shards: int):
    """What `qednano run` leaves."""
    folder.mkdir()
    command = [sys.executable, "-m", "qednano.cli", "run", str(run_file(folder, port, shards)), "--root", str(folder)]
    env = os.environ | {"OUTSIDE_TOKEN": "sk-outside"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180, env=env)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (found,) = folder.glob("**/artifact")
    assert "sk-outside" not in ran.stdout + "".join(
        path.read_text(errors="replace") for path in folder.glob("**/*") if path.is_file()
    ), "the key is nowhere"
    return found


def test_an_endpoint_in_trouble_is_evaluated_and_two_shards_make_what_one_job_makes(tmp_path, server):
    alone = artifact_of(tmp_path / "one", server.server_port, 1)
    assert all(server.asked[trouble] == 1 for trouble in BROKEN), "each of its failures was met"
    assert server.asked["sound"] == 16 and server.keys == {"Bearer sk-outside"}
    merged = artifact_of(tmp_path / "two", server.server_port, 2)
    assert server.asked["sound"] == 32
    assert {path.name for path in merged.parent.glob("evaluation/part-*")} == {"part-00", "part-01"}

    results, others = (
        [row | {"seconds": 0} for row in pq.read_table(folder / "results.parquet").to_pylist()]
        for folder in (alone, merged)
    )
    assert others == results and len(results) == 16
    assert {row["score"] for row in results if row["finish_reason"] == "stop"} == {7.0}
    cut = [row for row in results if row["problem"] == PROBLEMS[0].id]
    assert {(row["finish_reason"], row["score"]) for row in cut} == {("length", 2.0)}, "what stands there is marked"
    assert {row["cost"] for row in results} == {(50 * 2 + 20 * 10) / 1e6}
    for folder in (alone, merged):
        manifest = read_manifest(folder)
        assert manifest.metrics["score"] == pytest.approx((7 + 2 / 7) / 8)
        assert {"results.parquet", "calls.parquet", "scores.json", "report.html"} <= set(manifest.files)
