"""Weights straight to the servers' GPUs, as HTTP requests: a real server role, its vLLM a stand-in with vLLM's routes.

Only NCCL itself is replaced: a wire that keeps what is sent and, as NCCL would, ends when the other side receives.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from qednano_jobs.rl_trainer import broadcaster_of

from qednano.api import RLRunSpec
from qednano.rl import weights
from qednano.rl.broadcast import Broadcaster
from qednano.rl.control import CONNECT, RECEIVE, token_file, token_of
from qednano.rl.nccl import TransferFailed
from qednano.rl.pool import Pool, ServerRecord, announce
from qednano.rl.trainer import Trainer
from tests.llm.server import RunningServer, serve, stand_in
from tests.rl.test_kills import events, until

WEIGHTS = {"model.norm.weight": torch.ones(4), "lm_head.weight": torch.zeros(8, 4, dtype=torch.bfloat16)}
UPDATE = ["/pause", "/start_weight_update", "/update_weights", "/finish_weight_update", "/resume"]


class Wire:
    """A fabric and its links. `log`: of the stand-in at the other end."""

    def __init__(self, log: Path) -> None:
        self.log, self.ids, self.sent, self.closed = log, [], [], 0

    def unique_id(self) -> bytes:
        self.ids.append(bytes([len(self.ids) + 1]) * 128)
        return self.ids[-1]

    def join(self, unique_id: bytes, ranks: int) -> Wire:
        assert unique_id == self.ids[-1] and ranks == 3
        return self

    def broadcast(self, tensor: torch.Tensor) -> None:
        self.sent.append(tensor)

    def finish(self, failed: Callable[[], bool]) -> None:
        had = self.received = getattr(self, "received", 0)
        deadline = time.monotonic() + 30
        while asked(self.log).count("/update_weights") <= had:
            assert time.monotonic() < deadline
            if failed():
                raise TransferFailed("the other side gave up")
            time.sleep(0.01)
        self.received += 1

    def close(self) -> None:
        self.closed += 1


def asked(log: Path) -> list[str]:
    """What vLLM was told by the server role, in order; tokens that it was asked for left out."""
    told = [event["event"] for event in events(log) if event["event"] not in ("complete", "answered")]
    return [f"/{name}" if name in ("pause", "resume") else name for name in told]


def spec(model: Path) -> dict:
    return {
        "model": {"uri": str(model)},
        "dataset": {"uri": "unused"},
        "algorithm": {"maxSteps": 1},
        "grader": {"checker": {"name": "tiny-divisibility"}},
        "rollout": {"resources": {"gpus": 2}, "tensorParallel": 2},
        "trainer": {"sequenceLength": 8192, "resources": {"gpus": 1}},
        "weightTransfer": "NCCL",
    }


@contextlib.contextmanager
def rollout(run_dir: Path, model: Path, log: Path, index: int = 0, **settings: object) -> Iterator[RunningServer]:
    env = stand_in(log, **settings)
    with serve(run_dir, "RLRun", spec(model), {"model": str(model)}, "rollout", index, env) as server:
        server.wait(server.health, what="server")
        until(lambda: any(record.url == server.url for record in Pool(run_dir, "rollout").servers()))
        yield server


def publish(run_dir: Path, model: Path, version: int) -> None:
    """Publish files, and wait until the server has seen them: it looks before each heartbeat."""
    weights.publish(run_dir, version, lambda folder: shutil.copytree(model, folder, dirs_exist_ok=True))
    then = time.time() + 0.2
    until(lambda: Pool(run_dir, "rollout").servers()[0].heartbeat > then)


def test_a_server_is_connected_once_and_receives_every_version_without_reading_its_files(tmp_path, model_folder):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    with rollout(run_dir, model_folder, log) as server:
        wire = Wire(log)
        sender = Broadcaster(run_dir, wire, ranks=2)
        for version in (1, 2):
            assert sender.send(version, WEIGHTS) == ["rollout-0"]
            assert server.health()["version"] == version
            publish(run_dir, model_folder, version)
        publish(run_dir, model_folder, 1)  # a trainer that came back: these are other weights
        server.wait_version(1)
        assert asked(log) == ["/init_weight_transfer_engine", *UPDATE, *UPDATE, "/pause", "load", "/resume"]
        connected, received = (next(e["body"] for e in events(log) if e["event"] == path) for path in
                               ("/init_weight_transfer_engine", "/update_weights"))  # fmt: skip
        assert connected == {
            "init_info": {
                "rank_offset": 1, "world_size": 3, "packed": False,
                "nccl_unique_id_b64": base64.b64encode(wire.ids[0]).decode(),
            }
        }  # fmt: skip
        assert received == {
            "update_info": {
                "names": ["model.norm.weight", "lm_head.weight"],
                "dtype_names": ["float32", "bfloat16"],
                "shapes": [[4], [8, 4]],
            }
        }
        assert wire.sent == [*WEIGHTS.values()] * 2
        sender.close()
        assert wire.closed == 1
    assert token_file(run_dir).stat().st_mode & 0o777 == 0o600


def test_what_vllm_takes_is_what_is_sent():
    nccl = pytest.importorskip("vllm.distributed.weight_transfer.nccl_engine")
    info = {"rank_offset": 1, "world_size": 3, "packed": False}
    made = nccl.NCCLWeightTransferInitInfo(**info, nccl_unique_id_b64=base64.b64encode(bytes(128)).decode())
    assert made.nccl_unique_id_bytes == bytes(128)
    nccl.NCCLWeightTransferUpdateInfo(names=["a"], dtype_names=["bfloat16"], shapes=[[1]])


def test_without_the_token_nothing_reaches_vllm(tmp_path, model_folder):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    with rollout(run_dir, model_folder, log) as server:
        for token in (None, "", "a guess"):
            if token == "a guess":
                Broadcaster(run_dir, Wire(log), ranks=2)  # makes the real one
                assert token_of(run_dir)
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            for path in (CONNECT, RECEIVE):
                request = urllib.request.Request(server.url + path, b"{}", headers)
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    urllib.request.urlopen(request, timeout=5)
        for path in ("/update_weights", "/init_weight_transfer_engine", "/collective_rpc", "/pause"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(urllib.request.Request(server.url + path, b"{}"), timeout=5)
        assert asked(log) == []


def test_a_server_that_can_not_connect_loads_files_and_is_asked_again(tmp_path, model_folder):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    with rollout(run_dir, model_folder, log, refuse="/init_weight_transfer_engine=1") as server:
        sender = Broadcaster(run_dir, Wire(log), ranks=2)
        assert sender.send(1, WEIGHTS) == []
        assert server.health()["version"] == 0
        publish(run_dir, model_folder, 1)
        server.wait_version(1)
        assert sender.send(2, WEIGHTS) == ["rollout-0"]
        assert server.health()["version"] == 2


def test_a_server_with_half_of_the_weights_ends_and_the_others_go_on(tmp_path, model_folder):
    run_dir, logs = tmp_path / "run", [tmp_path / "log-0", tmp_path / "log-1"]
    with (
        rollout(run_dir, model_folder, logs[0], 0, refuse="/finish_weight_update=1") as broken,
        rollout(run_dir, model_folder, logs[1], 1) as well,
    ):
        gone = ServerRecord("rollout-2", "http://127.0.0.1:9", 0, time.time(), 1)
        announce(run_dir, gone)  # died a moment ago

        class Wires:
            """A wire for each server, in the order in which they are connected."""

            def __init__(self) -> None:
                self.made = [Wire(log) for log in [*logs, tmp_path / "nobody"]]
                self.next = -1

            def unique_id(self) -> bytes:
                self.next += 1
                return self.made[self.next].unique_id()

            def join(self, unique_id: bytes, ranks: int) -> Wire:
                return self.made[self.next].join(unique_id, ranks)

        wires = Wires()
        assert Broadcaster(run_dir, wires, ranks=2).send(1, WEIGHTS) == ["rollout-1"]
        assert broken.process.wait(30) != 0
        assert "weights 1 did not arrive" in json.loads(broken.words.read_text())["message"]
        assert [wire.closed for wire in wires.made] == [1, 0, 0]
        assert well.health()["version"] == 1


def test_it_is_between_gpus():
    with pytest.raises(ValueError, match="trainer.resources.gpus is 0"):
        RLRunSpec.model_validate({**spec(Path("m")), "trainer": {"sequenceLength": 8192}})


def test_the_trainer_sends_before_its_files_are_there_and_only_while_it_is_the_newest(tmp_path):
    done: list[str] = []

    class Sending:
        def send(self, version: int, found: object) -> list[str]:
            done.append(f"send {version}")
            return []

    def fence() -> None:
        done.append("fence")

    session = SimpleNamespace(
        engine=SimpleNamespace(rank=0, step=3, weights=dict),
        context=SimpleNamespace(run_dir=tmp_path, stopping=threading.Event()),
        checkpoints=SimpleNamespace(before_publish=fence),
        write_model=lambda found, folder: done.append("files"),
    )
    Trainer(session, None, None, broadcaster=Sending())._publish()
    assert done[:4] == ["fence", "send 3", "files", "fence"]


def test_only_the_first_rank_of_a_run_that_asks_for_it_sends(tmp_path, model_folder):
    def sender(rank: int, **more: object) -> Broadcaster | None:
        session = SimpleNamespace(engine=SimpleNamespace(rank=rank), context=SimpleNamespace(run_dir=tmp_path))
        asked_for = RLRunSpec.model_validate({**spec(model_folder), **more})
        return broadcaster_of(asked_for, session, lambda: Wire(tmp_path / "log"))

    assert isinstance(sender(0), Broadcaster)
    assert sender(1) is None
    assert sender(0, weightTransfer="Files") is None


def test_a_server_that_falls_silent_while_it_receives_is_given_up(tmp_path, monkeypatch):
    """Its node is lost: the connection stays open, no answer comes, and its heartbeat has stopped."""
    monkeypatch.setattr("qednano.rl.broadcast.WATCH_SECONDS", 0.05)
    monkeypatch.setattr("qednano.rl.broadcast.GONE_SECONDS", 0.2)
    monkeypatch.setattr("qednano.rl.pool.LAPSE_SECONDS", 0.2)
    answered = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == RECEIVE:
                answered.wait(60)
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    class Hanging(Wire):
        """What was sent has not arrived, as far as the trainer's GPU knows."""

        def finish(self, failed: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 30
            while not failed():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            raise TransferFailed("the other side gave up")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        announce(tmp_path, ServerRecord("rollout-0", f"http://127.0.0.1:{listening.server_port}", 0, time.time(), 1))
        wire = Hanging(tmp_path / "log")
        began = time.monotonic()
        assert Broadcaster(tmp_path, wire, ranks=2).send(1, WEIGHTS) == []
        assert time.monotonic() - began < 10 and wire.closed == 1
        answered.set()
        listening.shutdown()
