"""Headless Chromium for tests of pages. Debian's package; installed on the way where that is possible."""

from __future__ import annotations

import shutil

import pytest

from tools.cluster import debian
from tools.cluster.errors import ClusterError


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if found is None:
        try:
            debian.require(["chromium"], purpose="the tests of web pages")
        except ClusterError as error:
            pytest.skip(f"needs Chromium on this machine: {error}")
        found = "/usr/bin/chromium"
    return found


@pytest.fixture(scope="module")
def browser():
    """A browser for the tests of a module; open pages with `new_page` or `new_context`.

    Not for the session: while it is open it holds an event loop, in whose thread no asyncio test could run.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'qednano[dev]'")
    path = _chromium()
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()
