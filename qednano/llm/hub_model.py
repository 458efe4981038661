"""Where a model's files are: its folder, or a copy of a Hub repository in the run's folder, the same for all pods."""

from __future__ import annotations

import re
from pathlib import Path

from qednano.errors import ConfigError, Unavailable

_HUB = re.compile(r"hf://([^/@\s]+/[^/@\s]+)(?:@(\S+))?")


def model_folder(uri: str, run_dir: Path) -> Path:
    """The folder of `uri`; hf://owner/name@revision is downloaded below `run_dir`, once and then no more.

    Raises ConfigError for a repository or revision that isn't there, Unavailable when the Hub doesn't answer.
    """
    if not uri.startswith("hf://"):
        return Path(uri.removeprefix("file://"))
    found = _HUB.fullmatch(uri)
    if found is None:
        raise ConfigError(f"{uri} is no model on the Hub: write hf://owner/name or hf://owner/name@revision")
    name, revision = found.groups()
    folder = run_dir / "models" / f"{name.replace('/', '--')}@{(revision or 'main').replace('/', '--')}"
    complete = folder / ".complete"
    if not complete.is_file():
        _download(name, revision, folder)
        complete.touch()
    return folder


def _download(name: str, revision: str | None, folder: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        huggingface_hub.snapshot_download(name, revision=revision, local_dir=folder)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"hf://{name}@{revision or 'main'}"
        raise ConfigError(
            f"{what} is not on the Hub, or the token may not read it (spec.hubToken, on a laptop HF_TOKEN): {error}"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise Unavailable(f"hf://{name} could not be downloaded: {error}") from None
