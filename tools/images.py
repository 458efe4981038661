"""Build the images for a registry, with Docker, Podman or buildah: `python -m tools.images --registry HOST/TEAM/`.

What they are called is what the chart's values `images.registry` and `images.tag` say. For a cluster on this machine
there is `python -m tools.cluster images`, which needs no registry.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qednano import __version__

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("operator", "worker", "trainer", "server")
TOOLS = ("docker", "podman", "buildah")
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Order:
    """How images are to be built. ``base_image`` is the Dockerfiles' own when empty."""

    tool: str
    registry: str = ""
    tag: str = __version__
    variant: str = "cpu"
    base_image: str = ""
    revision: str = "unknown"
    torch_index: str = CPU_TORCH_INDEX
    extra: tuple[str, ...] = ()

    def reference(self, name: str) -> str:
        """The full name of one image, as the chart makes it."""
        return f"{self.registry}qednano-{name}:{self.tag}"

    def build(self, name: str) -> list[str]:
        """The command that builds one image from the repository's root."""
        settings = {"VARIANT": self.variant, "VERSION": self.tag, "REVISION": self.revision}
        if self.variant == "cpu":
            settings["TORCH_INDEX"] = self.torch_index  # the CPU build of torch is not on PyPI
        if self.base_image:
            settings["BASE_IMAGE"] = self.base_image
        # Podman and buildah would make OCI images, whose format has no health checks.
        form = [] if self.tool == "docker" else ["--format", "docker"]
        file = ROOT / "images" / name / "Dockerfile"
        known = {
            key: value for key, value in settings.items() if f"ARG {key}" in file.read_text()
        }  # others are warned of
        words = [word for key, value in known.items() for word in ("--build-arg", f"{key}={value}")]
        return [
            self.tool,
            "build",
            *form,
            *words,
            *self.extra,
            "--file",
            str(file),
            "--tag",
            self.reference(name),
            str(ROOT),
        ]

    def push(self, name: str) -> list[str]:
        """The command that sends one image to its registry."""
        return [self.tool, "push", self.reference(name)]


def tool_of(wanted: str) -> str:
    """The program to build with: the one asked for, else the first that is installed. Raises SystemExit."""
    found = next((tool for tool in ([wanted] if wanted else TOOLS) if shutil.which(tool)), "")
    if not found:
        missing = f"{wanted} is not" if wanted else f"none of {', '.join(TOOLS)} is"
        raise SystemExit(f"error: {missing} on PATH; install it, or choose with --tool")
    return found


def _revision() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.images", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)}; all by default")
    parser.add_argument("--registry", default="", help="what every name begins with; ends in /")
    parser.add_argument("--tag", default=__version__, help=f"by default {__version__}, as in the chart")
    parser.add_argument("--variant", default="cpu", choices=("cpu", "cuda"), help="cuda for GPUs")
    parser.add_argument("--tool", default="", help=f"{', '.join(TOOLS)}; by default the first that is installed")
    parser.add_argument("--base-image", default="", help="any image with Python 3.11 and Debian's package tool")
    parser.add_argument("--push", action="store_true", help="send them to the registry, too")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    parser.epilog = "What follows -- is handed to the tool's build command."
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Build, and push when asked; the exit code of the first command that failed."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, extra = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    asked = _parser().parse_args(own)
    if unknown := [name for name in asked.names if name not in NAMES]:
        print(f"error: there is no image {unknown[0]!r}: choose from {', '.join(NAMES)}", file=sys.stderr)
        return 64
    if asked.registry and not asked.registry.endswith("/"):
        print(f"error: --registry is {asked.registry}; it must end in /, as in {asked.registry}/", file=sys.stderr)
        return 64
    order = Order(
        tool=tool_of(asked.tool),
        registry=asked.registry,
        tag=asked.tag,
        variant=asked.variant,
        base_image=asked.base_image,
        revision=_revision(),
        torch_index=os.environ.get("TORCH_INDEX", CPU_TORCH_INDEX),
        extra=tuple(extra),
    )
    for name in asked.names or NAMES:
        for command in [order.build(name), *([order.push(name)] if asked.push else [])]:
            print("+", " ".join(command), flush=True)
            # Docker's older builder knows no cache mounts.
            code = (
                0 if asked.dry_run else subprocess.run(command, env={**os.environ, "DOCKER_BUILDKIT": "1"}).returncode
            )
            if code:
                print(f"error: {' '.join(command[:2])} of {order.reference(name)} ended with {code}", file=sys.stderr)
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
