"""Install the chart, with images built here, on the cluster of `tools.cluster`: `python -m tools.release`.

The release is named qednano, in namespace qednano-system. Running it again upgrades it.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tools.cluster.__main__ import choose
from tools.cluster.errors import ClusterError
from tools.cluster.images import REGISTRY, TAG
from tools.helm import HelmUnavailable, helm
from tools.images import NAMES

CHART = Path(__file__).resolve().parents[1] / "charts" / "qednano"
NAME = "qednano"
NAMESPACE = "qednano-system"


def settings() -> list[str]:
    """Helm values that name the images built here and ask for one operator."""
    values = {
        "images.registry": REGISTRY,
        "images.tag": TAG,
        "operator.replicas": "1",
        # The tag stays the same when an image changes, so each install asks for a new pod.
        "operator.podAnnotations.installed": datetime.now(UTC).strftime("at-%Y-%m-%dT%H-%M-%S"),
        **{f"images.{name}": f"qednano-{name}" for name in NAMES},
    }
    return [f"--set={key}={value}" for key, value in values.items()]


def run_helm(kubeconfig: Path, *arguments: str) -> str:
    """One Helm command on the release's namespace; what it prints. Raises ClusterError with Helm's words."""
    command = [helm(), *arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={kubeconfig}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ClusterError(f"helm {arguments[0]} of {CHART.name} failed: {done.stderr.strip()}")
    return done.stdout


def install(kubeconfig: Path, *values: str, timeout_seconds: int = 180) -> None:
    """Install or upgrade the release, with further values (``name=value``), and wait until the operator is ready."""
    run_helm(
        kubeconfig,
        "upgrade",
        NAME,
        str(CHART),
        "--install",
        "--create-namespace",
        "--wait",
        f"--timeout={timeout_seconds}s",
        # The native cluster's kube-apiserver describes an older CRD schema than the server that takes the CRDs.
        "--disable-openapi-validation",
        *settings(),
        *(f"--set={value}" for value in values),
    )


def main() -> int:
    """Install on the chosen cluster and say how to go on."""
    try:
        cluster = choose(None, native=False)
        install(cluster.kubeconfig)
    except (ClusterError, HelmUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"the operator is ready in {NAMESPACE}; next: KUBECONFIG={cluster.kubeconfig} kubectl apply -f examples/tiny/"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
