"""What `helm test` runs: a tiny dataset, a few steps of training and an evaluation, as custom resources."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
import uuid
from typing import Any

from qednano.api import API_VERSION, TERMINAL
from qednano_operator.decision import Object
from qednano_operator.kube import Kube, KubeError, connect

_POLL = 2.0
_SMALL = {"cpu": "200m", "memory": "1500Mi"}


def objects(name: str, namespace: str, claim: str) -> list[Object]:
    """The three runs, each waiting for the one before; runs of different kinds share no name."""
    data, trained = f"{name}-data", f"{name}-sft"

    def run(kind: str, own: str, **spec: Any) -> Object:
        return {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": own, "namespace": namespace},
            "spec": {"storage": {"claimName": claim}, "restart": {"maxRestarts": 1}, **spec},
        }

    splits = [{"name": "train", "problems": 64}, {"name": "test", "problems": 4, "heldOut": True}]
    return [
        run(
            "ProofDataset",
            data,
            sources=[{"name": "tiny", "generator": {"name": "tiny-divisibility"}}],
            splits=splits,
            resources={"cpu": "200m", "memory": "1Gi"},
        ),
        run(
            "SFTRun",
            trained,
            model={"init": {"hiddenSize": 64, "heads": 2, "kvHeads": 1, "layers": 2, "mlpSize": 128}},
            dataset={"proofDataset": {"name": data}},
            trainer={
                "maxSteps": 3,
                "batchTokens": 1024,
                "microBatchTokens": 1024,
                "sequenceLength": 256,
                "precision": "fp32",
                "threads": 1,
                "resources": _SMALL,
            },
        ),
        run(
            "EvalRun",
            f"{name}-eval",
            model={"sftRun": {"name": trained}},
            benchmark={"proofDataset": {"name": data, "split": "test"}},
            sampling={"maxTokens": 32},
            grader={"checker": {"name": "tiny-divisibility"}},
            server={"maxModelLength": 160, "maxConcurrent": 8, "resources": {"cpu": "500m", "memory": "6Gi"}},
            resources={"cpu": "100m", "memory": "1Gi"},
        ),
    ]


async def smoke(kube: Kube, namespace: str, claim: str, minutes: float) -> str:
    """Make the runs and wait until all have succeeded; what went wrong, or nothing. They are deleted either way."""
    name = f"helm-test-{uuid.uuid4().hex[:6]}"
    wanted = objects(name, namespace, claim)
    try:
        for obj in wanted:
            await kube.create(obj)
        return await _wait(kube, wanted, time.monotonic() + 60 * minutes)
    finally:
        for obj in wanted:
            await kube.delete(obj["kind"], namespace, obj["metadata"]["name"])


async def _wait(kube: Kube, wanted: list[Object], deadline: float) -> str:
    told = ""
    for obj in wanted:
        meta = obj["metadata"]
        while True:
            status = (await kube.get(obj["kind"], meta["namespace"], meta["name"])).get("status") or {}
            phase, message = status.get("phase", "not seen by an operator"), status.get("message", "")
            line = f"{obj['kind']} {meta['name']}: {phase} {message}".rstrip()
            if line != told:
                print(line, flush=True)
                told = line
            if phase in TERMINAL:
                break
            if time.monotonic() > deadline:
                return f"{line}: it has not ended in time"
            await asyncio.sleep(_POLL)
        if phase != "Succeeded":
            return line
    return ""


async def _run(arguments: argparse.Namespace) -> int:
    async with connect() as kube:
        try:
            wrong = await smoke(kube, arguments.namespace, arguments.claim, arguments.minutes)
        except KubeError as error:
            wrong = str(error)
    print(f"failed: {wrong}" if wrong else "all three runs have succeeded", flush=True)
    return 1 if wrong else 0


def main() -> int:
    """Entry point of ``python -m qednano_operator.smoke``."""
    parser = argparse.ArgumentParser(prog="qednano-smoke", description=__doc__)
    parser.add_argument("--namespace", required=True, help="where the runs are made")
    parser.add_argument("--claim", default="qednano", help="PersistentVolumeClaim of that namespace")
    parser.add_argument("--minutes", type=float, default=15.0, help="how long they may take")
    return asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
