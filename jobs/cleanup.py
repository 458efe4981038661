"""Deletes the folder of a run that was deleted with spec.artifacts.retention: Delete."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

_FOLDER = re.compile(r"/[a-z0-9-]+/(proofdataset|sftrun|rlrun|evalrun)/[a-z0-9-]+-[0-9a-f-]{8}")


def delete(folder: Path, volume: Path = Path("/qed")) -> str:
    """Delete the folder and say so. Raises ValueError for anything that isn't the folder of one run of the volume.

    It may be gone already; a link in place of it is never followed.
    """
    if not folder.is_relative_to(volume) or not _FOLDER.fullmatch(f"/{folder.relative_to(volume)}"):
        raise ValueError(f"{folder} is not the folder of a run ({volume}/NAMESPACE/KIND/NAME-UID); nothing was deleted")
    if folder.parent.resolve() != volume.resolve() / folder.parent.relative_to(volume):
        raise ValueError(f"{folder.parent} is reached by a link; nothing was deleted")
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link; nothing was deleted")
    if not folder.exists():
        return f"{folder} is gone already"
    shutil.rmtree(folder)
    return f"{folder} is deleted"


def main() -> int:
    """Delete $QED_RUN_DIR."""
    try:
        print(delete(Path(os.environ.get("QED_RUN_DIR", ""))))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
