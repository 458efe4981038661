"""From the failure of a pod to the operator's decision to restart: the write of the next attempt into the run's status.

200 runs of the four kinds are Running; the main pods of 50 of them fail, one after the other. The clock runs from the
moment when the pod's status is sent to the API server until a watch tells of the run's next attempt.

    python -m bench.operator_restart [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from qednano_operator.health import MAIN_ROLE

from bench.fake_nodes import Client, fake_nodes
from bench.figures import report
from bench.operator_scale import Runs
from bench.operator_stage import KIND_NAMESPACES, MACHINE_SHARED, Stage, percentile, stage
from tests.operator.harness import fail

BARS = {"decision_p99_s": ("<=", 1.0)}


async def measure(found: Stage, count: int, failures: int) -> list[float]:
    """Seconds of each decision."""
    async with Client(found.server) as client, fake_nodes(found.server) as nodes, asyncio.TaskGroup() as group:
        runs = Runs(client, count)
        watches = [group.create_task(runs.follow(kind)) for kind in KIND_NAMESPACES]
        await asyncio.gather(*(runs.apply(run) for run in runs.manifests))
        await runs.all_in("Running", 300)
        await asyncio.sleep(10)  # the last writes of the start
        main = {run["metadata"]["name"]: MAIN_ROLE[run["kind"]] for run in runs.manifests[:failures]}
        pods = {
            labels["qednano.dev/run"]: pod
            for pod in nodes.pods.values()
            if (labels := pod["metadata"]["labels"])["qednano.dev/role"] == main.get(labels["qednano.dev/run"])
        }
        waits = []
        for name, pod in pods.items():
            began = time.monotonic()
            ending = group.create_task(nodes.end(pod, 70, fail("InternalError", "boom")))
            await runs.until(lambda name=name: runs.attempts[name] == 2, f"attempt 2 of {name}", 60)  # type: ignore[misc]
            waits.append(time.monotonic() - began)
            await ending
        for watch in watches:
            watch.cancel()
    return waits


def main() -> int:
    """Measure; 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 runs, 20 failures")
    asked = parser.parse_args()
    count, failures = (40, 20) if asked.quick else (200, 50)
    with stage() as found:
        waits = asyncio.run(measure(found, count, failures))
    print(f"{len(waits)} failures among {count} runs; {MACHINE_SHARED}")
    figures = {"decision_p50_s": percentile(waits, 0.5), "decision_p99_s": percentile(waits, 0.99)}
    return report("operator_restart", figures, BARS)


if __name__ == "__main__":
    sys.exit(main())
