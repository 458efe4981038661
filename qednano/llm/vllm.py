"""A vLLM server as a child process: its command line, environment, readiness, weight reload and end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from qednano.errors import QedError

SERVED_NAME = "policy"
_ENDING_SECONDS = 5.0
_ERROR = re.compile(r"\b[A-Za-z.]*(Error|Exception): .+")
_NO_CAUSE = re.compile(r" (INFO|WARNING) |EngineDeadError")  # advice, or the consequence of another error
_NOISE = ("nanobind: ", " - leaked ", " - ... skipped", "See https://nanobind")  # bindings at interpreter exit


class EngineFailed(QedError):
    """vLLM ended or could not do what it was told; the message has its last words."""

    reason = "EngineFailed"


@dataclass(frozen=True)
class VllmOptions:
    """What a server is started with; `gpus` 0 means CPU."""

    model: str
    port: int
    max_model_length: int
    max_concurrent: int
    threads: int = 1
    gpus: int = 0
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    seed: int = 0
    kv_cache_gib: int = 1
    receive_weights: bool = False  # from the trainer's GPU


def command(options: VllmOptions) -> list[str]:
    """vLLM's command line: on the loopback interface only, log-probs as sampled, no defaults from the model."""
    arguments = {
        "--model": options.model,
        "--served-model-name": SERVED_NAME,
        "--host": "127.0.0.1",
        "--port": str(options.port),
        "--max-model-len": str(options.max_model_length),
        "--max-num-seqs": str(options.max_concurrent),
        "--seed": str(options.seed),
        # log-probs of the distribution that was sampled from: after temperature and top-p
        "--logprobs-mode": "processed_logprobs",
        # generation_config.json may hold top-k and penalties that would silently change the policy
        "--generation-config": "vllm",
        # chunks of a streamed answer: enough to go on from when a server dies, few enough to cost nothing
        "--stream-interval": "64",
        "--worker-extension-cls": "qednano.llm.vllm_worker.WeightReload",
    }
    # No prefix cache: after a weight update it would mix keys and values of two policies.
    flags = ["--no-enable-prefix-caching", "--disable-log-stats", "--disable-uvicorn-access-log"]
    if options.gpus:
        module = "vllm.entrypoints.openai.api_server"
        arguments["--tensor-parallel-size"] = str(options.tensor_parallel)
        arguments["--pipeline-parallel-size"] = str(options.pipeline_parallel)
        arguments["--data-parallel-size"] = str(options.data_parallel)
        if options.receive_weights:
            arguments["--weight-transfer-config"] = '{"backend": "nccl"}'
    else:
        module = "qednano.llm.vllm_entry"
        arguments["--dtype"] = "float32"
        arguments["--distributed-executor-backend"] = "uni"
        arguments["--scheduler-cls"] = "qednano.llm.vllm_scheduler.BunchingScheduler"
        # A prompt cut in two ends vLLM 0.32 on CPUs: it wants to rewind a request's seeded generator, which can't be.
        flags += ["--enforce-eager", "--no-enable-chunked-prefill"]
        flags.append("--return-tokens-as-token-ids")  # of log-probs: nobody reads their texts, see vllm_entry
    pairs = [text for pair in arguments.items() for text in pair]
    return [sys.executable, "-m", module, *pairs, *flags]


def environment(options: VllmOptions, inherited: Mapping[str, str]) -> dict[str, str]:
    """The child's environment. The run's own settings (QED_*) are not handed on."""
    env = {name: value for name, value in inherited.items() if not name.startswith("QED_")}
    env |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if os.path.isdir(options.model):
        env["HF_HUB_OFFLINE"] = "1"
    env.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # five lines a weight update otherwise
    env["OMP_NUM_THREADS"] = str(options.threads)
    if not options.gpus:
        env |= {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker lives in the engine's process
            # Spinning threads starve whoever shares the cores: a tenfold loss was measured.
            "GOMP_SPINCOUNT": "0",
            "OMP_WAIT_POLICY": "PASSIVE",
            # Ranking log-probs is torch.compile'd even with enforce-eager, and an image has no C++ compiler.
            "TORCHDYNAMO_DISABLE": "1",
        }
    return env


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def end_with_parent() -> None:
    """For ``preexec_fn``: the child is sent SIGTERM when this process is gone, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # no orphan when the parent is killed


class VllmProcess:
    """A running vLLM; its output goes to this process's stderr and its last words are kept for the reason."""

    def __init__(self, options: VllmOptions) -> None:
        self.options = options
        self.url = f"http://127.0.0.1:{options.port}"
        self._last_line = self._last_error = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it; see `wait_ready`. Processes that vLLM leaves behind become this process's children."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._process = subprocess.Popen(
            command(self.options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(self.options, os.environ),
            preexec_fn=end_with_parent,
        )
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout
        )
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await reader.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._hear(line.decode(errors="replace").rstrip())
        self._hear(rest.decode(errors="replace"))

    def _hear(self, line: str) -> None:
        if not line or line.startswith(_NOISE):
            return
        sys.stderr.write(line + "\n")
        self._last_line = line
        found = _ERROR.search(line)
        if found and not _NO_CAUSE.search(line):
            self._last_error = found.group()

    async def ended(self) -> None:
        """Waits until it has ended, then raises EngineFailed with its exit code and last words."""
        assert self._process is not None
        # polled: asyncio's own wait returns only when all who inherited the output pipe are gone too
        while (code := self._process.poll()) is None:
            await asyncio.sleep(0.1)
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=0.5)
        raise EngineFailed(f"vLLM ended with {_exit(code)}: {self.last_words()}")

    def last_words(self) -> str:
        """The last error it named, else its last line."""
        return (self._last_error or f"no error was named; its last line is {self._last_line!r}")[:400]

    async def wait_ready(self, session: aiohttp.ClientSession) -> None:
        """Waits until it answers and has made one token; raises EngineFailed when it can't."""
        ended = asyncio.create_task(self.ended())
        try:
            while not ended.done():
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}/health", timeout=aiohttp.ClientTimeout(total=5)) as answer:
                        if answer.status == 200:
                            break
                await asyncio.wait([ended], timeout=0.1)
            if not ended.done():  # kernels that the model needs may be missing: only a token shows it
                await self._control(session, "/v1/completions", {"model": SERVED_NAME, "prompt": [0], "max_tokens": 1})
                return
            ended.result()
        finally:
            ended.cancel()

    async def reload(self, session: aiohttp.ClientSession, folder: str) -> float:
        """Load the weights of `folder` in place; the seconds for which generation stood still.

        Running requests go on with the new weights, on GPUs once `resume` is called. On CPUs nothing needs to be
        paused: one process makes steps and loads weights, one after the other, and a pause takes as long as a load.
        Raises EngineFailed; the engine then has undefined weights until a reload succeeds.
        """
        load = {"method": "load_folder", "kwargs": {"folder": folder}}
        if not self.options.gpus:
            answer = await self._control(session, "/collective_rpc", load)
            return max(float(worker["seconds"]) for worker in answer["results"])
        await self._control(session, "/pause?mode=keep", None)
        began = time.monotonic()
        await self._control(session, "/collective_rpc", load)
        return time.monotonic() - began

    async def connect(self, session: aiohttp.ClientSession, init_info: object) -> None:
        """Have its workers meet the trainer. Raises EngineFailed; nothing is changed then."""
        await self._control(session, "/init_weight_transfer_engine", {"init_info": init_info})

    async def receive(self, session: aiohttp.ClientSession, update_info: object) -> float:
        """Receive the weights that the trainer sends; the seconds for which generation stood still so far.

        Running requests go on once `resume` is called. Raises EngineFailed; the engine then has undefined weights.
        """
        await self._control(session, "/pause?mode=keep", None)
        began = time.monotonic()
        await self._control(session, "/start_weight_update", None)
        await self._control(session, "/update_weights", {"update_info": update_info})
        await self._control(session, "/finish_weight_update", None)
        return time.monotonic() - began

    async def resume(self, session: aiohttp.ClientSession) -> None:
        """Let requests go on after `reload`."""
        if self.options.gpus:
            await self._control(session, "/resume", None)

    async def _control(self, session: aiohttp.ClientSession, path: str, body: object) -> Any:
        try:
            async with session.post(f"{self.url}{path}", json=body) as answer:
                if answer.status != 200:
                    words = (await answer.text())[:300]
                    raise EngineFailed(f"vLLM answered {answer.status} to {path}: {words}; {self.last_words()}")
                return await answer.json(content_type=None)
        except aiohttp.ClientError as error:
            raise EngineFailed(f"vLLM did not answer {path}: {error}; {self.last_words()}") from error

    async def stop(self) -> None:
        """End it and everything below it."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            deadline = asyncio.get_running_loop().time() + _ENDING_SECONDS
            while self._process.poll() is None and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.05)
        for pid in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        if self._reading is not None:
            self._reading.cancel()


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _descendants(pid: int) -> list[int]:
    """All processes below `pid`, as of now."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    found += [child, *_descendants(child)]
    return found
