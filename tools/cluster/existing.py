"""A cluster the user already has, named by a kubeconfig: nothing here changes it save the claim it is asked for."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.errors import ClusterError
from tools.cluster.steps import say


@dataclass(frozen=True)
class ExistingCluster:
    """A cluster that `up` only looks at and `down` leaves alone."""

    kubeconfig: Path

    def up(self) -> None:
        """Raises ClusterError unless the cluster answers."""
        if not self.ready():
            raise ClusterError(f"the cluster of {self.kubeconfig} does not answer: check the file and the network")
        say(f"using the cluster of {self.kubeconfig}")

    def load(self, names: tuple[str, ...]) -> None:
        raise ClusterError(
            f"images cannot be loaded into a cluster known by its kubeconfig alone: "
            f"push {', '.join(names)} "
            "to a registry it pulls from and set images.registry in the chart's values"
        )

    def claim(self, namespace: str) -> None:
        raise ClusterError(
            f"make a ReadWriteMany claim named qednano in namespace {namespace} with a storage class of "
            "the cluster: a folder of this machine cannot be its volume"
        )

    def down(self) -> None:
        say(f"the cluster of {self.kubeconfig} is not ours to stop: left as it is")

    def ready(self) -> bool:
        """Whether the API server answers."""
        if not self.kubeconfig.exists():
            raise ClusterError(f"the kubeconfig {self.kubeconfig} does not exist")
        if shutil.which("kubectl") is None:
            raise ClusterError("kubectl is not on PATH")
        return (
            subprocess.run(
                ["kubectl", "--kubeconfig", str(self.kubeconfig), "get", "--raw", "/readyz"], capture_output=True
            ).returncode
            == 0
        )
