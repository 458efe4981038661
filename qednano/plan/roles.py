"""Roles: which processes a run has, how many, on what, and whose end ends the run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qednano.api import EvalRunSpec, ProofDatasetSpec, RLRunSpec, SFTRunSpec
from qednano.api.common import Resources, RunSpec, Server
from qednano.api.engine import Engine
from qednano.plan.language_models import served_roles
from qednano.plan.references import evaluated_models


class Lifecycle(StrEnum):
    """A task ends by itself; a server runs until the run ends."""

    TASK = "Task"
    SERVER = "Server"


@dataclass(frozen=True)
class Role:
    """One role of a run.

    ``replicas`` pods (or local processes) of ``processes`` processes each run ``python -m module``.
    A gang is started and restarted whole. The run succeeds when each essential role has.
    """

    name: str
    module: str
    image: str  # trainer, server or worker
    lifecycle: Lifecycle
    resources: Resources
    replicas: int = 1
    processes: int = 1
    threads: int = 1
    gang: bool = False
    essential: bool = False
    startup_seconds: int = 600  # how long a server may take until it answers

    @property
    def world_size(self) -> int:
        """Ranks of the role: processes over all its pods."""
        return self.replicas * self.processes

    @property
    def distributed(self) -> bool:
        """Whether the processes are launched by torchrun."""
        return self.gang and self.world_size > 1

    @property
    def gpus(self) -> int:
        """GPUs over all pods of the role."""
        return self.replicas * self.resources.gpus


def _trainer(name: str, module: str, engine: Engine) -> Role:
    return Role(
        name=name,
        module=module,
        image="trainer",
        lifecycle=Lifecycle.TASK,
        resources=engine.resources,
        replicas=engine.nodes,
        processes=engine.processes,
        threads=engine.threads,
        gang=True,
        essential=True,
    )


def _server(name: str, server: Server) -> Role:
    return Role(
        name=name,
        module="qednano_jobs.serve",
        image="server",
        lifecycle=Lifecycle.SERVER,
        resources=server.resources,
        replicas=server.replicas,
        threads=server.threads,
    )


def _stream(spec: RLRunSpec) -> tuple[Role, ...]:
    """A Redis of the run's own, if it asks for one."""
    asked = spec.stream.redis
    if asked is None or asked.url:
        return ()
    return (Role("stream", "qednano_jobs.stream", "worker", Lifecycle.SERVER, asked.resources),)


def roles(spec: RunSpec) -> tuple[Role, ...]:
    """The roles of a run in starting order: servers of the language models that it asks, then its own."""
    served = tuple(_server(name, use.model.server) for name, use in served_roles(spec).items())
    return served + _own_roles(spec)


def _own_roles(spec: RunSpec) -> tuple[Role, ...]:
    match spec:
        case ProofDatasetSpec():
            return (Role("dataset", "qednano_jobs.dataset", "worker", Lifecycle.TASK, spec.resources, essential=True),)
        case SFTRunSpec():
            return (_trainer("trainer", "qednano_jobs.sft", spec.trainer),)
        case RLRunSpec():
            return (
                *_stream(spec),
                _server("rollout", spec.rollout),
                _trainer("trainer", "qednano_jobs.rl_trainer", spec.trainer),
                Role("actor", "qednano_jobs.rl_actor", "worker", Lifecycle.TASK, spec.actor.resources),
            )
        case EvalRunSpec():
            served = evaluated_models(spec)
            evaluate = Role(
                "evaluate",
                "qednano_jobs.evaluate",
                "worker",
                Lifecycle.TASK,
                spec.resources,
                replicas=spec.shards,
                essential=True,
            )
            return (_server("server", spec.server), evaluate) if served else (evaluate,)
    raise TypeError(f"no roles are known for {type(spec).__name__}")
