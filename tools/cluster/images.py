"""Builds the images without Docker or a registry, and hands containerd only the layers it lacks."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.cluster import debian, pip_settings
from tools.cluster.errors import ClusterError
from tools.cluster.kubernetes_source import exclusive
from tools.cluster.layers import StoredImage
from tools.cluster.node import PAUSE_IMAGE, Node
from tools.cluster.paths import REPOSITORY, Cache
from tools.cluster.steps import run, step
from tools.images import NAMES, Order

BASE_IMAGE = "localhost/qednano-base:py311"
_BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_PAUSE = (
    "#include <unistd.h>\n#include <signal.h>\n#include <stdlib.h>\nstatic void end(int s) { exit(0); }\n"
    "int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n"
)


REGISTRY, TAG = "localhost/", "dev"


def reference(name: str, tag: str = TAG) -> str:
    """The full name of one of the project's images."""
    return Order("buildah", registry=REGISTRY, tag=tag).reference(name)


@dataclass(frozen=True)
class Builder:
    """buildah on a storage of its own under `folder`."""

    folder: Path

    def build(self, name: str, variant: str = "cpu") -> str:
        """Builds images/NAME unless nothing it is made of has changed; returns its id. Other variants are their tag."""
        base = self.base()
        with exclusive(self.folder):
            return self._build(name, variant, base)

    def _build(self, name: str, variant: str, base: str) -> str:
        recipe = REPOSITORY / "images" / name / "Dockerfile"
        if not recipe.exists():
            raise ClusterError(f"there is no image {name!r}: choose from {', '.join(NAMES)}")
        print_of_inputs = fingerprint([base, variant, name], inputs_of(recipe))
        tagged, kept = (reference(name), name) if variant == "cpu" else (reference(name, variant), f"{name}-{variant}")
        known = self._known(kept, print_of_inputs)
        if known is not None:
            return known
        # This host's own folders of packages hold the CPU's build of torch, which pip would take for GPUs, too.
        settings = pip_settings.host_settings(own_folders=variant == "cpu")
        mounts = pip_settings.volumes(settings, self.folder / "pip.conf")
        log = self.folder / f"build-{kept}.log"
        log.unlink(missing_ok=True)
        with step(f"building {tagged} (log: {log})"):
            self._buildah(
                "bud",
                "--layers",
                "--isolation",
                "chroot",
                "--network",
                "host",
                "--format",
                "oci",
                "--build-arg",
                f"BASE_IMAGE={BASE_IMAGE}",
                "--build-arg",
                f"VARIANT={variant}",
                *(word for mount in mounts for word in ("--volume", mount)),
                "--ignorefile",
                REPOSITORY / ".dockerignore",
                "--file",
                recipe,
                "--tag",
                tagged,
                REPOSITORY,
                what=f"building the image {name}",
                log=log,
            )
        identity = self._identity(tagged)
        self._remember(kept, print_of_inputs, identity)
        return identity

    def base(self) -> str:
        """A Debian 12 with Python 3.11, which stands in for python:3.11-slim-bookworm; returns its image id."""
        with exclusive(self.folder):
            return self._base()

    def _base(self) -> str:
        wanted = fingerprint([debian.MIRROR, *_BASE_PACKAGES], [])
        known = self._known("base", wanted)
        if known is not None:
            return known
        root = self.folder / "base-root"
        debian.bootstrap("bookworm", root, _BASE_PACKAGES, log=self.folder / "build-base.log")
        for heavy in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt"):
            shutil.rmtree(root / heavy, ignore_errors=True)
            (root / heavy).mkdir(parents=True)
        with step(f"making {BASE_IMAGE}"):
            self._commit(root, BASE_IMAGE, [])
        shutil.rmtree(root)
        identity = self._identity(BASE_IMAGE)
        self._remember("base", wanted, identity)
        return identity

    def pause(self) -> str:
        """The image every pod's sandbox runs; returns its image id."""
        with exclusive(self.folder):
            return self._pause()

    def _pause(self) -> str:
        wanted = fingerprint([_PAUSE], [])
        known = self._known("pause", wanted)
        if known is not None:
            return known
        root = self.folder / "pause-root"
        root.mkdir(parents=True, exist_ok=True)
        run(["gcc", "-static", "-Os", "-x", "c", "-", "-o", root / "pause"], what="compiling pause", stdin=_PAUSE)
        self._commit(root, PAUSE_IMAGE, ["--entrypoint", '["/pause"]'])
        shutil.rmtree(root)
        identity = self._identity(PAUSE_IMAGE)
        self._remember("pause", wanted, identity)
        return identity

    def stored(self, name: str) -> StoredImage:
        """The image as it lies in buildah's storage."""
        return StoredImage(self.folder / "storage", name)

    def _commit(self, root: Path, name: str, settings: list[str]) -> None:
        container = self._buildah("from", "scratch", what=f"starting {name}").strip()
        self._buildah("add", container, root, "/", what=f"filling {name}")
        if settings:
            self._buildah("config", *settings, container, what=f"configuring {name}")
        self._buildah("commit", "--rm", "--format", "oci", container, name, what=f"committing {name}")

    def _identity(self, name: str) -> str:
        return self._buildah("images", "--quiet", "--no-trunc", name, what=f"looking for {name}").split()[0]

    def _known(self, name: str, print_of_inputs: str) -> str | None:
        """The id of an image built from just these inputs, when the storage still has it."""
        record = self.folder / "built" / name
        if record.exists():
            wanted, _, identity = record.read_text().partition(" ")
            if (
                wanted == print_of_inputs
                and identity in self._buildah("images", "--quiet", "--no-trunc", what="listing images").split()
            ):
                return identity
        return None

    def _remember(self, name: str, print_of_inputs: str, identity: str) -> None:
        record = self.folder / "built" / name
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(f"{print_of_inputs} {identity}")

    def _buildah(self, *args: str | Path, what: str, log: Path | None = None) -> str:
        debian.require(["buildah"], purpose="building images")
        temporary = self.folder / "tmp"  # where buildah keeps cache mounts: pip's downloads among them
        temporary.mkdir(parents=True, exist_ok=True)
        # In a mount namespace of its own, or buildah would leave its overlay mounted.
        return run(
            [
                "unshare",
                "--mount",
                "buildah",
                "--root",
                self.folder / "storage",
                "--runroot",
                self.folder / "run",
                "--storage-driver",
                "overlay",
                *args,
            ],
            what=what,
            log=log,
            env={**os.environ, "TMPDIR": str(temporary)},
        )


def inputs_of(recipe: Path) -> list[Path]:
    """The files a Dockerfile copies from the repository, and the Dockerfile."""
    named = [
        word
        for line in recipe.read_text().splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for word in line.split()[1:-1]
    ]
    found = [recipe]
    for name in named:
        path = REPOSITORY / name
        found += sorted(path.rglob("*")) if path.is_dir() else [path]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def fingerprint(words: list[str], files: list[Path]) -> str:
    """sha256 over words, and names and contents of files."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in files:
        digest.update(str(path.relative_to(REPOSITORY)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def load(node: Node, builder: Builder, name: str) -> None:
    """Gives containerd the image as buildah has it now, sending only the layers it lacks."""
    image = builder.stored(name)
    # One command at a time: containerd collects a layer that another import has sent and not yet named.
    with exclusive(builder.folder):
        if image.digest in node.ctr("images", "list", f"name=={name}", what="listing images"):
            return
        there = set(node.ctr("content", "list", "--quiet", what="listing layers").split())
        try:
            _send(node, image, without=there)
        except ClusterError:
            # A layer that was there may have been collected since: an import of everything can't miss one.
            _send(node, image, without=set())


def _send(node: Node, image: StoredImage, without: set[str]) -> None:
    sent = {digest: size for digest, size in image.layers.items() if digest not in without}
    with step(f"loading {image.name} into containerd ({len(sent)} layers, {sum(sent.values()) / 1e6:.0f} MB)"):
        importer = subprocess.Popen(
            ["ctr", "--address", node.socket, "-n", "k8s.io", "images", "import", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert importer.stdin is not None and importer.stderr is not None
        with contextlib.suppress(BrokenPipeError), importer.stdin:  # why it stopped reading is said below
            image.write(importer.stdin, without=without)
        said = importer.stderr.read().decode().strip()
        if importer.wait() != 0:
            reason = said.splitlines()[-1] if said else "no reason given"
            raise ClusterError(f"containerd did not take {image.name}: {reason}")


def builder(cache: Cache) -> Builder:
    """The builder whose storage lies in the cache."""
    return Builder(cache.images)
