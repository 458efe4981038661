"""What pip on this host was told, made usable inside an image build: a pip.conf and the folders it names."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

_FOLDERS = ("extra-index-url", "find-links", "constraint")
_KEYS = ("index-url", "trusted-host", "cert", "timeout", *_FOLDERS)


def host_settings(own_folders: bool = True) -> dict[str, str]:
    """The settings that decide where packages come from; the environment wins over pip's files.

    Without ``own_folders`` what adds to the index, or narrows it, is left out.
    """
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        key = name.split(".", 1)[-1]
        if key in _KEYS and name.startswith(("global.", "install.", "user.", "site.")):
            found[key] = str(ast.literal_eval(value))
    for key in _KEYS:
        if told := os.environ.get(f"PIP_{key.upper().replace('-', '_')}"):
            found[key] = told
    return {key: value for key, value in found.items() if own_folders or key not in _FOLDERS}


def local_paths(settings: dict[str, str]) -> list[Path]:
    """Absolute paths on this host that the settings name (plainly or as file://) and that exist."""
    words = [word for value in settings.values() for word in value.split()]
    # The pages of a local index (…/simple) link to files in a folder beside it.
    paths = [Path(word.removeprefix("file://")).parent if "://" in word else Path(word) for word in words]
    return sorted({path for path in paths if path.is_absolute() and path.exists()})


def volumes(settings: dict[str, str], configuration: Path) -> list[str]:
    """Writes pip's configuration file and returns the read-only volumes a build needs for it."""
    lines = ["[global]", *(f"{key} = {' '.join(value.split())}" for key, value in sorted(settings.items()))]
    configuration.parent.mkdir(parents=True, exist_ok=True)
    configuration.write_text("\n".join(lines) + "\n")
    return [f"{configuration}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in local_paths(settings))]
