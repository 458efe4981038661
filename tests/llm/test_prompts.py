"""Prompts: all of them are whole, what they are given is never read as a template, and mistakes are explained."""

from __future__ import annotations

import pytest

from qednano.errors import ConfigError
from qednano.llm.prompts import FOLDER, _template, fenced, render


def test_every_prompt_is_a_template_that_can_be_read():
    names = sorted(FOLDER.glob("*/*.md"))
    assert names
    for path in names:
        _template(path.read_text(encoding="utf-8"))


def test_an_override_takes_the_place_of_the_built_in_prompt():
    assert render("data/prove", problem="P").endswith("P")
    assert render("data/prove", "Do {{ problem }}", problem="P") == "Do P"


def test_values_are_no_templates():
    assert render("data/prove", "{{ problem }}", problem="{{ 7 * 7 }}{% raw %}") == "{{ 7 * 7 }}{% raw %}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ nothing }}",
        "{% if %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ problem.__init__.__globals__ }}",
        "{{ 1 / 0 }}",
        "{{ range(10 ** 9) | list }}",
        "{{ problem | nofilter }}",
        "{% include 'data/prove.md' %}",
    ],
)
def test_a_template_that_can_t_be_rendered_says_what_it_may_use(template):
    with pytest.raises(ConfigError, match="the prompt given in place of data/prove.*it may use problem"):
        render("data/prove", template, problem="P")


@pytest.mark.parametrize("text", ["plain", "```", "a ````` b ```", "`" * 40])
def test_fenced_text_can_t_close_its_fence(text):
    first, *middle, last = fenced(text).split("\n")
    assert first == last and set(first) == {"`"} and "\n".join(middle) == text
    assert first not in text
