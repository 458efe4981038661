"""What the trainer may ask of a rollout server, and the token that shows it is the trainer of this run."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

from qednano.artifacts import write_atomic

CONNECT, RECEIVE = "/qednano/weights/connect", "/qednano/weights/receive"
CONNECT_SECONDS, RECEIVE_SECONDS = 60.0, 600.0


def token_file(run_dir: Path) -> Path:
    """Where the token is: whoever may write weights there may send them."""
    return run_dir / "weights" / "token"


def token_of(run_dir: Path) -> str:
    """The run's token; empty before the trainer has made it."""
    with contextlib.suppress(FileNotFoundError):
        return token_file(run_dir).read_text()
    return ""


def make_token(run_dir: Path) -> str:
    """The run's token, made if there is none."""
    if not token_of(run_dir):
        write_atomic(token_file(run_dir), secrets.token_urlsafe(32), mode=0o600)
    return token_of(run_dir)
