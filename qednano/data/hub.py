"""Datasets on the Hugging Face Hub: which commit a revision is, the rows of a split as a stream, and a push."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from qednano.api.proofdataset import HubSource, Publish
from qednano.data.columns import Record
from qednano.data.files import secret
from qednano.errors import ConfigError, QedError, Unavailable


def commit_of(source: HubSource) -> str:
    """The commit that the revision stands for now; the revision itself for a folder on this machine.

    Raises ConfigError when the Hub has no such dataset or revision, Unavailable when it doesn't answer.
    """
    if Path(source.id).is_dir():
        return source.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    token = secret(source.token, "hub.token")
    try:
        return str(HfApi(token=token).dataset_info(source.id, revision=source.revision).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise ConfigError(
            f"hub: the Hub has no dataset {source.id} at {source.revision}, or the token may not read it: check id and "
            "revision, and set hub.token for a private one"
        ) from None
    except Exception as error:  # which HTTP library the Hub's client raises from differs between its versions
        raise _silent(source.id, error) from error


def records(source: HubSource, commit: str) -> Iterator[Record]:
    """Every record of a Hub dataset's split at a commit, streamed.

    Raises ConfigError for a split or configuration that isn't there, Unavailable when the Hub doesn't answer.
    """
    from datasets import load_dataset

    token = secret(source.token, "hub.token")
    try:
        rows = load_dataset(
            source.id, source.config or None, revision=commit, split=source.split, streaming=True, token=token
        )
        for number, values in enumerate(rows, start=1):
            yield Record(f"{PurePosixPath(source.id).name}[{source.split}] row {number}", values)
    except ValueError as error:  # `datasets` says so for an unknown split or configuration
        what = f"split {source.split!r}" + (f" in configuration {source.config!r}" if source.config else "")
        raise ConfigError(f"hub: {source.id} has no {what} ({error})") from None
    except Exception as error:
        raise _silent(source.id, error) from error


def push(folder: Path, publish: Publish, message: str) -> str:
    """Make the Hub's dataset equal to the folder's files, in one commit, and return that commit.

    Files that an interrupted push has uploaded are not sent again, and readers see the old files or the new ones.
    Raises ConfigError when the token may not write, Unavailable when the Hub doesn't answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(token=secret(publish.token, "publish.token"))
    try:
        api.create_repo(publish.id, repo_type="dataset", private=publish.private, exist_ok=True)
        if publish.revision != "main":
            api.create_branch(publish.id, repo_type="dataset", branch=publish.revision, exist_ok=True)
        with _quiet():
            done = api.upload_folder(
                repo_id=publish.id,
                repo_type="dataset",
                folder_path=folder,
                revision=publish.revision,
                commit_message=message,
                delete_patterns=["*.parquet", "reports/*", "parked/*"],
            )
    except LocalTokenNotFoundError:
        raise ConfigError("publish: the Hub wants a token: set publish.token, or HF_TOKEN on a laptop") from None
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (400, 401, 403, 404):
            raise ConfigError(
                f"publish: the Hub refuses to write {publish.id} ({error}): check publish.id and its token"
            ) from None
        raise _silent(publish.id, error) from error
    except QedError:
        raise
    except Exception as error:
        raise _silent(publish.id, error) from error
    return str(done.oid)


@contextmanager
def _quiet() -> Iterator[None]:
    """The Hub's client without a progress bar and a line for each request, which only fill a job's log."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("httpx", "httpx2")]
    levels = [logger.level for logger in loggers]
    disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _silent(name: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"the Hugging Face Hub does not answer for {name} ({type(error).__name__}: {error}); is it reachable?"
    )
