"""`qednano eval`: an EvalRun from a command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import pytest
import yaml

from qednano.api.load import load_documents
from qednano.tiny import teacher
from qednano.tiny.problems import generate
from tests.cli.test_commands import REPOSITORY, here, qednano

SCORED = REPOSITORY / "examples/graders/scored.jsonl"
CHECKER = ("--grader", "tiny-divisibility")


def manifest(folder: Path, *arguments: str | Path) -> dict:
    """The EvalRun that the arguments mean; it passes validation."""
    done = here("eval", *arguments, "--root", folder / "root", "--show-manifest")
    assert done.returncode == 0, done.stderr
    file = folder / "shown.yaml"
    file.write_text(done.stdout)
    load_documents([file])
    return yaml.safe_load(done.stdout)


def test_models_and_benchmarks_of_every_kind_become_a_valid_manifest(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    rubric = ("--grader-model", "https://llm.example/v1#judge", "--grader-key", "judge/token", "--votes", "3")
    shown = manifest(tmp_path, "hf://Qwen/Qwen3-4B", "--on", "imo-proofbench", *rubric, "--gpus", "2", "--servers", "4")
    assert shown["metadata"]["name"] == "qwen3-4b-on-imo-proofbench"
    spec = shown["spec"]
    assert spec["model"] == {"uri": "hf://Qwen/Qwen3-4B"} and spec["benchmark"] == {"known": "imo-proofbench"}
    judge = {"url": "https://llm.example/v1", "model": "judge", "apiKey": {"name": "judge", "key": "token"}}
    assert spec["grader"] == {"rubric": {"model": {"endpoint": judge}, "votes": 3}}
    assert spec["server"]["tensorParallel"] == spec["server"]["resources"]["gpus"] == 2

    spec = manifest(tmp_path, "https://llm.example/v1#big", "--on", tmp_path / "rows.jsonl", *CHECKER)["spec"]
    assert spec["model"]["endpoint"]["model"] == "big"
    assert spec["benchmark"] == {"uri": str(tmp_path / "rows.jsonl")}

    spec = manifest(
        tmp_path, "rlr/tiny-rl@best", "--on", "tiny/test", *CHECKER, "--baseline", "start=sft/tiny-sft@initial",
        "--baseline", "early=rlr/tiny-rl@120", "--scaffold", "verifyrefine", "--samples", "4", "--limit", "9",
    )["spec"]  # fmt: skip
    assert spec["model"] == {"rlRun": {"name": "tiny-rl", "checkpoint": "Best"}}
    assert [item["model"] for item in spec["baselines"]] == [
        {"sftRun": {"name": "tiny-sft", "checkpoint": "Initial"}},
        {"rlRun": {"name": "tiny-rl", "step": 120}},
    ]
    assert spec["scaffold"] == {"type": "VerifyRefine"} and spec["samplesPerProblem"] == 4
    assert spec["benchmark"] == {"proofDataset": {"name": "tiny", "split": "test"}, "limit": 9}

    spec = manifest(tmp_path, "hf://a/b", "--on", "imo-answerbench")["spec"]
    assert spec["grader"] == {"finalAnswer": {}}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("hf://a/b",), "say by --on what to evaluate on"),
        (("hf://a/b", "--on", "imo-proofbench"), "a rubric grader needs a model: --grader-model"),
        (("hf://a/b", "--on", "a/b/c", *CHECKER), "--on is 'a/b/c'; it must be one of imo-answerbench"),
        (("nobody", "--on", "tiny/test", *CHECKER), "'nobody' names no model: give URL#NAME"),
        (("rlr/x@worst", "--on", "tiny/test", *CHECKER), "ends in @worst; it must be @initial, @best or @STEP"),
        (("https://llm.example/v1", "--on", "tiny/test", *CHECKER), "write the model's name there behind a #"),
        (("hf://a/b", "--on", "tiny/test", *CHECKER, "--scaffold", "Magic"), "--scaffold is 'Magic'"),
        (("hf://a/b", "--on", "tiny/test", *CHECKER, "--baseline", "x"), "--baseline is 'x'; write NAME=MODEL"),
        (("hf://a/b", "--on", "tiny/test", "--grader", "magic"), "--grader is 'magic'; it must be rubric"),
        (("--on", "tiny/test", *CHECKER), "must name proofs that people scored: imo-gradingbench"),
    ],
)
def test_what_is_not_understood_is_one_sentence_with_the_remedy(tmp_path: Path, arguments: tuple, told: str) -> None:
    done = here("eval", *arguments, "--root", tmp_path)
    assert (done.returncode, done.stdout) == (64, "")
    assert told in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A server whose model knows the tiny task: right proofs for half of the problems."""
    known = {problem.text: problem for problem in generate(3, 12)}

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            statement = next(text for text in known if text in asked["messages"][-1]["content"])
            right = list(known).index(statement) % 2 == 0
            proof = teacher.write(known[statement], Random(0)) if right else "It is so."
            message = {"role": "assistant", "content": proof}
            answer = {
                "model": "knows", "choices": [{"message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 9},
            }  # fmt: skip
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1#knows"
    server.shutdown()


def test_a_model_at_an_endpoint_is_evaluated_and_its_scores_are_printed(endpoint: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": item.id, "problem": item.text}) + "\n" for item in generate(3, 12)))
    command = ("eval", endpoint, "--on", rows, *CHECKER, "--max-tokens", "96", "--root", tmp_path / "root")
    done = qednano(*command, "-o", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (model,) = found["scores"]["models"]
    assert model["correct"]["mean"] == 0.5 and model["correct"]["low"] < 0.5 < model["correct"]["high"]
    assert Path(found["report"]).is_file() and found["run"] == "EvalRun/knows-on-rows"
    again = qednano(*command)
    assert "MODEL  MEAN SCORE  95 % INTERVAL" in again.stdout and "report: " in again.stdout
    assert "(as before)" in again.stdout


def test_a_grader_is_measured_when_no_model_is_named(tmp_path: Path) -> None:
    done = qednano("eval", "--on", SCORED, *CHECKER, "--root", tmp_path, "-o", "json")
    assert done.returncode == 0, done.stderr
    (grader,) = json.loads(done.stdout)["grading"]["graders"]
    assert grader["graded"] == 18 and "mae" in grader
