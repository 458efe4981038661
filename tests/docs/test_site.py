"""The built site: complete, and it loads nothing from anywhere else."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

from tests.docs.pages import REPOSITORY
from tools import diagrams
from tools.docs_site import breakable

_LOADS = re.compile(
    r"""<(?:script|img|iframe|source|embed)\b[^>]*?\bsrc=["']?(?:https?:)?//|<link\b[^>]*?\bhref=["']?https?://"""
)
PAGES = (
    "index.html",
    "tutorial.html",
    "architecture.html",
    "reproduce.html",
    "reference/rlrun.html",
    "howto/own-data.html",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [Path(sys.executable).with_name("mkdocs"), "build", "--quiet", "--strict", "--site-dir", folder]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_names_a_file_of_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        found = [tag for tag in _LOADS.findall(page.read_text()) if "rel=canonical" not in tag]
        assert not found, f"{page.relative_to(site)}: {found}"


def test_a_browser_asks_nobody_else(site: Path, browser) -> None:
    asked: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    for name in PAGES:
        page.goto((site / name).as_uri())
        page.wait_for_load_state("networkidle")
    page.close()
    assert asked and [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert [url for url in failed if "search" not in url] == []  # search needs a server


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(site: Path, browser, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    for name in PAGES:
        page.goto((site / name).as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} wide on {width}"
    page.close()


@pytest.mark.parametrize("name", ["rlrun", "proofdataset", "values", "metrics"])
def test_a_reference_is_read_without_scrolling_sideways(site: Path, browser, name: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((site / "reference" / f"{name}.html").as_uri())
    found = page.evaluate(
        "[...document.querySelectorAll('.md-typeset__scrollwrap')].map(box => box.scrollWidth - box.clientWidth)"
    )
    page.close()
    assert found and max(found) <= 1


def test_a_long_name_breaks_between_its_parts() -> None:
    assert breakable("spec.stages[].grade.model") == "spec<wbr>.stages[]<wbr>.grade<wbr>.model"
    assert breakable("qednano_step_target") == "qednano_<wbr>step_<wbr>target"
    assert breakable("examples/paper/1-dataset.yaml") == "examples/<wbr>paper/<wbr>1-<wbr>dataset<wbr>.yaml"
    assert breakable("--all-namespaces, -A") == "--all-<wbr>namespaces, -A"


@pytest.mark.parametrize("name", diagrams.PICTURES)
def test_a_diagram_is_as_its_tool_draws_it_and_no_words_meet(name: str, browser) -> None:
    picture = diagrams.PICTURES[name]().svg()
    assert (diagrams.FOLDER / f"{name}.svg").read_text() == picture, "run python -m tools.diagrams"
    page = browser.new_page()
    page.set_content(picture)
    words = page.evaluate(
        """() => [...document.querySelectorAll('text')].map(text => {
            const box = text.getBBox();
            return [text.textContent, box.x, box.y + 2, box.x + box.width, box.y + box.height - 2];
        })"""
    )
    height = page.evaluate("document.querySelector('svg').viewBox.baseVal.height")
    page.close()
    assert len(words) > 8
    for word, left, top, right, bottom in words:
        assert left > 4 and top > 4 and right < diagrams.WIDTH - 4 and bottom < height - 4, word
        for other, x, y, beyond, below in words:
            if other != word:
                assert right <= x or beyond <= left or bottom <= y or below <= top, f"{word} meets {other}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_diagram_follows_the_scheme_that_the_reader_chose(site: Path, browser, scheme: str) -> None:
    page = browser.new_page(color_scheme="light", viewport={"width": 600, "height": 900})
    page.goto((site / "index.html").as_uri())
    page.evaluate(f"document.body.dataset.mdColorScheme = '{'slate' if scheme == 'dark' else 'default'}'")
    shot = page.locator("img[src='images/pipeline.svg']").screenshot()
    page.close()
    image = matplotlib.image.imread(io.BytesIO(shot), format="png")
    corner = image[12, 12, :3].mean()
    assert corner < 0.3 if scheme == "dark" else corner > 0.9
