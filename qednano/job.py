"""What every job is wrapped in: configuration in, progress out, signals, exit code, last words.

A job knows nothing of Kubernetes. It reads one JSON file, serves progress on one port, and when it ends
leaves a small JSON with outcome and reason, which the kubelet (or the local runner) hands on.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from qednano.artifacts import read_manifest, write_atomic
from qednano.errors import ConfigError, QedError, Stopped, UsageError
from qednano.pins import pin
from qednano.progress import Reporter

log = logging.getLogger("qednano.job")

# Where cores are shared, OpenMP threads that spin at barriers starve the very thread they wait for (0.5 s a training
# step became 5 s). libgomp reads this when torch is first imported, so this module comes before torch in every job.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

_MESSAGE_LIMIT = 1000
_WORDS_LIMIT = 4096  # bytes of a termination message that Kubernetes keeps


class _Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")


class ResolvedInput(_Camel):
    """A reference of the spec as it was resolved: which run or uri, where its files are, and their digest."""

    name: str = ""
    uri: str
    digest: str = ""


class RoleSize(_Camel):
    """How many processes a role has."""

    replicas: int = 1


class RunConfig(_Camel):
    """The one configuration file of a run, the same for each of its roles."""

    api_version: str
    kind: str
    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    spec: dict[str, Any]
    inputs: dict[str, ResolvedInput] = Field(default_factory=dict)
    roles: dict[str, RoleSize] = Field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a job ended well: a sentence, headline metrics, and the artifact folder if it made one."""

    message: str
    metrics: dict[str, float] = field(default_factory=dict)
    artifact: Path | None = None


@dataclass(frozen=True)
class JobContext:
    """What a job is given. ``stopping`` is set when the job should save and raise ``Stopped``."""

    config: RunConfig
    run_dir: Path
    scratch: Path
    role: str
    index: int
    attempt: int
    host: str
    port: int
    reporter: Reporter
    stopping: threading.Event

    @property
    def spec(self) -> Any:
        """The spec as its typed model (``qednano.api``)."""
        from qednano.api import KINDS

        return KINDS[self.config.kind].spec_type().model_validate(self.config.spec)

    @property
    def rank(self) -> int:
        """The process's rank among all of the role's processes; 0 outside torchrun."""
        return int(os.environ.get("RANK", "0"))

    def input_path(self, name: str) -> Path:
        """The folder or file of a resolved input; ConfigError when the run has no such input."""
        try:
            uri = self.config.inputs[name].uri
        except KeyError:
            raise ConfigError(f"spec.{name} of {self.config.kind} {self.config.name} was not resolved") from None
        return Path(uri.removeprefix("file://"))

    def check_stop(self) -> None:
        """Raise Stopped when the job was asked to stop; for jobs that have nothing left to save."""
        if self.stopping.is_set():
            raise Stopped(f"{self.role} was asked to stop; what it had done is saved")


def context_from_env(env: dict[str, str]) -> JobContext:
    """Build the context from the QED_* environment; UsageError names what is missing or wrong."""
    missing = [name for name in ("QED_CONFIG", "QED_RUN_DIR", "QED_ROLE") if not env.get(name)]
    if missing:
        raise UsageError(f"{', '.join(missing)} not set: jobs are started by the operator or by `qednano run`")
    path = Path(env["QED_CONFIG"])
    try:
        config = RunConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(f"QED_CONFIG={path} can't be read as a run's configuration: {error}") from None
    run_dir = Path(env["QED_RUN_DIR"])
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the run's folder {run_dir} can't be made ({error.strerror}); check spec.storage and the volume's owner"
        ) from None
    scratch = Path(env.get("QED_SCRATCH") or tempfile.mkdtemp(prefix="qednano-"))
    scratch.mkdir(parents=True, exist_ok=True)
    return JobContext(
        config=config,
        run_dir=run_dir,
        scratch=scratch,
        role=env["QED_ROLE"],
        index=int(env.get("QED_INDEX", "0")),
        attempt=int(env.get("QED_ATTEMPT", "1")),
        host=env.get("QED_HOST", "127.0.0.1"),
        port=int(env.get("QED_PORT", "0")),
        reporter=Reporter(),
        stopping=threading.Event(),
    )


def _last_words(
    outcome: str, reason: str, message: str, done: Outcome | None = None, pins: Mapping[str, str] | None = None
) -> None:
    path = os.environ.get("QED_TERMINATION_PATH")
    if not path or int(os.environ.get("RANK", "0")) != 0:
        return
    artifact = None
    if done is not None and done.artifact is not None:
        artifact = {"uri": str(done.artifact), "digest": read_manifest(done.artifact).digest}
    words = {
        "outcome": outcome,
        "reason": reason,
        "message": message[:_MESSAGE_LIMIT],
        "metrics": {name: f"{value:.6g}" for name, value in (done.metrics if done else {}).items()},
        "artifact": artifact,
    }
    whole = json.dumps({**words, "inputs": dict(pins or {})})
    text = whole if len(whole) <= _WORDS_LIMIT else json.dumps(words)
    try:
        write_atomic(Path(path), text)
    except OSError:  # the kubelet's termination file is a mount: it can be written but not replaced
        Path(path).write_text(text)


def _run(main: Callable[[JobContext], Outcome]) -> int:
    logging.basicConfig(
        level=os.environ.get("QED_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    pins: dict[str, str] = {}
    try:
        context = context_from_env(dict(os.environ))
        signal.signal(signal.SIGTERM, lambda *_: context.stopping.set())
        signal.signal(signal.SIGINT, lambda *_: context.stopping.set())
        port = os.environ.get("QED_METRICS_PORT")
        if port and context.rank == 0:
            try:
                context.reporter.serve(int(port))
            except OSError as error:
                raise ConfigError(
                    f"port {port} for progress and metrics is taken ({error.strerror}); stop what listens there"
                ) from None
        if context.rank == 0 and context.index == 0:
            pins = pin(context.run_dir, context.config.inputs)
            context.reporter.update(inputs=pins)
        done = main(context)
    except QedError as error:
        log.error("%s", error)
        _last_words("Stopped" if isinstance(error, Stopped) else "Failed", error.reason, str(error))
        return error.exit_code
    except BaseException as error:
        log.error("%s", "".join(traceback.format_exception(error)))
        _last_words("Failed", type(error).__name__, f"{type(error).__name__}: {error}")
        return QedError.exit_code
    log.info("%s", done.message)
    _last_words("Succeeded", "Completed", done.message, done, pins)
    return 0


def job(main: Callable[[JobContext], Outcome]) -> Callable[[], int]:
    """Turn ``main(context) -> Outcome`` into a process's main that returns its exit code."""

    @functools.wraps(main)
    def run() -> int:
        return _run(main)

    return run
