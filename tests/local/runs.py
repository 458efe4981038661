"""Documents and roles of test runs, and a runner to start as a process of its own.

``python -m tests.local.runs ROOT FILE...`` runs the files with the small jobs instead of the real ones.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from qednano.api.common import RunSpec
from qednano.api.load import load_documents
from qednano.errors import QedError
from qednano.local import process
from qednano.local.display import PlainDisplay
from qednano.local.session import Interrupt, Session
from qednano.plan import Lifecycle, Role, roles

DATASET = """
apiVersion: qednano.dev/v1alpha1
kind: ProofDataset
metadata: {name: tiny}
spec:
  sources: [{name: tiny, generator: {name: tiny-divisibility}}]
  splits: [{name: train, problems: 10}]
  restart: {maxRestarts: 2, backoffSeconds: 0}
"""
SFT = """
apiVersion: qednano.dev/v1alpha1
kind: SFTRun
metadata: {name: tiny-sft}
spec:
  model: {init: {}}
  dataset: {proofDataset: {name: tiny}}
  trainer: {maxSteps: 10}
  restart: {maxRestarts: 2, backoffSeconds: 0}
"""
RL = """
apiVersion: qednano.dev/v1alpha1
kind: RLRun
metadata: {name: tiny-rl}
spec:
  model: {sftRun: {name: tiny-sft}}
  dataset: {proofDataset: {name: tiny}}
  algorithm: {maxSteps: 10}
  grader: {checker: {name: tiny-divisibility}}
  restart: {maxRestarts: 2, backoffSeconds: 0}
"""


def small_roles(spec: RunSpec) -> tuple[Role, ...]:
    """The planner's roles, each with a small job in place of the real one."""
    modules = {Lifecycle.TASK: "tests.local.jobs.scripted", Lifecycle.SERVER: "tests.local.jobs.answering"}
    return tuple(dataclasses.replace(role, module=modules[role.lifecycle]) for role in roles(spec))


def _take_first_port(port: int) -> None:
    """Hand out a port that is taken to the first process, as when someone took it in between."""
    ports = iter([port])
    free_port = process.free_port
    process.free_port = lambda *avoid: next(ports, None) or free_port(*avoid)


def main(arguments: list[str]) -> int:
    """Run the files under the root; the exit code is 0 when all succeeded."""
    if "FIRST_PORT" in os.environ:
        _take_first_port(int(os.environ["FIRST_PORT"]))
    documents = load_documents([Path(name) for name in arguments[1:]])
    session = Session(documents, Path(arguments[0]), PlainDisplay(sys.stdout), small_roles, Interrupt())
    try:
        views = session.run()
    except QedError as error:
        print(error)
        return error.exit_code
    if session.interrupt.count:
        return 128 + session.interrupt.signal
    return int(not all(view.in_order for view in views))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
