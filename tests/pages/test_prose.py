"""Text of models as HTML: formulas are found, everything else is harmless, and nothing is slow."""

from __future__ import annotations

import random
import re
import time
from html.parser import HTMLParser

import pytest

from qednano.pages.prose import formulas, part, part_of, parts, to_html

ALLOWED = {
    *("p", "br", "h4", "h5", "strong", "em", "ul", "ol", "li", "blockquote", "pre", "code", "hr", "span"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


class Seen(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def seen(page: str) -> Seen:
    found = Seen()
    found.feed(page)
    return found


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("so $n^2$ is even", ["n^2"]),
        (r"so \(n^2\) and \[m\]", ["n^2", "m"]),
        ("$$a$$ and\n$$\nb\n+ c\n$$", ["a", "b\n+ c"]),
        ("$$a\n\n- b$$", ["a\n\n- b"]),
        ("it costs $5 and $6 in all", []),
        ("a$5-$10 range", []),
        (r"a price of \$5 and $x$", ["x"]),
        ("`$not$` but $x$", ["x"]),
        ("```\n$not$\n```\n$x$", ["x"]),
        ("~~~\n$not$\n~~~\n$x$", ["x"]),
        (r"\begin{align*} a &= b \\[2pt] c &= d \end{align*}", [r"\begin{align*} a &= b \\[2pt] c &= d \end{align*}"]),
        (r"\begin{document} $x$ \end{document}", ["x"]),
        ("an unfinished $x", []),
        (r"an unfinished \[ x + $y$", ["y"]),
        ("$a\n\nb$, then $c$", ["c"]),
        ("$$$$ empty", []),
    ],
)
def test_formulas_are_found_by_their_delimiters(text, sources):
    assert [formula.source for formula in formulas(text)] == sources


def test_displayed_formulas_say_so():
    page = to_html(r"$a$ $$b$$ \[c\] \(d\)")
    assert re.findall(r'<span class="math( display)?">(.)</span>', page) == [
        ("", "a"),
        (" display", "b"),
        (" display", "c"),
        ("", "d"),
    ]


def test_markdown_marks_in_formulas_are_left_alone():
    page = to_html("$a_1 * b_1 * c_1$ and *this* and **$x_1$**")
    assert '<span class="math">a_1 * b_1 * c_1</span>' in page
    assert "<em>this</em>" in page and '<strong><span class="math">x_1</span></strong>' in page


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "$<img src=x onerror=alert(1)>$",
    "$$</span><script>alert(1)</script>$$",
    "[x](javascript:alert(1)) ![x](https://evil.example/x.png) <https://evil.example>",
    '[a]: javascript:alert(1) "x"\n[a]',
    '```" onmouseover=alert(1) x="\ncode\n```',
    '- ```$" onmouseover=alert(1) $\n  x\n  ```',
    "|a|\n|:-:|\n|<svg onload=alert(1)>|",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;script&#62;",
    "\ue0000\ue001 \ue00099\ue001 $x$",
    "</textarea></title></style></pre><iframe srcdoc='<script>1</script>'>",
    "# <h1 onclick=alert(1)>",
    "`<script>`",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_of_the_text_becomes_markup(text):
    found = seen(to_html(text))
    assert found.tags <= ALLOWED
    assert found.attributes <= {"class", "start"}


def test_random_pieces_of_attacks_stay_harmless():
    rng = random.Random(0)
    pieces = [*"".join(ATTACKS), "$", "$$", "`", "```", "\n", "\n\n", "\\[", "\\]", "<", '"', "\ue000", "\ue001", "> "]
    for _ in range(400):
        found = seen(to_html("".join(rng.choices(pieces, k=60))))
        assert found.tags <= ALLOWED and found.attributes <= {"class", "start"}


@pytest.mark.parametrize(
    "text",
    ["$$" * 20_000, "$x " * 14_000, "`a``b" * 8_000, r"\[" * 20_000, r"\begin{align}" * 3_000, "*a_" * 13_000],
    ids=["dollars", "opening", "ticks", "brackets", "environments", "emphasis"],
)
def test_forty_thousand_characters_of_anything_take_little_time(text):
    started = time.process_time()
    to_html(text[:40_000])
    assert time.process_time() - started < 2.0


def test_parts_are_the_text_again_and_cut_between_paragraphs():
    rng = random.Random(1)
    text = "".join(rng.choice(["word ", "longerword ", "\n", "\n\n"]) for _ in range(20_000))
    count = parts(len(text), 8000)
    pieces = [part(text, number, 8000) for number in range(count)]
    assert "".join(pieces) == text
    assert all(piece.endswith("\n\n") for piece in pieces[:-1])
    for place in rng.sample(range(len(text)), 200):
        number = part_of(text, place, 8000)
        start = sum(map(len, pieces[:number]))
        assert start <= place < start + len(pieces[number])


@pytest.mark.parametrize("text", ["", "x", "y" * 50_000, "\n" * 30_000])
def test_texts_without_paragraphs_are_cut_too(text):
    pieces = [part(text, number, 8000) for number in range(parts(len(text), 8000))]
    assert "".join(pieces) == text and max(map(len, pieces)) <= 10_000
