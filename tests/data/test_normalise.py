"""Clean-up changes how a text is written and never what it says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qednano.data.normalise import Parts, boxed_answer, clean, split_solution


@pytest.mark.parametrize(
    ("written", "cleaned"),
    [
        ("Let x\u00b2 + y\u00b9\u2070 = z\u2081", "Let x^{2} + y^{10} = z_{1}"),
        ("a\u00a0\u200bb \t c\u00ad", "a b c"),
        ("\u201cProve\u201d it\u2019s", '"Prove" it\'s'),
        ("1 &lt; 2 &amp; 3", "1 < 2 & 3"),
        ("a & b \\\\ c & d", "a & b \\\\ c & d"),
        (r"\(x\) and \[y\]", "$x$ and $$y$$"),
        (r"\begin{equation*}y\end{equation*}", "$$y$$"),
        (r"\dfrac{1}{2} + \tfrac12", r"\frac{1}{2} + \frac12"),
        ("[b]Problem[/b] [tex]x[/tex] [url=http://a.b]link[/url]", "Problem $x$ link"),
        ("one<br/>two</p> <i>three</i>", "one\ntwo\nthree"),
        ("a\r\n\r\n\r\n\r\nb ", "a\n\nb"),
        (r"$\begin{cases}x\\[2pt] y\\(z)\end{cases}$", r"$\begin{cases}x\\[2pt] y\\(z)\end{cases}$"),
        ("$a[i] < 2$ [b]so[/b]", "$a[i] < 2$ so"),
        ("$a[i]$ and $a<b>c$ and [u]", "$a[i]$ and $a<b>c$ and [u]"),
        ("e\u0301", "\u00e9"),
        ("$[0,1]$ and $a<b$ and $b>c$", "$[0,1]$ and $a<b$ and $b>c$"),
    ],
)
def test_each_way_of_writing_becomes_one(written, cleaned):
    assert clean(written) == cleaned


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab1 \n\t\\()[]{}$<>/&;²₃’é\u200b"), max_size=60))
def test_cleaning_an_ordinary_text_again_changes_nothing(text):
    once = clean(text)
    assert clean(once) == clean(clean(once))


@pytest.mark.parametrize(
    ("heading", "solution"),
    [
        ("Solution:", "It is clear."),
        ("**Solution.**", "It is clear."),
        ("Proof.", "It is clear."),
        ("## Solution 1\n", "It is clear."),
        ("My solution:", "It is clear."),
        ("\\textbf{Solution.}", "It is clear."),
    ],
)
def test_a_post_is_cut_at_the_heading_of_its_solution(heading, solution):
    assert split_solution(f"Prove it.\n\n{heading} {solution}") == Parts("Prove it.", solution)


def test_a_hidden_block_is_a_solution():
    assert split_solution("Prove it.\n[hide=Solution]Clear.[/hide]") == Parts("Prove it.", "Clear.")


@pytest.mark.parametrize(
    "post",
    [
        "Find a solution of $x=1$.",
        "Proof that this is one problem is left to you.",
        "Solution: there is no statement before this",
        "Prove it.\nSolution:",
        "How many\nsolutions does $x^2=1$ have?",
    ],
)
def test_a_post_without_both_parts_is_left_whole(post):
    assert split_solution(post) == Parts(post)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{ }", None),
        (r"\boxed{unclosed", None),
        ("no box", None),
    ],
)
def test_the_answer_is_in_the_last_box(solution, answer):
    assert boxed_answer(solution) == answer
