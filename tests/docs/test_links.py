"""Links of the pages that the site does not build: README, CONTRIBUTING, CHANGELOG and those of chart and examples."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import REPOSITORY

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
OUTSIDE = sorted(
    path
    for pattern in ("*.md", "examples/**/README.md", "charts/*/README.md", "images/README.md", "tools/**/README.md")
    for path in REPOSITORY.glob(pattern)
)


def _anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", OUTSIDE, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page) -> None:
    for target, anchor in _LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file = page.parent / target
        assert file.exists(), f"{target} is not there"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file.read_text()), f"{target} has no heading {anchor}"


def test_readme_leads_to_every_how_to() -> None:
    linked = {target for target, _ in _LINK.findall((REPOSITORY / "README.md").read_text())}
    missing = {path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("docs/howto/*.md")} - linked
    assert not missing
